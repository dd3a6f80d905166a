"""Made-up titles for tests of `split: mainrun`: deterministic, of many words, with what a tokenizer could lose."""

from __future__ import annotations

import random

ODD = [
    "  Show HN: Two  spaces, ÜMLAUTS and ünïcode 🐈 ",
    "ALL CAPS vs. all caps",
    "a<eos>b is no end",
    "The <|endoftext|>",
]


def titles(n: int = 400, seed: int = 1) -> list[str]:
    """n titles, not stripped; the odd ones are the last."""
    rng = random.Random(seed)
    word = lambda: "".join(rng.choice("bcdfgklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    words = [word() for _ in range(300)]
    made = [" ".join(rng.choices(words, k=rng.randint(3, 9))).capitalize() for _ in range(n - len(ODD))]
    return made + ODD

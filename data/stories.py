"""The built-in corpus: short tales whose exact probability is known.

    python -c "from data.stories import documents; print(*documents(3, seed=0), sep='\\n\\n')"

The text determines the choices that made it, so every document has its exact negative log-likelihood, the corpus an
exact entropy, and no model may honestly score below it. The words are in data/stories_words.py, the sentences in
data/stories_plot.py, and what reads both in data/stories_grammar.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from random import Random

from data.stories_grammar import Language
from data.stories_plot import STORIES

CHARACTERS = '\n !",.?' + "ABCDEFGHIJLMNOPRSTWY" + "abcdefghijklmnopqrstuvwxyz"

# a full stop that is not followed by `said Mia`
_SENTENCE_END = re.compile(r'[.!?]"?(?=\s+["A-Z]|\s*\Z)')


@cache
def language() -> Language:
    """The stories, compiled on first use."""
    return Language(STORIES)


def generate_with_nll(seed: int, index: int) -> tuple[str, float]:
    """Document `index` of stream `seed`, and its negative log-likelihood in nats as its choices were made."""
    # a hash of both: neighbouring streams share nothing, and the bytes are the same on every platform
    key = blake2b(f"{seed}:{index}".encode(), digest_size=16).digest()
    return language().tell(Random(int.from_bytes(key, "big")).random)


def generate(seed: int, index: int) -> str:
    """Document `index` of stream `seed`: 4 paragraphs, about 105 words, 530 bytes of ASCII, no newline at the end."""
    return generate_with_nll(seed, index)[0]


def documents(n: int, seed: int) -> Iterator[str]:
    """The first n documents of stream `seed`."""
    return (generate(seed, index) for index in range(n))


def nll(text: str) -> float:
    """Exact nats of a document, its end included, read from the text alone.

    ValueError, with the place, if it is not a story of the language.
    """
    return language().nll(text)


def count() -> int:
    """The exact number of distinct stories."""
    return language().count_and_entropy()[0]


def entropy() -> float:
    """The exact expected nats of a story, its end included."""
    return language().count_and_entropy()[1]


def is_sentence(text: str) -> bool:
    """Whether text is one sentence of the stories: the right classes of words, pronouns that agree with the name."""
    return language().is_line(text)


def is_story(text: str) -> bool:
    """Whether text, from its first to its last character, is a story of the language."""
    try:
        nll(text)
    except ValueError:
        return False
    return True


def sentences(text: str) -> list[str]:
    """The complete sentences of any text; an unfinished one at the end is left out."""
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        found.append(text[start : end.end()].strip())
        start = end.end()
    if found and not text[start:].strip() and found[-1].count('"') % 2:
        found.pop()  # the text ends inside a quotation
    return found


@dataclass(frozen=True)
class Intelligibility:
    """How much of a model's writing is in the language. sentences, stories: how many were judged; shares in [0, 1]."""

    sentences: int
    sentence_share: float
    stories: int
    story_share: float


def intelligibility(texts: Iterable[str]) -> Intelligibility:
    """Judge whole sampled texts: the share of their complete sentences that are sentences of the language, and the
    share of the texts that are stories of it (consistent from the first word to the last). 0 where there is nothing.
    """
    judged = good = stories = good_stories = 0
    for text in texts:
        found = sentences(text)
        judged += len(found)
        good += sum(map(is_sentence, found))
        stories += 1
        good_stories += is_story(text)
    return Intelligibility(judged, good / max(judged, 1), stories, good_stories / max(stories, 1))

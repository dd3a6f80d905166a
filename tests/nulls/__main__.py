"""Records the null set: one config trained with 72 seeds, and a close neighbour with the first 24 of them.

    python -m tests.nulls     (one core, about 8 minutes; writes tests/nulls/recorded.json)

The suite redraws candidates from it, to see that copies of one config come out as one group. The neighbour, which
differs in its learning rate alone, tells how alike two configs are that share a seed, and is a true difference.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import torch

from data.dataset import Dataset
from data.prepare import prepare
from models.gpt import GPT
from trainer import checkpoint
from trainer.config import TrainConfig, replace
from trainer.device import Machine
from trainer.evaluate import evaluate
from trainer.loop import train

FILE = Path(__file__).with_name("recorded.json")
COPIES, NEIGHBOURS = 72, 24
CONFIG = TrainConfig(
    corpus="stories:4000",
    n_layer=2,
    n_head=2,
    n_embd=32,
    block_size=64,
    batch_size=16,
    learning_rate=4e-3,
    max_tokens=400_000,
    eval_tokens=2048,
    device="cpu",
    dtype="float32",
)
NEIGHBOUR = replace(CONFIG, learning_rate=3e-3)


def trial(config: TrainConfig, data: Dataset) -> list[float]:
    """Nats of each validation document after training."""
    machine = Machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="nanosweep-nulls-") as folder:
        train(config, data, lambda report: None, out_dir=Path(folder))
        saved = checkpoint.load(Path(folder) / checkpoint.CHECKPOINT, machine.device)
    model = GPT(config.shape(data.n_classes), torch.Generator())
    model.load_state_dict(saved.model)
    found = evaluate(model, data.val, config, data.token_bytes, machine)
    return [round(float(nats), 2) for nats in found.scores.nll]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="nanosweep-nulls-") as cache:
        data = prepare(CONFIG.corpus, CONFIG.tokenizer, cache=Path(cache))
        nll = {}
        for name, config, n in (("copies", CONFIG, COPIES), ("neighbours", NEIGHBOUR, NEIGHBOURS)):
            nll[name] = []
            for seed in range(n):
                began = time.monotonic()
                nll[name].append(trial(replace(config, seed=seed), data))
                print(f"{name} {seed}: {time.monotonic() - began:.1f} s", flush=True)
        starts = data.val.doc_starts
        tokens = [int(n) for n in starts[1:] - starts[:-1]]
        about = {"config": CONFIG.model_dump(), "neighbour": {"learning_rate": NEIGHBOUR.learning_rate}}
        about |= {"hash": data.hash, "torch": torch.__version__, "unit": "nats, [seed][document]"}
        FILE.write_text(json.dumps({**about, "tokens": tokens, **nll}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

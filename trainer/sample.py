"""Text from a trained model.

    python -m trainer.sample out/stories --prompt "Once upon a time" --temperature 0.8 --top-k 50 --seed 1
    python -m trainer.sample out/stories --prompts prompts.txt --temperature 0 0.5 1 --json --out texts.json

A text depends only on weights, prompt, temperature, --top-k, --top-p, --seed and its own number, not on the other texts
of the same call. So two runs, or two temperatures, can be compared text by text.
Probabilities come from the loss's own read-out: the softmax of a model trained on a square loss means nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import tokenizers
from data.corpora import kind_of
from data.errors import UserError
from data.tokenizers import Tokenizer
from models.gpt import GPT
from models.nanogpt import load_nanogpt
from models.own_model import Model
from models.readouts import log_probs
from trainer import build_model, checkpoint
from trainer import criterion as criteria
from trainer.command_line import Parser, share, temperature, whole
from trainer.files import replace_text
from trainer.prompts import Prompt, Written, as_json, as_text, read_prompts

Readout = Callable[[Tensor], Tensor]  # logits (N, C) -> log-probabilities (N, C)
AT_ONCE = 32  # texts sampled in one batch
_COLDEST = 1e-30  # below it float32 overflows; the likeliest token has all the probability long before


def softmax(logits: Tensor) -> Tensor:
    """The read-out of cross-entropy: (N, C) -> (N, C)."""
    return torch.log_softmax(logits, -1)


def sample(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_new_tokens: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 1337,
    *,
    eot: int | None = None,
    readout: Readout = softmax,
) -> str:
    """One continuation of `prompt`, with the prompt. See `samples`."""
    many = samples(model, tokenizer, prompt, max_new_tokens, temperature, top_k, seed, n=1, eot=eot, readout=readout)
    return many[0]


def samples(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_new_tokens: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 1337,
    *,
    n: int,
    top_p: float | None = None,
    eot: int | None = None,
    readout: Readout = softmax,
) -> list[str]:
    """n continuations of `prompt`, each with the prompt before it.

    temperature: 0 takes the likeliest token each time. top_k: only the k likeliest are drawn from. top_p: only the
    fewest of these whose probabilities sum to p of the whole (Holtzman et al. 2020, arXiv 1904.09751).
    seed: sample i depends on (seed, i) alone, not on n. eot: the class that begins and ends documents, where the
    training text had one: written before the prompt, and the end of a sample. Raises UserError for a prompt that the
    tokenizer cannot encode.
    """
    _check_rule(temperature, top_k, top_p)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens {max_new_tokens}: expected at least 1")
    if not prompt and eot is None:
        prompt = "\n"  # the model needs at least one token; nanoGPT's choice
    start = ([] if eot is None else [eot]) + [int(i) for i in tokenizer.encode(prompt)]
    draw = partial(_draw, temperature=temperature, top_k=top_k, top_p=top_p)
    texts = []
    for first in range(0, n, AT_ONCE):
        generators = [_generator(seed, i) for i in range(first, min(n, first + AT_ONCE))]
        ids = _continue(model, start, max_new_tokens, eot, readout, draw, generators)
        texts += [tokenizer.decode(row[eot is not None :]) for row in ids]
    return texts


def _generator(seed: int, i: int) -> torch.Generator:
    """Of sample i. A generator takes 64 bits of a seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + i) % (1 << 64))


def _check_rule(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        problem = f"temperature {temperature}: expected at least 0"
        raise UserError(problem if not 0 <= temperature < math.inf else f"top_k {top_k}: expected at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p}: expected a share, above 0 and at most 1")


def _continue(
    model: Model,
    start: list[int],
    max_new_tokens: int,
    eot: int | None,
    readout: Readout,
    draw: Callable[[Tensor, torch.Generator], int],
    generators: list[torch.Generator],
) -> list[list[int]]:
    """Rows of ids that begin with `start`, one per generator; the final EOT is left out."""
    rows = [list(start) for _ in generators]
    writing = list(range(len(rows)))
    was_training = model.training
    model.eval()
    device = model.head_weight.device
    for _ in range(max_new_tokens):
        # all rows in progress are equally long; finished rows are no longer in the batch
        window = torch.tensor([rows[i][-model.config.block_size :] for i in writing], device=device)  # (n, T)
        with torch.no_grad():
            logp = readout(model.logits(model(window)[:, -1]).float()).cpu()  # (n, C)
        drawn = [(i, draw(logp[at], generators[i])) for at, i in enumerate(writing)]
        for i, token in drawn:
            if token != eot:
                rows[i].append(token)
        writing = [i for i, token in drawn if token != eot]
        if not writing:
            break
    model.train(was_training)
    return rows


def _draw(logp: Tensor, generator: torch.Generator, temperature: float, top_k: int | None, top_p: float | None) -> int:
    """One token from log-probabilities (C,)."""
    if temperature < _COLDEST:
        return int(logp.argmax())
    scaled = logp / temperature
    if top_k is None and top_p is None:
        return int(torch.multinomial(scaled.softmax(0), 1, generator=generator))
    kept, index = scaled.topk(min(top_k or len(scaled), len(scaled)))
    p = kept.softmax(0)  # of the top k, likeliest first
    if top_p is not None:
        p = p[: int((p.cumsum(0) < top_p).sum()) + 1]
    return int(index[torch.multinomial(p, 1, generator=generator)])


@dataclass(frozen=True)
class Trained:
    """A trained model with its tokenizer and its read-out."""

    model: Model
    tokenizer: Tokenizer
    eot: int | None
    readout: Readout
    corpus: str = ""  # what it was trained on; empty: unknown

    def write(self, prompt: str = "", n: int = 1, **options: Any) -> list[str]:
        """n samples; options as in `samples`."""
        return samples(self.model, self.tokenizer, prompt, n=n, eot=self.eot, readout=self.readout, **options)


def load(run: Path, allow_code: bool = False) -> Trained:
    """A run folder (its best weights where it has them, else the latest), or one checkpoint file of such a folder.

    A nanoGPT `ckpt.pt` is read too; its folder must then hold tokenizer files of ours.
    allow_code: an own model, and an own loss, whose read-out is wanted, may be imported from the working directory.
    Raises UserError for anything else, and where that code has changed since the run.
    """
    if not run.exists():
        raise UserError(f"{run}: no such run folder or checkpoint")
    file = run
    if run.is_dir():
        names = (checkpoint.BEST, checkpoint.CHECKPOINT, "ckpt.pt")
        file = next((run / name for name in names if (run / name).exists()), run / checkpoint.CHECKPOINT)
    if file.name == "ckpt.pt":
        return _load_nanogpt(file)
    saved = checkpoint.load(file)
    criterion = criteria.build(saved.config, allow_code)
    model = build_model.build(saved.config, saved.n_classes, torch.Generator(), allow_code=allow_code)
    checkpoint.check_own_code(saved, criteria.own_code(saved.config, keys=("loss", "model")), str(file))
    model.load_state_dict(saved.model)

    def readout(logits: Tensor) -> Tensor:
        return log_probs(criterion.loss, criterion.parameters, logits[:, : saved.n_classes], criterion.readout)

    tokenizer = tokenizers.load(file.parent)
    if tokenizer.n_classes != saved.n_classes:
        raise _other_tokenizer(file, saved.n_classes, tokenizer)
    return Trained(model, tokenizer, saved.eot, readout, saved.config.corpus)


def _other_tokenizer(file: Path, n_classes: int, tokenizer: Tokenizer) -> UserError:
    problem = f"{file} has {n_classes} classes, the tokenizer beside it {tokenizer.n_classes}"
    return UserError(f"{problem}; copy the tokenizer that it was trained with", kind="other_tokenizer")


def _load_nanogpt(file: Path) -> Trained:
    """A checkpoint that karpathy/nanoGPT's train.py wrote."""
    try:
        shape, weights = load_nanogpt(file)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None
    tokenizer = tokenizers.load(file.parent)
    if tokenizer.n_classes > shape.vocab_size:
        raise _other_tokenizer(file, shape.vocab_size, tokenizer)
    model = GPT(shape, torch.Generator())
    model.load_state_dict(weights)
    return Trained(model, tokenizer, None, lambda logits: softmax(logits[:, : tokenizer.n_classes]))


def write_all(
    trained: Trained, prompts: Sequence[Prompt], temperatures: Sequence[float], n: int, **options: Any
) -> list[Written]:
    """Write n samples of each prompt at each temperature; at temperature 0 only one, as all would be equal.

    options as in `samples`. Raises UserError, for a prompt with its place, before anything is written.
    """
    for prompt in prompts:
        try:
            trained.tokenizer.encode(prompt.text)
        except UserError as error:
            raise UserError(f"{prompt.place}: {error}") from None
    if n < 1:
        raise UserError(f"num_samples {n}: expected at least 1")
    for each in temperatures:
        _check_rule(each, options.get("top_k"), options.get("top_p"))
    written = []
    for prompt in prompts:
        for each in temperatures:
            texts = trained.write(prompt.text, n if each else min(n, 1), temperature=each, **options)
            numbered = enumerate(texts, 1)
            written += [Written(prompt.text, each, number, len(texts), text) for number, text in numbered]
    return written


def parser(prog: str = "python -m trainer.sample") -> argparse.ArgumentParser:
    usage = f"{prog} RUN [--prompt TEXT | --prompts FILE] [--temperature X ...] [options]"  # RUN first: X are many
    parser = Parser(prog=prog, usage=usage, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a checkpoint file in one")
    begin = parser.add_mutually_exclusive_group()
    help_text = "what the text begins with, may be given again; default: a new document"
    begin.add_argument("--prompt", action="append", metavar="TEXT", help=help_text)
    begin.add_argument("--prompts", type=Path, metavar="FILE", help="a text file, one prompt per line")
    parser.add_argument("--num-samples", type=whole(1), default=1, metavar="N", help="of each prompt and temperature")
    parser.add_argument("--max-new-tokens", type=whole(1), default=500, metavar="N")
    help_text = "one or several: 0 0.5 1; 0 takes the likeliest token each time (default 0.8)"
    parser.add_argument("--temperature", type=temperature, nargs="+", default=[0.8], metavar="X", help=help_text)
    parser.add_argument("--top-k", type=whole(1), metavar="K", help="draw from the K likeliest tokens only")
    help_text = "draw from the fewest likeliest tokens that have a share P of the probability"
    parser.add_argument("--top-p", type=share, metavar="P", help=help_text)
    parser.add_argument("--seed", type=whole(), default=1337)
    parser.add_argument("--json", action="store_true", help="as JSON: prompt, temperature, sample and text of each")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write to a file instead of the screen")
    help_text = "import the run's own model, and own loss for its read-out (module:Name), which runs that code"
    parser.add_argument("--allow-code", action="store_true", help=help_text)
    return parser


def main(argv: list[str] | None = None, prog: str = "python -m trainer.sample") -> int:
    """prog: what the user typed, for usage and errors. Returns the exit code."""
    arguments = parser(prog).parse_args(argv)
    try:
        prompts = [Prompt("--prompt", text) for text in arguments.prompt or [""]]
        prompts = read_prompts(arguments.prompts) if arguments.prompts else prompts
        trained = load(arguments.run, arguments.allow_code)
        options = {key: getattr(arguments, key) for key in ("max_new_tokens", "top_k", "top_p", "seed")}
        written = write_all(trained, prompts, arguments.temperature, arguments.num_samples, **options)
        output = as_json(written, run=str(arguments.run), **options) if arguments.json else as_text(written)
        if arguments.out:
            replace_text(arguments.out, output)
        else:
            print(output, end="")
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    texts = [item.text for item in written]
    kind = kind_of(trained.corpus)
    if kind is not None and kind.judge is not None:
        print(f"intelligibility: {', '.join(kind.judge(texts))}", file=sys.stderr)  # the text alone is the output
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From a config to its model: our GPT, or one of the user's own (`model: my_module:MyGPT`). The only place that builds.

    model = build(config, n_classes, torch.Generator().manual_seed(config.seed), allow_code=True)

An own model is called as `MyGPT(config, generator, **model_params)`: config a `models.config.GPTConfig` (block_size,
vocab_size, n_layer, n_head, n_embd, dropout, bias, ...), generator a CPU torch.Generator that is seeded with the
config's seed. It is an nn.Module with

    forward(idx)   (B, T) int64, T up to block_size -> hidden (B, T, D), what the head takes
    head_weight    (V, D), V at least vocab_size; an attribute or a property

and everything else follows: logits = hidden @ head_weight.T, the loss, scores, sampling, checkpoints.
Weights that do not come from `generator` come from torch's default one, which is seeded with it while the model is
built: equal seed, equal weights, either way.

From nanoGPT's model.py, whose constructor takes `config` alone, whose forward returns (logits, loss), in five lines:

    class MyGPT(GPT):
        def __init__(self, config, generator):
            super().__init__(config)               # weights from torch's default generator: fine
        def forward(self, idx):                    # GPT.forward up to ln_f, without lm_head and loss
            pos = torch.arange(idx.size(1), device=idx.device)
            x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
            for block in self.transformer.h:
                x = block(x)
            return self.transformer.ln_f(x)        # hidden, not logits
        @property
        def head_weight(self):
            return self.lm_head.weight

Muon takes the 2-D parameters that are neither head_weight nor of an nn.Embedding; what has two dimensions or more
decays; parameters are counted without the tables of nn.Embedding, unless one is the head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from data.errors import UserError
from data.own_code import is_reference, load
from models.gpt import GPT
from models.own_model import Model, OwnModel
from trainer.blame import blamed
from trainer.config import TrainConfig

_T = 8  # tokens of the trial, where block_size allows


def build(
    config: TrainConfig,
    n_classes: int,
    generator: torch.Generator,
    *,
    allow_code: bool = False,
    code_dir: Path | None = None,
) -> Model:
    """The config's model on the CPU, its first weights drawn from `generator`.

    n_classes: of the tokenizer. allow_code: whether an own model may be imported; code_dir: from where, default the
    working directory. An own one is tried on a few tokens: raises UserError, one line, where it may not be imported,
    cannot be built, has no head_weight, gives another shape, or lets a token see a later one.
    """
    shape = config.shape(n_classes)
    make = load_own(config, allow_code, code_dir)
    if make is None:
        return GPT(shape, generator)
    label = f"model {config.model}"
    parameters = dict(config.model_params or {})
    called = ", ".join(["config", "generator", *(f"{name}={value!r}" for name, value in parameters.items())])
    with _default_generator(generator.initial_seed()):
        with blamed(f"{label}: building it with ({called})"):
            module = make(shape, generator, **parameters)
        if not isinstance(module, nn.Module):
            raise UserError(f"{label}: expected a torch.nn.Module, got {type(module).__name__}")
        model = OwnModel(module, shape)
        _try(label, model)
    return model


def count_own(config: TrainConfig, n_classes: int, code_dir: Path | None = None) -> int:
    """The parameters of an own model that may be imported, without its weights where its constructor allows that."""
    make = load_own(config, True, code_dir)
    assert make is not None, config.model
    shape, generator = config.shape(n_classes), torch.Generator().manual_seed(config.seed)
    try:
        with torch.device("meta"), _default_generator(config.seed):
            module = make(shape, generator, **(config.model_params or {}))
        if isinstance(module, nn.Module):
            return OwnModel(module, shape).n_parameters()
    except Exception:  # it draws from `generator`, say: no tensor without memory takes that
        pass
    return build(config, n_classes, generator, allow_code=True, code_dir=code_dir).n_parameters()


def load_own(config: TrainConfig, allow_code: bool, code_dir: Path | None = None) -> Callable[..., object] | None:
    """The object behind `model: module:Name`, imported if that is allowed; None for our GPT. Raises UserError."""
    if not is_reference(config.model):
        return None
    make = load(config.model, allow_code=allow_code, kind="model", directory=code_dir)
    if not callable(make):
        raise UserError(f"model {config.model} is a {type(make).__name__}; name a subclass of torch.nn.Module")
    return make


@contextlib.contextmanager
def _default_generator(seed: int) -> Iterator[None]:
    """torch's default generator of the CPU, seeded for the time of the block."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _try(label: str, model: OwnModel) -> None:
    """A forward pass over a few tokens. Raises UserError that says what is wrong with the own model."""
    vocab_size, n_tokens = model.config.vocab_size, min(_T, model.config.block_size)
    if not isinstance(getattr(model.own, "head_weight", None), Tensor):
        # where a property raises AttributeError, Module.__getattr__ says only that the property is missing
        if isinstance(head := getattr(type(model.own), "head_weight", None), property):
            with blamed(f"{label}: its head_weight"):
                head.__get__(model.own)
        raise UserError(
            f"{label} has no head_weight: give it the weight of its last layer, (vocab_size, D), as a property "
            "(return self.lm_head.weight)"
        )
    head = model.head_weight
    if head.dim() != 2 or head.shape[0] < vocab_size:
        raise UserError(f"{label}: head_weight is {_shape(head)}; it must be (V, D), V at least {vocab_size}")
    was_training = model.training
    model.eval()
    idx = (torch.arange(2 * n_tokens) % vocab_size).view(2, n_tokens)
    other = idx.clone()
    other[:, -1] = (other[:, -1] + 1) % vocab_size
    with blamed(f"{label}: its forward on ({2}, {n_tokens}) tokens"):
        hidden = model(idx)
        _check_hidden(label, hidden, 2, n_tokens, head)
        first = model(idx[:, :1])
        _check_hidden(label, first, 2, 1, head)
        changed = model(other)
    for seen in (changed[:, :-1], first) if n_tokens > 1 else ():
        if not torch.allclose(hidden[:, : seen.shape[1]], seen, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise UserError(
                f"{label} is not causal: a later token changes an earlier hidden state, so it would see what it is to "
                "predict; mask its attention (is_causal=True)"
            )
    model.train(was_training)


def _check_hidden(label: str, hidden: object, rows: int, n_tokens: int, head: Tensor) -> None:
    wanted = (rows, n_tokens, head.shape[1])
    if not isinstance(hidden, Tensor):
        raise UserError(
            f"{label}: its forward gives a {type(hidden).__name__}; it must give hidden, {wanted} here, not logits or "
            "a loss"
        )
    if hidden.shape != wanted:
        hint = "; that looks like logits: return what the head takes" if hidden.shape[-1] == head.shape[0] else ""
        raise UserError(
            f"{label}: its forward gives {_shape(hidden)} for {rows} x {n_tokens} tokens; with head_weight "
            f"{_shape(head)} it must give {wanted}{hint}"
        )
    if not hidden.requires_grad:
        raise UserError(f"{label}: its forward gives hidden states without a gradient; remove no_grad or detach")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)

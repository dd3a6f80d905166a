"""One trial's whole configuration: model, data, loss, optimizer, schedule, length, evaluation.

Names are nanoGPT's. What depends on the length of the run is a fraction, not a count, and the length is in
tokens: a short trial and a full run share one config that differs in one number (`max_tokens`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from data.corpora import DESCRIPTION as CORPORA
from data.errors import UserError, nearest
from models.config import GPT2_SHAPES, LOSSES, READOUTS, GPTConfig, Mlp, Norm, Position, misfit
from trainer import provenance, yaml_file

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_tokens(value: Any) -> int:
    """`50M` -> 50_000_000. Accepts whole numbers and numbers with k, M or B. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a number of tokens like 500k, 20M or 2B, got {value!r}")
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?)\s*([kKmMbB]?)", str(value).strip())
    if not match:
        raise ValueError(f"expected a number of tokens like 500k, 20M or 2B, got {value!r}")
    tokens = float(match[1].replace("_", "")) * _UNITS[match[2].lower()]
    if tokens < 1 or tokens != int(tokens) or tokens > 10**16:
        raise ValueError(f"expected a whole number of tokens from 1 to 1e16, got {value!r}")
    return int(tokens)


def parse_length(value: Any) -> int | str:
    """Tokens as in `parse_tokens`, or `7 epochs` (kept as that text). Raises ValueError."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*epochs?", value.strip())):
        if float(match[1]) <= 0:
            raise ValueError(f"expected more than 0 epochs, got {value!r}")
        return f"{match[1]} epochs"
    try:
        return parse_tokens(value)
    except ValueError:
        raise ValueError(f"expected tokens (500k, 20M, 2B) or epochs (`7 epochs`), got {value!r}") from None


_TOKENS_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9._]+ ?[kKmMbB]?$"}]}
_LENGTH_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}
Tokens = Annotated[int, BeforeValidator(parse_tokens), WithJsonSchema(_TOKENS_SCHEMA)]
Length = Annotated[int | str, BeforeValidator(parse_length), WithJsonSchema(_LENGTH_SCHEMA)]
Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(BaseModel):
    """Everything that `train` needs beside the data. Equal config, seed and data hash: equal run on equal hardware."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    # data
    corpus: Annotated[str, Field(description=CORPORA)] = "stories"
    tokenizer: str = "char"
    """char | gpt2 | gpt2:PATH | bpe:N"""
    split: Literal["documents", "nanogpt", "mainrun"] = "documents"
    """documents: train, val and test at document boundaries; nanogpt: its exact 90/10, no test; mainrun: the first
    90 % of the titles and the last 10 %, no test, with nats per character among the final metrics"""
    data_order: Literal["random", "epoch", "sequential"] = "random"
    """random: windows drawn anywhere, as nanoGPT; epoch: every window once before any comes again; sequential: from
    beginning to end, again and again, the tail of less than a step left out, as Mainrun"""

    # model
    n_layer: Whole = 4
    n_head: Whole = 4
    n_embd: Whole = 128
    block_size: Whole = 128
    vocab_size: Whole | None = None
    """rows of the embedding and head; default: the tokenizer's classes. More (a multiple of 64) can be faster"""
    dropout: Dropout = 0.0
    bias: bool = False
    mlp: Mlp = "gelu"
    norm: Norm = "layernorm"
    position: Position = "learned"
    tied_head: bool = True
    zero_init: bool = False
    init_from: str | None = None
    """begin with GPT-2's weights: gpt2 | gpt2-medium | gpt2-large | gpt2-xl (of the hub), or a Hugging Face directory.
    Needs their shape (mlp: gelu_tanh, bias: true, ...) and tokenizer: gpt2; default: random weights from seed"""

    # loss
    loss: Literal["cross_entropy", "squentropy", "mse", "rescaled_mse", "brier", "squentropy_coded"] = "cross_entropy"
    readout: Literal["auto", "softmax", "inverse"] = "auto"
    """how logits become probabilities for the score; auto: the one that undoes the loss's own bias"""
    squentropy_lambda: Positive | None = None
    rescaled_mse_k: Positive | None = None
    rescaled_mse_m: Positive | None = None
    squentropy_coded_w: Positive | None = None

    # optimizer
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    learning_rate: Positive = 1e-3
    """peak, after warm-up; small nets bear more than 6e-4"""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """on matrices and embeddings only, as nanoGPT"""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD and Muon; AdamW has beta1"""
    muon_learning_rate: Positive = 0.02
    """of the 2-D hidden weights when optimizer is muon; learning_rate is then AdamW's, for the rest"""
    grad_clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """largest gradient norm; 0 switches clipping off"""

    # schedule
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_frac: Share = 0.05
    """share of the run spent warming up: 2,000 steps of warm-up under a 50-step run can't happen"""
    min_lr_frac: Share = 0.1
    """the last learning rate as a share of the peak"""
    decay_frac: Share = 0.2
    """of wsd: share of the run spent in the final 1 − sqrt decay"""

    # length
    max_tokens: Length = 10_000_000
    """tokens (500k, 20M, 2B) or epochs (`7 epochs`)"""
    batch_size: Whole = 12
    """sequences in one forward pass"""
    gradient_accumulation_steps: Whole = 1
    """forward passes per step, over all ranks together: tokens per step do not depend on the machine"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1337
    """of the initial weights, the data order and dropout"""

    # evaluation
    eval_every: Tokens | None = None
    """tokens between reports; default: a tenth of max_tokens"""
    eval_tokens: Tokens | None = None
    """size of the fixed subset of validation documents scored at reports; default: a 250th of max_tokens, from 2,048
    to 1M, so that scoring stays under 3 % of the run. The last report scores the full split"""
    eval_batch_size: Whole | None = None
    """sequences in one evaluation pass (changes no number); default: batch_size, at least 16"""
    eval_context: Whole | None = None
    """tokens of a window that is scored, at most block_size; default: block_size. Equal in all trials, they compare
    across block_size"""
    eval_stride: Whole | None = None
    """targets from one window to the next: every target has at least eval_context - eval_stride tokens of history;
    default: eval_context, windows that do not overlap. Half of it doubles the cost of scoring"""
    early_stop: Whole | None = None
    """end after so many reports without a new best"""
    checkpoint_every: Tokens | None = None
    """tokens between checkpoints, those at rungs and at the end apart; default: with every report"""

    # machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device is faster with it"""
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd ({self.n_embd}) is not divisible by n_head ({self.n_head}); "
                f"try n_embd: {self.n_head * max(1, round(self.n_embd / self.n_head))}"
            )
        if self.position == "rope" and (self.n_embd // self.n_head) % 2:
            raise ValueError(f"position: rope needs an even head size, got {self.n_embd}/{self.n_head}")
        for loss, parameters in LOSSES.items():
            for name in parameters:
                if loss != self.loss and getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to loss: {loss}, but loss is {self.loss}; remove one of them")
        if self.readout not in ("auto", *READOUTS[self.loss]):
            raise ValueError(f"readout: {self.readout} does not exist for loss: {self.loss}; {_options(self.loss)}")
        if self.eval_context is not None and self.eval_context > self.block_size:
            raise ValueError(
                f"eval_context ({self.eval_context}) exceeds block_size ({self.block_size}), which is all that the "
                "model sees; lower eval_context or raise block_size"
            )
        if self.eval_stride is not None and self.eval_context is None:
            raise ValueError(
                f"eval_stride ({self.eval_stride}) needs eval_context, the windows that it moves; set both"
            )
        if self.eval_stride is not None and self.eval_stride > (self.eval_context or 0):
            raise ValueError(
                f"eval_stride ({self.eval_stride}) exceeds eval_context ({self.eval_context}): tokens between two "
                "windows would not be scored; lower it"
            )
        if self.schedule == "wsd" and self.warmup_frac + self.decay_frac > 1:
            raise ValueError(f"warmup_frac ({self.warmup_frac}) + decay_frac ({self.decay_frac}) exceed 1")
        if self.init_from is not None:
            self._check_init(self.init_from)
        return self

    def _check_init(self, source: str) -> None:
        """What can be known before the weights are read; the rest is trainer.init's."""
        if self.tokenizer.partition(":")[0] != "gpt2":
            raise ValueError(
                f"tokenizer is {self.tokenizer}, the tokens of init_from: {source} are gpt2's; use tokenizer: gpt2"
            )
        if self.zero_init:
            raise ValueError(f"zero_init: true would undo init_from: {source}; remove one of them")
        shape = GPT2_SHAPES.get(source)
        problem = shape and misfit(self.model(self.vocab_size or shape.vocab_size), shape)
        if problem:
            raise ValueError(f"{problem} (init_from: {source})")

    @property
    def loss_parameters(self) -> dict[str, float]:
        """The chosen loss's parameters, defaults filled in."""
        given = {name: getattr(self, name) for name in LOSSES[self.loss]}
        return {name: default if given[name] is None else given[name] for name, default in LOSSES[self.loss].items()}

    @property
    def chosen_readout(self) -> str:
        return READOUTS[self.loss][0] if self.readout == "auto" else self.readout

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps * self.block_size

    def model(self, n_classes: int) -> GPTConfig:
        """The model's shape for a tokenizer of n_classes. Raises UserError if vocab_size is smaller than that."""
        if self.vocab_size is not None and self.vocab_size < n_classes:
            raise UserError(
                f"vocab_size ({self.vocab_size}) is smaller than the {n_classes} classes of tokenizer "
                f"{self.tokenizer}; remove it or raise it to at least {n_classes}"
            )
        same = {name: getattr(self, name) for name in GPTConfig.__dataclass_fields__ if name != "vocab_size"}
        return GPTConfig(vocab_size=self.vocab_size or n_classes, **same)

    def length(self, tokens_per_epoch: int) -> int:
        """max_tokens as a number of tokens. tokens_per_epoch: targets of the training split."""
        if isinstance(self.max_tokens, int):
            return self.max_tokens
        if self.data_order == "sequential":  # whole steps: what is left is in no epoch
            tokens_per_epoch -= tokens_per_epoch % self.tokens_per_step
        return max(1, round(float(self.max_tokens.split()[0]) * tokens_per_epoch))


def _options(loss: str) -> str:
    return f"allowed: {', '.join(('auto', *READOUTS[loss]))}"


def load(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """A config file, with `key=value` overrides (values as YAML would read them).

    Raises UserError with file, line and key for anything that is not a valid config.
    """
    file = yaml_file.read(path)
    provenance.parse(file)  # a damaged block is said; a sound one is for whoever asks where the file comes from
    value, lines = {key: item for key, item in file.value.items() if key != provenance.KEY}, dict(file.lines)
    for text in overrides or []:
        key, sign, given = text.partition("=")
        if not sign:
            raise UserError(f"--set {text}: expected key=value")
        if key not in TrainConfig.model_fields:
            raise UserError(f"--set {text}: unknown key {key}; {nearest(key, TrainConfig.model_fields)}")
        value[key] = yaml_file.scalar(given)
        lines.pop((key,), None)
    return yaml_file.validate(TrainConfig, yaml_file.YamlFile(file.name, value, lines))


def replace(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A checked copy with some values changed. Raises UserError naming the key."""
    try:
        return TrainConfig.model_validate({**config.model_dump(), **changes})
    except ValidationError as error:
        file = yaml_file.YamlFile("config", {**config.model_dump(), **changes}, {})
        raise UserError(yaml_file.explain(error, TrainConfig, file)) from None


def dump(config: TrainConfig) -> str:
    """The whole config as YAML text that `load` reads back to an equal config (unset options left out)."""
    plain = json.loads(config.model_dump_json(exclude_none=True))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)

"""One trial's whole configuration: model, data, loss, optimizer, schedule, length, evaluation.

Names are nanoGPT's. What depends on the length of the run is a fraction, not a count, and the length is in
tokens: a short trial and a full run share one config that differs in one number (`max_tokens`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from data.corpora import DESCRIPTION as CORPORA
from data.errors import UserError, nearest
from models.config import GPT2_SHAPES, GPTConfig, Mlp, Norm, Position, misfit
from models.losses import LOSSES
from trainer import loss_keys, provenance, yaml_file
from trainer.keys import OWN, Key, RuleError, declared, unused
from trainer.lengths import Length, Number, Tokens, Value
from trainer.model_keys import ModelName
from trainer.optimizers import OPTIMIZERS, check_name

_OPTIMIZER_SCHEMA = {"anyOf": [{"enum": list(OPTIMIZERS)}, {"type": "string", "pattern": "^[^:]+:[^:]+$"}]}
Whole = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Optimizer = Annotated[str, AfterValidator(check_name), WithJsonSchema(_OPTIMIZER_SCHEMA)]

_SHAPE = Key(memory=True, kept=True)  # of the network: other tensors are stored
_OF_OWN_OPTIMIZER = Key(
    used_by={"optimizer": (OWN,)}, not_searched="one number of it can be: {field: optimizer_params.NAME, ...}"
)
_OF_OWN_MODEL = Key(
    used_by={"model": (OWN,)},
    memory=True,
    kept=True,
    not_searched="one value of it can be: {field: model_params.NAME, ...}",
)
_ADAMW = Key(used_by={"optimizer": ("adamw", "muon")})  # Muon has AdamW beside it
_OTHER_TEXT = "trials on different text cannot be compared; make one study for each "
_ONE_CONTEXT = "all trials are scored with the same context; set it in the base"
_LUCK = "the luckiest seed would win; leave it out and train the best trials again with fresh seeds"
_ONE_SUBSET = "at a rung all trials are compared on the same validation text; set it in the base"


class _Keys(BaseModel):
    """The first keys of `TrainConfig`; after them come those that the losses declare."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    # data
    corpus: Annotated[str, Field(description=CORPORA), Key(not_searched=_OTHER_TEXT + "corpus")] = "stories"
    tokenizer: Annotated[str, Key(memory=True)] = "char"
    """char | gpt2 | gpt2:PATH | bpe:N"""
    split: Annotated[Literal["documents", "nanogpt", "mainrun"], Key(not_searched=_OTHER_TEXT + "split")] = "documents"
    """documents: train, val and test at document boundaries; nanogpt: its exact 90/10, no test; mainrun: the first
    90 % of the titles and the last 10 %, no test, with nats per character among the final metrics"""
    data_order: Annotated[Literal["random", "epoch", "sequential"], Key(kept=True)] = "random"
    """random: windows drawn anywhere, as nanoGPT; epoch: every window once before any comes again; sequential: from
    beginning to end, again and again, the tail of less than a step left out, as Mainrun"""

    # model
    model: Annotated[ModelName, _SHAPE] = "gpt"
    """gpt, or your own as module:Name (see trainer/build_model.py), which is imported only with --allow-code"""
    model_params: Annotated[dict[str, Value] | None, _OF_OWN_MODEL] = None
    """{name: value}: what an own model is called with, beside the config's shape and the generator of its weights"""
    n_layer: Annotated[Whole, _SHAPE] = 4
    n_head: Annotated[Whole, _SHAPE] = 4
    n_embd: Annotated[Whole, _SHAPE] = 128
    block_size: Annotated[Whole, _SHAPE] = 128
    vocab_size: Annotated[Whole | None, _SHAPE] = None
    """rows of the embedding and head; default: the tokenizer's classes. More (a multiple of 64) can be faster"""
    dropout: Below1 = 0.0
    bias: Annotated[bool, Key(kept=True)] = False
    mlp: Annotated[Mlp, _SHAPE] = "gelu"
    norm: Annotated[Norm, Key(kept=True)] = "layernorm"
    position: Annotated[Position, Key(kept=True)] = "learned"
    tied_head: Annotated[bool, Key(kept=True)] = True
    zero_init: Annotated[bool, Key(kept=True)] = False
    init_from: str | None = None
    """begin with GPT-2's weights: gpt2 | gpt2-medium | gpt2-large | gpt2-xl (of the hub), or a Hugging Face directory.
    Needs their shape (mlp: gelu_tanh, bias: true, ...) and tokenizer: gpt2; default: random weights from seed"""

    # loss
    loss: Annotated[loss_keys.LossName, Key(memory=True, kept=True)] = loss_keys.DEFAULT
    """a loss of models/losses.py, or your own as module:Name (a models.loss.Loss), which needs --allow-code"""
    readout: loss_keys.ReadoutName = "auto"
    """how logits become probabilities for the score; auto: the one that undoes the loss's own bias"""
    loss_params: loss_keys.OwnParameters = None
    """parameters of your own loss: {name: number}; those of the other losses are keys"""


if TYPE_CHECKING:

    class _KeysOfLosses(_Keys): ...

else:
    _KeysOfLosses = create_model("_KeysOfLosses", __base__=_Keys, **loss_keys.parameter_fields(LOSSES))


class TrainConfig(_KeysOfLosses):
    """Everything that `train` needs beside the data. Equal config, seed and data hash: equal run on equal hardware."""

    # optimizer
    optimizer: Annotated[Optimizer, Key(kept=True)] = "adamw"
    """one of trainer/optimizers.py, or your own as module:Name, which is imported only with --allow-code"""
    optimizer_params: Annotated[dict[str, Number] | None, _OF_OWN_OPTIMIZER] = None
    """{name: number}: what an own optimizer is called with, beside learning_rate and weight_decay"""
    learning_rate: Positive = 1e-3
    """peak, after warm-up; small nets bear more than 6e-4"""
    weight_decay: NotNegative = 0.1
    """on matrices and embeddings only, as nanoGPT"""
    beta1: Annotated[Below1, _ADAMW] = 0.9
    beta2: Annotated[Below1, _ADAMW] = 0.99
    momentum: Annotated[Below1, Key(used_by={"optimizer": ("sgd", "muon")})] = 0.9
    """of SGD and Muon; AdamW has beta1"""
    muon_learning_rate: Annotated[Positive, Key(used_by={"optimizer": ("muon",)})] = 0.02
    """of the 2-D hidden weights when optimizer is muon; learning_rate is then AdamW's, for the rest"""
    grad_clip: NotNegative = 1.0
    """largest gradient norm; 0 switches clipping off"""

    # schedule
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_frac: Share = 0.05
    """share of the run spent warming up: 2,000 steps of warm-up under a 50-step run can't happen"""
    min_lr_frac: Annotated[Share, Key(used_by={"schedule": ("cosine", "linear", "wsd")})] = 0.1
    """the last learning rate as a share of the peak"""
    decay_frac: Annotated[Share, Key(used_by={"schedule": ("wsd",)})] = 0.2
    """of wsd: share of the run spent in the final 1 − sqrt decay"""

    # length
    max_tokens: Length = 10_000_000
    """tokens (500k, 20M, 2B) or epochs (`7 epochs`)"""
    batch_size: Annotated[Whole, _SHAPE] = 12
    """sequences in one forward pass"""
    gradient_accumulation_steps: Annotated[Whole, Key(kept=True)] = 1
    """forward passes per step, over all ranks together: tokens per step do not depend on the machine"""
    seed: Annotated[int, Field(ge=0, lt=2**31), Key(not_searched=_LUCK, kept=True)] = 1337
    """of the initial weights, the data order and dropout"""

    # evaluation
    eval_every: Tokens | None = None
    """tokens between reports; default: a tenth of max_tokens"""
    eval_tokens: Annotated[Tokens | None, Key(not_searched=_ONE_SUBSET)] = None
    """size of the fixed subset of validation documents scored at reports; default: a 250th of max_tokens, from 2,048
    to 1M, so that scoring stays under 3 % of the run. The last report scores the full split"""
    eval_batch_size: Whole | None = None
    """sequences in one evaluation pass (changes no number); default: batch_size, at least 16"""
    eval_context: Annotated[Whole | None, Key(not_searched=_ONE_CONTEXT)] = None
    """tokens of a window that is scored, at most block_size; default: block_size. Equal in all trials, they compare
    across block_size"""
    eval_stride: Annotated[Whole | None, Key(not_searched=_ONE_CONTEXT)] = None
    """targets from one window to the next: every target has at least eval_context - eval_stride tokens of history;
    default: eval_context, windows that do not overlap. Half of it doubles the cost of scoring"""
    early_stop: Whole | None = None
    """end after so many reports without a new best"""
    checkpoint_every: Tokens | None = None
    """tokens between checkpoints, those at rungs and at the end apart; default: with every report"""

    # machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Key(memory=True)] = "auto"
    """auto: bfloat16 where the device is faster with it"""
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.n_embd % self.n_head:
            raise RuleError(
                ("n_embd", "n_head"),
                f"n_embd ({self.n_embd}) is not divisible by n_head ({self.n_head}); "
                f"try n_embd: {self.n_head * max(1, round(self.n_embd / self.n_head))}",
            )
        if self.position == "rope" and (self.n_embd // self.n_head) % 2:
            raise RuleError(
                ("position", "n_embd", "n_head"),
                f"position: rope needs an even head size, got {self.n_embd}/{self.n_head}",
            )
        loss_keys.check(self)
        self._check_unused()
        self._check_windows()
        if self.schedule == "wsd" and self.warmup_frac + self.decay_frac > 1:
            raise RuleError(
                ("warmup_frac", "decay_frac"),
                f"warmup_frac ({self.warmup_frac}) + decay_frac ({self.decay_frac}) exceed 1",
            )
        if self.init_from is not None:
            self._check_init(self.init_from)
        return self

    def _check_unused(self) -> None:
        """A key that nobody need set is not set where it has no effect; one that has a default may stand there."""
        for name, reason in unused(TrainConfig, self.__dict__).items():
            if getattr(self, name) is not None and TrainConfig.model_fields[name].default is None:
                keys = (name, *declared(TrainConfig)[name].used_by)
                raise RuleError(keys, f"{name} {reason}; remove one of them", "unused")
        for name in sorted({"lr", "weight_decay"} & (self.optimizer_params or {}).keys()):
            key = {"lr": "learning_rate"}.get(name, name)
            raise RuleError(("optimizer_params", key), f"optimizer_params: {name} is the config's {key}; set that")

    def _check_windows(self) -> None:
        context, stride = self.eval_context, self.eval_stride
        if context is not None and context > self.block_size:
            raise RuleError(
                ("eval_context", "block_size"),
                f"eval_context ({context}) exceeds block_size ({self.block_size}), which is all that the model sees; "
                "lower eval_context or raise block_size",
            )
        if stride is not None and context is None:
            raise RuleError(
                "eval_stride", f"eval_stride ({stride}) needs eval_context, the windows that it moves; set both"
            )
        if stride is not None and stride > (context or 0):
            raise RuleError(
                ("eval_stride", "eval_context"),
                f"eval_stride ({stride}) exceeds eval_context ({context}): tokens between two windows would not be "
                "scored; lower it",
            )

    def _check_init(self, source: str) -> None:
        """What can be known before the weights are read; the rest is trainer.init's."""
        if self.model != "gpt":
            raise RuleError(
                ("init_from", "model"),
                f"init_from: {source} begins our GPT with GPT-2's weights, but model is {self.model}; remove one of "
                "them, and load first weights in your model's own code",
            )
        if self.tokenizer.partition(":")[0] != "gpt2":
            raise RuleError(
                ("tokenizer", "init_from"),
                f"tokenizer is {self.tokenizer}, the tokens of init_from: {source} are gpt2's; use tokenizer: gpt2",
            )
        if self.zero_init:
            raise RuleError(
                ("zero_init", "init_from"), f"zero_init: true would undo init_from: {source}; remove one of them"
            )
        shape = GPT2_SHAPES.get(source)
        problem = shape and misfit(self.shape(self.vocab_size or shape.vocab_size), shape)
        if problem:
            key, reason = problem
            raise RuleError((key, "init_from"), f"{reason} (init_from: {source})")

    @property
    def loss_parameters(self) -> dict[str, float]:
        """See `loss_keys.parameters`."""
        return loss_keys.parameters(self)

    @property
    def chosen_readout(self) -> str:
        """See `loss_keys.readout`."""
        return loss_keys.readout(self)

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps * self.block_size

    def shape(self, n_classes: int) -> GPTConfig:
        """The model's shape for a tokenizer of n_classes, which an own model is given too.

        Raises UserError if vocab_size is smaller than that.
        """
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


def has_key(name: str) -> bool:
    """Whether a config has that key, or for `key.entry` a key of that name that holds a mapping."""
    key, dot, _ = name.partition(".")
    return key in TrainConfig.model_fields and (not dot or "dict" in str(TrainConfig.model_fields[key].annotation))


def assign(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values with some changed. `loss_params.gamma` is one entry of a key that holds a mapping.

    Raises UserError for a dotted name whose key holds none.
    """
    result = dict(values)
    for name, value in changes.items():
        key, dot, entry = name.partition(".")
        if not dot:
            result[name] = value
        elif not has_key(name):
            raise UserError(f"{name}: unknown key; {nearest(name, TrainConfig.model_fields)}")
        else:
            before = result.get(key)
            result[key] = {**(before if isinstance(before, dict) else {}), entry: value}
    return result


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
        if not has_key(key):
            raise UserError(f"--set {text}: unknown key {key}; {nearest(key, TrainConfig.model_fields)}")
        value = assign(value, {key: yaml_file.scalar(given)})
        lines.pop(tuple(key.split(".")), None)
    return yaml_file.validate(TrainConfig, yaml_file.YamlFile(file.name, value, lines))


def replace(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A checked copy with some values changed, dotted names as in `assign`.

    Raises yaml_file.RefusedError, a UserError that has the keys.
    """
    values = assign(config.model_dump(), changes)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise yaml_file.refused(error, TrainConfig, yaml_file.YamlFile("config", values, {})) from None


def dump(config: TrainConfig) -> str:
    """The whole config as YAML text that `load` reads back to an equal config (unset options left out)."""
    plain = json.loads(config.model_dump_json(exclude_none=True))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)

"""The configuration of one training run: data, model, loss, optimizer, schedule, length, evaluation, machine.

Names are nanoGPT's. Settings that depend on the length of the run are fractions of it, and the length is in tokens. So
the configs of a short trial and of a full run differ in one number (`max_tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

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
from data.errors import UserError
from models.config import GPT2_SHAPES, GPTConfig, Mlp, Norm, Position, misfit
from models.losses import LOSSES
from trainer import complaints, loss_keys, provenance, yaml_file
from trainer.complaints import Place
from trainer.hints import hint
from trainer.keys import OWN, Key, RuleError, declared, unused
from trainer.lengths import Length, Number, Tokens, Value
from trainer.model_keys import ModelName
from trainer.optimizers import OPTIMIZERS, check_name
from trainer.yaml_file import Origin, YamlFile

_OPTIMIZER_SCHEMA = {"anyOf": [{"enum": list(OPTIMIZERS)}, {"type": "string", "pattern": "^[^:]+:[^:]+$"}]}
Whole = Annotated[int, Field(ge=1, le=10_000_000)]  # no network or batch comes near, and no product overflows
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Optimizer = Annotated[str, AfterValidator(check_name), WithJsonSchema(_OPTIMIZER_SCHEMA)]

_SHAPE = Key(memory=True, kept=True)  # the shape of the network, and so of the stored tensors
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
    """The first keys of `TrainConfig`; the keys that the losses declare follow them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    # data
    corpus: Annotated[str, Field(description=CORPORA), Key(not_searched=_OTHER_TEXT + "corpus")] = "stories"
    tokenizer: Annotated[str, Key(memory=True)] = "char"
    """char | gpt2 | gpt2:PATH (a GPT-2 ranks file) | bpe:N (trained on the training split)"""
    split: Annotated[Literal["documents", "nanogpt", "mainrun"], Key(not_searched=_OTHER_TEXT + "split")] = "documents"
    """documents: train, val and test, divided at document boundaries; nanogpt: nanoGPT's exact 90/10 division into
    train and val; mainrun: train is the first 90 % of the titles, val the last 10 %, and the final metrics include nats
    per character"""
    data_order: Annotated[Literal["random", "epoch", "sequential"], Key(kept=True)] = "random"
    """random: windows at random positions, as in nanoGPT; epoch: every window once per epoch, in random order;
    sequential: from beginning to end in every epoch, without a last incomplete step, as in Mainrun"""

    # model
    model: Annotated[ModelName, _SHAPE] = "gpt"
    """gpt, or your own as module:Name (see trainer/build_model.py), which is imported only with --allow-code"""
    model_params: Annotated[dict[str, Value] | None, _OF_OWN_MODEL] = None
    """arguments of your own model: {name: value}, besides the config's shape and the generator of its weights"""
    n_layer: Annotated[Whole, _SHAPE] = 4
    n_head: Annotated[Whole, _SHAPE] = 4
    n_embd: Annotated[Whole, _SHAPE] = 128
    block_size: Annotated[Whole, _SHAPE] = 128
    vocab_size: Annotated[Whole | None, _SHAPE] = None
    """rows of the embedding and the head; default: the tokenizer's classes. A larger multiple of 64 can be faster"""
    dropout: Below1 = 0.0
    bias: Annotated[bool, Key(kept=True)] = False
    mlp: Annotated[Mlp, _SHAPE] = "gelu"
    norm: Annotated[Norm, Key(kept=True)] = "layernorm"
    position: Annotated[Position, Key(kept=True)] = "learned"
    tied_head: Annotated[bool, Key(kept=True)] = True
    zero_init: Annotated[bool, Key(kept=True)] = False
    init_from: str | None = None
    """start from pretrained GPT-2 weights: gpt2 | gpt2-medium | gpt2-large | gpt2-xl (from the hub), or a Hugging Face
    directory. Needs their shape (mlp: gelu_tanh, bias: true, ...) and tokenizer: gpt2; default: random weights, drawn
    with seed"""

    # loss
    loss: Annotated[loss_keys.LossName, Key(memory=True, kept=True)] = loss_keys.DEFAULT
    """a loss of models/losses.py, or your own as module:Name (a models.loss.Loss), which needs --allow-code"""
    readout: loss_keys.ReadoutName = "auto"
    """how logits become probabilities in evaluation and sampling; auto: the loss's default, which corrects its bias"""
    loss_params: loss_keys.OwnParameters = None
    """parameters of your own loss: {name: number}; the other losses have a key for each parameter"""


if TYPE_CHECKING:

    class _KeysOfLosses(_Keys): ...

else:
    _KeysOfLosses = create_model("_KeysOfLosses", __base__=_Keys, **loss_keys.parameter_fields(LOSSES))


class TrainConfig(_KeysOfLosses):
    """Everything that `train` needs besides the data. Equal configs and data hashes give equal runs on equal
    hardware."""

    # optimizer
    optimizer: Annotated[Optimizer, Key(kept=True)] = "adamw"
    """one of trainer/optimizers.py, or your own as module:Name, which is imported only with --allow-code"""
    optimizer_params: Annotated[dict[str, Number] | None, _OF_OWN_OPTIMIZER] = None
    """arguments of your own optimizer: {name: number}, besides learning_rate and weight_decay"""
    learning_rate: Positive = 1e-3
    """peak learning rate, after warm-up; small models train well with more than nanoGPT's 6e-4"""
    weight_decay: NotNegative = 0.1
    """applied to matrices and embeddings only, as in nanoGPT"""
    beta1: Annotated[Below1, _ADAMW] = 0.9
    beta2: Annotated[Below1, _ADAMW] = 0.99
    momentum: Annotated[Below1, Key(used_by={"optimizer": ("sgd", "muon")})] = 0.9
    """momentum of SGD and Muon; AdamW uses beta1"""
    muon_learning_rate: Annotated[Positive, Key(used_by={"optimizer": ("muon",)})] = 0.02
    """peak learning rate of the 2-D hidden weights when optimizer is muon; learning_rate is then AdamW's, for the
    rest"""
    grad_clip: NotNegative = 1.0
    """maximum gradient norm; 0 switches clipping off"""

    # schedule
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    warmup_frac: Share = 0.05
    """warm-up as a fraction of the run, so that a short trial has a short one"""
    min_lr_frac: Annotated[Share, Key(used_by={"schedule": ("cosine", "linear", "wsd")})] = 0.1
    """final learning rate as a fraction of the peak"""
    decay_frac: Annotated[Share, Key(used_by={"schedule": ("wsd",)})] = 0.2
    """length of the final 1 − sqrt decay of wsd as a fraction of the run"""

    # length
    max_tokens: Length = 10_000_000
    """length of the run in tokens (500k, 20M, 2B) or epochs (`7 epochs`)"""
    batch_size: Annotated[Whole, _SHAPE] = 12
    """sequences in one forward pass"""
    gradient_accumulation_steps: Annotated[Whole, Key(kept=True)] = 1
    """forward passes per optimizer step, summed over all ranks, so that tokens per step do not depend on the machine"""
    seed: Annotated[int, Field(ge=0, lt=2**31), Key(not_searched=_LUCK, kept=True)] = 1337
    """seed of the initial weights, the data order and dropout"""

    # evaluation
    eval_every: Tokens | None = None
    """tokens between reports; default: a tenth of max_tokens"""
    eval_tokens: Annotated[Tokens | None, Key(not_searched=_ONE_SUBSET)] = None
    """tokens of the fixed subset of the validation split that reports evaluate; default: 1/250 of max_tokens, from
    2,048 to 1M, so that evaluation takes under 3 % of the run. The final report evaluates the full split"""
    eval_batch_size: Whole | None = None
    """sequences in one forward pass of an evaluation (does not change the result); default: batch_size, at least 16"""
    eval_context: Annotated[Whole | None, Key(not_searched=_ONE_CONTEXT)] = None
    """context of an evaluation window in tokens, at most block_size; default: block_size. With one value for all
    trials, their scores are comparable across block_size"""
    eval_stride: Annotated[Whole | None, Key(not_searched=_ONE_CONTEXT)] = None
    """tokens from the start of one evaluation window to the next: every target then has at least eval_context -
    eval_stride tokens of context; default: eval_context, so that windows do not overlap. Half of it doubles the cost of
    evaluation"""
    early_stop: Whole | None = None
    """stop after this many reports without a new best val_loss"""
    checkpoint_every: Tokens | None = None
    """tokens between checkpoints, besides those at rungs and at the end; default: one with every report"""

    # machine
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], Key(memory=True)] = "auto"
    """auto: bfloat16 where the device is faster with it; on a CPU that is measured once, and the run stays with it"""
    compile: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.n_embd % self.n_head:
            raise RuleError(
                ("n_embd", "n_head"),
                f"n_embd ({self.n_embd}) is not divisible by n_head ({self.n_head}); try n_embd: "
                f"{self.n_head * max(1, round(self.n_embd / self.n_head))}, or n_head: {self._head_counts()}",
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

    def _head_counts(self) -> str:
        """The next head counts below and above that divide n_embd, as far as they are near; 1 divides any."""
        below = (count for count in range(self.n_head - 1, max(1, self.n_head - 1000), -1) if not self.n_embd % count)
        above = (count for count in range(self.n_head + 1, self.n_head + 1000) if not self.n_embd % count)
        nearest = [next(below, 1), *(count for count in [next(above, 0)] if count)]
        return complaints.alternatives(map(str, nearest))

    def _check_unused(self) -> None:
        """Refuse a key without effect that is set although its default is None; one with another default may stay."""
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
                ("eval_stride", "eval_context"),
                f"eval_stride ({stride}) needs eval_context, the windows that it moves; set both",
            )
        if stride is not None and stride > (context or 0):
            raise RuleError(
                ("eval_stride", "eval_context"),
                f"eval_stride ({stride}) exceeds eval_context ({context}): tokens between two windows would not be "
                "scored; lower it",
            )

    def _check_init(self, source: str) -> None:
        """Check what can be checked before the weights are read; trainer.init checks the rest."""
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
                f"{self.tokenizer}; remove it or raise it to at least {n_classes}",
                kind="conflict",
                keys=("vocab_size", "tokenizer"),
            )
        same = {name: getattr(self, name) for name in GPTConfig.__dataclass_fields__ if name != "vocab_size"}
        return GPTConfig(vocab_size=self.vocab_size or n_classes, **same)

    def length(self, tokens_per_epoch: int) -> int:
        """max_tokens as a number of tokens. tokens_per_epoch: targets of the training split."""
        if isinstance(self.max_tokens, int):
            return self.max_tokens
        if self.data_order == "sequential":  # an epoch consists of whole steps
            tokens_per_epoch -= tokens_per_epoch % self.tokens_per_step
        return max(1, round(float(self.max_tokens.split()[0]) * tokens_per_epoch))


def has_key(name: str) -> bool:
    """Whether a config has that key, or for `key.entry` a key of that name that holds a mapping."""
    key, dot, _ = name.partition(".")
    return key in TrainConfig.model_fields and (not dot or "dict" in str(TrainConfig.model_fields[key].annotation))


def assign(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config's values with some changed. `loss_params.gamma` names one entry of a key that holds a mapping.

    Raises UserError for a dotted name whose key holds none.
    """
    result = dict(values)
    for name, value in changes.items():
        key, dot, entry = name.partition(".")
        if not dot:
            result[name] = value
        elif not has_key(name):
            problem = f"{name}: unknown key; {hint(name, TrainConfig.model_fields)}"
            raise UserError(problem, kind="unknown", keys=name)
        else:
            before = result.get(key)
            result[key] = {**(before if isinstance(before, dict) else {}), entry: value}
    return result


def load(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a config file, with `key=value` overrides.

    Raises UserError with file, line and key, or the override, for anything that is not a valid config.
    """
    return load_with_file(path, overrides)[0]


def load_with_file(path: Path, overrides: Sequence[str] = ()) -> tuple[TrainConfig, YamlFile]:
    """The same, with the file, which says where each value was written. Raises UserError."""
    file = yaml_file.read(path)
    if {"base", "space"} & file.value.keys():
        problem = f"{path}: this is the spec of a search, not a config; use: nanosweep run {path}"
        raise UserError(
            problem, kind="spec", line=min(file.lines[key,] for key in ("base", "space") if key in file.value)
        )
    provenance.parse(file)  # refuse a damaged block; `provenance.read` returns a valid one
    value = {key: item for key, item in file.value.items() if key != provenance.KEY}
    origins: dict[Place, Origin] = {}
    for text in overrides:
        key, item = parse_override(text)
        if not has_key(key):
            problem = f"--set {text}: unknown key {key}; {hint(key, TrainConfig.model_fields)}"
            raise UserError(problem, kind="unknown", keys=key)
        value = assign(value, {key: item})
        origins[tuple(key.split("."))] = override_origin(text)
    file = file.changed(value, origins)
    return yaml_file.validate(TrainConfig, file), file


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` of the command line as key and value, whatever the key.

    A key that takes a text takes all that follows the `=`, as it is; any other value is read as YAML would read it.
    Raises UserError.
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise UserError(f"--set {text}: expected KEY=VALUE", kind="form")
    if not takes_text(key):
        return key, yaml_file.scalar(value, f"--set {text}")
    if value == "null" and TrainConfig.model_fields[key].default is None:
        return key, None
    if re.search("[\0\ud800-\udfff]", value):
        raise UserError(f"--set {text}: is no text that a file can hold", kind="text")
    return key, value


def override_origin(text: str) -> Origin:
    """Where the value of a `key=value` was written."""
    return Origin(f"--set {text}", rank=yaml_file.OPTION)


def takes_text(key: str) -> bool:
    """Whether a key's value is a text, one of a few words or any."""
    info = TrainConfig.model_fields.get(key)
    kinds = [info.annotation, *get_args(info.annotation)] if info is not None else []
    return (str in kinds and int not in kinds) or any(get_origin(kind) is Literal for kind in kinds)


def replace(config: TrainConfig, **changes: Any) -> TrainConfig:
    """A checked copy with some values changed, dotted names as in `assign`.

    Raises yaml_file.RefusedError, a UserError that has the keys.
    """
    values = assign(config.model_dump(), changes)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise yaml_file.refused(error, TrainConfig, YamlFile("config", values, {})) from None


def dump(config: TrainConfig) -> str:
    """The whole config as YAML text that `load` reads back to an equal config (unset options left out)."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON data, unset options left out."""
    return dict(json.loads(config.model_dump_json(exclude_none=True)))

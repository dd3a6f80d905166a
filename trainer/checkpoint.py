"""Write and read the run folder and its checkpoints, from which a run resumes bit for bit.

    config.yaml      the whole config, with notes on data and machine as comments
    tokenizer.json   (and ranks.tiktoken) the tokenizer, so that the folder suffices for sampling
    checkpoint.pt    the latest state: model, optimizer, position, random state
    best.pt          the weights with the least val_loss at a report
    metrics.jsonl    a line per report
    scores.npz       per-document results of the final report's evaluation
    MODEL_CARD.md    of a full run that has ended, see trainer.card

Every file is replaced atomically: written under another name, then renamed. Checkpoints hold tensors and plain values
only, so `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import tokenizers
from data.dataset import Dataset
from data.errors import UserError
from models import torch_file
from trainer import config as configs
from trainer import files, yaml_file
from trainer.config import TrainConfig
from trainer.keys import kept_keys
from trainer.report import Report, Status
from trainer.run_folder import CARD, CONFIG, FLOOR, METRICS
from trainer.scores import SCORES

CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
FORMAT = 1


@dataclass
class State:
    """The state of a run except its tensors; updated at every step and stored in every checkpoint.

    step: steps done. seconds: wall clock, summed over all resumptions; eval_seconds: those spent in evaluation.
    best: step, tokens, val_loss and val_perplexity of the best report, on the fixed subset; stale: reports since then.
    report: the fields of the last Report. total_steps: the planned length. eval_tokens: size of the fixed subset.
    micro_batch: sequences per forward pass, if it was set or memory forced a part of batch_size; else None.
    initial: source and hash of the pretrained weights (`init_from`); None for random weights.
    ended: `completed` or `early_stopped` once it has ended by itself.
    """

    step: int = 0
    seconds: float = 0.0
    eval_seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0
    report: dict[str, Any] | None = None
    total_steps: int = 0
    eval_tokens: int = 0
    micro_batch: int | None = None
    initial: str | None = None
    ended: Status | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file. optimizer and randomness are None in best.pt, which serves for sampling.

    best_model: the best weights so far, stored only if `early_stop` is set.
    own_code: reference -> sha256 of the source, of the user's own code that the config names.
    dtype: what `dtype: auto` was settled to for a run on a CPU; else empty.
    """

    config: TrainConfig
    data_hash: str
    n_classes: int
    eot: int | None
    model: dict[str, Tensor]
    state: State
    optimizer: list[dict[str, Any]] | None = None
    randomness: list[Tensor] | None = None
    best_model: dict[str, Tensor] | None = None
    own_code: dict[str, str] = field(default_factory=dict)
    dtype: str = ""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. Raises UserError when the disk is full."""
    content = {f.name: getattr(checkpoint, f.name) for f in dataclasses.fields(checkpoint)}
    for name in ("own_code", "dtype"):
        if not content[name]:
            del content[name]  # so that releases without this field can read it
    content["format"] = FORMAT
    content["config"] = configs.dump(checkpoint.config)
    content["state"] = dataclasses.asdict(checkpoint.state)
    files.write(path, lambda file: torch.save(content, file))


def load(path: Path, map_location: str | torch.device = "cpu") -> Checkpoint:
    """A checkpoint from its file, or from the run folder that holds it. Raises UserError for anything else."""
    file = path / CHECKPOINT if path.is_dir() else path
    try:
        content = torch_file.read(file, map_location)
    except FileNotFoundError:
        raise UserError(f"{file}: no checkpoint there", kind="missing") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problem = f"{file}: not a readable checkpoint: {reason}; {_advice(file)}"
        raise UserError(problem, kind="unreadable") from None
    return _checked(content, file)


def _advice(file: Path) -> str:
    if file.name == BEST:
        return f"restore a copy, or remove it: {CHECKPOINT} is read instead"
    return "restore a copy, or remove it to begin anew"


def _checked(content: Any, file: Path) -> Checkpoint:
    """A checkpoint of this release, or of an earlier one that lacked some fields. Raises UserError for a later one."""
    number = content.get("format") if isinstance(content, dict) else None
    if isinstance(content, dict) and "model_args" in content:
        raise UserError(f"{file}: a checkpoint of nanoGPT, which is read under the name ckpt.pt", kind="unreadable")
    if not isinstance(number, int) or number < 1:
        raise UserError(f"{file}: not a checkpoint of this program (format {FORMAT})", kind="unreadable")
    if number > FORMAT:
        raise _newer(file, f"format {number}, this one reads up to {FORMAT}", "format")
    content = {name: value for name, value in content.items() if name != "format"}
    try:
        config = yaml_file.parse(content["config"], f"{file} config")
        for kind, names, model in (
            ("field", content, Checkpoint.__dataclass_fields__),
            ("field of its state", content["state"], State.__dataclass_fields__),
            ("key of its config", config.value, TrainConfig.model_fields),
        ):
            if unknown := [str(name) for name in names if name not in model]:
                raise _newer(file, f"{kind} that this one does not know: {', '.join(unknown)}", *unknown)
        content["state"] = State(**content["state"])
        content["config"] = yaml_file.validate(TrainConfig, config)
        return Checkpoint(**content)
    except (KeyError, TypeError, AttributeError) as error:  # something that every release writes is not there
        problem = f"{file}: not a readable checkpoint ({type(error).__name__}: {error})"
        keys = tuple(map(str, error.args)) if isinstance(error, KeyError) else ()
        raise UserError(problem, kind="unreadable", keys=keys) from None


class NewerReleaseError(UserError):
    """A valid checkpoint of a newer release, whose state this release cannot read. keys: those it does not know."""


def _newer(file: Path, difference: str, *keys: str) -> NewerReleaseError:
    problem = f"{file}: written by a newer release of nanosweep ({difference}); read it with that release"
    return NewerReleaseError(problem, kind="newer", keys=keys)


def check_resumable(
    checkpoint: Checkpoint, config: TrainConfig, data: Dataset, name: str, own_code: Mapping[str, str] | None = None
) -> None:
    """Raises UserError where `config` on `data` would not continue the run of the checkpoint.

    own_code: reference -> sha256 of the present source, as in `Checkpoint`; None: not checked.
    """
    if checkpoint.optimizer is None:
        raise UserError(f"{name} holds weights only; resume from {CHECKPOINT}", kind="weights_only")
    if checkpoint.data_hash != data.hash:
        raise UserError(
            f"{name} was trained on other data ({checkpoint.config.corpus}, {checkpoint.config.tokenizer}, hash "
            f"{checkpoint.data_hash[:12]}); this is {data.corpus}, {data.tokenizer}, hash {data.hash[:12]}",
            kind="other_data",
        )
    if own_code is not None:
        check_own_code(checkpoint, own_code, name, ", or begin anew in another folder")
    before, now = checkpoint.config, config
    shapes = before.shape(data.n_classes), now.shape(data.n_classes)
    # with another value the stored tensors, data position or optimizer moments would not be valid
    for key in kept_keys(TrainConfig):
        was, wanted = (getattr(source, key) for source in (shapes if hasattr(shapes[0], key) else (before, now)))
        if was != wanted:
            problem = f"{name} has {key}: {was}, the config has {key}: {wanted}; a resumed run keeps it"
            raise UserError(problem, kind="changed", keys=key)


def check_own_code(
    checkpoint: Checkpoint, own_code: Mapping[str, str], name: str, otherwise: str = ": the weights were trained for it"
) -> None:
    """Raises UserError where the source of the user's own code has changed since the checkpoint was written.

    otherwise: what the message says beside `restore that code`.
    """
    for reference, digest in own_code.items():
        before = checkpoint.own_code.get(reference, digest)
        if before != digest:
            raise UserError(
                f"{name} was trained with other code of {reference} (sha256 {before[:12]}, now {digest[:12]}); restore "
                f"that code{otherwise}",
                kind="other_code",
                keys=reference,
            )


def differing_keys(config: TrainConfig, other: TrainConfig) -> list[str]:
    """Names of the keys in which two configs differ."""
    return [key for key in TrainConfig.model_fields if getattr(config, key) != getattr(other, key)]


def open_folder(folder: Path, config: TrainConfig, data: Dataset, notes: dict[str, str]) -> None:
    """Create the run folder: config with `notes` as comments, tokenizer. Raises UserError if it cannot be written."""
    if data.val.floor_nll is not None:
        notes = {**notes, FLOOR: f"{data.val.floor_nll.sum() / data.val.n_targets:.6g} nats per token"}
    comments = "".join(f"# {key}: {value}\n" for key, value in notes.items())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(".*.partial"):  # of a process that was killed while it wrote
            partial.unlink(missing_ok=True)
        write_text(folder / CONFIG, comments + configs.dump(config))
        if data.path.is_dir():  # not on a cluster's worker, which has the tokens but no cache
            tokenizers.load(data.path).save(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a run folder: {error.strerror}") from None


def append_report(folder: Path, report: Report) -> None:
    """Append a line to metrics.jsonl; lines of this step or later are dropped first, as a resumed run repeats them."""
    path = folder / METRICS
    kept = []
    if path.exists():
        kept = [line for line in path.read_text(errors="replace").splitlines() if _step(line) < report.step]
    line = json.dumps({k: v for k, v in dataclasses.asdict(report).items() if k != "checkpoint"})
    write_text(path, "\n".join([*kept, line]) + "\n")


def _step(line: str) -> float:
    """The step of a report's line; infinite for a line that is none, as a copy that was cut may have."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def take_along(source: Path, folder: Path, ended: bool) -> None:
    """Copy the best weights from the folder that is resumed from, and the scores if that run has ended.

    If it has not ended, scores and model card in `folder` are deleted: they describe an earlier final report, and the
    next one replaces it.
    """
    origin = source if source.is_dir() else source.parent
    for name in (BEST, SCORES) if ended else (BEST,):
        if (origin / name).exists() and not (folder / name).exists():
            _copy(origin / name, folder / name)
    if not ended:
        for name in (SCORES, CARD):
            (folder / name).unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    files.write(target, lambda file: file.write(source.read_bytes()))


def write_text(path: Path, text: str) -> None:
    files.write(path, lambda file: file.write(text.encode()))

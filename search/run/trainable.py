"""One trial as Ray runs it: the training loop, its reports handed to Tune, its end told as a status.

A trial that diverges, raises or runs out of memory *reports* so and returns: the worker process then serves the
next trial (0.04 s instead of 1.5 s), and the journal has the cause. Only a worker that is killed is Ray's to retry;
the retry continues from the trial's own checkpoint.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import UserError
from models.config import GPTConfig
from search.run import in_worker
from search.run.own_code import OwnCode
from trainer.config import TrainConfig
from trainer.report import Report
from trainer.run_folder import ERROR

Message = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent


def trainable() -> Callable[..., None]:
    """`trial` as Tune sends it to a worker; an import that fails there is a failed trial's cause."""
    message = {**_message(None, {"node": "", "n_parameters": None, "micro_batch": None}), "status": "failed"}

    def report_failure(cause: str) -> None:
        from ray import tune

        tune.report({**message, "cause": cause})

    return in_worker.call("search.run.trainable", "trial", ("trainer.loop",), report_failure)


def trial(config: dict[str, Any], datasets: dict[str, Any], threads: int, own_code: dict[str, Any]) -> None:
    """The function that Tune runs in a worker.

    config: {"trial", "config", "resume", "out_dir", "rungs", "objective", "micro_batch"}, as the searcher suggested
        it. micro_batch: sequences in one pass that are known to fit the trial's shape, or None.
    datasets: by tokenizer, a reference into Ray's object store: the workers of a node share its arrays.
    own_code: the user's, which the trial may import: the fields of an OwnCode.
    """
    import ray
    from ray import tune

    dataset = ray.get(datasets[config["config"]["tokenizer"]])
    run(config, dataset, tune.report, threads, OwnCode(**own_code))


def run(
    job: dict[str, Any],
    data: Dataset,
    send: Callable[[Message], Any],
    threads: int,
    own_code: OwnCode | None = None,
) -> None:
    """Train one trial and send its messages: one per report, the last one with the status. No Ray in here.

    Whatever the training raises is sent as a status; what `send` raises (SystemExit, when the scheduler stops the
    trial) passes through.
    """
    import torch

    _release()
    torch.set_num_threads(threads)
    facts: Message = {"node": f"{socket.gethostname()} {os.getpid()}", "n_parameters": None, "micro_batch": None}
    final: Report | None = None

    def report(measured: Report) -> None:
        nonlocal final
        facts["micro_batch"] = measured.micro_batch
        if measured.final:
            final = measured  # waits for its status: both are one message
        else:
            send(_message(measured, facts))
            facts.pop("begun_anew", None)  # said once

    try:
        status, cause = _train(job, data, report, facts, own_code or OwnCode())
    except Exception as error:
        status, cause, final = *_failure(error, Path(job["out_dir"])), None
    send({**_message(final, facts), "status": status, "cause": cause})


def _train(
    job: dict[str, Any], data: Dataset, report: Callable[[Report], None], facts: Message, own_code: OwnCode
) -> tuple[str, str]:
    from trainer.loop import train

    config = TrainConfig.model_validate(job["config"])
    own_code.check(config)
    facts["n_parameters"] = count_parameters(config, data.n_classes, own_code)
    out_dir = Path(job["out_dir"])
    result = train(
        config,
        data,
        report,
        _resume(job, out_dir, facts),
        out_dir=out_dir,
        rungs=job["rungs"],
        micro_batch=job.get("micro_batch"),
        allow_code=own_code.allowed,
        code_dir=own_code.here(),
    )
    return result.status, result.message


def _resume(job: dict[str, Any], out_dir: Path, facts: Message) -> Path | None:
    """The checkpoint to continue from: the trial's own, which may be newer than the one that the driver knows of.

    A damaged one is put aside and the trial begins anew, which the next message says (`begun_anew`: why). Raises
    UserError for one of a newer release, which is whole.
    """
    from trainer import checkpoint

    path = out_dir / checkpoint.CHECKPOINT
    if not path.exists() and job["resume"]:
        path = Path(job["resume"])
    if not path.exists():
        return None
    try:
        checkpoint.load(path)
    except checkpoint.NewerReleaseError:
        raise
    except UserError as error:
        aside = path.with_name("unreadable.pt")
        path.replace(aside)
        facts["begun_anew"] = f"begins anew, as its checkpoint cannot be read (put aside as {aside.name}): {error}"
        return None
    return path


def _message(measured: Report | None, facts: Message) -> Message:
    """A report as the flat dict that the scheduler reads; without one, only what is to be said beside it."""
    message: Message = {"step": 0, "tokens": 0, "rung": None, "final": False, "metrics": {}, "checkpoint": None}
    if measured is not None:
        message = {key: getattr(measured, key) for key in message}
        message["checkpoint"] = str(measured.checkpoint) if measured.checkpoint else None
    return {**message, "status": None, "cause": "", **facts}


def _failure(error: Exception, out_dir: Path) -> tuple[str, str]:
    """Status and cause of a trial that raised: one line with the place; the whole traceback goes to error.txt."""
    from trainer import memory

    cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
    place = _place(error)
    _write_traceback(error, out_dir)
    # the frames hold the model, the optimizer and the batch: nobody else may need that memory more
    traceback.clear_frames(error.__traceback__)
    error.__traceback__ = None
    if _disk_full(error):
        return "interrupted", " ".join(str(error).split())  # no fault of the trial; the driver stops the study
    if isinstance(error, UserError):
        return "failed", str(error)
    return "out_of_memory" if memory.ran_out(error) else "failed", f"{cause} ({place})" if place else cause


def _place(error: Exception) -> str:
    """file:line where it was raised: the innermost of our own lines, or else simply the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename]
    if not (ours or frames):
        return ""
    frame = (ours or list(frames))[-1]
    path = Path(frame.filename)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{frame.lineno}"


def _write_traceback(error: Exception, out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / ERROR).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        pass  # a full disk may be the very error; its cause is reported all the same


def _disk_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or (isinstance(error, UserError) and str(error).startswith("no space left"))


def _release() -> None:
    """Give back what the trial before this one left: its cycles, and what it held of the GPU.

    At the beginning, as a stopped trial has no end of its own. What survives is frozen: it is torch's and ours for
    as long as the worker lives, and looking through it again would cost 0.2 s each time.
    """
    import torch

    gc.collect()
    gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_parameters(config: TrainConfig, n_classes: int, own_code: OwnCode) -> int:
    """What the `n_parameters` of a config's model says. Raises UserError as `build_model.build`."""
    from trainer import build_model

    if build_model.load_own(config, own_code.allowed, own_code.here()) is None:
        return count_gpt(config.shape(n_classes))
    return build_model.count_own(config, n_classes, own_code.here())


def count_gpt(model: GPTConfig) -> int:
    """What `GPT.n_parameters` would say, without making the weights: position table and an untied lookup left out."""
    import torch

    from models.gpt import Block, Norm

    with torch.device("meta"):
        block, norm = Block(model), Norm(model)
    sizes = [sum(parameter.numel() for parameter in part.parameters()) for part in (block, norm)]
    return model.vocab_size * model.n_embd + model.n_layer * sizes[0] + sizes[1]

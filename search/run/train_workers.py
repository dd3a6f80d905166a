"""A full run as Ray Train runs it: workers that share each step, started again from the last checkpoint when one is
lost.

The run folder on shared storage holds the truth, as everywhere: a group that is started anew continues from its
checkpoint.pt. Ray Train's own storage is a scratch folder that nobody reads; in it the controller, which runs on the
driver's machine, notes what happened to workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, get_context
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

from data import tokenizers
from data.errors import Lost, UserError
from data.paths import working_directory
from search.run import in_worker
from search.run.own_code import OwnCode
from search.run.resources import Share
from search.run.watch import beating
from trainer.__main__ import Order
from trainer.config import TrainConfig
from trainer.criterion import own_code
from trainer.files import write
from trainer.report import Report, Result
from trainer.run_folder import ERROR, PROGRESS

NOTES = "workers.jsonl"
# read by Ray Train when a run starts; of the ~20 s that it takes on two cores nearly all is processes importing torch
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # a lost worker is noticed, and the end seen, that much sooner
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less; our loop has its checkpoints anyway
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
_NOTE = 5.0  # seconds between notes of a worker's progress
_PATIENCE = 20.0  # seconds for Ray's client to let go of a Ray that is gone; now and then it waits for ever


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: the only training loop, in the process group that Ray Train has made.

    job: {"config", "data", "out", "resume", "threads", "own_code"}; data: a reference into Ray's object store.
    Returns the fields of the Result, and the worker's machine in words.
    """
    import torch

    from trainer import device
    from trainer.checkpoint import CHECKPOINT
    from trainer.loop import train

    torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    # the first one's word: on a shared file system the others may see a new file later
    first = get_context().get_world_rank() == 0
    begun = broadcast_from_rank_zero((out / CHECKPOINT).exists() if first else None)
    if begun and not (out / CHECKPOINT).exists():
        raise OSError(f"{out / CHECKPOINT} is not to be seen from {os.uname().nodename} yet")
    resume = out / CHECKPOINT if begun else job["resume"] and Path(job["resume"])
    config = TrainConfig.model_validate(job["config"])
    own_code = OwnCode(**job["own_code"])
    own_code.check(config)
    data = ray.get(job["data"])
    allowed, code_dir = own_code.allowed, own_code.here()
    result = train(
        config, data, _nobody, resume, out_dir=out, on_step=Progress(out), allow_code=allowed, code_dir=code_dir
    )
    context = get_context()
    machine = dataclasses.replace(device.choose(config, context.get_local_rank()), bfloat16=result.bfloat16)
    described = device.describe(machine, context.get_world_size())
    return {"result": dataclasses.asdict(result), "machine": described}


def _nobody(_: Report) -> None:
    """The driver reads reports from the run folder."""


class Progress:
    """The `on_step` of a worker: notes the tokens so far in the run folder, at most every few seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._noted = folder, 0.0

    def __call__(self, tokens: int) -> None:
        if time.monotonic() >= self._noted + _NOTE:
            self._noted = time.monotonic()
            note = json.dumps({"tokens": tokens}).encode()
            write(self.folder / PROGRESS, lambda file: file.write(note))


class Notes(UserCallback):
    """Runs in Ray Train's controller: notes what workers raised, for the driver to read."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """The controller imports this file as the workers do, and from then on all that they raise."""
        return in_worker.call("search.run.train_workers", "Notes"), (str(self.path),)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        note = describe({rank: _cause(error) for rank, error in worker_exceptions.items()})
        with self.path.open("a") as file:
            file.write(json.dumps(note) + "\n")


def _cause(error: Exception) -> BaseException:
    """What the worker raised, without Ray Train's wrapping."""
    return getattr(error, "_base_exc", error)


def describe(failures: dict[int, BaseException]) -> dict[str, Any]:
    """One note about what the workers raised, by rank: {"kind", "cause", "ranks", "traceback"}.

    kind: `mistake` (the user's), `memory`, `bug` (it would be raised again) or `lost` (another try may succeed).
    When a worker dies, the others fail in what they were telling each other; that says nothing about them.
    """
    from trainer.memory import ran_out

    def order(error: BaseException) -> int:
        if isinstance(error, UserError):
            return 0
        if ran_out(error):
            return 1
        if _died(error):
            return 2
        # connections, GPUs and file systems fail as these; whatever else is raised would be raised again
        return 4 if isinstance(error, (RuntimeError, OSError)) else 3

    kinds = ("mistake", "memory", "lost", "bug", "lost")
    chosen = min(failures, key=lambda number: (order(failures[number]), number))
    error = failures[chosen]
    kind = kinds[order(error)]
    died = [number for number, one in failures.items() if _died(one)]
    return {
        "kind": kind,
        "cause": " ".join(str(error).split()) if kind == "mistake" else _line(error),
        "ranks": sorted(died or [chosen]),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _died(error: BaseException) -> bool:
    """Whether it is Ray that misses a worker. What it raises then has no public base in common."""
    return type(error).__module__.partition(".")[0] == "ray"


def _line(error: BaseException) -> str:
    """An exception in a short line; Ray's begin with a page about where the worker was."""
    if _died(error):
        return "its process died, or does not answer"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _has(folder: Path) -> bool:
    return (folder / "checkpoint.pt").exists()


def _leave(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
    os._exit(1)


class Group:
    """One full run in Ray's workers, from the driver's side. Ray is running; scratch: a folder on this machine.

    with group.running():
        while not group.wait(0.2): print(*group.news())
        group.result()
    """

    def __init__(self, order: Order, workers: int, each: Share, max_failures: int, scratch: Path) -> None:
        self.order, self.max_failures = order, max_failures
        self.began = time.monotonic()
        self.machine = ""  # of the first worker, once the run has ended
        self._notes, self._read = scratch / NOTES, 0
        self._last: dict[str, Any] = {}  # the latest note
        self._lost = 0
        self._gone = ""  # Ray itself
        self._result: Result | None = None
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, args=(workers, each, scratch), name="full-run", daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        def gone(cause: str) -> None:
            self._gone = cause
            last = threading.Timer(_PATIENCE, _leave, (f"nanosweep train: {self._lost_ray()}",))
            last.daemon = True
            last.start()

        with beating(gone):
            # in a thread: Ray Train would take Ctrl-C for itself, and the driver could show nothing
            self._thread.start()
            yield

    def _fit(self, workers: int, each: Share, scratch: Path) -> None:
        os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
        order = self.order
        try:
            tokenizers.load(order.data.path).save(order.out)  # a worker elsewhere has no cache to take it from
            job = {
                "config": order.config.model_dump(),
                "data": ray.put(order.data),
                "out": str(order.out.resolve()),
                "resume": order.resume and str(order.resume.resolve()),
                "threads": each.threads,
                "own_code": dataclasses.asdict(
                    OwnCode(order.allow_code, str(working_directory()), own_code(order.config))
                ),
            }
            fitted = TorchTrainer(
                in_worker.call("search.run.train_workers", "worker", ("trainer.loop",)),
                train_loop_config=job,
                scaling_config=ScalingConfig(
                    num_workers=workers,
                    use_gpu=bool(each.gpus),
                    resources_per_worker={"CPU": each.cpus, **({"GPU": each.gpus} if each.gpus else {})},
                ),
                run_config=RunConfig(
                    name="train",
                    storage_path=str(scratch),
                    failure_config=FailureConfig(max_failures=self.max_failures),
                    callbacks=[Notes(str(self._notes))],
                ),
            ).fit()
            self.machine = str(fitted.return_value["machine"])
            self._result = Result(**fitted.return_value["result"])
        except BaseException as error:  # of this thread, for `result`
            self._raised = error

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long. Returns whether it has come."""
        self._thread.join(seconds)
        return bool(not self._thread.is_alive() or self._gone or self._last.get("kind", "lost") != "lost")

    def news(self) -> list[str]:
        """Lines about workers that were lost since the last call, where the run continues."""
        said = []
        for note in self._new_notes():
            self._last = note
            if note["kind"] == "lost":
                self._lost += 1
                if self._lost <= self.max_failures:
                    who = ", ".join(str(number) for number in note["ranks"])
                    said.append(
                        f"lost worker {who} ({note['cause']}); starting again from the last checkpoint "
                        f"({self._lost} of at most {self.max_failures} times)"
                    )
        return said

    def _new_notes(self) -> list[dict[str, Any]]:
        text = self._notes.read_text() if self._notes.exists() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()
        new, self._read = whole[self._read :], len(whole)
        return [json.loads(line) for line in new]

    def _go_on(self) -> str:
        out = self.order.out
        return f"{out} keeps the last checkpoint: add --resume to continue" if _has(out) else "no checkpoint yet"

    def _lost_ray(self) -> str:
        return f"{self._gone}; {self._go_on()}"

    def result(self) -> Result:
        """How the run ended. Raises UserError for a user's mistake, Lost where it could not continue."""
        self.news()
        out, go_on = self.order.out, self._go_on()
        kind, cause = self._last.get("kind", ""), self._last.get("cause", "")
        if self._result is not None:
            return self._result
        if self._gone:
            raise Lost(self._lost_ray())
        if kind == "mistake":
            raise UserError(cause)
        if kind == "memory":
            raise Lost(f"out of memory: {cause}; {go_on}")
        if kind == "bug":
            (out / ERROR).write_text(self._last["traceback"])
            raise Lost(f"{cause}; the whole traceback is in {out / ERROR}")
        if kind == "lost":
            raise Lost(
                f"workers were lost {self._lost} times (--max-failures {self.max_failures}), at last worker "
                f"{self._last['ranks'][0]}: {cause}; {go_on}"
            )
        assert self._raised is not None
        raise self._raised

"""Train one GPT from one config: the only training loop, run alone, under torchrun or inside a search's workers.

    result = train(config, prepare(config.corpus, config.tokenizer), print)

Reports are made at step boundaries: at every multiple of eval_every, at every rung, at the end. Evaluation does not
influence training: evaluating more often changes no weight. The final report evaluates the full validation split, all
others a fixed subset of its documents.

Resuming. A resumed run equals an uninterrupted one, on a CPU bit for bit. If the checkpoint was written with a report,
that report is handed out again first, because its receiver may have died before it stored the report. max_tokens may
grow: under `constant`, and under `wsd` from a checkpoint before its decay, the result is that of a run of the new
length from the start (except for the warm-up, whose length is a fraction of the run). Under `cosine` and `linear` the
learning rate jumps up to the curve of the longer run: training continues, but not along one schedule.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data import tokens
from data.dataset import Dataset
from data.errors import UserError
from models.gpt import GPT
from models.loss import Criterion
from trainer import checkpoint, device, distributed, evaluate, init, precision, schedule
from trainer import criterion as criteria
from trainer.checkpoint import Checkpoint, State
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.measure import Measure
from trainer.report import Report, Result
from trainer.scores import SCORES
from trainer.step import Stepper, Watch


def train(
    config: TrainConfig,
    data: Dataset,
    report: Callable[[Report], None],
    resume: Path | None = None,
    *,
    out_dir: Path | None = None,
    rungs: Sequence[int] = (),
    on_step: Callable[[int], None] | None = None,
    micro_batch: int | None = None,
    allow_code: bool = False,
    code_dir: Path | None = None,
) -> Result:
    """Train to max_tokens, to early_stop, or to the first loss or gradient norm that is not finite.

    report: called with every Report, on rank 0; its exceptions pass through, and all files are complete then.
    resume: a checkpoint, or the run folder that holds one.
    out_dir: the run folder to write (see trainer.checkpoint); without one nothing is written.
    rungs: token counts; each is reported at the first step boundary at or after it.
    on_step: called with the tokens so far after every step, on rank 0, for a progress bar.
    micro_batch: initial number of sequences per forward pass, at most batch_size, which is the default. It is halved
        whenever memory does not suffice, and the checkpoint keeps the smaller number.
    allow_code: own code that the config names (`loss: my_module:MyLoss`, an optimizer, a model) may be imported.
    code_dir: where its modules lie; default: the working directory.
    The caller's random state is restored. Raises UserError for inputs that contradict each other,
    torch.OutOfMemoryError where not even one sequence fits into memory.
    """
    machine_kind = device.kind(config)
    with distributed.joined(machine_kind) as ranks:
        machine = device.choose(config, ranks.local_rank)
        if config.dtype == "auto" and machine.device.type == "cpu":
            earlier = "" if resume is None else checkpoint.load(resume).dtype
            machine = precision.settle(config, data.n_classes, machine, ranks, earlier)
        with machine.borrowed_randomness(config.seed + ranks.rank):  # dropout differs from rank to rank
            criterion = criteria.build(config, allow_code, code_dir)
            out_dir = out_dir if ranks.rank == 0 else None
            run = _Run(config, data, machine, ranks, out_dir, rungs, criterion, allow_code, code_dir)
            if resume is not None:
                run.restore(resume)
            elif config.init_from is not None:
                assert isinstance(run.stepper.model, GPT), "the config's check refuses it for any other"
                run.state.initial = init.begin(run.stepper.model, config.init_from, data.n_classes)
            run.stepper.micro_batch.limit(micro_batch)
            reporter = report if ranks.rank == 0 else _ignore
            return run.go(reporter, on_step if ranks.rank == 0 else None)


def _ignore(_: Report) -> None:
    """The `report` of the other ranks."""


class _Run:
    """One run: its fixed inputs, the stepper with the weights, and the `State`."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        machine: Machine,
        ranks: Ranks,
        out_dir: Path | None,
        rungs: Sequence[int],
        criterion: Criterion,
        allow_code: bool,
        code_dir: Path | None,
    ) -> None:
        self.own_code = criteria.own_code(config, code_dir)
        self.config, self.data, self.machine, self.ranks = config, data, machine, ranks
        self.out_dir, self.rungs = out_dir, rungs
        length = config.length(data.train.n_targets)
        self.total_steps = schedule.n_steps(length, config.tokens_per_step)
        self.eval_every = config.eval_every or max(1, length // 10)
        machine.reset_peak_memory()
        self.stepper = Stepper(config, data, machine, ranks, criterion, allow_code, code_dir)
        self.measure = Measure(config, data, machine, ranks, criterion)
        self.state = State(total_steps=self.total_steps, eval_tokens=self.measure.val_subset.n_targets)
        self.resumed_from: Path | None = None
        self.best_model: dict[str, Tensor] | None = None

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint. Raises UserError where it belongs to another run."""
        saved = checkpoint.load(path, self.machine.device)
        checkpoint.check_resumable(saved, self.config, self.data, str(path), self.own_code)
        state = saved.state
        if state.ended and (self.total_steps > state.total_steps or self._more_patient(state)):
            state.ended, state.stale, state.report = None, 0, None  # it ended, but this run is longer
        if state.step > self.total_steps or (state.step == self.total_steps and not state.ended):
            raise UserError(
                f"{path} is at {state.step * self.config.tokens_per_step:,} tokens and max_tokens is "
                f"{self.config.max_tokens}: nothing is left to train; raise max_tokens",
                kind="nothing_left",
                keys="max_tokens",
            )
        if state.eval_tokens != self.state.eval_tokens or evaluate.rule(saved.config) != evaluate.rule(self.config):
            state.best, state.stale = {}, 0  # it was measured on other text, or with another context
        self.stepper.model.load_state_dict(saved.model)
        self.stepper.optimizers.load_state_dict(saved.optimizer or [])
        if self.ranks.rank == 0:  # only rank 0's dropout state is stored; the other ranks begin with their seed
            self.machine.set_randomness(saved.randomness or [])
        self.stepper.micro_batch.limit(state.micro_batch)
        self.best_model = saved.best_model
        self.state = dataclasses.replace(state, total_steps=self.total_steps, eval_tokens=self.state.eval_tokens)
        self.resumed_from = path

    def _more_patient(self, state: State) -> bool:
        patience = self.config.early_stop
        return state.ended == "early_stopped" and (patience is None or state.stale < patience)

    def go(self, report: Callable[[Report], None], on_step: Callable[[int], None] | None) -> Result:
        """Train until the end. See `train`."""
        if self.out_dir is not None:
            checkpoint.open_folder(self.out_dir, self.config, self.data, self._notes())
            if self.resumed_from is not None:
                checkpoint.take_along(self.resumed_from, self.out_dir, self.state.ended is not None)
        state, per_step = self.state, self.config.tokens_per_step
        if state.report is not None and state.report["step"] == state.step:
            self._tell(report)
        watch, clock = Watch(self.machine), _Clock()
        trained, since = 0.0, state.step  # training since the last report: its seconds, its first step
        while not state.ended:
            multiplier = schedule.multiplier(self.config, state.step, self.total_steps)
            broken = watch.see(state.step, self.stepper.step(state.step, multiplier))
            before, after = state.step * per_step, (state.step + 1) * per_step
            state.step += 1
            if on_step is not None:
                on_step(after)
            last = state.step == self.total_steps
            rung = schedule.rung_reached(self.rungs, before, after)
            due = last or rung is not None or schedule.crossed(self.eval_every, before, after)
            every = self.config.checkpoint_every
            save = due if every is None else last or rung is not None or schedule.crossed(every, before, after)
            if broken is None and (due or save):
                broken = watch.settle()
            if broken is not None:
                return self._diverged(f"loss or gradient norm not finite at step {broken + 1}", multiplier)
            if not (due or save):
                continue
            trained += clock.lap(state)
            if due:
                speed = (state.step - since) * per_step / trained
                measured = self._measure(last, rung, self.config.learning_rate * multiplier, watch.gradient_norm, speed)
                if not math.isfinite(measured.metrics["val_loss"]):
                    return self._diverged(f"val_loss not finite at step {state.step}", multiplier)
                state.eval_seconds += clock.lap(state)
                measured.metrics.update(seconds=state.seconds, eval_seconds=state.eval_seconds)
                written = self.out_dir / checkpoint.CHECKPOINT if save and self.out_dir else None
                state.report = dataclasses.asdict(measured) | {"checkpoint": written and str(written)}
                trained, since = 0.0, state.step
            if save:
                self._save(checkpoint.CHECKPOINT)
            if due:
                self._tell(report)
            clock.lap(state)
        metrics = dict(state.report["metrics"]) if state.report else {}
        return Result(
            state.ended, state.step, state.step * per_step, metrics, state.best, bfloat16=self.machine.bfloat16
        )

    def _measure(self, last: bool, rung: int | None, rate: float, norm: float, speed: float) -> Report:
        """Evaluate the model, record a new best, and decide whether the run ends here."""
        metrics = {"learning_rate": rate, "gradient_norm": norm, "tokens_per_second": speed}
        state = self.state
        done = state.step * self.config.tokens_per_step
        model = self.stepper.model
        val, train_metrics = self.measure.score_subsets(model, last)
        metrics.update(train_metrics)
        if val.loss < state.best.get("val_loss", math.inf):
            state.best = {"step": state.step, "tokens": done, "val_loss": val.loss, "val_perplexity": val.perplexity}
            state.stale = 0
            self._keep_best()
        else:
            state.stale += 1
        if last:
            state.ended = "completed"
        elif self.config.early_stop is not None and state.stale >= self.config.early_stop:
            state.ended = "early_stopped"
        if state.ended:
            with self._weights(self.best_model if state.ended == "early_stopped" else None):
                metrics["val_loss_subset"] = state.best["val_loss"] if state.ended == "early_stopped" else val.loss
                val, final_metrics = self.measure.score_whole(model, val, last)
                metrics.update(final_metrics)
            if self.out_dir is not None and math.isfinite(val.loss):
                val.scores.save(self.out_dir / SCORES)
        metrics.update(evaluate.metrics(val), peak_memory_mb=self.machine.peak_memory_mb())
        return Report(state.step, done, rung, state.ended is not None, metrics, self.stepper.micro_batch.fits)

    @contextlib.contextmanager
    def _weights(self, weights: dict[str, Tensor] | None) -> Iterator[None]:
        """Use `weights` during the block, then restore the present ones; None: use the present ones."""
        if weights is None:
            yield
            return
        latest = self.stepper.weights()
        self.stepper.model.load_state_dict(weights)
        try:
            yield
        finally:
            self.stepper.model.load_state_dict(latest)

    def _keep_best(self) -> None:
        if self.config.early_stop is not None:
            self.best_model = self.stepper.weights()
        self._save(checkpoint.BEST)

    def _save(self, name: str) -> None:
        """Write checkpoint.pt or best.pt, on the rank that has a run folder."""
        if self.out_dir is None:
            return
        self.state.micro_batch = self.stepper.micro_batch.fits
        resumable = name == checkpoint.CHECKPOINT
        eot = self.data.eot
        if eot is not None and self.data.train.tokens[0] != eot:
            eot = None  # the tokenizer has one, but a corpus of one document does not contain it
        saved = Checkpoint(
            config=self.config,
            data_hash=self.data.hash,
            n_classes=self.data.n_classes,
            eot=eot,
            model=self.stepper.model.state_dict(),
            state=self.state,
            optimizer=self.stepper.optimizers.state_dict() if resumable else None,
            randomness=self.machine.randomness() if resumable else None,
            best_model=self.best_model if resumable else None,
            own_code=self.own_code,
            dtype=self._settled_dtype(),
        )
        checkpoint.save(self.out_dir / name, saved)

    def _settled_dtype(self) -> str:
        """What `dtype: auto` was settled to for this run on a CPU; else empty: config and device say it."""
        if self.config.dtype != "auto" or self.machine.device.type != "cpu":
            return ""
        return "bfloat16" if self.machine.bfloat16 else "float32"

    def _tell(self, report: Callable[[Report], None]) -> None:
        """Hand out the state's report, after its files are on disk. Random numbers drawn by `report` do not affect
        dropout."""
        fields = dict(self.state.report or {})
        fields["checkpoint"] = self.out_dir / checkpoint.CHECKPOINT if fields["checkpoint"] and self.out_dir else None
        handed_out = Report(**fields)
        if self.out_dir is not None:
            checkpoint.append_report(self.out_dir, handed_out)
        with self.machine.borrowed_randomness():
            report(handed_out)

    def _diverged(self, reason: str, multiplier: float) -> Result:
        tokens_now = self.state.step * self.config.tokens_per_step
        message = f"{reason} ({tokens_now:,} tokens, learning rate {self.config.learning_rate * multiplier:.3g})"
        metrics = dict(self.state.report["metrics"]) if self.state.report else {}
        return Result("diverged", self.state.step, tokens_now, metrics, self.state.best, message)

    def _notes(self) -> dict[str, str]:
        return {
            "data": f"{self.data.corpus}, {self.data.tokenizer}, hash {self.data.hash}",
            "reports score": f"{self.state.eval_tokens:,} of {self.data.val.n_targets:,} tokens of the validation "
            f"split, hash {tokens.subset_hash(self.measure.val_subset)[:16]}",
            "parameters": f"{self.stepper.model.n_parameters():,}",
            **({"precision": f"dtype: auto is {dtype} here"} if (dtype := self._settled_dtype()) else {}),
            **({"initial weights": self.state.initial} if self.state.initial else {}),
            **{f"own code {reference}": f"sha256 {digest}" for reference, digest in self.own_code.items()},
            "torch": torch.__version__,
        }


class _Clock:
    """Wall clock in laps. Time in the caller's `report` counts as time of the run, not of training or evaluation."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def lap(self, state: State) -> float:
        """Seconds since the last lap, added to the state's."""
        before, self._at = self._at, time.perf_counter()
        state.seconds += self._at - before
        return self._at - before

"""A whole study as its journal would tell it, without training: two drivers, rungs, finalists, in simulated time.

Any stopping rule can decide: `scheduler` is as in a spec.

The rungs decide as they do in a search (search.stopping); values follow a known function of the point.
"""

from __future__ import annotations

import heapq
import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.stopping.registry import Scheduler
from search.strategy.stopping import rebuild
from search.study.journal import NAME, Record, encode
from search.study.study import Study, fold
from tests.journals import LENGTH, RUNGS, header, metrics
from trainer.config import TrainConfig

BEGAN = 1_700_000_000.0
AT = (*range(500, LENGTH, 500), LENGTH)  # tokens of the reports
ASHA = {"asha": {"first_rung": RUNGS[0], "factor": 4, "exempt": 0.05}}
FLOOR = {"val_loss": 1.0, "val_perplexity": math.e, "val_bits_per_byte": 1.4}


class Simulation:
    """records: the journal. trials: of the search; slots: places; dies: seconds after which the first driver dies;
    scheduler: a rule that stops, its rungs multiples of 500 tokens."""

    def __init__(
        self,
        trials: int = 60,
        slots: int = 2,
        dies: float | None = 300.0,
        name: str = "simulated",
        scheduler: dict[str, Any] = ASHA,
    ) -> None:
        self.random, self.slots, self.scheduler = random.Random(1337), slots, scheduler
        settings = Scheduler.model_validate(scheduler).settings
        self.rule, self.rungs = settings.rule(), settings.rungs(LENGTH)
        self.records: list[Record] = []
        self.time, self.died, self.name = BEGAN, dies is None, name
        self.dies = BEGAN + (dies or 0)
        self.left, self.next, self.budget = trials, 0, trials
        self.events: list[tuple[float, int, int]] = []  # when, which trial, which of its reports
        self.points: dict[int, dict[str, Any]] = {}
        self._driver()
        self._fill()
        self._run()
        self._finalists()

    def write(self, record: str, **fields: Any) -> None:
        self.records.append(json.loads(encode({"record": record, "time": round(self.time, 3), **fields})))

    def _driver(self) -> None:
        data = {**header()["data"], "floor": FLOOR}
        spec = {**header(self.name)["spec"], "finalists": {"top": 3, "seeds": 2}, "budget": {"trials": self.budget}}
        spec["scheduler"] = self.scheduler
        workers = {"slots": self.slots, "cpus": 1.0, "gpus": 0.5}
        facts = {"spec": spec, "rungs": self.rungs, "workers": workers, "host": {"name": "here"}}
        self.write("study", **header(self.name, data=data, **facts))

    def _fill(self) -> None:
        while len(self.events) < self.slots and self.left:
            self.left -= 1
            point: dict[str, Any] = {"learning_rate": 10 ** self.random.uniform(-4, -2)}
            point["loss"] = self.random.choice(["cross_entropy", "squentropy"])
            if point["loss"] == "squentropy":
                point["squentropy_lambda"] = 10 ** self.random.uniform(-3, 0)
            self._begin(point, exempt=self.next % 6 == 5 and self.next < 18)

    def _begin(self, point: dict[str, Any], **about: Any) -> None:
        number, self.next = self.next, self.next + 1
        self.points[number] = {**about, **point}
        config = TrainConfig(max_tokens=LENGTH, **point).model_dump()
        name = f"lr={point['learning_rate']:.1e} {point['loss']}"
        self.write("point", trial=number, point=point, config=config, name=name, **about)
        self._start(number)

    def _start(self, number: int, place: int = 0) -> None:
        self.time += 0.25
        self.write("status", trial=number, status="running", tokens=AT[place - 1] if place else 0)
        heapq.heappush(self.events, (self.time + self.random.uniform(2, 4), number, place))

    def _value(self, number: int, tokens: int) -> float:
        point = self.points[number]
        off = (math.log10(point["learning_rate"]) + 2.7) ** 2 + 0.1 * (point["loss"] == "squentropy")
        luck = random.Random(f"{number}").gauss(0, 0.03)
        return math.exp(1.1 + 0.6 * off + luck + 3 * math.exp(-tokens / 1500))

    def _run(self) -> None:
        while self.events:
            at, number, place = heapq.heappop(self.events)
            if not self.died and at > self.dies:
                self._die([(number, place), *((n, p) for _, n, p in self.events)])
                continue
            self.time = at
            if not self._report(number, place):
                self._fill()

    def _die(self, running: list[tuple[int, int]]) -> None:
        self.died, self.events, self.time = True, [], self.dies + 1000
        self._driver()
        study = fold(self.records)
        self.rule = rebuild(study.header.spec, study) or self.rule
        for number, _ in running:
            self.write("status", trial=number, status="interrupted", cause="its driver went away")
        for number, place in running:
            self._start(number, place)

    def _report(self, number: int, place: int) -> bool:
        """Whether the trial continues."""
        point, tokens = self.points[number], AT[place]
        broke = point["learning_rate"] > 0.0085
        rung, value = tokens if tokens in self.rungs else None, math.nan if broke else self._value(number, tokens)
        more = {"val_loss_subset": math.log(value) + 0.01} if tokens == LENGTH and not broke else {}
        about = {"step": tokens // 100, "tokens": tokens, "rung": rung, "final": tokens == LENGTH, "checkpoint": None}
        self.write("report", trial=number, **about, metrics=metrics(value, **more))
        ended = {"trial": number, "n_parameters": 809_856, "node": f"node-{number % 2}", "seconds": 30.0}
        if broke:
            self.write("status", status="diverged", cause="the loss is nan", **ended)
            return False
        if rung is not None and "of" not in point:
            decision = self.rule.report(number, rung, value, exempt=point.get("exempt", False))
            self.write("decision", trial=number, rung=rung, **asdict(decision))
            if decision.action == "stop":
                self.write("status", status="pruned", rung=rung, **ended)
                return False
        if tokens == LENGTH:
            self.write("status", status="completed", **ended)
            return False
        heapq.heappush(self.events, (self.time + self.random.uniform(2, 4), number, place + 1))
        return True

    def _finalists(self) -> None:
        full = [r["trial"] for r in self.records if r["record"] == "status" and r["status"] == "completed"]
        best = sorted(full, key=lambda number: self._value(number, LENGTH))[:3]
        for round_ in (1, 2):
            for number in best:
                kept = ("learning_rate", "loss", "squentropy_lambda")
                point = {key: self.points[number][key] for key in kept if key in self.points[number]}
                self._begin(point, of=number, round=round_)
                self._run()


def study(**options: Any) -> Study:
    """Such a study, folded."""
    return fold(Simulation(**options).records)


def write(folder: Path, **options: Any) -> Study:
    """Such a study as a folder with its journal."""
    folder.mkdir(parents=True)
    records = Simulation(name=folder.name, **options).records
    (folder / NAME).write_text("".join(encode(record) + "\n" for record in records), encoding="utf-8")
    return fold(records)

"""Stop and resume equals straight through; checkpoints are whole, plain, and only continue their own run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data import tokenizers
from data.errors import UserError
from tests import tiny
from tests.limits import largest_file
from tests.refusals import facts, refusal
from trainer import checkpoint, config
from trainer.config import TrainConfig
from trainer.optimizers import OPTIMIZERS
from trainer.report import Report


class Stop(Exception):  # noqa: N818
    """Raised by a receiver in the middle of a run, as Ray does."""


def stopped_at(step: int, settings: TrainConfig, out_dir: Path, **options: object) -> list[Report]:
    """Train until the report at `step`, then stop."""
    reports: list[Report] = []

    def receive(report: Report) -> None:
        reports.append(report)
        if report.step >= step:
            raise Stop

    with pytest.raises(Stop):
        tiny.run(settings, report=receive, out_dir=out_dir, **options)
    return reports


def same_state(one: Path, other: Path) -> bool:
    a, b = checkpoint.load(one), checkpoint.load(other)
    flat_a, flat_b = (torch.utils._pytree.tree_leaves([c.model, c.optimizer, c.randomness]) for c in (a, b))
    return len(flat_a) == len(flat_b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(flat_a, flat_b, strict=True)
    )


CASES = {
    **{name: {"optimizer": name, **({"learning_rate": 0.1} if name == "sgd" else {})} for name in OPTIMIZERS},
    "epochs": {"data_order": "epoch", "gradient_accumulation_steps": 2, "max_tokens": 5120},
    "bfloat16": {"dtype": "bfloat16"},
    "early_stop": {"early_stop": 3, **tiny.RUINOUS},
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_equals_straight_through_to_the_last_bit(case: str, tmp_path: Path) -> None:
    settings = tiny.config(**{"dropout": 0.2, "eval_every": 320, **CASES[case]})
    straight, whole = tiny.run(settings, out_dir=tmp_path / "straight")
    first = stopped_at(15, settings, tmp_path / "resumed")
    result, second = tiny.run(settings, out_dir=tmp_path / "resumed", resume=tmp_path / "resumed")
    # the report of the checkpoint comes again: its receiver may have died before keeping it
    assert second[0] == first[-1]
    assert [(r.step, tiny.values(r)) for r in first + second[1:]] == [(r.step, tiny.values(r)) for r in whole]
    assert same_state(tmp_path / "straight", tmp_path / "resumed")
    assert (result.status, result.best) == (straight.status, straight.best)
    lines = [json.loads(x) for x in (tmp_path / "resumed" / checkpoint.METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [r.step for r in whole]


def test_checkpoints_between_reports_resume_too(tmp_path: Path) -> None:
    settings = tiny.config(dropout=0.2, eval_every=960, checkpoint_every=640)
    _, whole = tiny.run(settings, out_dir=tmp_path / "straight")
    stopped_at(30, settings, tmp_path / "resumed")  # the report at 30; the last checkpoint is at 30 as well
    at_20 = tmp_path / "at_20.pt"
    with pytest.raises(Stop):
        tiny.run(settings, out_dir=tmp_path / "part", on_step=lambda done: _stop_at(done, 25 * 64))
    (tmp_path / "part" / checkpoint.CHECKPOINT).replace(at_20)
    assert checkpoint.load(at_20).state.step == 20
    _, reports = tiny.run(settings, out_dir=tmp_path / "elsewhere", resume=at_20)
    assert [tiny.values(r) for r in reports] == [tiny.values(r) for r in whole[1:]]
    assert same_state(tmp_path / "straight", tmp_path / "elsewhere")


def _stop_at(done: int, tokens: int) -> None:
    if done >= tokens:
        raise Stop


def test_a_finished_run_hands_out_its_end_again(tmp_path: Path) -> None:
    settings = tiny.config()
    result, reports = tiny.run(settings, out_dir=tmp_path)
    again, repeated = tiny.run(settings, out_dir=tmp_path, resume=tmp_path)
    assert again == result
    assert repeated == reports[-1:]


@pytest.mark.parametrize("schedule", ["constant", "wsd"])
def test_a_run_may_grow(schedule: str, tmp_path: Path) -> None:
    settings = tiny.config(schedule=schedule, decay_frac=0.25, warmup_frac=0.0, dropout=0.1, eval_every=640)
    longer = config.replace(settings, max_tokens=2 * tiny.STEPS * 64)
    _, whole = tiny.run(longer, out_dir=tmp_path / "straight")
    stopped_at(30, settings, tmp_path / "grown")  # before the decay of the short run
    _, reports = tiny.run(longer, out_dir=tmp_path / "grown", resume=tmp_path / "grown")
    assert [tiny.values(r) for r in reports] == [tiny.values(r) for r in whole[2:]]
    assert same_state(tmp_path / "straight", tmp_path / "grown")


def test_a_run_that_had_ended_goes_on_when_it_may_be_longer(tmp_path: Path) -> None:
    settings = tiny.config(schedule="constant")
    tiny.run(settings, out_dir=tmp_path)
    longer = config.replace(settings, max_tokens=50 * 64)
    result, reports = tiny.run(longer, out_dir=tmp_path, resume=tmp_path)
    assert [(r.step, r.final) for r in reports] == [(50, True)]
    assert result.status == "completed"


def test_a_run_that_stopped_early_goes_on_with_more_patience(tmp_path: Path) -> None:
    settings = tiny.config(early_stop=2, **tiny.RUINOUS)
    result, _ = tiny.run(settings, out_dir=tmp_path)
    assert result.status == "early_stopped"
    result, _ = tiny.run(config.replace(settings, early_stop=None), out_dir=tmp_path, resume=tmp_path)
    assert (result.status, result.step) == ("completed", tiny.STEPS)


def test_a_best_that_was_measured_on_other_text_is_forgotten(tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    result, _ = tiny.run(tiny.config(eval_tokens=1000, learning_rate=1e-9), out_dir=tmp_path, resume=tmp_path)
    assert result.best["step"] > 10
    assert checkpoint.load(tmp_path / checkpoint.BEST).state.step == result.best["step"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"n_embd": 32}, "changed"),
        ({"mlp": "swiglu"}, "changed"),
        ({"batch_size": 8}, "changed"),
        ({"optimizer": "sgd"}, "changed"),
        ({"seed": 7}, "changed"),
        ({"max_tokens": 64}, "nothing_left"),
        ({"max_tokens": 640}, "nothing_left"),
    ],
)
def test_another_run_is_not_resumed(changes: dict[str, object], kind: str, tmp_path: Path) -> None:
    settings = tiny.config()
    stopped_at(10, settings, tmp_path / "run")
    other = config.replace(settings, **changes)
    error = refusal(lambda: tiny.run(other, resume=tmp_path / "run", out_dir=tmp_path / "new"))
    assert (error.kind, error.keys) == (kind, tuple(changes))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_embd": 32}, " has n_embd: 16, the config has n_embd: 32; a resumed run keeps it"),
        (
            {"max_tokens": 64},
            " is at 640 tokens and max_tokens is 64: nothing is left to train; raise max_tokens",
        ),
    ],
)
def test_what_the_refusal_to_resume_says(changes: dict[str, object], problem: str, tmp_path: Path) -> None:
    settings = tiny.config()
    stopped_at(10, settings, tmp_path)
    error = refusal(lambda: tiny.run(config.replace(settings, **changes), resume=tmp_path))
    assert str(error) == f"{tmp_path}{problem}"


def test_other_data_is_not_resumed(tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    error = refusal(lambda: tiny.run(tiny.config(), resume=tmp_path, data=tiny.stories(60)))
    assert error.kind == "other_data"
    assert str(error).startswith(f"{tmp_path} was trained on other data (stories")


def test_dropout_and_rates_may_change_on_the_way(tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    changed = tiny.config(dropout=0.3, learning_rate=1e-4)
    result, reports = tiny.run(changed, resume=tmp_path)
    assert result.status == "completed"
    assert reports[-1].metrics["learning_rate"] < 1e-4


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_checkpoint_is_a_clear_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / checkpoint.CHECKPOINT).write_bytes(content)
    error = refusal(lambda: tiny.run(tiny.config(), resume=tmp_path))
    assert error.kind == "unreadable"
    assert str(error).startswith(f"{tmp_path / checkpoint.CHECKPOINT}: not a readable checkpoint: ")
    assert str(error).endswith("; restore a copy, or remove it to begin anew")


def test_a_checkpoint_that_is_cut_or_damaged_anywhere_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tiny.run(tiny.config(max_tokens=640), out_dir=tmp_path)
    for name, advice in ((checkpoint.CHECKPOINT, "remove it to begin anew"), (checkpoint.BEST, "is read instead")):
        whole = (tmp_path / name).read_bytes()
        checkpoint.load(tmp_path / name)
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]  # torch.load reads such a file
        for content in (whole[:3], whole[:middle], whole[:-1], whole[:middle] + bytes(middle), flipped):
            (tmp_path / name).write_bytes(content)
            error = refusal(lambda: checkpoint.load(tmp_path / name))  # noqa: B023
            assert (error.kind, advice in str(error)) == ("unreadable", True)
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        assert refusal(lambda: checkpoint.load(tmp_path / name)).kind in ("unreadable", "missing")  # noqa: B023


def test_a_resumed_run_leaves_out_lines_of_its_reports_that_are_cut(tmp_path: Path) -> None:
    _, reports = tiny.run(tiny.config(max_tokens=640), out_dir=tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    checkpoint.append_report(tmp_path, reports[-1])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [report.step for report in reports]


def test_a_missing_checkpoint_and_one_of_weights_only_are_clear_errors(tmp_path: Path) -> None:
    error = refusal(lambda: tiny.run(tiny.config(), resume=tmp_path))
    assert (error.kind, str(error)) == ("missing", f"{tmp_path / checkpoint.CHECKPOINT}: no checkpoint there")
    tiny.run(tiny.config(), out_dir=tmp_path)
    best = tmp_path / checkpoint.BEST
    error = refusal(lambda: tiny.run(tiny.config(), resume=best))
    assert (error.kind, str(error)) == ("weights_only", f"{best} holds weights only; resume from checkpoint.pt")


def test_the_run_folder_holds_all_that_is_needed_elsewhere(tmp_path: Path) -> None:
    settings = tiny.config()
    tiny.run(settings, out_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt",
        "checkpoint.pt",
        "config.yaml",
        "metrics.jsonl",
        "scores.npz",
        "tokenizer.json",
    ]
    assert config.load(tmp_path / checkpoint.CONFIG) == settings
    assert tiny.stories().hash in (tmp_path / checkpoint.CONFIG).read_text()
    assert tokenizers.load(tmp_path).n_classes == tiny.stories().n_classes


def test_a_full_disk_is_a_clear_error_and_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    settings = tiny.config()
    stopped_at(10, settings, tmp_path)
    size = (tmp_path / checkpoint.CHECKPOINT).stat().st_size
    with largest_file(size // 2), pytest.raises((UserError, OSError, RuntimeError)):
        tiny.run(settings, resume=tmp_path, out_dir=tmp_path)
    assert checkpoint.load(tmp_path).state.step == 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_whoever_reads_a_file_while_it_is_replaced_sees_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    checkpoint.write_text(path, "old")
    with path.open() as reader:
        checkpoint.write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_what_a_killed_process_left_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    left = tmp_path / ".checkpoint.pt.4242.partial"
    left.write_bytes(b"half a checkpoint")
    tiny.run(tiny.config(max_tokens=640), out_dir=tmp_path)
    assert not left.exists()
    assert not list(tmp_path.glob("*.partial"))


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(path / checkpoint.CHECKPOINT, weights_only=True)
    change(content)
    torch.save(content, path / checkpoint.CHECKPOINT)


def _new_key(content: dict[str, Any]) -> None:
    content["config"] += "rotary_base: 10000\n"


@pytest.mark.parametrize(
    ("change", "key", "difference"),
    [
        (
            lambda content: content.update(format=checkpoint.FORMAT + 1),
            "format",
            f"format {checkpoint.FORMAT + 1}, this one reads up to {checkpoint.FORMAT}",
        ),
        (lambda content: content.update(ema={}), "ema", "field that this one does not know: ema"),
        (
            lambda content: content["state"].update(restarts=1),
            "restarts",
            "field of its state that this one does not know: restarts",
        ),
        (_new_key, "rotary_base", "key of its config that this one does not know: rotary_base"),
    ],
    ids=["format", "field", "state", "config"],
)
def test_a_checkpoint_of_a_newer_release_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None], key: str, difference: str, tmp_path: Path
) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    rewritten(tmp_path, change)
    error = refusal(lambda: tiny.run(tiny.config(), resume=tmp_path))
    assert isinstance(error, checkpoint.NewerReleaseError)
    assert facts(error) == ("newer", (key,), None)
    assert str(error) == (
        f"{tmp_path / checkpoint.CHECKPOINT}: written by a newer release of nanosweep ({difference}); read it with "
        "that release"
    )


def _older(content: dict[str, Any]) -> None:
    """As the first release wrote it: without what has a default now."""
    for holder, kind in ((content, checkpoint.Checkpoint), (content["state"], checkpoint.State)):
        for field in dataclasses.fields(kind):
            has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            if has_default and field.name not in ("step", "optimizer", "randomness", "report"):
                holder.pop(field.name, None)


def test_a_checkpoint_of_an_older_release_that_lacks_fields_is_read_and_continued(tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    rewritten(tmp_path, _older)
    assert checkpoint.load(tmp_path).own_code == {}
    result, _ = tiny.run(tiny.config(), resume=tmp_path)
    assert (result.status, result.step) == ("completed", tiny.STEPS)


def test_a_run_without_own_code_writes_only_fields_that_the_release_before_it_reads(tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    content = torch.load(tmp_path / checkpoint.CHECKPOINT, weights_only=True)
    assert content["format"] == 1
    assert "own_code" not in content


@pytest.mark.parametrize("field", ["config", "state", "model", "n_classes"])
def test_a_checkpoint_without_what_every_release_writes_is_a_clear_error(field: str, tmp_path: Path) -> None:
    stopped_at(10, tiny.config(), tmp_path)
    rewritten(tmp_path, lambda content: content.pop(field))
    error = refusal(lambda: checkpoint.load(tmp_path))
    assert error.kind == "unreadable"
    assert field in str(error)

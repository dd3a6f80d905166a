"""The live view: a table that fits any terminal, plain lines elsewhere, an estimate that can be trusted a little."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from search.run import live
from search.spec.study_spec import Budget
from search.study.ledger import Ledger
from tests import journals
from tests.journals import LENGTH
from tests.waiting import until
from trainer.config import TrainConfig


def terminal(height: int = 24, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def drawn(ledger: Ledger, console: Console, slots: int = 2) -> list[str]:
    """The lines of one frame."""
    view = live.View(ledger.study, slots, LENGTH, console)
    with console.capture() as caught:
        console.print(view.render())
    return caught.get().splitlines()


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """40 trials at full length, 30 running, 20 pruned."""
    ledger = Ledger(tmp_path_factory.mktemp("crowded"))
    ledger.write("study", **journals.header(floor=None))
    for number in range(40):
        journals.complete(ledger, number, 5.0 + number)
    for number in range(40, 70):
        journals.point(ledger, number)
        journals.start(ledger, number)
        journals.report(ledger, number, 1000, 9.0, rung=1000)
    for number in range(70, 90):
        journals.point(ledger, number)
        journals.end(ledger, number, "pruned", rung=1000)
    return ledger


@pytest.mark.parametrize("height", [8, 12, 24, 60, 200])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_table_fits_the_terminal(crowded: Ledger, height: int, width: int) -> None:
    lines = drawn(crowded, terminal(height, width), slots=30)
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)


def test_best_and_running_trials_are_shown_and_the_rest_is_counted(crowded: Ledger) -> None:
    text = "\n".join(drawn(crowded, terminal(), slots=30))
    assert "best perplexity 5, trial 0" in text
    assert "60 of 8 trials" in text
    assert "30 of 30 workers busy" in text
    assert "20 more pruned" in text
    assert "more running" in text
    # nothing is counted twice: what is shown and what is counted are all trials
    shown = sum(line.split()[0].isdigit() for line in text.splitlines()[3:-1])
    counted = sum(int(part.split()[0]) for part in text.splitlines()[-1].split(", "))
    assert shown + counted == 90


NAME = "lr=0.00312 squentropy squentropy_lambda=0.123 weight_decay=0.0512 dropout=0.2 n_layer=12 n_embd=384 [wsd] 幅=32"


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """Trials whose configs alone are wider than most terminals; one ended, one at its second rung, one diverged."""
    ledger = Ledger(tmp_path_factory.mktemp("long"))
    ledger.write(
        "study", **journals.header("a-study-with-a-name-of-its-own-for-every-detail-of-what-is-searched-in-it")
    )
    config = TrainConfig(max_tokens=LENGTH).model_dump()
    for number in range(2):
        ledger.write("point", trial=number, point={"learning_rate": 0.00312}, config=config, name=NAME)
        journals.start(ledger, number)
        journals.report(ledger, number, 4000, 1234.5, rung=4000)
    journals.report(ledger, 0, LENGTH, 1234.5)
    journals.end(ledger, 0, "completed")
    return ledger


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_config_gives_way_before_any_other_column(long_names: Ledger, width: int) -> None:
    first, _, *table = drawn(long_names, terminal(width=width))
    heads, ended, running = (line.split() for line in table)
    assert heads == ["trial", "status", "rung", "tokens", "perplexity", "config"]
    assert ended[:5] == ["0", "completed", "4k", "8k", "1234"]
    assert running[:5] == ["1", "running", "4k", "4k", "1234"]
    for row in table[1:]:
        config = row[table[0].index("config") :].rstrip()
        assert config.endswith("…") or config == NAME
        assert NAME.startswith(config.rstrip("…"))
        assert len(row.rstrip()) > width - 3 or config == NAME  # all the room is used
    assert "of 2 workers busy" in first  # of the study's name, too, only the end is cut


@pytest.mark.parametrize("width", [40, 50])
def test_where_even_that_is_too_wide_whole_columns_go(long_names: Ledger, width: int) -> None:
    heads, ended, _ = (line.split() for line in drawn(long_names, terminal(width=width))[2:])
    assert heads == [head for head in ("trial", "status", "rung", "tokens", "perplexity") if head in heads]
    assert {"trial", "status", "perplexity"} <= set(heads)
    assert ended[:2] == ["0", "completed"]
    assert ended[-1] == "1234"


def test_each_part_of_the_budget_says_how_much_is_spent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    spec = {**journals.header()["spec"], "budget": {"trials": 8, "tokens": 64_000, "hours": 1.5}}
    ledger.write("study", **journals.header(spec=spec))
    journals.complete(ledger, 0, 5.0)
    assert "1 of 8 trials, 8k of 64k tokens, 0s of 1h30m" in drawn(ledger, terminal())[0]


def test_a_row_says_rung_tokens_and_perplexity(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    journals.point(ledger, 0, learning_rate=0.003)
    journals.start(ledger, 0)
    journals.report(ledger, 0, 4000, 6.25, rung=4000)
    row = next(line for line in drawn(ledger, terminal()) if line.strip().startswith("0 "))
    assert row.split() == ["0", "running", "4k", "4k", "6.25", "lr=0.003", "cross_entropy"]


def test_the_floor_is_shown_where_it_is_known(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    floor = {"val_perplexity": 3.21, "val_bits_per_byte": 1.7, "val_loss": 1.166}
    ledger.write("study", **journals.header(data={"corpus": "stories", "hash": "a", "floor": floor}))
    assert "entropy floor 3.21" in "\n".join(drawn(ledger, terminal()))


def test_without_a_terminal_each_trial_that_ends_is_a_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    out = io.StringIO()
    with live.shown(ledger.study, 2, LENGTH, Console(file=out)) as view:
        ledger.listeners.append(view)
        journals.complete(ledger, 0, 5.0)
        journals.point(ledger, 1, learning_rate=0.002)
        journals.start(ledger, 1)
        journals.report(ledger, 1, 1000, 8.5, rung=1000)
        journals.end(ledger, 1, "pruned", rung=1000)
    first, *ends = out.getvalue().splitlines()
    assert first == "study quick: 8 trials, 2 at once"
    assert len(ends) == 2
    assert ends[0].split()[:5] == ["trial", "0", "completed", "perplexity", "5"]
    assert "pruned at 1k" in ends[1]
    assert ends[1].endswith("lr=0.002 cross_entropy")


def test_a_study_that_goes_on_says_so(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path)
    out = io.StringIO()
    with live.shown(ledger.study, 2, LENGTH, Console(file=out)):
        pass
    assert "continues after 5 ended trials" in out.getvalue()


def test_a_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path)
    console = terminal()
    with live.shown(ledger.study, 2, LENGTH, console) as view:
        ledger.listeners.append(view)
        journals.end(ledger, 5, "completed")
        assert isinstance(console.file, io.StringIO)
        until(lambda: "workers busy" in console.file.getvalue())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "workers busy" in text
    assert text.endswith("\x1b[2K")  # rich erases its last frame, line by line


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"trials": 8}, None),
        ({"hours": 1}, 3600),
    ],
)
def test_before_anything_is_trained_only_hours_can_be_told(
    tmp_path: Path, budget: dict[str, float], expected: float | None
) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    left = live.time_left(ledger.study, Budget.model_validate(budget), LENGTH, elapsed=5.0, trained=0)
    assert left == (expected if expected is None else pytest.approx(expected, abs=5))


def test_time_left_goes_by_the_tokens_that_trials_need(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    journals.complete(ledger, 0, 5.0)  # 8000 tokens
    journals.point(ledger, 1)
    journals.start(ledger, 1)
    journals.report(ledger, 1, 4000, 6.0)
    # 12,000 tokens in 6 s; to come: half of trial 1 and one whole trial, also 12,000
    assert live.time_left(ledger.study, Budget(trials=3), LENGTH, 6.0, 12_000) == pytest.approx(6.0)
    assert live.time_left(ledger.study, Budget(trials=3, tokens=14_000), LENGTH, 6.0, 12_000) == pytest.approx(2.0)
    assert live.time_left(ledger.study, Budget(trials=2, hours=1), LENGTH, 6.0, 12_000) == pytest.approx(2.0)


def test_a_trial_that_begins_anew_has_a_line_with_its_reason(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header(floor=None))
    console = Console(file=io.StringIO(), width=200)
    ledger.listeners.append(live.View(ledger.study, 1, LENGTH, console))
    journals.point(ledger, 0)
    journals.start(ledger, 0)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    ledger.write("status", trial=0, status="running", tokens=0, seconds=0, cause="its checkpoint is cut")
    assert "its checkpoint is cut" in console.file.getvalue()  # type: ignore[attr-defined]


def test_where_lines_are_printed_none_comes_for_long_without_saying_how_the_study_stands(
    crowded: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "QUIET", 0.05)
    file = io.StringIO()
    with live.shown(crowded.study, 2, LENGTH, Console(file=file, width=80)):
        until(lambda: file.getvalue().count("of 2 workers busy") >= 2)
    printed = file.getvalue()
    assert "trials" in printed.splitlines()[1]


def test_the_leader_by_fresh_seeds_is_shown_with_their_mean(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    journals.complete(ledger, 0, 5.0)
    journals.complete(ledger, 1, 6.0)
    assert "best perplexity 5, trial 0" in "\n".join(drawn(ledger, terminal()))
    trial = ledger.study.trials[1]
    for number in (2, 3):
        ledger.write("point", trial=number, point=trial.point, config=trial.config, of=1, round=number - 1)
        journals.start(ledger, number)
        journals.report(ledger, number, LENGTH, 6.5)
        journals.end(ledger, number, "completed")
    text = "\n".join(drawn(ledger, terminal()))
    assert "leader: trial 1, perplexity 6.5 over 2 fresh seeds" in text
    ledger.close()

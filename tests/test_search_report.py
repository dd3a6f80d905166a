"""The report: its numbers are the leaderboard's, what a study says stays text, and nothing of it needs a network."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.cli.main import main
from search.report import leader_text, page
from search.report.leader_text import Samples
from search.report.svg import Choices, Scale, tag
from search.report.trial_marks import shown
from search.results import table
from search.results.importance import _evaluate, _values, importance
from search.results.standing import standings
from search.study.study import Study
from search.study.study_record import read_header
from search.tracking.open_study import open_study
from tests import journals, simulated, tiny
from tests.browser import browser
from trainer.config import TrainConfig

NONE = Samples(reason="a test")


class Page(HTMLParser):
    """tables: rows of cells; tags: each with its attributes; text: all of it."""

    VOID = ("meta", "link", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", []
        self.feed(html)
        assert not self._open, "an element is not closed"

    _open: list[str]

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attributes)))
        if name not in self.VOID:
            self._open.append(name)
        if name == "table":
            self.tables.append([])
        elif name == "tr":
            self.tables[-1].append([])
        elif name in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def study() -> Study:
    return simulated.study()


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    return page.page(study, NONE)


def test_the_numbers_are_the_leaderboards(study: Study, html: str) -> None:
    heads, *lines = Page(html).tables[0]
    known_heads, known, _ = table.cells(study, None, standings(study))
    assert sorted(heads) == sorted(known_heads)
    order = [known_heads.index(head) for head in heads]
    assert lines == [[line[at] for at in order] for line in known]


def test_every_note_of_the_leaderboard_is_there(study: Study, html: str) -> None:
    text = " ".join(Page(html).text.split())
    for line in table.render(study).split("\n\n")[-1].splitlines():
        if not line.startswith("... and"):
            assert " ".join(line.split()) in text


def test_every_trial_has_its_curve_twice_once_for_each_width(study: Study, html: str) -> None:
    curves = html[html.index('id="curves"') : html.index('id="space"')]
    drawn = re.findall(r'<g class="\w+" data-t="(\d+)"', curves)
    finite = [t.number for t in study.searched if any(math.isfinite(r["metrics"]["val_loss"]) for r in t.reports)]
    assert sorted(map(int, drawn)) == sorted(finite * 2)
    assert curves.count('class="lead" data-t') == 2


EVIL = '<script>alert("x")</script>\'"><img src=x onerror=alert(1)>{{ 7*7 }}]]></title></style>&amp;\u2028'


def test_whatever_a_study_says_stays_text(tmp_path: Path) -> None:
    spec = {**journals.header()["spec"], "study": EVIL, "base": EVIL}
    about = {"corpus": EVIL, "tokenizer": EVIL, "hash": EVIL, "floor": None, "tokenizers": {EVIL: {"classes": EVIL}}}
    machine = {"commit": EVIL, "packages": {EVIL: EVIL}, "host": {"name": EVIL, "cpu": EVIL}}
    ledger = journals.write_study(tmp_path / "quick", spec=spec, data=about, **machine)
    config = ledger.study.trials[0].config
    ledger.write("point", trial=7, point={"loss": EVIL, "learning_rate": 1e-3}, config=config, name=EVIL)
    journals.start(ledger, 7)
    journals.report(ledger, 7, 1000, 3.0, rung=1000)
    ledger.write("status", trial=7, status="failed", cause=EVIL, node=EVIL, seconds=1.0)
    html = page.page(ledger.study, Samples([EVIL], EVIL))
    found = Page(html)
    assert [name for name, _ in found.tags].count("script") == 1
    assert "img" not in {name for name, _ in found.tags}
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    assert "7*7" in html  # not evaluated
    assert 'alert("x")' in found.text


def test_nothing_is_fetched_from_anywhere(html: str) -> None:
    policy = next(a["content"] for name, a in Page(html).tags if name == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    links = [value for _, attributes in Page(html).tags for key, value in attributes.items() if key in ("href", "src")]
    assert all(link and link.startswith(("#", "data:,")) for link in links)
    assert not re.search(r"@import|url\(", html)


@pytest.mark.parametrize("kind", ["empty", "waiting", "broken", "one", "bits", "other_release"])
def test_there_is_a_page_of_whatever_there_is(tmp_path: Path, kind: str) -> None:
    spec: dict[str, Any] = journals.header(kind)["spec"]
    if kind == "bits":
        spec["objective"] = "val_bits_per_byte"
    if kind == "other_release":
        spec["telepathy"] = True
    ledger = journals.Ledger(tmp_path / kind)
    ledger.write("study", **journals.header(kind, spec=spec))
    if kind in ("waiting", "broken"):
        journals.point(ledger, 0)
    if kind == "broken":
        journals.start(ledger, 0)
        journals.report(ledger, 0, 1000, math.nan, rung=1000)
        journals.end(ledger, 0, "diverged", cause="nan")
    if kind in ("one", "bits", "other_release"):
        journals.complete(ledger, 0, 4.0)
    found = Page(page.page(ledger.study, NONE))
    assert "NaN" not in found.text
    assert not [value for _, a in found.tags for value in a.values() if value and re.search(r"\b(nan|inf)\b", value)]


def test_thousands_of_trials_still_make_a_small_page() -> None:
    many = simulated.study(trials=600, slots=8, dies=None)
    html = page.page(many, NONE, standings(many, resamples=10))
    assert len(html) < 2_500_000
    assert f"The first 300 of {len(many.searched)} trials" in html


def test_the_better_are_drawn_last_and_the_leader_stands_out(study: Study) -> None:
    looks = [trial.look for trial in shown(study)]
    assert looks.count("lead") == 1
    full = [trial for trial in shown(study) if trial.value is not None]
    assert [t.value for t in full] == sorted((t.value for t in full if t.value is not None), reverse=True)


# importance


def test_importance_finds_what_made_the_values_and_calls_the_rest_luck(study: Study) -> None:
    found = importance(study)
    assert found.rung == 1000  # only there are enough of one length
    assert next(iter(found.share)) == "learning_rate"
    assert sum(found.share.values()) == pytest.approx(1)
    assert found.share["learning_rate"] > 2 * found.luck["learning_rate"]
    assert found.share["squentropy_lambda"] < 1.5 * found.luck["squentropy_lambda"]


def test_most_shuffles_of_the_values_stay_under_luck(study: Study) -> None:
    """95 of 100 in the long run; luck itself is the quantile of 40 of them."""
    found, spec, values = importance(study), study.header.spec, _values(study, 1000)
    total = sum(_evaluate(spec, study, values).values())
    rng, n = np.random.default_rng(99), 60
    under = dict.fromkeys(found.luck, 0)
    for _ in range(n):
        shuffled = _evaluate(spec, study, dict(zip(values, rng.permutation(list(values.values())), strict=True)))
        for name, luck in found.luck.items():
            under[name] += shuffled[name] / total <= luck
    assert all(0.8 * n <= count for count in under.values()), under
    assert sum(under.values()) < 0.995 * n * len(under)


def test_luck_depends_on_the_studys_seed_and_on_nothing_else() -> None:
    study = simulated.study(trials=20, dies=None)
    first = importance(study)
    assert importance(study) == first
    record = study.header.record
    header = read_header({**record, "spec": {**record["spec"], "seed": 7}})
    other = importance(dataclasses.replace(study, header=header))
    assert other.share == first.share
    assert other.luck != first.luck


def test_of_few_trials_importance_says_nothing() -> None:
    found = importance(simulated.study(trials=19, dies=None))
    assert (found.rung, found.share, found.trials) == (1000, {}, 19)
    assert importance(simulated.study(trials=20, dies=None)).share


CHOICES = {"bias": {"choice": [True, False]}, "dropout": {"choice": [0.0, 0.1]}, "mlp": {"choice": ["gelu", "relu2"]}}


def compared_at(
    folder: Path, points: list[dict[str, Any]], reached: Callable[[int], int] = lambda n: journals.LENGTH
) -> Study:
    """A study over CHOICES: trials from the best to the worst. reached: tokens; 0 where it diverged at once."""
    ledger = journals.Ledger(folder)
    spec = {**journals.header()["spec"], "space": CHOICES}
    ledger.write("study", **journals.header("s", spec=spec))
    for number, values in enumerate(points):
        config = TrainConfig(max_tokens=journals.LENGTH, seed=number, **values).model_dump()  # of equal ones one counts
        ledger.write("point", trial=number, point=values, config=config)
        journals.start(ledger, number)
        for tokens in (1000, 4000, journals.LENGTH):
            if tokens <= reached(number):
                rung = tokens if tokens in journals.RUNGS else None
                journals.report(ledger, number, tokens, 3.0 + number / 100, rung=rung)
        ended = {0: "diverged", journals.LENGTH: "completed"}.get(reached(number), "pruned")
        journals.end(ledger, number, ended)
    ledger.close()
    return ledger.study


def half_and_half(first: int, second: int, number: int) -> bool:
    """True for the first, False for the second part, every other one behind them: as often as not in both together."""
    return number < first if number < first + second else bool(number % 2)


def test_importance_asks_what_distinguishes_the_best_quarter(tmp_path: Path) -> None:
    """Of 40: one parameter makes the best 5, one the best 10, one the best 20."""
    points = [
        {
            "mlp": "gelu" if half_and_half(5, 5, n) else "relu2",
            "dropout": 0.0 if half_and_half(10, 10, n) else 0.1,
            "bias": bool(n % 2) if n < 10 else half_and_half(20, 20, n),
        }
        for n in range(40)
    ]
    assert importance(compared_at(tmp_path, points)).share["dropout"] > 0.9


def test_a_trial_that_broke_counts_as_the_worst(tmp_path: Path) -> None:
    """Of 40 the last 10 broke, half of them with either value; the best of the others have one value alone."""
    points = [{"bias": True, "mlp": ["gelu", "relu2"][n % 2], "dropout": 0.1 * (n >= 15 and n % 2)} for n in range(40)]
    found = importance(compared_at(tmp_path, points, lambda n: 0 if n >= 30 else journals.LENGTH))
    assert (found.rung, found.trials) == (None, 40)
    assert found.share["dropout"] > 0.9


def test_trials_are_compared_at_the_longest_length_that_enough_came_to(tmp_path: Path) -> None:
    points = [{"bias": bool(n % 2), "mlp": "gelu", "dropout": 0.0} for n in range(40)]
    lengths = lambda n: journals.LENGTH if n < 19 else 4000 if n < 25 else 1000
    found = importance(compared_at(tmp_path, points, lengths))
    assert (found.rung, found.trials) == (4000, 25)  # who did not come there, and did not break, does not count


# the command


def test_report_writes_one_file_beside_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated.write(tmp_path / "quick", trials=12)
    assert main(["report", "quick", "--storage", str(tmp_path)]) == 0
    assert (tmp_path / "quick" / "report.html").read_text().startswith("<!doctype html>")
    assert "12 trials" in capsys.readouterr().out
    assert main(["report", str(tmp_path / "quick"), "-o", str(tmp_path / "a" / "b.html")]) == 0
    assert (tmp_path / "a" / "b.html").exists()


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated.write(tmp_path / "quick", trials=5)
    (tmp_path / "file").touch()
    assert main(["report", str(tmp_path / "quick"), "-o", str(tmp_path / "file" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_study_does_not_fail_for_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated.write(tmp_path / "quick", trials=5)
    (tmp_path / "quick" / "report.html").mkdir()
    page.write_beside(tmp_path / "quick")
    assert "was not written" in capsys.readouterr().err


def test_a_study_of_the_server_gets_its_page_here(tmp_path: Path) -> None:
    evil = journals.write_study(tmp_path / "quick", spec={**journals.header()["spec"], "study": "../../etc/x"}).study
    assert page.place(evil, None) == Path("x-report.html")


# samples


def test_samples_are_left_out_with_a_reason(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    found = open_study(tmp_path / "quick")
    assert "weights of trial 1 are not at hand" in leader_text.samples_of(found).reason
    broken = tmp_path / "quick" / "trials" / "1" / "best.pt"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no checkpoint")
    assert "cannot be used" in leader_text.samples_of(found).reason
    ledger.study.trials.clear()
    assert "no trial has reached" in leader_text.samples_of(ledger.study).reason


def test_samples_are_written_once(tmp_path: Path) -> None:
    journals.write_study(tmp_path / "quick")
    found = open_study(tmp_path / "quick")
    trained(tmp_path / "quick" / "trials" / "1")
    first = leader_text.samples_of(found)
    assert len(first.texts) == leader_text.N
    kept = json.loads((tmp_path / "quick" / leader_text.NAME).read_text())
    kept["texts"][0] = "from the file"
    (tmp_path / "quick" / leader_text.NAME).write_text(json.dumps(kept))
    assert leader_text.samples_of(found).texts == ["from the file", *first.texts[1:]]
    (tmp_path / "quick" / leader_text.NAME).write_text("{}")
    assert leader_text.samples_of(found) == first


def trained(folder: Path) -> None:
    """A run of a moment."""
    tiny.run(tiny.config(max_tokens=640), out_dir=folder)


# charts


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 8000, False), (1e-4, 1e-2, True), (3, 3, False), (2, 2.001, True)]
)
def test_ticks_are_round_few_and_inside(low: float, high: float, log: bool) -> None:
    scale = Scale(low, high, 0, 100, log)
    for most in (2, 4, 8):
        ticks = scale.ticks(most)
        assert 1 <= len(ticks) <= most
        assert all(-1e-6 <= at <= 100 + 1e-6 for at, _ in ticks)


def test_scales_map_ends_to_ends_and_clip_beyond() -> None:
    scale = Scale(1, 100, 10, 210, log=True)
    assert [scale(value) for value in (1, 10, 100, 1000, 0.1)] == pytest.approx([10, 110, 210, 210, 10])
    assert Choices(["a", "b"], 0, 100)("b") == 75


def test_attributes_are_escaped() -> None:
    assert tag("g", "<b>", title='"><x>', class_=None) == '<g title="&#34;&gt;&lt;x&gt;">&lt;b&gt;</g>'


# in a browser


@pytest.mark.slow
def test_in_chromium_the_page_asks_for_nothing_logs_no_error_and_does_not_scroll_sideways(
    html: str, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    with browser() as page:
        for width in (1440, 390):
            for dark in (False, True):
                page.open(path.as_uri(), width, dark=dark)
                assert page.ask("document.documentElement.scrollWidth") == width
        assert page.ask("getComputedStyle(document.body).color") == "rgb(230, 233, 236)"
        page.open(path.as_uri(), 1200, dark=True)  # the leaderboard, with all its columns
        assert (
            page.ask("(board => board.scrollWidth - board.clientWidth)(document.querySelector('#board .scroll'))") == 0
        )
        page.ask("document.querySelector('tr[data-t] button').click()")
        marked = page.ask("[...document.querySelectorAll('svg .on')].length")
        assert marked > 6  # in every chart
        assert "trial" in page.ask("document.getElementById('picked').textContent")
        page.ask("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
        assert page.ask("document.querySelectorAll('.on').length") == 0
        assert page.errors == []
        assert {address.partition("#")[0] for address in page.requests} == {path.as_uri()}

"""Known-good points to start from: read as the space has them, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import UserError
from search.spec.start_points import known_points
from tests.specs import read

SPACE = """space:
  learning_rate: {log: [1e-4, 1e-2]}
  n_layer: {uniform: [1, 8]}
  dropout: {choice: [0, 0.1]}
  loss: {choice: [cross_entropy, squentropy]}
  squentropy_lambda: {log: [1e-3, 1], when: {loss: squentropy}}
  max_tokens: {choice: [1M, 2M]}
  width: {choice: [{n_embd: 64, n_head: 2}, {n_embd: 128, n_head: 4}]}
sampler: tpe
"""
GRID = """space:
  learning_rate: {choice: [1e-3, 1e-2]}
  n_embd: {choice: [64, 128]}
sampler: grid
"""


def test_values_are_read_by_their_fields_and_become_the_spaces_own(tmp_path: Path) -> None:
    start = "start:\n- {max_tokens: 2000000, width: {n_head: 2, n_embd: 64}, dropout: 0.0, learning_rate: 1e-3}\n"
    spec, _, _ = read(tmp_path, SPACE + start)
    (point,) = known_points(spec)
    assert point == {"learning_rate": 1e-3, "dropout": 0, "max_tokens": "2M", "width": {"n_embd": 64, "n_head": 2}}
    assert list(point) == ["learning_rate", "dropout", "max_tokens", "width"]  # as in the space
    assert [type(value) for value in point.values()] == [float, int, str, dict]
    assert spec.model_dump()["start"][0]["max_tokens"] == 2_000_000  # the spec itself stays as it was written


def test_ends_of_a_range_belong_to_it(tmp_path: Path) -> None:
    spec, _, _ = read(tmp_path, SPACE + "start: [{learning_rate: 1e-4, n_layer: 8}, {learning_rate: 0.01}]\n")
    assert known_points(spec) == [{"learning_rate": 1e-4, "n_layer": 8}, {"learning_rate": 0.01}]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("- {}", r":14: start\[0\]: an empty point; name .*learning_rate, n_layer"),
        ("- {learning_rat: 1e-3}", r":14: start\[0\].learning_rat: no such parameter .*did you mean learning_rate\?"),
        ("- {dropout: 0}\n- {beta2: 0.9}", r":15: start\[1\].beta2: beta2 is not searched; .*put it under set"),
        ("- {n_embd: 64, n_head: 2}", r":14: start\[0\].n_embd: n_embd is set by width; give width: \{'n_embd': 64"),
        ("- {learning_rate: 0.5}", r":14: start\[0\].learning_rate: 0.5 lies outside 0.0001 to 0.01"),
        ("- {learning_rate: .nan}", r":14: start\[0\].learning_rate: .*nan"),
        ("- {learning_rate: high}", r":14: start\[0\].learning_rate: .*number, got 'high'"),
        ("- {n_layer: 2.5}", r":14: start\[0\].n_layer: .*got 2.5"),
        ("- {n_layer: true}", r":14: start\[0\].n_layer: .*got True"),
        ("- {dropout: 0.2}", r":14: start\[0\].dropout: 0.2 is not among its choice; .*0.1"),
        ("- {dropout: false}", r":14: start\[0\].dropout: False is not among its choice"),
        ("- {loss: squentropi}", r":14: start\[0\].loss: 'squentropi' .*did you mean squentropy\?"),
        ("- {max_tokens: 3M}", r":14: start\[0\].max_tokens: '3M' is not among its choice; .*2M"),
        ("- {width: {n_embd: 64, n_head: 4}}", r":14: start\[0\].width: .*not among its choice: .*'n_embd': 128"),
        ("- {width: 64}", r":14: start\[0\].width: 64 is not among its choice"),
        ("- {squentropy_lambda: 0.1}", r":14: .*squentropy_lambda: exists only where loss is squentropy; give loss"),
        (
            "- {loss: cross_entropy, squentropy_lambda: 0.1}",
            r":14: .*squentropy_lambda: does not exist where loss is cross_entropy, only where it is squentropy",
        ),
        (
            "- {dropout: 0}\n- {dropout: 0.1}\n- {dropout: 0.0}",
            r":16: start\[2\]: the same point as start\[0\]; keep one",
        ),
        ("- 3", r":14: start\[0\]: .*dictionary, got 3"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(tmp_path: Path, start: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, SPACE + f"start:\n{start}\n")
    assert "\n" not in str(caught.value)


def test_two_equal_whole_points_in_other_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"start\[1\]: the same point as start\[0\]"):
        read(tmp_path, SPACE + "start: [{max_tokens: 1M, dropout: 0}, {dropout: 0.0, max_tokens: 1000000}]\n")


def test_a_grid_needs_whole_points_that_may_lie_off_it_but_make_a_config(tmp_path: Path) -> None:
    spec, _, _ = read(tmp_path, GRID + "start: [{learning_rate: 3e-3, n_embd: 128}]\n")
    assert known_points(spec) == [{"learning_rate": 3e-3, "n_embd": 128}]
    with pytest.raises(UserError, match=r":8: start\[0\]: a grid proposes no values itself; give n_embd too"):
        read(tmp_path, GRID + "start: [{learning_rate: 3e-3}]\n")
    with pytest.raises(UserError, match=r":8: start\[0\].n_embd: n_embd \(130\) is not divisible by n_head"):
        read(tmp_path, GRID + "start: [{learning_rate: 3e-3, n_embd: 130}]\n")
    with pytest.raises(UserError, match=r":8: start\[0\].learning_rate: .*greater than 0, got -1"):
        read(tmp_path, GRID + "start: [{learning_rate: -1, n_embd: 128}]\n")
    lengths = "space: {max_tokens: {choice: [1M, 2M]}}\nsampler: grid\nstart: [{max_tokens: 3M}]\n"
    with pytest.raises(UserError, match=r":6: start\[0\].max_tokens: '3M' is not among its choice"):
        read(tmp_path, lengths)


def test_a_range_whose_middle_makes_no_config_is_found_at_the_start_point(tmp_path: Path) -> None:
    """Only the ends of ranges are tried for the space: warm-up of 0.6 alone is too much beside decay_frac 0.5."""
    space = "space:\n  warmup_frac: {choice: [0.1, 0.5]}\n  decay_frac: {choice: [0.1, 0.5]}\nsampler: grid\n"
    start = "set: {schedule: wsd}\nstart: [{warmup_frac: 0.6, decay_frac: 0.5}]\n"
    with pytest.raises(UserError, match=r":9: start\[0\].warmup_frac: .*exceed 1"):
        read(tmp_path, space + start)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_sampler_that_learns_nothing_refuses_an_earlier_study(tmp_path: Path, sampler: str) -> None:
    text = f"space: {{dropout: {{choice: [0, 0.1]}}}}\nsampler: {sampler}\nwarm_start: before\n"
    with pytest.raises(UserError, match=rf":6: warm_start: sampler: {sampler} learns from no trial"):
        read(tmp_path, text)

"""Known-good points to start from: read as the space has them, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.spec.start_points import known_points
from tests.refusals import key_refusal, place
from tests.specs import read
from trainer.complaints import dotted

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
    ("start", "where", "kind", "keys"),
    [
        ("- {}", "14: start[0]", "empty", ("start",)),
        ("- {learning_rat: 1e-3}", "14: start[0].learning_rat", "unknown", ("learning_rat",)),
        ("- {dropout: 0}\n- {beta2: 0.9}", "15: start[1].beta2", "not_searched", ("beta2",)),
        ("- {n_embd: 64, n_head: 2}", "14: start[0].n_embd", "linked", ("n_embd", "width")),
        ("- {learning_rate: 0.5}", "14: start[0].learning_rate", "outside", ("learning_rate",)),
        ("- {learning_rate: .nan}", "14: start[0].learning_rate", "finite_number", ("learning_rate",)),
        ("- {learning_rate: high}", "14: start[0].learning_rate", "float_type", ("learning_rate",)),
        ("- {n_layer: 2.5}", "14: start[0].n_layer", "int_type", ("n_layer",)),
        ("- {n_layer: true}", "14: start[0].n_layer", "int_type", ("n_layer",)),
        ("- {dropout: 0.2}", "14: start[0].dropout", "outside", ("dropout",)),
        ("- {dropout: false}", "14: start[0].dropout", "outside", ("dropout",)),
        ("- {loss: squentropi}", "14: start[0].loss", "outside", ("loss",)),
        ("- {max_tokens: 3M}", "14: start[0].max_tokens", "outside", ("max_tokens",)),
        ("- {width: {n_embd: 64, n_head: 4}}", "14: start[0].width", "outside", ("width",)),
        ("- {width: 64}", "14: start[0].width", "outside", ("width",)),
        ("- {squentropy_lambda: 0.1}", "14: start[0].squentropy_lambda", "missing", ("loss", "squentropy_lambda")),
        (
            "- {loss: cross_entropy, squentropy_lambda: 0.1}",
            "14: start[0].squentropy_lambda",
            "unused",
            ("squentropy_lambda", "loss"),
        ),
        (
            "- {dropout: 0}\n- {dropout: 0.1}\n- {dropout: 0.0}",
            "16: start[2]",
            "twice",
            ("start",),
        ),
        ("- 3", "14: start[0]", "dict_type", ("start",)),
    ],
)
def test_each_mistake_is_refused_with_its_place(
    tmp_path: Path, start: str, where: str, kind: str, keys: tuple[str, ...]
) -> None:
    error = key_refusal(lambda: read(tmp_path, SPACE + f"start:\n{start}\n"))
    assert (place(error), error.kind, error.keys) == (where, kind, keys)


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (
            "{}",
            "an empty point; name parameters of the space: learning_rate, n_layer, dropout, loss, squentropy_lambda, "
            "max_tokens, width",
        ),
        ("{learning_rat: 1e-3}", "no such parameter in the space; did you mean learning_rate?"),
        (
            "{beta2: 0.9}",
            "beta2 is not searched; search it, or put it under set; searched: learning_rate, n_layer, dropout, loss, "
            "squentropy_lambda, max_tokens, width",
        ),
        ("{n_embd: 64}", "n_embd is set by width; give width: {'n_embd': 64, 'n_head': 2}, or another of its choice"),
        ("{learning_rate: 0.5}", "0.5 lies outside 0.0001 to 0.01"),
        ("{learning_rate: high}", "expected a number, got 'high'"),
        ("{loss: squentropi}", "'squentropi' is not among its choice; did you mean squentropy?"),
        ("{width: 64}", f"64 is not among its choice: {[{'n_embd': 64, 'n_head': 2}, {'n_embd': 128, 'n_head': 4}]}"),
        ("{squentropy_lambda: 0.1}", "exists only where loss is squentropy; give loss too"),
        (
            "{loss: cross_entropy, squentropy_lambda: 0.1}",
            "does not exist where loss is cross_entropy, only where it is squentropy",
        ),
        ("{dropout: 0}, {dropout: 0.0}", "the same point as start[0]; keep one"),
    ],
)
def test_what_each_refusal_says(tmp_path: Path, start: str, problem: str) -> None:
    error = key_refusal(lambda: read(tmp_path, SPACE + f"start: [{start}]\n"))
    assert error.problem == problem
    assert str(error) == f"{tmp_path / 'spec.yaml'}:13: {dotted(error.place)}: {problem}"


def test_two_equal_whole_points_in_other_words_are_refused(tmp_path: Path) -> None:
    start = "start: [{max_tokens: 1M, dropout: 0}, {dropout: 0.0, max_tokens: 1000000}]\n"
    error = key_refusal(lambda: read(tmp_path, SPACE + start))
    assert (place(error), error.kind) == ("13: start[1]", "twice")


def test_a_grid_needs_whole_points_that_may_lie_off_it_but_make_a_config(tmp_path: Path) -> None:
    spec, _, _ = read(tmp_path, GRID + "start: [{learning_rate: 3e-3, n_embd: 128}]\n")
    assert known_points(spec) == [{"learning_rate": 3e-3, "n_embd": 128}]
    error = key_refusal(lambda: read(tmp_path, GRID + "start: [{learning_rate: 3e-3}]\n"))
    assert (place(error), error.kind, error.keys) == ("8: start[0]", "missing", ("n_embd",))
    assert error.problem == "a grid proposes no values itself; give n_embd too"
    error = key_refusal(lambda: read(tmp_path, GRID + "start: [{learning_rate: 3e-3, n_embd: 130}]\n"))
    assert (place(error), error.kind, error.keys) == ("8: start[0].n_embd", "conflict", ("n_embd", "n_head"))
    error = key_refusal(lambda: read(tmp_path, GRID + "start: [{learning_rate: -1, n_embd: 128}]\n"))
    assert (place(error), error.kind) == ("8: start[0].learning_rate", "greater_than")
    lengths = "space: {max_tokens: {choice: [1M, 2M]}}\nsampler: grid\nstart: [{max_tokens: 3M}]\n"
    error = key_refusal(lambda: read(tmp_path, lengths))
    assert (place(error), error.kind) == ("6: start[0].max_tokens", "outside")


def test_a_range_whose_middle_makes_no_config_is_found_at_the_start_point(tmp_path: Path) -> None:
    """Only the ends of ranges are tried for the space: warm-up of 0.6 alone is too much beside decay_frac 0.5."""
    space = "space:\n  warmup_frac: {choice: [0.1, 0.5]}\n  decay_frac: {choice: [0.1, 0.5]}\nsampler: grid\n"
    start = "set: {schedule: wsd}\nstart: [{warmup_frac: 0.6, decay_frac: 0.5}]\n"
    error = key_refusal(lambda: read(tmp_path, space + start))
    assert (place(error), error.kind) == ("9: start[0].warmup_frac", "conflict")
    assert error.keys == ("warmup_frac", "decay_frac")


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_sampler_that_learns_nothing_refuses_an_earlier_study(tmp_path: Path, sampler: str) -> None:
    text = f"space: {{dropout: {{choice: [0, 0.1]}}}}\nsampler: {sampler}\nwarm_start: before\n"
    error = key_refusal(lambda: read(tmp_path, text))
    assert (place(error), error.kind, error.keys) == ("6: warm_start", "unused", ("warm_start", "sampler"))
    assert error.problem.startswith(f"sampler: {sampler} learns from no trial")

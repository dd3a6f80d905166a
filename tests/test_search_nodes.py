"""What the nodes of a cluster say before the first trial, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.run.nodes import Answer, complaint

HERE = {"python": "3.11.9", "torch": "2.13.0+cpu", "ray": "2.60.0"}
FOLDER = Path("/shared/runs/s")


def test_nodes_that_write_and_have_the_same_set_are_fine_whatever_the_build() -> None:
    answers = [Answer("a", True, HERE), Answer("b", True, {**HERE, "torch": "2.13.0+cu130", "python": "3.11.2"})]
    assert complaint(FOLDER, answers, HERE) is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("b", True, {**HERE, "torch": "2.12.0"}), ["node b", "torch 2.12.0", "driver: 2.13.0+cpu"]),
        (Answer("b", True, {**HERE, "python": "3.12.1"}), ["node b", "python 3.12.1"]),
        (Answer("b", True, {"python": "3.11.9", "ray": "2.60.0"}), ["node b", "torch not at all"]),
        (Answer("b", False, HERE), ["storage: /shared/runs/s", "from b", "all nodes share"]),
        (Answer("b", None, {}), ["no answer", "from b"]),
        (Answer("b", True, {}, broken="importing m failed at m.py:3: x"), ["node b", "m.py:3"]),
    ],
)
def test_what_is_wrong_names_the_node_in_one_line(answer: Answer, words: list[str]) -> None:
    said = complaint(FOLDER, [Answer("a", True, HERE), answer], HERE)
    assert said is not None
    assert "\n" not in said
    assert all(word in said for word in words), said

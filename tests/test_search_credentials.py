"""Passwords reach a driver through a file that its owner alone can read, and by no other way."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from data.errors import UserError
from search.tracking import credentials

USER = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "100%;[x] = s3cret"}


def test_what_is_saved_is_what_the_driver_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = {"MLFLOW_TRACKING_URI": "postgresql://ada:p%40ss@db/mlflow"}
    path = credentials.save(credentials.secrets({**USER, **uri}), tmp_path / "runs")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv(credentials.VARIABLE, str(path))
    for name in (*USER, *uri):
        monkeypatch.setenv(name, "of the cluster")
    credentials.take()
    assert {name: os.environ[name] for name in (*USER, *uri)} == {**USER, **uri}


def test_without_anything_to_hide_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials.secrets({"MLFLOW_TRACKING_URI": "http://mlflow:5000"}) == {}
    assert credentials.load({}) == {}


def test_a_file_of_mlflows_own_form_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.touch(0o600)
    path.write_text("[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = s3cret\n")
    found = credentials.load({credentials.VARIABLE: str(path)})
    assert found == {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "s3cret"}


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("[mlflow]\nusername = ada\npassword = s3cret\n", 0o644, "chmod 600"),
        ("password: s3cret\n", 0o600, r"expected \[mlflow\]"),
        (None, 0o600, "must lie on the cluster's head"),
    ],
)
def test_a_file_that_is_wrong_is_said_without_what_is_in_it(
    tmp_path: Path, text: str | None, mode: int, words: str
) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(UserError, match=words) as caught:
        credentials.load({credentials.VARIABLE: str(path)})
    assert "s3cret" not in str(caught.value)


def test_a_password_is_not_sent_elsewhere_and_not_shown() -> None:
    found = credentials.secrets({**USER, "MLFLOW_TRACKING_URI": "http://ada:s3cret@mlflow:5000"})
    said = str(credentials.refuse_to_send(found, "http://head:8265"))
    assert "s3cret" not in said
    assert credentials.VARIABLE in said
    assert "\n" not in said

"""The thread that sends: it says once that the store is away, tries again, ends with what is left, never raises."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from search.tracking import sender
from search.tracking.sender import CannotSendError, Sender

CEILING = 60.0  # seconds, for a busy machine


@pytest.fixture(autouse=True)
def _no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(sender, "LAST_DELAY", 0.01)


def begin(send: Callable[[bool], float | None], said: list[str]) -> Sender:
    return Sender("test", send, lambda why: f"away ({why})", str, said.append)


def test_an_outage_is_said_once_and_what_came_meanwhile_is_sent() -> None:
    said: list[str] = []
    sent: list[int] = []
    waiting = [1]
    tries, tried = 0, threading.Event()

    def send(ending: bool) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError(f"try {tries}")
        sent.extend(waiting)
        waiting.clear()
        tried.set()

    one = begin(send, said)
    assert tried.wait(CEILING)
    assert (sent, said) == ([1], ["away (try 1)"])
    assert one.failure == ""
    waiting.append(2)
    assert one.close(CEILING)
    assert sent == [1, 2]


def test_the_last_call_knows_that_it_is_the_last_and_is_repeated_until_it_succeeds() -> None:
    endings: list[bool] = []

    def send(ending: bool) -> None:
        endings.append(ending)
        if endings.count(True) == 1:
            raise OSError("just then")

    one = begin(send, [])
    assert one.close(CEILING)
    assert endings[-2:] == [True, True]
    assert endings.count(True) == 2


def test_an_error_that_another_try_would_not_mend_ends_the_thread() -> None:
    said: list[str] = []
    tries: list[bool] = []

    def send(ending: bool) -> None:
        tries.append(ending)
        raise CannotSendError("no such study")

    one = begin(send, said)
    assert one.close(CEILING)  # nothing is left that could be waited for
    assert len(tries) == 1
    assert said == ["away (no such study)"]


def test_a_send_that_hangs_does_not_keep_the_end_waiting() -> None:
    released = threading.Event()
    hanging = threading.Event()

    def send(ending: bool) -> None:
        hanging.set()
        released.wait(CEILING)

    one = begin(send, [])
    assert hanging.wait(CEILING)
    assert not one.close(0.01)
    assert one.given_up
    released.set()


def test_it_is_called_again_without_news_when_it_asked_for_that() -> None:
    calls = threading.Semaphore(0)

    def send(ending: bool) -> float:
        calls.release()
        return 0.01

    one = begin(send, [])
    for _ in range(3):
        assert calls.acquire(timeout=CEILING)
    assert one.close(CEILING)

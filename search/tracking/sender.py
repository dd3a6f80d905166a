"""A thread that keeps a store up to date. It never blocks the training and never fails it.

    sender = Sender("mlflow-tracker", send, away, say)
    sender.wake()                       # there is something new; returns at once
    sender.close(60.0)                  # True once `send` has seen the end

`send` brings the store up to date and may be called again at any time, so a store that goes away costs nothing but
delay: after an error the sender says so once, waits (1 s, then twice as long each time, at most 30 s), and tries again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from data.errors import UserError

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0  # seconds until another try after an error, doubled from one to the next
LAST_DELAY = 0.5  # the same while `close` waits
GRACE = 1.0  # seconds that `close` waits for a request that is being made when its time is over


class CannotSendError(UserError):
    """An error for which `send` is not tried again, as another try would end the same way."""


class Sender:
    """One thread that calls `send` until everything has been sent. Its methods are for any other thread."""

    def __init__(
        self,
        name: str,
        send: Callable[[bool], float | None],
        away: Callable[[str], str],
        reason: Callable[[Exception], str],
        say: Callable[[str], None],
    ) -> None:
        """name: the thread's. send: called with whether the end has come, that is, nothing will be added any more;
        returns after how many seconds it wants to be called even if nothing wakes the thread (None: not before), and
        ends early once `given_up`. away: the line for people about a first failed try, from its reason. reason: an
        error in a few words. say: takes lines for people.
        """
        self._send, self._away, self._reason, self._say = send, away, reason, say
        self.failure = ""  # why the last try failed; empty after one that did not
        self._woken, self._closing, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def given_up(self) -> bool:
        """Whether `close` has stopped waiting."""
        return self._given_up.is_set()

    def wake(self) -> None:
        """Have `send` called soon."""
        self._woken.set()

    def close(self, seconds: float) -> bool:
        """Have what is left sent, and end the thread. Returns whether `send` was done with it in time."""
        self._closing.set()
        self._woken.set()
        self._thread.join(seconds)
        ended = not self._thread.is_alive()
        self.give_up()
        return ended

    def give_up(self) -> None:
        """End the thread without sending what is left. A request that hangs is left to it; it ends with the process."""
        self._given_up.set()
        self._woken.set()
        self._thread.join(GRACE)

    def _work(self) -> None:
        delay = 0.0
        while not self.given_up:
            self._woken.clear()
            ending = self._closing.is_set()  # read before `send` looks for news: then it sees all of them
            try:
                wait = self._send(ending)
                delay, self.failure = 0.0, ""
            except Exception as error:
                self._failed(error)
                if isinstance(error, CannotSendError):
                    return
                delay = LAST_DELAY if ending else min(max(FIRST_DELAY, delay * 2), LONGEST_DELAY)
                (self._given_up if ending else self._closing).wait(delay)
                continue
            if ending:
                return
            self._woken.wait(wait)

    def _failed(self, error: Exception) -> None:
        why = self._reason(error)
        if not self.failure:
            self._say(self._away(why))
        self.failure = why

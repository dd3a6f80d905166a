"""A real MLflow client of which one call fails, as if the line to the store broke."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from requests import ConnectionError

from search.tracking.mlflow_store import connect


@dataclass(frozen=True)
class Fault:
    """call: the call that fails: its number, from 0, or the first of this name. arrives: whether the store gets it, so
    that only its answer is lost. ends: whether the thread that called ends with it, as in a driver that is killed."""

    call: int | str
    arrives: bool = False
    ends: bool = False


class Flaky:
    """Passes every call on to a client, but for the one of a fault, which raises ConnectionError."""

    def __init__(self, client: Any, fault: Fault | None = None) -> None:
        self.client, self.fault = client, fault
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self.client, name)
        if not callable(whole):
            return whole

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            this = (len(self.calls) - 1, name if self.calls.count(name) == 1 else None)
            fault = self.fault if self.fault is not None and self.fault.call in this else None
            answer = whole(*args, **options) if fault is None or fault.arrives else None
            if fault is None:
                return answer
            raise SystemExit if fault.ends else ConnectionError("the line is broken")

        return call


def connecting(clients: list[Flaky], fault: Fault | None) -> Callable[..., Any]:
    """Stands in for `connect`: its clients have one fault between them. clients: takes the one that it makes."""

    def replacement(uri: str, seconds: float | None = None) -> Any:
        if not clients:
            clients.append(Flaky(connect(uri, seconds), fault))
        return clients[0]

    return replacement

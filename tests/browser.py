"""Headless Chromium over its debugging pipe: what a page shows, logs and asks for. Tests skip where it is missing."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import CEILING, until

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
]


class Browser:
    """One page. errors: exceptions and console errors; requests: addresses that the page asked for."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._waiting, self._last = b"", 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted on the way."""
        while b"\0" not in self._waiting:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._waiting += part
        line, _, self._waiting = self._waiting.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(about["exceptionDetails"]))
            case "Log.entryAdded" if about["entry"]["level"] == "error":
                self.errors.append(about["entry"]["text"])
            case "Runtime.consoleAPICalled" if about["type"] == "error":
                self.errors.append(json.dumps(about["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True
        return message

    def open(self, url: str, width: int = 1440, height: int = 900, dark: bool = False) -> None:
        """Show a page, and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        for address in ("about:blank", url):  # to another place of the same page nothing would be loaded
            self._loaded = False
            self.call("Page.navigate", url=address)
            while not self._loaded:
                self._next()

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """The value of an expression as soon as it is something."""
        return until(lambda: self.ask(expression), expression)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


def missing() -> str:
    """Why there is no browser; empty where there is one."""
    return "" if shutil.which("chromium") else "needs Chromium (Debian: apt-get install chromium)"


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own; ended with all that it started."""
    if why := missing():
        pytest.skip(why)
    here_read, there_write = os.pipe()
    there_read, here_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="nanosweep-chromium-", ignore_cleanup_errors=True) as profile:
        # the pipe's ends are descriptors 3 and 4 in the browser, whatever they are here
        shell = f'exec chromium "$@" 3<&{there_read} 4>&{there_write}'
        command = ["bash", "-c", shell, "chromium", *FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command,
            pass_fds=(there_read, there_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(there_read)
        os.close(there_write)
        try:
            yield Browser(here_write, here_read)
        finally:
            os.close(here_write)  # it ends when its pipe does
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait(CEILING)
            os.close(here_read)

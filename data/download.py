"""Download a file of known sha256 into the cache, once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from data.errors import UserError

TIMEOUT = 15  # seconds without a byte, so that a machine behind a firewall fails soon


def download(url: str, sha256: str, target: Path, instead: str) -> Path:
    """The file `target` with the content of `url`, downloaded when it is not there yet.

    instead: what the user can do without a network. Raises UserError, which ends with it, when the download fails or
        has another digest.
    """
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == sha256:
        return target
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"cannot download {url} ({reason}): {instead}", kind="no_network") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        problem = f"{url} has changed (its sha256 is {digest[:12]}..., expected {sha256[:12]}...): {instead}"
        raise UserError(problem, kind="changed")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    return target

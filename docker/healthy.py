"""Whether this container does its work: exit code 0 or 1, with a line that says why. For `healthcheck`.

python docker/healthy.py                                the nanosweep command answers
python docker/healthy.py http://127.0.0.1:5000/health   a server answers there
python docker/healthy.py http://127.0.0.1:52365/api/local_raylet_healthz     so does a Ray node
"""

import subprocess
import sys
import urllib.request


def problem(url: str | None) -> str:
    """What is wrong, or the empty string. url: of a server on this machine; None: ask the command."""
    if url is None:
        done = subprocess.run(["nanosweep", "--help"], capture_output=True, text=True)
        return f"nanosweep --help exits with {done.returncode}: {done.stderr[-200:]}" if done.returncode else ""
    try:
        # past any proxy: it is on this machine
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).close()
    except OSError as error:
        return f"{url}: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1] if len(sys.argv) > 1 else None) or 0)

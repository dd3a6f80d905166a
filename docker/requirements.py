"""What pyproject.toml depends on, as lines for pip: an image installs it before our own code is there.

python docker/requirements.py server > requirements.txt     # and what the extra `server` adds
"""

import sys
import tomllib
from pathlib import Path


def lines(extras: list[str]) -> list[str]:
    """The dependencies of the project and of some extras. Raises KeyError for an extra that it does not have."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(need for extra in extras for need in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    print("\n".join(lines(sys.argv[1:])))

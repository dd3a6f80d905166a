"""What travels to a cluster with a job: the code, one spec, its base config, the own code that the spec names, and
nothing else that lies around.

The package is a zip that Ray uploads as it is and unpacks as the job's working directory. Files are named one by one:
whatever a working directory holds beside them (data, checkpoints, a file of passwords) stays at home. No Ray in here.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError
from data.paths import at_home
from search.spec.load import ROOT, find_base
from search.spec.study_spec import StudySpec
from trainer import yaml_file
from trainer.yaml_file import YamlFile

PACKAGES = ("search", "trainer", "models", "data")
TEMPLATES = ("search/report/template/*", "trainer/*.jinja")  # what pages are made of
ELSEWHERE = "submitted"  # where a spec goes that lies outside of the checkout
# Ray's own limit on what its API takes in one request (DASHBOARD_CLIENT_MAX_SIZE); it advertises more, and answers 413
LIMIT = 100 * 2**20
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the same files give the same package, which Ray need not be sent twice
_LISTED = 5


@dataclass(frozen=True)
class Package:
    """files: content by name in the package. spec: the name of the spec among them."""

    files: dict[str, bytes]
    spec: str


def collect(
    path: Path, spec: StudySpec, file: YamlFile, root: Path = ROOT, own: Mapping[str, bytes] | None = None
) -> Package:
    """The package for a spec that was read from `path`. file: the spec as loaded, for the line of its `base`.
    own: further files, as of `data.own_code.sources_of`.

    A spec of the checkout keeps its place in it. Raises UserError where `base` cannot be carried along.
    """
    path = path.resolve()
    home = path.relative_to(root).as_posix() if path.is_relative_to(root) else f"{ELSEWHERE}/{path.name}"
    base = find_base(spec.base, path, file).resolve()
    text = path.read_text(encoding="utf-8")
    if base.is_relative_to(root):
        place = base.relative_to(root).as_posix()
    elif not (at_home(spec.base).is_absolute() or ".." in Path(spec.base).parts):
        place = posixpath.normpath(spec.base)  # the driver looks from its working directory first
    else:
        place = f"{ELSEWHERE}/base/{base.name}"
    if place not in (posixpath.normpath(spec.base), posixpath.normpath(f"{posixpath.dirname(home)}/{spec.base}")):
        text = _with_base(text, file, spec.base, place)
    return Package({**(own or {}), **code(root), place: base.read_bytes(), home: text.encode()}, home)


def code(root: Path = ROOT) -> dict[str, bytes]:
    """The program by its files: the modules of each package, and what pages are made of."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    paths += sorted(path for place in TEMPLATES for path in root.glob(place) if path.is_file())
    paths += [path for path in [root / "pyproject.toml"] if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def _with_base(text: str, file: YamlFile, was: str, now: str) -> str:
    """The spec's text with another `base`, all else and its lines as they were. Raises UserError."""
    lines = text.splitlines(keepends=True)
    line = next((n for place, n in file.lines.items() if place[-1:] == ("base",) and was in lines[n - 1]), 0)
    if line:
        lines[line - 1] = re.sub(
            r"^(\s*base:\s*).*?(\s*)$", lambda m: f"{m[1]}{now}{m[2]}", lines[line - 1], flags=re.S
        )
    changed = "".join(lines)
    before, after = (_without_base(yaml_file.parse(each, file.name).value) for each in (text, changed))
    if f"base: {now}" not in changed or before != after:
        raise UserError(
            f"{file.where(('base',))}: {was} cannot be carried to the cluster from there; put `base:` on a line of "
            "its own, or the file beside the spec"
        )
    return changed


def _without_base(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_base(item) for key, item in value.items() if key != "base"}
    return value


def write(package: Package, target: Path) -> None:
    """The package as a zip. Raises UserError when it is over Ray's limit, naming the largest files."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(package.files.items()):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    check_size(target)


def check_size(archive: Path, limit: int = LIMIT) -> None:
    """Raises UserError when a package is over the limit, naming its largest files."""
    size = archive.stat().st_size
    if size <= limit:
        return
    with zipfile.ZipFile(archive) as opened:
        largest = sorted(opened.infolist(), key=lambda entry: -entry.compress_size)[:_LISTED]
    named = ", ".join(f"{entry.filename} {_mib(entry.compress_size)}" for entry in largest)
    raise UserError(
        f"the package for the cluster has {_mib(size)}, more than the {_mib(limit)} that Ray takes; the largest: "
        f"{named}. Keep data out of the code: name it by a path that the cluster sees (corpus: text:/shared/FILE)"
    )


def _mib(size: int) -> str:
    """
    >>> _mib(104857600), _mib(1500)
    ('100 MiB', '0.00143 MiB')
    """
    return f"{size / 2**20:.3g} MiB"

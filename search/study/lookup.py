"""Find a study's folder by its path or by its name in the storage."""

from __future__ import annotations

from pathlib import Path

from data.errors import UserError, nearest
from data.paths import at_home, is_file
from search.study.journal import NAME

STORAGE = Path("runs")


def study_folder(study: Path | str, storage: Path | None = None) -> Path:
    """The folder of a study on this machine. Raises UserError with the nearest name in the storage."""
    if (folder := find_folder(study, storage)) is not None:
        return folder
    place = storage or STORAGE
    available = names(place)
    hint = nearest(str(study), available) if available else "it holds no study"
    raise UserError(
        f"{study}: no such study in {place.resolve()}; {hint} (--storage names another place)", kind="missing"
    )


def find_folder(study: Path | str, storage: Path | None = None) -> Path | None:
    """The folder of a study. study: a path to it or to its journal, or its name in the storage. None without one."""
    path = at_home(study)
    places = [at_home(storage or STORAGE) / path, path]
    if path.name == NAME:
        places.append(path.parent)
    return next((place for place in places if is_file(place / NAME)), None)


def names(storage: Path) -> list[str]:
    """The names of the studies in a storage."""
    return sorted(path.parent.name for path in at_home(storage).glob(f"*/{NAME}"))

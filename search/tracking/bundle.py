"""The per-document results of the trials on a leaderboard as one file, on their way to MLflow and back."""

from __future__ import annotations

import re
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO

from search.study.folder import trial_folder
from search.study.study import Study
from trainer import files
from trainer.scores import SCORES

NAME = "scores.zip"


def pack(study: Study, numbers: list[int], folder: Path) -> Path | None:
    """Write scores.zip into a folder: of these trials and of their runs with fresh seeds. None without any."""
    if study.folder is None:
        return None
    runs = [run.number for number in numbers for run in (study.trials[number], *study.again(number))]
    paths = [path for number in runs if (path := trial_folder(study.folder, number) / SCORES).exists()]
    if not paths:
        return None
    with zipfile.ZipFile(folder / NAME, "w", zipfile.ZIP_STORED) as archive:  # each is compressed already
        for path in paths:
            archive.write(path, path.relative_to(study.folder).as_posix())
    return folder / NAME


def unpack(content: bytes, folder: Path) -> None:
    """Lay the files out as in a study's folder; whatever has another name is left alone."""
    with zipfile.ZipFile(BytesIO(content)) as archive:
        for name in archive.namelist():
            if re.fullmatch(rf"trials/[0-9]+/{re.escape(SCORES)}", name):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                whole = archive.read(name)
                files.write(folder / name, partial(_put, whole))


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)

"""Corpora that Hugging Face `datasets` reads, memory-mapped, row by row: from the hub or from a directory.

`clean_tinystories` and `mainrun_titles` order and split rows as the published results on these datasets did.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.documents import TEST, TRAIN, UNDECIDED, VAL, Documents, write_documents
from data.errors import UserError, nearest
from data.local_files import sha256_of

TIMEOUT = 10  # seconds to learn whether the hub can be reached
Row = tuple[Any, int]  # text, official split
Arrange = Callable[[Any, str, str], Iterator[Row]]  # (datasets.DatasetDict, field, name) -> rows in corpus order

_VAL_NAMES = ("validation", "val", "valid", "dev")


def own_splits(splits: Any, field: str, name: str) -> Iterator[Row]:
    """The dataset's own train, validation and test; a single split is left to be divided by documents."""
    if len(splits) == 1:
        return _rows(next(iter(splits.values())), field, UNDECIDED)
    val = next((key for key in _VAL_NAMES if key in splits), None)
    if "train" not in splits or (val is None and "test" not in splits):
        raise UserError(f"{name}: needs a train and a validation split (or one split alone), has {', '.join(splits)}")
    labels = {"train": TRAIN, val: VAL, "test": TEST} if val else {"train": TRAIN, "test": VAL}
    return (row for key, label in labels.items() if key in splits for row in _rows(splits[key], field, label))


def clean_tinystories(splits: Any, field: str, name: str) -> Iterator[Row]:
    """karpathy/tinystories-gpt4-clean: rows 0-9,999 are test, 10,000-19,999 val, the rest train (its card)."""
    for i, (text, _) in enumerate(_rows(_train(splits, name), field, TRAIN)):
        yield text, TEST if i < 10_000 else VAL if i < 20_000 else TRAIN


def mainrun_titles(splits: Any, field: str, name: str) -> Iterator[Row]:
    """The Mainrun task: 100,000 titles of a shuffle with seed 1337, stripped; 90 % train, the last 10 % val."""
    titles = _train(splits, name).shuffle(seed=1337)
    titles = titles.select(range(min(100_000, len(titles))))
    n_train = int(len(titles) * 0.9)
    for i, (text, _) in enumerate(_rows(titles, field, TRAIN)):
        yield text.strip() if isinstance(text, str) else text, TRAIN if i < n_train else VAL


def _train(splits: Any, name: str) -> Any:
    if "train" not in splits:
        raise UserError(f"{name}: has no train split, has {', '.join(splits)}; its layout changed on the hub")
    return splits["train"]


def _rows(rows: Any, field: str, label: int) -> Iterator[Row]:
    """(text, label) of every row, a thousand at a time out of the memory map."""
    for batch in rows.select_columns([field]).with_format("arrow").iter(batch_size=1000):
        for text in batch.column(0).to_pylist():
            yield text, label


def read_hub(
    name: str, dataset: str, field: str | None, arrange: Arrange, instead: str, scratch: Path, progress: bool
) -> Documents:
    """A dataset of the hub, `ORG/NAME` or `ORG/NAME/CONFIG`; its revision and licence go to `Documents.facts`.

    instead: what to give when there is no network (and no copy in Hugging Face's own cache).
    """
    repo, config = dataset, None
    if dataset.count("/") == 2:
        repo, _, config = dataset.rpartition("/")
    with _quiet_datasets(progress):
        splits, facts = _fetch(name, repo, config, instead)
        return _write(name, splits, field, arrange, scratch, facts)


def read_directory(name: str, path: Path, field: str | None, scratch: Path, progress: bool) -> Documents:
    """A directory that `datasets` can load: data files, or what `save_to_disk` wrote."""
    with _quiet_datasets(progress):
        import datasets

        try:
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
                splits = datasets.load_from_disk(str(path))
                if isinstance(splits, datasets.Dataset):
                    splits = datasets.DatasetDict(train=splits)
            else:  # Arrow copies go to the scratch folder: Hugging Face's cache, keyed by path and time, may be stale
                splits = datasets.load_dataset(str(path), cache_dir=str(scratch / "arrow"))
        except Exception as error:
            _raise_full_disk(error)
            raise UserError(f"{name}: datasets cannot load {path}: {_first_line(error)}") from None
        return _write(name, splits, field, own_splits, scratch, {})


def directory_key(path: Path) -> str:
    """Digest over names and content of the files in a directory."""
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _write(
    name: str, splits: Any, field: str | None, arrange: Arrange, scratch: Path, facts: dict[str, Any]
) -> Documents:
    features = next(iter(splits.values())).features
    texts = [key for key, kind in features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if field is None:
        field = "text" if "text" in texts or len(texts) != 1 else texts[0]
    if field not in features:
        problem = f"{name}: no field {field}; {nearest(field, texts or list(features))}"
        raise UserError(problem, kind="unknown", keys=field)
    if field not in texts:
        problem = f"{name}: field {field} is not text; text is in: {', '.join(texts) or 'no field'}"
        raise UserError(problem, kind="not_text", keys=field)
    rows = arrange(splits, field, name)
    documents = write_documents(rows, scratch / "documents.txt", name, "row", f"field {field}")
    documents.facts.update(facts)
    return documents


def _fetch(name: str, repo: str, config: str | None, instead: str) -> tuple[Any, dict[str, Any]]:
    """All splits, with revision and licence; from Hugging Face's cache when the hub cannot be reached."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    facts: dict[str, Any] = {}
    try:
        # asked first, with a time limit: without a network `load_dataset` retries for half a minute
        info = HfApi().dataset_info(repo, timeout=TIMEOUT)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise UserError(f"{name}: no such dataset on the hub, or no access to it: {_first_line(error)}") from None
    except Exception as error:
        reason, revision, online = _first_line(error), None, False
    else:
        reason, revision, online = "", info.sha, True
        facts = {"revision": revision, "licence": info.card_data.get("license") if info.card_data else None}
    try:
        with contextlib.nullcontext() if online else _offline():
            splits = datasets.load_dataset(repo, config, revision=revision)
    except Exception as error:
        _raise_full_disk(error)
        if online:
            raise UserError(f"{name}: datasets cannot load {repo}: {_first_line(error)}") from None
        raise UserError(
            f"{name}: the Hugging Face hub cannot be reached ({reason}) and {repo} is not in its cache; {instead}"
        ) from None
    if not online:
        folder = Path(next(iter(splits.values())).cache_files[0]["filename"]).parent.name
        facts = {"revision": folder}  # the cache names its folders by revision
    return splits, facts


@contextlib.contextmanager
def _quiet_datasets(progress: bool) -> Iterator[None]:
    """`datasets` without telemetry, and with progress bars only where they are wanted."""
    for variable in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(variable, "1")  # read at the import below
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    if not progress:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the libraries from contacting the hub. They read the environment only at import, hence constants."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _raise_full_disk(error: BaseException) -> None:
    """Raise OSError where a full disk is among the causes of an error of `datasets`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(cause.errno, cause.strerror) from error
        cause = cause.__cause__ or cause.__context__


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

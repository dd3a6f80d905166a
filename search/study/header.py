"""The study record (the journal's header): everything that results depend on, and whether a driver may resume it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from data.dataset import Dataset, Split
from data.errors import UserError
from data.tokens import subset, subset_hash
from search.spec.study_spec import MAY_CHANGE, StudySpec
from search.study import environment
from search.study.journal import VERSION, encode
from search.study.study_record import Header, Reading
from trainer.config import TrainConfig, replace


def fields(
    spec: StudySpec,
    base: TrainConfig,
    data: dict[str, Any],
    rungs: list[int],
    own_code: Mapping[str, str] | None = None,
    directory: str = "",
) -> dict[str, Any]:
    """The fields of the study record that a driver writes when it starts. data: from `describe`.

    own_code: {reference: sha256 of its source} of the user's own code that the study names. directory: where relative
    paths of base and trials mean something, the driver's working directory.
    """
    record = {"version": VERSION, "spec": plain(spec), "base": plain(base), "data": data, "rungs": rungs}
    record |= {"own_code": dict(own_code)} if own_code else {}
    record |= {"directory": directory} if directory else {}
    return {**record, **environment.facts()}


def pin_eval_tokens(base: TrainConfig, length: int) -> TrainConfig:
    """The base config with eval_tokens set to its default for a trial of `length` tokens.

    The default depends on a trial's length: without this, trials of different length would be evaluated on different
    text.
    """
    if base.eval_tokens is not None:
        return base
    from trainer.measure import default_eval_tokens

    return replace(base, eval_tokens=default_eval_tokens(length))


def describe(datasets: Mapping[str, Dataset], base: TrainConfig) -> dict[str, Any]:
    """The data of a study, for its header. datasets: by tokenizer.

    hash covers the datasets of all tokenizers; values that depend on the tokenizer are under `tokenizers`, by name.
    """
    by_tokenizer = {name: _describe(dataset, base) for name, dataset in datasets.items()}
    hashes = [described["hash"] for described in by_tokenizer.values()]
    first = next(iter(by_tokenizer.values()))
    return {
        "corpus": base.corpus,
        "split": base.split,
        "tokenizer": ", ".join(by_tokenizer),
        "hash": hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "floor": first["floor"],  # with several tokenizers only its bits per byte is valid for all
        "tokenizers": by_tokenizer,
        **_source(next(iter(datasets.values()))),
    }


def _source(dataset: Dataset) -> dict[str, str]:
    """The digest of the source of a corpus that is the user's own code; nothing for any other corpus."""
    digest = dataset.meta.get("source_sha256")
    return {"source_sha256": digest} if digest else {}


def _describe(dataset: Dataset, base: TrainConfig) -> dict[str, Any]:
    assert base.eval_tokens is not None, "pin_eval_tokens first"
    scored = subset(dataset.val, base.eval_tokens)
    return {
        "hash": dataset.hash,
        "classes": dataset.n_classes,
        "train_tokens": dataset.train.n_targets,
        "val_tokens": dataset.val.n_targets,
        "val_bytes": n_bytes(dataset.val, dataset.token_bytes),
        "val_docs": dataset.val.n_docs,
        "eval_tokens": scored.n_targets,
        "eval_hash": subset_hash(scored),
        "floor": floor(dataset.val, dataset.token_bytes),
    }


def n_bytes(split: Split, token_bytes: np.ndarray) -> int:
    """Number of UTF-8 bytes that the split's targets encode."""
    return int(token_bytes[split.tokens[1:]].sum())


def floor(split: Split, token_bytes: np.ndarray) -> dict[str, float] | None:
    """The lower bound for a model's score on this split, by metric; None where the distribution of the text is unknown.

    It is the documents' negative log-likelihood under the distribution that generated them (Shannon's source entropy).
    """
    if split.floor_nll is None:
        return None
    nats = float(split.floor_nll.sum())
    per_token = nats / split.n_targets
    return {
        "val_loss": per_token,
        "val_perplexity": math.exp(per_token),
        "val_bits_per_byte": nats / math.log(2) / n_bytes(split, token_bytes),
    }


def plain(model: StudySpec | TrainConfig) -> dict[str, Any]:
    """A spec or config as JSON data, as the journal stores it."""
    return dict(json.loads(encode(model.model_dump(mode="json"))))


def check_same(spec: StudySpec, base: TrainConfig, header: Header) -> None:
    """Check that a resumed study has the same spec and base config as before, except for the keys in MAY_CHANGE.

    header: of the journal, or an empty one for a new study. Keys that its release did not have count as defaults.
    The base config is compared by its contents, not its path. Raises UserError with the first key that differs, or that
    this release cannot read.
    """
    if not header.record:
        return
    skip = (*MAY_CHANGE, "base", "set")
    _check_readable(header.name, "spec", header.spec_reading, skip)
    _check_readable(header.name, "base config", header.base_reading, ())
    old = {key: value for key, value in plain(header.spec).items() if key not in skip}
    new = {key: value for key, value in plain(spec).items() if key not in skip}
    config = plain(base)
    if config["eval_tokens"] is None:  # the header has what `pin_eval_tokens` filled in
        config["eval_tokens"] = header.base.eval_tokens
    if config["dtype"] == "auto":  # and what search.run.settle_dtype has decided
        config["dtype"] = header.base.dtype
    difference = _difference(old, new, "") or _difference(plain(header.base), config, "base config: ")
    if difference:
        key, was, now = difference
        raise UserError(
            f"study {spec.study} exists in {spec.folder} with another spec: {key} was {was}, is now {now}. "
            f"Only {', '.join(MAY_CHANGE)} may change. To resume it put {key} back; "
            "to begin another give it another name (study:)",
            kind="changed",
            keys=key,
        )


def _check_readable(study: str, part: str, reading: Reading[Any], skip: tuple[str, ...]) -> None:
    unread = [key for key in (*reading.unknown, *reading.refused) if key.partition(".")[0] not in skip]
    if unread:
        raise UserError(
            f"study {study} was begun by another release: this one does not take the {unread[0]} of its {part}; "
            "continue with that release, or begin another study (study:)",
            kind="other_release",
            keys=unread[0],
        )


def check_same_data(data: dict[str, Any], header: Header) -> None:
    """Check that a resumed study has the same data: trials on different text cannot be ranked. Raises UserError."""
    if header.record and data["hash"] != header.data.hash:
        raise UserError(
            f"{data['corpus']} has changed since the study began (hash {header.data.hash[:12]}, is now "
            f"{data['hash'][:12]}); bring the old text back, or begin another study (study:)",
            kind="other_data",
            keys="corpus",
        )


def check_same_own_code(digests: Mapping[str, str], header: Header) -> None:
    """Trials of different code cannot stand on one leaderboard. digests: of now, by reference. Raises UserError."""
    for reference, digest in digests.items():
        before = header.own_code.get(reference, digest)
        if before != digest:
            raise UserError(
                f"the code of {reference} has changed since the study began (sha256 {before[:12]}, is now "
                f"{digest[:12]}); restore that code, or begin another study (study:)"
            )


def differences(earlier: TrainConfig, base: TrainConfig) -> list[tuple[str, str]]:
    """The keys in which a base config differs from an earlier study's, each with a text of the old and new value."""
    old, new = plain(earlier), plain(base)
    keys = [key for key in new if old[key] != new[key]]
    return [(key, f"{key} was {_short(old[key])}, is {_short(new[key])}") for key in keys]


def _difference(old: Any, new: Any, at: str) -> tuple[str, str, str] | None:
    """The first place where two plain values differ: its dotted name, and both values as text."""
    if isinstance(old, dict) and isinstance(new, dict):
        dot = "." if at and not at.endswith(" ") else ""
        for key in dict.fromkeys([*old, *new]):
            difference = _difference(old.get(key), new.get(key), f"{at}{dot}{key}")
            if difference:
                return difference
        return None
    return None if old == new else (at, _short(old), _short(new))


def _short(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

"""Sample texts of a study's leader for its report, generated once and cached in samples.json; or why there are none."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.corpora import kind_of
from data.errors import UserError
from data.paths import quoted
from search.study.folder import trial_folder
from search.study.scores import best
from search.study.study import Study
from trainer import units
from trainer.files import replace_text

NAME = "samples.json"
WEIGHTS = ("best.pt", "checkpoint.pt")
N, TOKENS, TEMPERATURE, SEED = 3, 200, 0.8, 1337
SMALL = 10_000_000  # parameters; below, one thread: several wait for each other, for minutes on a busy machine
MOST = 5e11  # multiplications allowed without `allow_slow`: some seconds on a core


@dataclass(frozen=True)
class Samples:
    """texts: generated from an empty prompt; source: the weights and sampling settings; reason: why there are none."""

    texts: list[str] = field(default_factory=list)
    source: str = ""
    reason: str = ""


def samples_of(study: Study, allow_slow: bool = True, allow_code: bool = False) -> Samples:
    """Texts from the leader's own weights or, where these are gone, from those of its first run with a fresh seed.

    allow_slow: if False, give a reason instead of texts that would take more than some seconds.
    allow_code: the leader's own loss and model may be imported; if not, they are a reason. Never raises for
    weights that are missing or unusable: that is a reason, too.
    """
    leader = best(study)
    if leader is None:
        return Samples(reason="no trial has reached its full length yet")
    runs = [leader, *study.again(leader.number)]
    files = [(trial_folder(study.folder or Path(), run.number) / name, run) for run in runs for name in WEIGHTS]
    chosen = next(((file, run) for file, run in files if file.is_file()), None)
    if study.folder is None or chosen is None:
        host = study.header.host.get("name")
        where = f" (the study ran on {host})" if host else ""
        return Samples(reason=f"the weights of trial {leader.number} are not at hand here{where}")
    file, run = chosen
    work = N * TOKENS * (run.n_parameters or 0) * int(run.config.get("block_size") or 1)
    stat = file.stat()
    key = {"run": run.number, "file": file.name, "size": stat.st_size, "changed": stat.st_mtime_ns, "n": N}
    if (kept := _kept(study.folder / NAME, key)) is not None:
        return kept
    if work > MOST and not allow_slow:
        size = units.count(run.n_parameters or 0)
        return Samples(
            reason=f"a model of {size} parameters takes a while: nanosweep report {quoted(study.folder)} writes them"
        )
    try:
        samples = _write(file, run.number, leader.number, allow_code)
    except (UserError, OSError, RuntimeError) as error:
        return Samples(reason=f"the weights of trial {run.number} cannot be used: {error}")
    with suppress(UserError):  # a read-only folder: nothing is cached, and the next report generates the texts again
        replace_text(study.folder / NAME, json.dumps({"key": key, **asdict(samples)}, ensure_ascii=False) + "\n")
    return samples


def _kept(path: Path, key: dict[str, Any]) -> Samples | None:
    """The cached texts, None without a cache of these weights. Their source was called `about` in earlier caches."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            return None
        return Samples(
            [str(text) for text in kept["texts"]], str(kept["source"] if "source" in kept else kept["about"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(file: Path, run: int, leader: int, allow_code: bool) -> Samples:
    import torch

    from trainer.sample import load

    trained, threads = load(file, allow_code), torch.get_num_threads()
    if trained.model.n_parameters() < SMALL:
        torch.set_num_threads(1)
    try:
        texts = trained.write(n=N, max_new_tokens=TOKENS, temperature=TEMPERATURE, seed=SEED)
    finally:
        torch.set_num_threads(threads)
    whose = f"trial {leader}" if run == leader else f"trial {run}, a run of trial {leader} with a fresh seed"
    source = f"{whose}, {file.name}; temperature {TEMPERATURE}, at most {TOKENS} tokens, seed {SEED}"
    kind = kind_of(trained.corpus)
    if kind is not None and kind.judge is not None:
        source += f"; {kind.judge(texts)[0]}"
    return Samples(texts, source)

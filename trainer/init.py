"""`init_from`: locate pretrained GPT-2 weights and copy them into a model.

A name of GPT-2 is looked up in Hugging Face's cache, then on the hub; anything else is a directory with config.json
and model.safetensors. A resumed run takes its weights from its checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

from data.errors import UserError, nearest
from data.local_files import sha256_of
from data.paths import at_home
from models.config import GPT2_SHAPES, GPTConfig, misfit
from models.gpt import GPT
from models.gpt2 import CONFIG, WEIGHTS, check_gpt2, load_gpt2, start_from

TIMEOUT = 10  # seconds to learn whether the hub can be reached
FILES = (CONFIG, WEIGHTS)


def begin(model: GPT, source: str, n_classes: int) -> str:
    """Copy the weights of `source` into a model on any device. Returns their source and sha256 as text.

    n_classes: of the tokenizer; the weights must have at least as many classes. Raises UserError.
    """
    folder = find(source)
    try:
        shape, state = load_gpt2(folder)
        _check_fit(model.config, shape, n_classes, folder)
        start_from(model, shape, state)
    except (ValueError, OSError) as error:
        raise UserError(f"init_from: {source}: {error}") from None
    return f"{source}, {WEIGHTS} sha256 {sha256_of(folder / WEIGHTS)}"


def check(config: GPTConfig, source: str, n_classes: int) -> None:
    """Whether a model of this shape can begin from `source`. Reads no weights. Raises UserError as `begin`."""
    folder = find(source)
    try:
        _check_fit(config, check_gpt2(folder), n_classes, folder)
    except (ValueError, OSError) as error:
        raise UserError(f"init_from: {source}: {error}") from None


def _check_fit(config: GPTConfig, shape: GPTConfig, n_classes: int, folder: Path) -> None:
    if shape.vocab_size < n_classes:
        raise ValueError(f"{folder} has {shape.vocab_size} classes, the tokenizer {n_classes}")
    if (problem := misfit(config, shape)) is not None:
        raise ValueError(problem[1])


def find(source: str) -> Path:
    """The folder of the weights, for a directory or the name of a GPT-2, downloaded if necessary. Raises UserError."""
    if source in GPT2_SHAPES:
        return _cached(source) or _downloaded(source)
    folder = at_home(source)
    if not folder.is_dir():
        raise UserError(f"init_from: {source} is no directory, and no name of a GPT-2: {nearest(source, GPT2_SHAPES)}")
    return folder


def _cached(name: str) -> Path | None:
    """Look in the local cache without asking the hub: OpenAI's weights do not change."""
    from huggingface_hub import try_to_load_from_cache

    for repo in (_repository(name), name):  # older caches have it under its former name
        paths = [try_to_load_from_cache(repo, file) for file in FILES]
        if all(isinstance(path, str) for path in paths):
            return Path(str(paths[0])).parent
    return None


def _downloaded(name: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read at the import below
    from huggingface_hub import HfApi, constants, hf_hub_download

    repo = _repository(name)
    try:
        # test the connection first, with a timeout: without a network a download retries for half a minute
        HfApi().model_info(repo, timeout=TIMEOUT)
        paths = [hf_hub_download(repo, file) for file in FILES]
    except Exception as error:  # exceptions of several libraries: no network, no access, a full disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"init_from: {name} is not in Hugging Face's cache ({constants.HF_HUB_CACHE}) and cannot be downloaded "
            f"({reason}); give a directory that holds {' and '.join(FILES)}"
        ) from None
    return Path(paths[0]).parent


def _repository(name: str) -> str:
    return f"openai-community/{name}"

"""`init_from`: where a run's first weights are, and how they get into its model.

A name of GPT-2 is looked up in Hugging Face's cache, then on the hub; anything else is a directory with config.json
and model.safetensors. A run that is resumed has weights and comes nowhere near this.
"""

from __future__ import annotations

import os
from pathlib import Path

from data.errors import UserError, nearest
from data.local_files import sha256_of
from data.paths import at_home
from models.config import GPT2_SHAPES
from models.gpt import GPT
from models.gpt2 import CONFIG, WEIGHTS, load_gpt2, start_from

TIMEOUT = 10  # seconds to learn whether the hub can be reached
FILES = (CONFIG, WEIGHTS)


def begin(model: GPT, source: str, n_classes: int) -> str:
    """Put the weights of `source` into a model on any device. Returns where they are from, with their hash.

    n_classes: of the tokenizer; each needs a row of the weights' own. Raises UserError.
    """
    folder = find(source)
    try:
        shape, state = load_gpt2(folder)
        if shape.vocab_size < n_classes:
            raise ValueError(f"{folder} has {shape.vocab_size} classes, the tokenizer {n_classes}")
        start_from(model, shape, state)
    except (ValueError, OSError) as error:
        raise UserError(f"init_from: {source}: {error}") from None
    return f"{source}, {WEIGHTS} sha256 {sha256_of(folder / WEIGHTS)}"


def find(source: str) -> Path:
    """The folder of a directory's path or of a GPT-2's name, downloaded if need be. Raises UserError."""
    if source in GPT2_SHAPES:
        return _cached(source) or _downloaded(source)
    folder = at_home(source)
    if not folder.is_dir():
        raise UserError(f"init_from: {source} is no directory, and no name of a GPT-2: {nearest(source, GPT2_SHAPES)}")
    return folder


def _cached(name: str) -> Path | None:
    """Without asking the hub: OpenAI's weights do not change."""
    from huggingface_hub import try_to_load_from_cache

    for repo in (_repository(name), name):  # older caches have it under its first name
        paths = [try_to_load_from_cache(repo, file) for file in FILES]
        if all(isinstance(path, str) for path in paths):
            return Path(str(paths[0])).parent
    return None


def _downloaded(name: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read at the import below
    from huggingface_hub import HfApi, constants, hf_hub_download

    repo = _repository(name)
    try:
        # asked first, and with a limit: a download tries for half a minute before it believes in no network
        HfApi().model_info(repo, timeout=TIMEOUT)
        paths = [hf_hub_download(repo, file) for file in FILES]
    except Exception as error:  # of several libraries: no network, no access, a full disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"init_from: {name} is not in Hugging Face's cache ({constants.HF_HUB_CACHE}) and cannot be downloaded "
            f"({reason}); give a directory that holds {' and '.join(FILES)}"
        ) from None
    return Path(paths[0]).parent


def _repository(name: str) -> str:
    return f"openai-community/{name}"

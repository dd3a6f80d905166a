"""Read a file that torch.save wrote, as tensors and plain values only; say in a line what another file is instead."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from models.config import GPTConfig
from models.gpt import GPT

_ZIP = b"PK\x03\x04"  # what torch.save writes since 1.6
_PICKLE = b"\x80"
_WRAPPERS = ("module.", "_orig_mod.")  # before each name: of DistributedDataParallel, of torch.compile


def read(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """The content of the file. No code in it runs.

    Raises ValueError, whose message continues `path is no ... checkpoint: `; OSError where it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is a directory" if path.is_dir() else "it is no regular file")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(_ZIP):
        _check_zip(path)
    elif not head.startswith(_PICKLE):
        raise ValueError(_other_format(head))
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError:
        raise ValueError(
            "it holds Python objects besides tensors and plain values, which are not read, as they may run code; save "
            "it again with a state_dict and plain numbers only"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        if "TorchScript" in str(error):
            raise ValueError("it is a TorchScript archive; save the state_dict of its module") from None
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"it is cut or damaged ({line[:100]})") from None


def _check_zip(path: Path) -> None:
    """Raises ValueError where the archive has no end, or where a part has another checksum: torch.load reads on."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        raise ValueError("it is cut: its end is missing") from None
    if damaged is not None:
        raise ValueError(f"it is damaged: {damaged} in it has another checksum")


def _other_format(head: bytes) -> str:
    """What a file is that torch.save did not write, by its first bytes."""
    if not head:
        return "it is empty"
    if len(head) > 8 and head[8:9] == b"{":
        return "it is a safetensors file"
    for signature, name in ((b"GGUF", "GGUF"), (b"\x89HDF", "HDF5"), (b"\x1f\x8b", "gzip"), (b"\x93NUMPY", "NumPy")):
        if head.startswith(signature):
            return f"it is a {name} file"
    return "it is no file that torch.save wrote, or its beginning is cut" if len(head) > 3 else "it is cut"


def plain_names(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors under their own names, without what DistributedDataParallel and torch.compile put before them, in any
    order. Raises ValueError for anything that is no tensor."""
    result = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, not a tensor")
        plain = str(name)
        while plain.startswith(_WRAPPERS):
            plain = plain.partition(".")[2]
        result[plain] = value
    return result


def check_sizes(sizes: Mapping[str, tuple[int, ...]], shape: GPTConfig, wanted_by: str) -> None:
    """Raises ValueError unless tensors of these sizes are those of a GPT of that shape. wanted_by: where the shape is
    written."""
    layers = {name.split(".")[2] for name in sizes if name.startswith("transformer.h.") and name.count(".") > 2}
    if len(layers) != shape.n_layer:  # before a network is laid out that may have a billion layers
        raise ValueError(f"it has the tensors of {len(layers)} layers, {wanted_by} says n_layer: {shape.n_layer}")
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in GPT(shape, torch.Generator()).state_dict().items()}
    for name, size in wanted.items():
        got = sizes.get(name, "missing")
        if got != size:
            raise ValueError(f"{name} is {got}, {wanted_by} wants {size}")
    strangers = sorted(sizes.keys() - wanted.keys())
    if strangers:
        raise ValueError(f"{strangers[0]} is no tensor of a network as {wanted_by} describes it")

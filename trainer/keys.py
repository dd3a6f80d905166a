"""What the program needs to know of a config's key beyond its type, declared beside the key.

    momentum: Annotated[float, Field(ge=0, lt=1), Key(used_by={"optimizer": ("sgd", "muon")})] = 0.9

Search, resume and memory read these declarations; none of them keeps a list of keys of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Key:
    """Properties of one field of `TrainConfig`.

    used_by: {key: values}: the field has an effect only where each of these keys has one of its values.
    memory: the memory of a training step depends on it.
    not_searched: why no search may vary it; empty: it may.
    kept: a resumed run must have the checkpoint's value.
    """

    used_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    memory: bool = False
    not_searched: str = ""
    kept: bool = False

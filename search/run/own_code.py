"""The user's own code in a search: who may import it, from where, and whether it is the code that the study began with.

The driver resolves and tries all of it once, before anything starts; workers get its permission and its working
directory as data, and see that the source they find there is the source that the driver found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import UserError
from data.own_code import load, source_hash
from search.spec import points, space
from search.spec.own_code import references
from search.spec.places import blamed
from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

_ROOT = Path(__file__).resolve().parent.parent.parent
_TRIED = 200  # points of the space whose own code is tried
_MODELS = 16  # own models that are built to be tried


@dataclass(frozen=True)
class OwnCode:
    """What a worker may import. directory: the driver's working directory; digests: of its source, by reference."""

    allowed: bool = False
    directory: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)

    def here(self) -> Path:
        """Where the modules lie on this machine: the driver's working directory, or, on another machine of a cluster,
        the folder that holds this program, which is where a job's package is unpacked."""
        directory = Path(self.directory)
        return directory if self.directory and directory.is_dir() else _ROOT

    def check(self, config: TrainConfig) -> None:
        """Raises UserError where the source of what a config names is another here than the driver found."""
        from trainer.criterion import own_code

        for reference, digest in own_code(config, self.here()).items():
            earlier = self.digests.get(reference, digest)
            if earlier != digest:
                raise UserError(
                    f"the code of {reference} has changed since the driver started (sha256 {earlier[:12]}, now "
                    f"{digest[:12]}); restore it and run the same command"
                )

    def problem(self) -> str:
        """Why a node cannot use it, in a line; empty where it can. Imports nothing."""
        try:
            for reference, digest in self.digests.items():
                if source_hash(reference, directory=self.here()) != digest:
                    return f"has other code of {reference} in {self.here()}"
        except UserError as error:
            return str(error)
        return ""


def try_all(spec: StudySpec, base: TrainConfig, file: YamlFile, allow_code: bool) -> None:
    """Import the losses, optimizers and models that a study names, and try them with the values that its space has.

    Its corpus runs when it is prepared, unless that has been done before.

    Raises UserError, one line with the place of the value, where that is not allowed, for a module or name that does
    not exist, for an object of the wrong kind or with other parameters, and for one that fails on a few tokens. Does
    nothing without own code.
    """
    named = {reference: key for reference, key in references(spec, base).items() if key != "corpus"}
    for reference, key in named.items():
        with blamed(file, spec, **{key: reference}):
            load(reference, allow_code=allow_code, kind=key)
    if named:
        _try_points(spec, base, file)


def _try_points(spec: StudySpec, base: TrainConfig, file: YamlFile) -> None:
    import torch

    from trainer import build_model, criterion, optim

    layer, tried, models = torch.nn.Linear(2, 2), set[str](), 0
    for config in _configs(spec, base):
        for key, parts in (
            ("loss", (config.loss, config.loss_params, config.readout)),
            ("optimizer", (config.optimizer, config.optimizer_params)),
            ("model", (config.model, config.model_params)),
        ):
            name = json.dumps([key, parts], sort_keys=True)
            if name in tried:
                continue
            tried.add(name)
            with blamed(file, spec, **{key: parts[0]}):
                if key == "loss":
                    criterion.build(config, allow_code=True)
                elif key == "optimizer":
                    optim.build(layer, config, allow_code=True)
                elif models < _MODELS and build_model.load_own(config, allow_code=True) is not None:
                    models += 1
                    classes = config.vocab_size or 64  # the true number is not known before the data are
                    build_model.build(config, classes, torch.Generator().manual_seed(config.seed), allow_code=True)


def _configs(spec: StudySpec, base: TrainConfig) -> list[TrainConfig]:
    """Configs that the space holds; what no config allows is left out, as the sampler does."""
    values = {name: points.candidates(name, parameter) for name, parameter in spec.space.items()}
    configs = []
    for point in points.some_points(spec.space, values, _TRIED):
        try:
            configs.append(space.configure(base, spec.space, point))
        except UserError:
            continue
    return configs

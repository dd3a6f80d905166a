"""The best trial of a study in MLflow's model registry, alias `champion`.

    register(Path("runs/quickstart"))    # what `nanosweep register` does, and `nanosweep run` at its end

A version is a model from code (search/tracking/champion.py) around weights as safetensors, with our packages beside
it, so that `mlflow.pyfunc.load_model` needs neither a pickle nor this project. Only MLflow's client and `save_model`
are used: its fluent API keeps its state in globals.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import url2pathname

from data import tokenizers
from data.errors import UserError
from data.own_code import is_reference, sources_of
from data.paths import quoted
from search.results import export
from search.spec.objective import Objective
from search.study.folder import trial_folder
from search.study.journal import NAME
from search.study.scores import best, objective, objective_of, score
from search.study.study import Study, Trial, read_study
from search.tracking.mlflow_facts import texts
from search.tracking.mlflow_place import correct
from search.tracking.mlflow_runs import ID, PARENT, TRIAL, identity_of
from search.tracking.mlflow_store import choose_uri, connect, passing, reason, served, shown
from search.tracking.tracker import to_stderr
from trainer.checkpoint import CHECKPOINT
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

ALIAS = "champion"
ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "tiktoken", "pydantic", "pyyaml", "rich")
SAME = ("study", ID, "trial", "run", "objective", "data")  # tags by which a version is known again


@dataclass(frozen=True)
class Registered:
    """A version of a registered model. created: only now; leads: it has the alias `champion`; uri: of its store;
    source: the address of its files."""

    name: str
    version: str
    trial: int
    created: bool
    leads: bool
    uri: str
    source: str

    @property
    def snippet(self) -> str:
        """Python that loads it, to be pasted: without the store's URI MLflow would look elsewhere."""
        address = f"models:/{self.name}@{ALIAS}" if self.leads else f"models:/{self.name}/{self.version}"
        # MLflow reads a folder's path as a quoted address: a copy is loaded where the two differ
        copied = set("#%?") & set(url2pathname(self.source))
        modules, where = ("mlflow, tempfile", ", dst_path=tempfile.mkdtemp()") if copied else ("mlflow", "")
        return "\n".join(
            [
                f"import {modules}",
                f"mlflow.set_tracking_uri({json.dumps(shown(self.uri), ensure_ascii=False)})",
                f"model = mlflow.pyfunc.load_model({json.dumps(address, ensure_ascii=False)}{where})",
            ]
        )

    def __str__(self) -> str:
        what = f"trial {self.trial} is version {self.version} of {self.name}{'' if self.created else ' already'}"
        return f"{what}, {'its' if self.leads else 'not its'} {ALIAS}"


def register(
    folder: Path,
    number: int | None = None,
    name: str | None = None,
    uri: str | None = None,
    *,
    allow_code: bool = False,
) -> Registered:
    """Register a trial of the study in `folder`: by default the leader, which then is `champion`.

    number: another trial, which is registered and takes no alias unless it leads. name: of the registered model;
    default the study's. allow_code: an own corpus that is not cached may run, for its tokenizer; no other
    own code is imported: the source of a loss or model travels with the version. A version that
    exists already is not made again, but gets its files again where they are gone. Raises UserError where there is no
    leader, where a trial has no weights any more, and where MLflow is away, refuses or does not know the study.
    """
    study = read_study(folder)
    if (tracking := study.header.spec.tracking) != "mlflow":
        raise UserError(
            f"{folder}: its spec has tracking: {tracking}, so MLflow has none of its trials; run it once more with "
            "tracking: mlflow (nothing is trained again)"
        )
    trial = export.choose(study, number)
    name = name or study.header.name
    if bad := set(name) & set("/:'\"\n"):
        raise UserError(f"--name {name!r}: MLflow allows no {' '.join(sorted(map(repr, bad)))} in a model's name")
    run = with_weights(study, folder, trial)
    uri = uri or choose_uri(folder.parent)
    client = connect(uri)
    tags = _tags(study, folder, trial, run)
    with _refusals(uri):
        if not served(uri):
            correct(uri, folder.parent, study.header.name)
        earlier = _find_version(client, name, tags)
        model = _whole_model(client, tags, folder, trial, run, allow_code)
        model_version = earlier or _make_version(client, name, tags, trial, model)
        leads = best(study) is trial and _take_lead(client, name, model_version, tags, objective_of(study))
    return Registered(name, str(model_version.version), trial.number, earlier is None, leads, uri, model_version.source)


@contextmanager
def _refusals(uri: str) -> Iterator[None]:
    """What MLflow refuses, and a line that breaks, as a UserError."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException, OSError) as error:
        raise UserError(f"MLflow at {shown(uri)} does not take the model: {reason(error)}", kind="refused") from None


def keep_up(folder: Path, say: Callable[[str], None] = to_stderr, uri: str | None = None) -> None:
    """At the end of a study: its leader is the champion. Never fails it, and does nothing where all is in place.

    A study that was stopped gets its champion when it has gone on to its end.
    """
    study = read_study(folder)
    if best(study) is None or study.unfinished():
        return
    try:
        register(folder, uri=uri)
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else reason(error)
        say(f"the leader is not in MLflow's model registry ({why}); later: nanosweep register {quoted(folder)}")


def with_weights(study: Study, folder: Path, trial: Trial) -> Trial:
    """The trial itself, or the best of its runs with fresh seeds where only those have kept their weights."""
    runs = [trial, *sorted(study.again(trial.number), key=lambda run: score(study, run))]
    for run in runs:
        if run.final is not None and (trial_folder(folder, run.number) / CHECKPOINT).exists():
            return run
    raise UserError(
        f"trial {trial.number} of {folder} has no weights of full length (only the best trials keep theirs); "
        "train its config anew: nanosweep export, then nanosweep train"
    )


def _tags(study: Study, folder: Path, trial: Trial, run: Trial) -> dict[str, str]:
    """What a version says of itself. run: whose weights they are, and whose number `objective` is."""
    source = export.provenance_of(study, trial, [])
    return texts(
        {
            "study": source.study,
            ID: identity_of(folder / NAME),
            "trial": str(source.trial),
            "run": str(run.number),
            "config": source.name,
            "objective": repr(objective(study, run)),
            "objective_name": source.objective,
            "data": source.data_hash or None,
            "commit": source.commit or None,
            "dirty": source.dirty,
            "own_code": "; ".join(f"{name} sha256 {digest}" for name, digest in source.own_code.items()) or None,
        }
    )


def _find_version(client: MlflowClient, name: str, tags: dict[str, str]) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}'")
    return next((one for one in versions if all(one.tags.get(key) == tags.get(key) for key in SAME)), None)


def _whole_model(
    client: MlflowClient, tags: dict[str, str], folder: Path, trial: Trial, run: Trial, allow_code: bool
) -> LoggedModel:
    """The model logged to the trial's MLflow run, with its files. What an earlier try has left is used."""
    from mlflow.entities import LoggedModelStatus

    logged_by = _mlflow_run(client, folder, run.number)
    experiment, run_id = logged_by.info.experiment_id, logged_by.info.run_id
    model = _logged_model(client, experiment, run_id, tags)
    if model is None:
        model = client.create_logged_model(experiment, f"trial-{trial.number}", source_run_id=run_id, tags=tags)
    files = [file.path for file in client.list_logged_model_artifacts(model.model_id)]
    if model.status != LoggedModelStatus.READY or "MLmodel" not in files:
        with tempfile.TemporaryDirectory(prefix="nanosweep-champion-") as place:
            saved = Path(place) / "model"
            _save(folder, run, saved, model.model_id, run_id, allow_code)
            client.log_model_artifacts(model.model_id, str(saved))
    if model.status != LoggedModelStatus.READY:
        client.finalize_logged_model(model.model_id, "READY")
    return model


def _make_version(
    client: MlflowClient, name: str, tags: dict[str, str], trial: Trial, model: LoggedModel
) -> ModelVersion:
    try:
        client.get_registered_model(name)
    except Exception as error:
        if passing(error):
            raise
        client.create_registered_model(name, description="made by nanosweep; a version per leader of the study")
    text = f"study {tags['study']}, trial {trial.number} ({trial.name})"
    source = model.artifact_location  # `models:/ID` would be looked up in the store of the fluent API
    return client.create_model_version(
        name, source, model.source_run_id, tags, description=text, model_id=model.model_id
    )


def _logged_model(client: MlflowClient, experiment: str, run_id: str, tags: dict[str, str]) -> LoggedModel | None:
    """The model of these weights that an earlier try has left, whole or not."""
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return next((model for model in models if all(model.tags.get(key) == tags.get(key) for key in SAME)), None)


def _mlflow_run(client: MlflowClient, folder: Path, number: int) -> Run:
    """The trial's run in MLflow. Raises UserError where the tracker has not brought it there."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parents = client.search_runs(experiments, f"tags.`{ID}` = '{identity_of(folder / NAME)}'", max_results=1)
    wanted = f"tags.`{PARENT}` = '{parents[0].info.run_id}' and tags.`{TRIAL}` = '{number}'" if parents else ""
    runs = client.search_runs([parents[0].info.experiment_id], wanted, max_results=1) if parents else []
    if not runs:
        where = shown(client.tracking_uri)
        raise UserError(f"{folder}: MLflow at {where} does not know its trial {number}; nanosweep run brings it there")
    return runs[0]


def _save(folder: Path, run: Trial, place: Path, model_id: str, run_id: str, allow_code: bool) -> None:
    """The MLflow model as a folder."""
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    from trainer.portable import save

    # record: MLflow's own words about type hints and pandas pass a mere filter, as it sets one of its own
    with tempfile.TemporaryDirectory(prefix="nanosweep-champion-") as scratch, warnings.catch_warnings(record=True):
        from search.tracking.champion import PARAMS

        files = Path(scratch) / "run"
        origin = trial_folder(folder, run.number)
        save(origin, files, _tokenizer(origin, run, allow_code))
        outputs = [("string", "text"), ("double", "nats"), ("long", "tokens")]
        save_model(
            path=str(place),
            python_model=str(Path(__file__).with_name("champion.py")),
            artifacts={"run": str(files)},
            code_paths=[str(ROOT / room) for room in ("models", "data", "trainer")],
            signature=ModelSignature(
                Schema([ColSpec("string", "prompt")]),
                Schema([ColSpec(kind, column, required=False) for kind, column in outputs]),
                ParamSchema([ParamSpec(key, kind, default) for key, (kind, default) in PARAMS.items()]),
            ),
            input_example=pd.DataFrame({"prompt": ["Once upon a time"]}),
            pip_requirements=[
                f"{package}=={number}" for package in (*NEEDS, *_distributions(run)) if (number := _version(package))
            ],
            mlflow_model=Model(model_id=model_id, run_id=run_id),
        )
    for cache in place.rglob("__pycache__"):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()


def _tokenizer(origin: Path, run: Trial, allow_code: bool) -> tokenizers.Tokenizer:
    """The trial's own; from the cache where another node trained it, whose folder has none."""
    if (origin / tokenizers.JSON_FILE).exists():
        return tokenizers.load(origin)
    from data.prepare import prepare

    config = TrainConfig.model_validate(run.config)
    return tokenizers.load(prepare(config.corpus, config.tokenizer, config.split, allow_code=allow_code).path)


def _distributions(run: Trial) -> list[str]:
    """The installed packages that hold the trial's own loss or model: their code is not logged with it."""
    named = [str(run.config.get(key)) for key in ("loss", "model")]
    installed = sources_of({text: "code" for text in named if is_reference(text)}).installed
    owners = packages_distributions()
    return [owner for text in installed for owner in owners.get(re.split("[.:]", text)[0], [])]


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]  # torch's +cpu is on no package index
    except PackageNotFoundError:
        return None


def _take_lead(client: MlflowClient, name: str, model: ModelVersion, tags: dict[str, str], target: Objective) -> bool:
    """Give the version the alias, unless another study's champion is better on the same data. Whether it has it now."""

    def better(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
        return target.rank(float(one["objective"])) < target.rank(float(other["objective"]))

    holder: Any = None
    try:
        holder = client.get_model_version_by_alias(name, ALIAS)
    except Exception as error:
        if passing(error):
            raise
    if holder is not None:
        if str(holder.version) == str(model.version):
            return True
        theirs = holder.tags
        other_study = theirs.get(ID) != tags[ID]
        same_text = (theirs.get("data"), theirs.get("objective_name")) == (tags.get("data"), target.name)
        if other_study and not (same_text and better(tags, theirs)):
            return False
    client.set_registered_model_alias(name, ALIAS, model.version)
    return True

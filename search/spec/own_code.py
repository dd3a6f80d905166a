"""The user's own code that a study names: its references, and the digests of their source. Imports none of it."""

from __future__ import annotations

from data.corpora import kind_of
from data.kind_own import KIND
from data.own_code import is_reference, refuse, source_hash
from search.spec.places import blamed
from search.spec.points import assigned
from search.spec.space import values_of
from search.spec.start_points import known_points
from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig
from trainer.yaml_file import YamlFile

KEYS = ("loss", "optimizer", "model")  # the keys that may name own code beside the corpus


def references(spec: StudySpec, base: TrainConfig) -> dict[str, str]:
    """{reference: the key that names it}, of the base, the space and the start points."""
    started = [assigned(spec.space, point) for point in known_points(spec)]
    named: dict[str, str] = {}
    for key in KEYS:
        values = [*values_of(key, spec, base), *(changes[key] for changes in started if key in changes)]
        named |= {value: key for value in values if is_reference(value)}
    if kind_of(base.corpus) is KIND:
        named[base.corpus] = "corpus"
    return named


def check_allowed(spec: StudySpec, base: TrainConfig, file: YamlFile, allow_code: bool) -> None:
    """Raises UserError, with its place, where a study names own code and it may not run."""
    for reference, key in references(spec, base).items():
        if not allow_code:
            with blamed(file, spec, **{key: reference}):
                refuse(reference, key)


def digests(spec: StudySpec, base: TrainConfig, file: YamlFile) -> dict[str, str]:
    """{reference: sha256 of its source} for losses, optimizers and models, found from the working directory.

    Not of a corpus: what counts of it is the text, whose hash a study has. Raises UserError, with its place, for a
    module that does not exist.
    """
    hashes = {}
    for text, key in references(spec, base).items():
        if key != "corpus":
            with blamed(file, spec, **{key: text}):
                hashes[text] = source_hash(text, kind=key)
    return hashes

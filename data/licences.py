"""The terms of use of a corpus's text, for the model card. An unknown licence is said to be unknown, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.corpora import kind_of
from data.corpus_kind import UNKNOWN_LICENCE


@dataclass(frozen=True)
class Terms:
    """text: what it is. licence: under which terms it may be used, or that this is unknown."""

    text: str
    licence: str


def terms(corpus: str, facts: Mapping[str, Any]) -> Terms:
    """The terms of a corpus, as its kind declares them and its page on the hub names them.

    corpus: as in a config. facts: `Dataset.meta`; its `licence` and `revision` are those of the page on the hub.
    """
    kind = kind_of(corpus)
    declared = Terms(kind.text, kind.licence) if kind else Terms("a corpus", UNKNOWN_LICENCE)
    licence = facts.get("licence")
    if not licence:
        return declared
    names = ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    page = f"its page on the hub named {names} (revision {facts.get('revision', 'unknown')})"
    return Terms(declared.text, page if declared.licence == UNKNOWN_LICENCE else f"{declared.licence}; {page}")

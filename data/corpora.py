"""All kinds of corpus: what `corpus:` takes, and the corpus that a name stands for.

A kind of one's own is a `CorpusKind` in a new module and its entry in `KINDS`; nothing else names kinds.
"""

from __future__ import annotations

from pathlib import Path

from data import kind_files, kind_hub, kind_own, kind_stories, own_code
from data.corpus_kind import Corpus, CorpusKind
from data.errors import UserError, nearest
from data.paths import at_home

KINDS = {
    kind.name: kind
    for kind in (
        kind_stories.KIND,
        kind_files.SHAKESPEARE,
        kind_hub.TINYSTORIES,
        kind_hub.TINYSTORIES_CLEAN,
        kind_hub.HACKERNEWS,
        kind_files.TEXT,
        kind_files.JSONL,
        kind_files.PARQUET,
        kind_hub.HF,
    )
}
SPELLINGS = tuple(kind.spelling for kind in KINDS.values())
DESCRIPTION = " | ".join(  # of the config's key
    form
    for kind in (*KINDS.values(), kind_own.KIND)
    for form in ((kind.name, kind.spelling) if kind.optional else (kind.spelling,))
)


def kind_of(name: str) -> CorpusKind | None:
    """The kind of a corpus by its name, `text` for `text:a.txt`; None for a name that no kind has."""
    if own_code.is_reference(name, KINDS):
        return kind_own.KIND
    return KINDS.get(name.partition(":")[0])


def find(name: str, cache: Path, allow_code: bool = False) -> Corpus:
    """The corpus of that name. UserError when there is none, or its file is missing, empty or a directory.

    allow_code: whether a corpus that is code of the user's own may run when it is read.
    """
    word, colon, argument = name.partition(":")
    kind = kind_of(name)
    if kind is kind_own.KIND:
        hint = nearest(word, [each.name for each in KINDS.values() if each.argument])
        return kind_own.find(name, allow_code, hint if hint.startswith("did you mean") else "")
    if kind is None:
        raise UserError(f"corpus {name} is not known; {_hint(name, word, colon)}", kind="unknown", keys=name)
    if colon and not kind.argument:
        problem = f"corpus {name}: {kind.name} takes nothing after it; write {kind.name}"
        raise UserError(problem, kind="form", keys=name)
    if not argument and kind.argument and not kind.optional:
        problem = f"corpus {name} names no {kind.noun}: write {kind.spelling}, for example {kind.example}"
        raise UserError(problem, kind="missing", keys=name)
    return kind.find(name, argument, cache)


def _hint(name: str, word: str, colon: str) -> str:
    if at_home(name).is_file():
        return f"did you mean text:{name}?"
    if colon:
        return nearest(word, [kind.name for kind in KINDS.values() if kind.argument])
    return nearest(name, [*SPELLINGS, *KINDS])


def split_path(name: str) -> tuple[str, str, str]:
    """A corpus as what stands before its path, the path on this machine, and what follows it.

    The path is empty where the corpus names none.

    >>> split_path("jsonl:a/b.jsonl#text"), split_path("stories:100")
    (('jsonl:', 'a/b.jsonl', '#text'), ('', '', ''))
    """
    kind = kind_of(name)
    word, colon, argument = name.partition(":")
    path, tail = kind.split_path(argument) if kind and argument else ("", "")
    return (f"{word}{colon}", path, tail) if path else ("", "", "")

"""What a kind of corpus declares: its name, its argument, how it is read, its licence, its path.

A kind is one `CorpusKind` in a module of its own (`data/kind_*.py`) and one line in `data/corpora.py`. Messages, the
config's description, licences and the paths that a job on a cluster needs are derived from it. Declarations import
what reads the text only when it is read: a command line lists the kinds before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.documents import Documents

Reader = Callable[[Path, bool], "Documents"]  # (scratch folder, show progress) -> Documents
UNKNOWN_LICENCE = "unknown to this program: state it here before you pass the model on"


@dataclass(frozen=True)
class Corpus:
    """A corpus that exists and has not been read yet.

    name: as the user wrote it. slug: for the name of a folder. key: another key means other content.
    read: reads the documents; the files that it writes into its scratch folder may be deleted afterwards.
    check: called when all is read; raises UserError where that may be other content than the key says.
    """

    name: str
    slug: str
    key: str
    read: Reader
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class CorpusKind:
    """One kind of corpus, written `name` or `name:argument`.

    name: the word before the colon.
    find: (corpus as written, argument, cache folder) -> Corpus; raises UserError for an argument that is none, a
        missing or an empty file. `Documents` that it reads may carry splits of their own.
    text, licence: what the text is, and its terms of use or that they are unknown; for the model card.
    argument: a placeholder of the argument for messages, `PATH#field`; empty: the kind takes none.
    noun: what the argument names. optional: the argument may be left out.
    example: a corpus of this kind, for messages and documentation.
    offline: what to use instead when there is no network; empty: the kind never needs one.
    split_path: argument -> (path of this machine in it, what follows the path); the path is empty where there is none.
    judge: texts -> what a program can say about generated texts, a clause each; None: nothing.
    """

    name: str
    find: Callable[[str, str, Path], Corpus]
    text: str
    example: str
    licence: str = UNKNOWN_LICENCE
    argument: str = ""
    noun: str = "file"
    optional: bool = False
    offline: str = ""
    split_path: Callable[[str], tuple[str, str]] = lambda argument: ("", "")
    judge: Callable[[Sequence[str]], list[str]] | None = None

    @property
    def spelling(self) -> str:
        """How the kind is written where its argument is not left out: `text:PATH`."""
        return f"{self.name}:{self.argument}" if self.argument else self.name


def split_field(argument: str) -> tuple[str, str | None]:
    """The location and the field of `LOCATION#field`; the field is None where none is named.

    >>> split_field("a#b.jsonl#text"), split_field("a.jsonl"), split_field("a.jsonl#")
    (('a#b.jsonl', 'text'), ('a.jsonl', None), ('a.jsonl', None))
    """
    location, hash_sign, field = argument.rpartition("#")
    return (location, field or None) if hash_sign else (argument, None)


def split_path_and_field(argument: str) -> tuple[str, str]:
    """`split_path` of a kind whose argument is `PATH#field`.

    >>> split_path_and_field("a/b.jsonl#text"), split_path_and_field("a/b.jsonl")
    (('a/b.jsonl', '#text'), ('a/b.jsonl', ''))
    """
    location, hash_sign, field = argument.rpartition("#")
    return (location, f"#{field}") if hash_sign else (argument, "")

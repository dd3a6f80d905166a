"""A corpus that is code of the user's own: `my_module:MyCorpus`.

The name stands for documents, or for a class or a function that gives them when it is called without arguments.
Documents are an iterable of str, split like those of a text file; or `{"train": ..., "val": ..., "test": ...}` of
iterables, splits of their own (without "test", val is divided between the two).

    def my_corpus():                       # corpus: my_module:my_corpus
        for path in sorted(Path("letters").glob("*.txt")):
            yield path.read_text()

The prepared corpus is cached under the digest of the module's source, so that changed code is read anew. Data that the
code reads from elsewhere are not part of that digest: name their version in the code. A corpus that is in the cache
already is read from there, which runs no code and needs no permission.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data import own_code
from data.corpus_kind import Corpus, CorpusKind
from data.errors import UserError

if TYPE_CHECKING:
    from data.documents import Documents

T = TypeVar("T")
_FORMS = 'give an iterable of str, or {"train": ..., "val": ..., "test": ...} of such'
_END = object()


def find(name: str, allow_code: bool, hint: str = "") -> Corpus:
    """The corpus of a reference `module:Name`. Nothing is imported before it is read.

    hint: what else the name may have been meant to be. Raises UserError for a module that does not exist.
    """
    try:
        digest = own_code.source_hash(name, kind="corpus")
    except UserError as error:
        if not hint:
            raise
        raise UserError(f"{error}; {hint}", kind=error.kind, keys=error.keys) from None

    def read(scratch: Path, progress: bool) -> Documents:
        return _read(name, digest, allow_code, scratch)

    return Corpus(name, f"own-{name.replace(':', '-')}", f"own code {name} {digest}", read)


def _read(name: str, digest: str, allow_code: bool, scratch: Path) -> Documents:
    from data.documents import TEST, TRAIN, UNDECIDED, VAL, write_documents

    value: Any = own_code.load(name, allow_code=allow_code, kind="corpus")
    if callable(value):
        value = _run(name, value)
    if isinstance(value, Mapping):
        labels = {"train": TRAIN, "val": VAL, "test": TEST}
        if not {"train", "val"} <= set(value) <= set(labels):
            problem = f"corpus {name} has the splits {', '.join(map(str, value)) or 'none'}; {_FORMS}"
            raise UserError(problem, kind="splits", keys=tuple(map(str, value)))
        parts = [(value[split], label) for split, label in labels.items() if split in value]
    else:
        parts = [(value, UNDECIDED)]
    rows = ((text, label) for texts, label in parts for text in _texts(name, texts))
    documents = write_documents(rows, scratch / "documents.txt", f"corpus {name}", "document", "it")
    documents.facts["source_sha256"] = digest
    return documents


def _texts(name: str, value: Any) -> Iterator[Any]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        problem = f"corpus {name} gives {type(value).__name__}, not documents; {_FORMS}"
        raise UserError(problem, kind="no_documents")
    texts = _run(name, lambda: iter(value))
    while (text := _run(name, lambda: next(texts, _END))) is not _END:
        yield text


def _run(name: str, action: Callable[[], T]) -> T:
    """What `action` returns; an exception of the user's code becomes a UserError with its file and line."""
    try:
        return action()
    except Exception as error:
        problem = f"corpus {name}: {own_code.describe_failure(error, 'reading it failed')}"
        raise UserError(problem, kind="reading_failed") from error


KIND = CorpusKind(
    name="module",
    argument="Name",
    noun="class, function or list",
    example="my_module:MyCorpus",
    find=lambda name, argument, cache: find(name, allow_code=False),
    text="documents that the user's own code gives",
)

"""Code of the user's own by reference: `my_module:MyLoss` as a loss, an optimizer, a corpus or a model.

    if is_reference(config.loss):
        loss = load(config.loss, allow_code=allow_code, kind="loss")     # imports my_module, hence runs its code
        digest = source_hash(config.loss)                                # imports nothing

A module is looked for among our own packages, in the working directory and among the installed packages, and nowhere
else: not in PYTHONPATH. A name that stands in two of these places is refused, so that no order of them matters.
The working directory is appended to `sys.path`: the module can import its neighbours, and a folder `data/` or
`models/` beside it shadows neither our packages nor an installed one.

The only state is Python's own: `sys.modules` and `sys.path`. A module of the working directory whose source has changed
since this file imported it is imported anew.
"""

from __future__ import annotations

import hashlib
import importlib
import keyword
import site
import sys
import sysconfig
import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from data.errors import UserError, nearest

OUR_PACKAGES = ("search", "trainer", "models", "data")
FLAG = "--allow-code"
_ROOT = Path(__file__).resolve().parent.parent
_MARK = "__source_hash__"  # on a module of the working directory: the digest of the source that was imported


def is_reference(text: object, kinds: Collection[str] = ()) -> bool:
    """Whether a value is written as `module.path:Name`, with Python identifiers on both sides of one colon.

    kinds: the words that a field itself takes before a colon. They win: in `corpus`, `text:notes` is the text file
    `notes`, not the name `notes` of a module `text`; whoever has a module of that name puts it into a package
    (`mine.text:Notes`). Numbers and file names with a dot or a slash are no identifiers, so that most values of such a
    field (`bpe:512`, `gpt2:a/b`) are no reference in any case.

    >>> is_reference("my_module:MyLoss"), is_reference("bpe:512"), is_reference("cross_entropy")
    (True, False, False)
    >>> is_reference("text:notes"), is_reference("text:notes", kinds=("text", "hf"))
    (True, False)
    """
    if not isinstance(text, str):
        return False
    module, colon, name = text.partition(":")
    words = [*module.split("."), name]
    return bool(colon) and module not in kinds and all(w.isidentifier() and not keyword.iskeyword(w) for w in words)


def load(text: str, *, allow_code: bool, kind: str, directory: Path | None = None) -> object:
    """The object that a reference names; imports its module, which runs the module's code.

    kind: `loss`, `optimizer`, `corpus` or `model`; it begins every message.
    directory: where the user's modules lie; the working directory where it is None. A worker gives that of its driver.
    Raises UserError without allow_code, for a module or a name that does not exist (with the nearest), and for an
    import that fails (with file and line of the failure).
    """
    if not is_reference(text):
        raise UserError(
            f"{kind} {text}: a name of your own code is written module:Name, both Python identifiers", kind="form"
        )
    name = text.partition(":")[2]
    if not allow_code:
        refuse(text, kind)
    module = _import(text, kind, _directory(directory))
    try:
        return getattr(module, name)
    except AttributeError:
        public = [key for key, value in vars(module).items() if key[0] != "_" and not isinstance(value, ModuleType)]
        hint = nearest(name, public) if public else "it defines no name"
        problem = f"{kind} {text}: {_origin(module)} has no {name}; {hint}"
        raise UserError(problem, kind="unknown", keys=name) from None


def refuse(text: str, kind: str) -> NoReturn:
    """Raises UserError: what may not be imported without permission, and how the permission is given."""
    raise UserError(
        f"{kind} {text} is code of your own: using it runs the code of the module {text.partition(':')[0]}; "
        f"add {FLAG} if you trust that code",
        kind="not_allowed",
        keys=text,
    )


def source_hash(text: str, *, kind: str = "code", directory: Path | None = None) -> str:
    """Hex sha256 of the source behind a reference; nothing is imported.

    It covers the files of `source_files`: equal digests mean equal code as far as these files go.
    Raises UserError for a module that does not exist or has no source file.
    """
    return _digest(source_files(text, kind=kind, directory=directory))


def source_files(text: str, *, kind: str = "code", directory: Path | None = None) -> list[Path]:
    """The files that a reference stands for, sorted; nothing is imported.

    They are the module's own file, or every .py file of its top-level package. Of an installed third-party package
    they are the module's file only: its version belongs to the environment, which is recorded elsewhere.
    Raises UserError for a module that does not exist or has no source file.
    """
    place = _directory(directory)
    top, module, installed = _find(text, kind, place)
    if top.submodule_search_locations and not installed:
        folder = Path(next(iter(top.submodule_search_locations)))
        return sorted(folder.rglob("*.py"))
    if not module.has_location or not module.origin:
        raise UserError(f"{kind} {text}: the module {module.name} has no source file")
    return [Path(module.origin)]


@dataclass(frozen=True)
class Sources:
    """Modules to be taken along. files: content by path in the working directory; installed: references whose module
    is in an installed package, and must be installed there too."""

    files: dict[str, bytes] = field(default_factory=dict)
    installed: list[str] = field(default_factory=list)


def sources_of(references: Mapping[str, str], directory: Path | None = None) -> Sources:
    """What another machine needs to import references. Imports nothing.

    references: {reference: what it is, for messages}. Raises UserError for a module that does not exist.
    """
    here, sources = _directory(directory), Sources()
    for reference, kind in references.items():
        if reference.partition(":")[0].partition(".")[0] in OUR_PACKAGES:
            continue  # the program itself, which is there
        paths = [path.resolve() for path in source_files(reference, kind=kind, directory=here)]
        if all(path.is_relative_to(here) and "site-packages" not in path.parts for path in paths):
            sources.files.update({path.relative_to(here).as_posix(): path.read_bytes() for path in paths})
        else:
            sources.installed.append(reference)
    return sources


def _digest(files: list[Path]) -> str:
    if len(files) == 1:
        return hashlib.sha256(files[0].read_bytes()).hexdigest()
    root = min(files, key=lambda file: len(file.parts)).parent
    digest = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _directory(directory: Path | None) -> Path:
    return (directory or Path.cwd()).resolve()


def _find(text: str, kind: str, directory: Path) -> tuple[ModuleSpec, ModuleSpec, bool]:
    """The specs of a reference's top-level module and of its module, and whether that is installed. Imports nothing.

    Raises UserError where there is no such module, or more than one.
    """
    importlib.invalidate_caches()  # a file written within the resolution of its folder's time is seen too
    module_name = text.partition(":")[0]
    words = module_name.split(".")
    if words[0] == "__main__":
        raise UserError(f"{kind} {text}: no other process can import __main__; put the code into a file of its own")
    top, installed = _find_top(words[0], text, kind, directory)
    spec = top
    for depth in range(2, len(words) + 1):
        name = ".".join(words[:depth])
        locations = spec.submodule_search_locations
        below = PathFinder.find_spec(name, list(locations)) if locations else None
        if below is None:
            ours = f"; {words[0]} is a package of this program: rename yours" if words[0] in OUR_PACKAGES else ""
            raise UserError(f"{kind} {text}: {spec.name} ({spec.origin}) has no module {words[depth - 1]}{ours}")
        spec = below
    return top, spec, installed


def _find_top(name: str, text: str, kind: str, directory: Path) -> tuple[ModuleSpec, bool]:
    if name in OUR_PACKAGES and (ours := PathFinder.find_spec(name, [str(_ROOT)])):
        return ours, False
    local = PathFinder.find_spec(name, [str(directory)])
    installed = _find_installed(name)
    if local and installed and not _same_place(local, installed):
        raise UserError(
            f"{kind} {text}: {name} is in the working directory ({directory}) and among the installed modules "
            f"({installed.origin}); rename yours"
        )
    if installed and not local:
        return installed, True
    if not local:
        hint = nearest(name, _modules_of(directory))
        near = f"; {hint}" if hint.startswith("did you mean") else ""
        raise UserError(
            f"{kind} {text}: no module {name} in the working directory ({directory}) or among the installed "
            f"packages{near}",
            kind="unknown",
            keys=name,
        )
    if local.origin is None:
        raise UserError(f"{kind} {text}: the folder {directory / name} has no __init__.py; add one, it may be empty")
    return local, False


def _find_installed(name: str) -> ModuleSpec | None:
    """The spec of a module of the standard library or of an installed package, editable ones included."""
    if builtin := BuiltinImporter.find_spec(name):
        return builtin
    for finder in sys.meta_path:  # of `pip install -e`, where it does not extend sys.path
        owner = finder if isinstance(finder, type) else type(finder)
        if "editable" in owner.__module__ and (spec := finder.find_spec(name, None, None)):
            return spec
    return PathFinder.find_spec(name, _installed_folders())


def _installed_folders() -> list[str]:
    """The folders that hold installed modules: the standard library, site-packages and what their .pth files add."""
    names = ("purelib", "platlib", "stdlib", "platstdlib")
    packages = [Path(sysconfig.get_path(name)) for name in names] + [Path(folder) for folder in site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        packages.append(Path(site.getusersitepackages()))
    folders = list(dict.fromkeys(str(folder) for folder in packages))
    for folder in packages:
        for file in sorted(folder.glob("*.pth")):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            paths = [folder / line.strip() for line in lines if line.strip() and not line.startswith(("import", "#"))]
            folders += [str(path) for path in paths if path.is_dir()]
    return folders


def _modules_of(directory: Path) -> list[str]:
    files = [path.stem for path in directory.glob("*.py")]
    return files + [path.parent.name for path in directory.glob("*/__init__.py")]


def _same_place(one: ModuleSpec, other: ModuleSpec) -> bool:
    if not (one.origin and other.origin):
        return False
    return Path(one.origin).resolve() == Path(other.origin).resolve()


def _origin(module: ModuleType) -> str:
    return str(getattr(module, "__file__", None) or module.__name__)


def _import(text: str, kind: str, directory: Path) -> ModuleType:
    """The module of a reference, imported from where `_find` sees it."""
    top, spec, installed = _find(text, kind, directory)
    keep = installed or top.name in OUR_PACKAGES
    digest = "" if keep else source_hash(text, kind=kind, directory=directory)
    _forget_stale(top, keep, digest, text, kind)
    if str(directory) not in [str(Path(entry).resolve()) for entry in sys.path]:
        sys.path.append(str(directory))
    before = set(sys.modules)
    writes_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python takes a .pyc for fresh by seconds and size: an edit may change neither
    try:
        if top.name not in sys.modules:
            module = module_from_spec(top)
            sys.modules[top.name] = module
            if top.loader is not None:
                top.loader.exec_module(module)
        module = importlib.import_module(spec.name)
    except BaseException as error:
        for name in _family(top.name) - before:
            del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            problem = f"{kind} {text}: {describe_failure(error, 'importing it failed', directory)}"
            raise UserError(problem, kind="import_failed") from error
        raise
    finally:
        sys.dont_write_bytecode = writes_bytecode
    if digest:
        setattr(sys.modules[top.name], _MARK, digest)
    return module


def _forget_stale(top: ModuleSpec, keep: bool, digest: str, text: str, kind: str) -> None:
    """Remove a top-level module from `sys.modules` that came from another place or from source that has changed."""
    module = sys.modules.get(top.name)
    if module is None:
        return
    file = getattr(module, "__file__", None)
    elsewhere = bool(file and top.has_location and top.origin and Path(file).resolve() != Path(top.origin).resolve())
    if keep:
        if elsewhere:
            raise UserError(f"{kind} {text}: {top.name} was imported from {file} before, not from {top.origin}")
    elif elsewhere or getattr(module, _MARK, digest) != digest:
        for name in _family(top.name):
            del sys.modules[name]


def _family(top: str) -> set[str]:
    """The names in `sys.modules` of a top-level module and of all below it."""
    return {name for name in sys.modules if name == top or name.startswith(f"{top}.")}


def describe_failure(error: BaseException, what: str, directory: Path | None = None) -> str:
    """`WHAT at FILE:LINE: TYPE: MESSAGE` of an exception: the deepest line in the user's own files, if there is one."""
    reason = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{what} at {error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    ours = _ROOT / "data"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not Path(frame.filename).is_relative_to(ours)
    ]
    inside = [frame for frame in frames if Path(frame.filename).is_relative_to(_directory(directory))]
    for frame in reversed(inside or frames):
        if "importlib" not in Path(frame.filename).parts:
            return f"{what} at {frame.filename}:{frame.lineno}: {reason}"
    return f"{what}: {reason}"

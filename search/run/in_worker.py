"""A function of ours on its way into one of Ray's workers, which imports our packages from where the driver has them.

    ray.remote(in_worker.call("search.run.nodes", "look")).remote(argument)

Ray puts the driver's working directory first on a worker's `sys.path`, and what is pickled by reference is imported
before any code of ours runs: a `data/dataset.py` or `models/gpt.py` of the user's own would be taken for ours
(ray#43182). So what is sent is this function's inner one, which cloudpickle sends by value and which imports ours from
the driver's folder first. On a machine without that folder Python finds them as it does anywhere: installed, or in the
working directory of a submitted job. No Ray in here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent.parent


def call(
    module: str, name: str, needs: Sequence[str] = (), otherwise: Callable[[str], Any] | None = None
) -> Callable[..., Any]:
    """A function that, in another process, calls `module.name` with the arguments that it gets, all of them plain: an
    object of a class of ours would be unpickled, and its class imported, too early.

    needs: further modules that are imported before. otherwise: called, if an import fails, with one line that names
    the file and the line; pickled by value, so it must name nothing of its own module. Without it the line is raised
    as an ImportError.
    """
    root = str(_ROOT)

    def imported_and_called(*arguments: Any, **options: Any) -> Any:
        import sys
        import traceback
        from importlib import import_module

        sys.path.insert(0, root)
        try:
            for needed in ("search", *needs):
                import_module(needed)
            function = getattr(import_module(module), name)
        except Exception as error:  # a module may raise anything as it is imported
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename[0] != "<"]
            file, line = frames[-1].filename, frames[-1].lineno
            if isinstance(error, SyntaxError) and error.filename:
                file, line = error.filename, error.lineno
            reason = " ".join(str(error).split())
            problem = f"importing {module} failed at {file}:{line}: {type(error).__name__}: {reason}"
            if otherwise is None:
                raise ImportError(problem) from None
            return otherwise(problem)
        finally:
            sys.path.remove(root)
        return function(*arguments, **options)

    return imported_and_called

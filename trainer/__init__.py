"""The training engine: one config, one model, one loop. No Ray, no Optuna, no MLflow."""

import sys
from importlib import import_module
from pathlib import Path


def import_beside(*names: str) -> None:
    """Import top-level packages from the folder that this one lies in, whatever `sys.path` begins with.

    `python -m` begins it with the working directory, where nanoGPT's users have a `data/` and a `models/` of their
    own. Raises ImportError where another package of that name was imported before.
    """
    root = Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(root))
    try:
        for name in names:
            module = import_module(name)
            places = [Path(place).resolve() for place in getattr(module, "__path__", [])]
            if root / name not in places:
                file = getattr(module, "__file__", None) or ", ".join(map(str, places))
                problem = f"{name} has been imported from {file}; import nanosweep's packages first, from {root}"
                raise ImportError(problem, name=name, path=file)
    finally:
        sys.path.remove(str(root))


import_beside("data", "models")

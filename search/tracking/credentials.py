"""What opens the tracking server, on its way to a job: by the path of a file that its owner alone can read.

Ray shows a job's environment to whoever may list jobs, and writes it into its logs; a command line stands in `ps`.
So a password never goes there. A job's environment names a file on the cluster (VARIABLE), INI as `nanosweep up` and
MLflow's own ~/.mlflow/credentials have it; the driver takes it into its own process when it starts:

    [mlflow]
    username = ada
    password = ...        # or token = ...; uri = ... where the address itself holds a password
"""

from __future__ import annotations

import configparser
import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from data.errors import UserError
from search.tracking.mlflow_store import choose_uri, database_file, shown
from trainer.files import write_private

VARIABLE = "NANOSWEEP_MLFLOW_CREDENTIALS"
FILE = ".mlflow-credentials"  # in the storage
URI = "MLFLOW_TRACKING_URI"
_SECTION = "mlflow"
_NAMES = {
    "username": "MLFLOW_TRACKING_USERNAME",
    "password": "MLFLOW_TRACKING_PASSWORD",
    "token": "MLFLOW_TRACKING_TOKEN",
    "uri": URI,
}


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment nobody should see, by the names in the file: user name and password or token; the
    tracking address, if it holds a password. Empty where there is nothing to hide."""
    hidden = {key: environment[name] for key, name in _NAMES.items() if key != "uri" and environment.get(name)}
    if has_password(uri := environment.get(URI, "")):
        hidden["uri"] = uri
    return hidden


def has_password(uri: str) -> bool:
    return urlsplit(uri).password is not None


def save(hidden: Mapping[str, str], folder: Path) -> Path:
    """Write secrets into a storage, for the jobs that run there. Returns the file. Raises UserError."""
    parser = configparser.ConfigParser(interpolation=None)
    parser[_SECTION] = dict(hidden)
    text = io.StringIO()
    parser.write(text)
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_private(path, text.getvalue())
    except OSError as error:
        raise UserError(f"storage: {path} cannot be written: {error.strerror}; give another `storage`") from None
    return path


def load(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that the file named by VARIABLE stands for; empty where none is named.

    Raises UserError when it cannot be read, or others could.
    """
    named = environment.get(VARIABLE)
    if not named:
        return {}
    path = Path(named)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"{path}: others can read the password in it; chmod 600 {path}")
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser[_SECTION]
    except OSError as error:
        raise UserError(f"{path} ({VARIABLE}): {error.strerror}; the file must lie on the cluster's head") from None
    except (configparser.Error, KeyError, UnicodeDecodeError):
        raise UserError(f"{path}: expected [mlflow] with username and password, or token") from None
    # MLflow's own file has its keys with a prefix
    return {
        name: value
        for key, name in _NAMES.items()
        if (value := section.get(key) or section.get(f"mlflow_tracking_{key}"))
    }


def take() -> None:
    """Put what the file says into this process's environment: what `ps` shows of it is what it began with.

    Raises UserError.
    """
    os.environ.update(load())


def job_variables(storage: Path, cluster: str, here: bool, password_files: Mapping[str, Path]) -> dict[str, str]:
    """The variables by which a job's driver reaches the store that a driver here would use; no secrets among them.

    storage: on the cluster, whose address `cluster` is. here: whether it runs on this machine. password_files: by a
    server's address, the file on the cluster that holds its password. Raises UserError.
    """
    uri = os.environ.get(URI, "").strip()
    variables = {}
    if uri:
        file, named_here = database_file(uri), uri
        uri = choose_uri(storage)  # refuses a folder of files
        if file is not None and not here and not file.is_absolute():
            raise UserError(f"{URI}: {named_here} is a file of this machine; give a server that the cluster reaches")
        if not has_password(uri):
            variables[URI] = uri
    if named := os.environ.get(VARIABLE):
        return {**variables, VARIABLE: named}
    if uri in password_files:
        return {**variables, VARIABLE: str(password_files[uri])}
    if uri and (secret := secrets(os.environ)):
        if not here:
            raise refuse_to_send(secret, cluster)
        variables[VARIABLE] = str(save(secret, storage))
    return variables


def refuse_to_send(hidden: Mapping[str, str], address: str) -> UserError:
    """Why secrets of this machine are not sent to a cluster elsewhere, and what to do instead."""
    names = " and ".join(shown(hidden["uri"]) if key == "uri" else _NAMES[key] for key in hidden)
    return UserError(
        f"{names}: a password is not sent to {address}, as Ray shows and logs a job's environment. Put it into a file "
        f"on the cluster's head, mode 600 ([mlflow], username = ..., password = ...), and name that here: "
        f"{VARIABLE}=/path/on/the/head (and unset what this machine has)"
    )

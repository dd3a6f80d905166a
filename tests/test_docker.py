"""docker/ without an engine: what it names is there and runs, secrets stay out, and its files fit each other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.cli.main import parser
from tests import composed
from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docker"
DOCKERFILE = re.sub(r"\s*\\\n\s*", " ", (FOLDER / "Dockerfile").read_text())
SERVICES = composed.services(**composed.SECRETS)
KUBERAY = sorted((FOLDER / "kuberay").glob("ray*.yaml"))
# of https://github.com/compose-spec/compose-spec, those that are used
KNOWN = {
    *("build", "image", "entrypoint", "command", "init", "restart", "shm_size", "ulimits", "environment", "volumes"),
    *("networks", "healthcheck", "ports", "depends_on", "profiles", "deploy"),
}


def instructions(kind: str) -> list[str]:
    return re.findall(rf"^{kind} (.+)$", DOCKERFILE, re.M)


def run(words: list[str], **more: Any) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=CEILING, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


# the image


def test_only_what_an_image_is_built_from_is_sent_to_the_engine() -> None:
    from docker.utils.build import exclude_paths

    import docker  # the SDK, which MLflow imports: our folder must not stand before it

    assert "site-packages" in str(docker.__file__)
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    sent = exclude_paths(str(ROOT), patterns) - {"Dockerfile", ".dockerignore"}  # for the engine itself
    rooms = ("data", "models", "trainer", "search")
    allowed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "docker", *rooms}
    assert {path.split("/")[0] for path in sent} == allowed
    assert {path for path in sent if path.startswith("docker/")} == {"docker/requirements.py", "docker/healthy.py"}
    copied = [word.rstrip("/") for line in instructions("COPY") for word in shlex.split(line)[:-1]]
    assert set(copied) <= sent
    assert not [path for path in sent if path.endswith((".env", ".pt", ".pyc"))]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's /app, as the Dockerfile's COPY lines lay it."""
    app = tmp_path_factory.mktemp("image") / "app"
    app.mkdir()
    for line in instructions("COPY"):
        *sources, target = shlex.split(line)
        for source in sources:
            if source.endswith("/"):
                shutil.copytree(ROOT / source, app / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (app / target).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, app / target)
    return app


@pytest.fixture
def inside(app: Path, tmp_path: Path) -> dict[str, str]:
    """An environment in which `nanosweep` is the image's: its code and nothing of this checkout."""
    command = tmp_path / "bin" / "nanosweep"
    command.parent.mkdir()
    entry = re.search(r'nanosweep = "([\w.]+):(\w+)"', (app / "pyproject.toml").read_text())
    assert entry is not None
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom {entry[1]} import {entry[2]}\nsys.exit({entry[2]}())\n")
    command.chmod(0o755)
    return {"PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": str(app), "HOME": str(tmp_path)}


@pytest.mark.slow
def test_what_pip_is_told_to_install_is_the_pinned_set_and_fits_together(app: Path) -> None:
    (listing, install), *_ = [re.findall(r"(?:^|&& )((?:python|pip) [^&]+)", line) for line in instructions("RUN")[1:]]
    words = shlex.split(listing.split(">")[0])
    (app / "requirements.txt").write_text(run([sys.executable, *words[1:]], cwd=app))
    # with what the tests run on already there, and no index: anything missing, or pinned otherwise, is an error
    dry = [sys.executable, "-m", *shlex.split(install), "--dry-run", "--no-index", "--quiet"]
    assert run(dry, cwd=app, env={**os.environ, "PIP_CONSTRAINT": ""}) == ""


def test_the_entrypoint_runs_in_a_clean_directory(app: Path, inside: dict[str, str], tmp_path: Path) -> None:
    (entrypoint,) = [yaml.safe_load(line) for line in instructions("ENTRYPOINT")]
    (default,) = [yaml.safe_load(line) for line in instructions("^CMD")] or [["--help"]]
    assert "usage: nanosweep" in run([*entrypoint, *default], cwd=tmp_path, env=inside)
    code = "import sys; from pathlib import Path; from search.spec.load import load_spec; "
    code += "print(load_spec(Path(sys.argv[1]))[0].study)"
    spec = app / "search/specs/quickstart.yaml"  # its base is found from anywhere
    assert run([sys.executable, "-c", code, str(spec)], cwd=tmp_path, env=inside).strip() == "quickstart"


def test_the_healthcheck_says_what_is_wrong(app: Path, inside: dict[str, str], tmp_path: Path) -> None:
    (line,) = instructions("HEALTHCHECK")
    check = [sys.executable, *yaml.safe_load(line.partition("CMD ")[2])[1:]]
    check[1] = check[1].replace("/app", str(app))
    assert run(check, cwd=tmp_path, env=inside) == ""
    ill = subprocess.run([*check, "http://127.0.0.1:9/health"], capture_output=True, text=True)
    assert ill.returncode == 1
    assert "http://127.0.0.1:9/health: " in ill.stderr
    (tmp_path / "bin/nanosweep").write_text("#!/bin/sh\necho spoilt >&2; exit 3\n")
    ill = subprocess.run(check, capture_output=True, text=True, env=inside)
    assert ill.returncode == 1
    assert "exits with 3: spoilt" in ill.stderr


def test_the_image_runs_as_nobody_in_particular_on_the_version_that_was_pinned() -> None:
    assert instructions("USER") == ["nanosweep"]
    (image,) = instructions("FROM")
    assert image.startswith("python:3.11-slim")
    for word in ("TOKEN=", "PASSWORD=", "SECRET="):
        assert word not in DOCKERFILE


# compose.yaml


def test_compose_names_only_what_it_declares() -> None:
    whole = yaml.safe_load(composed.VARIABLE.sub("x", composed.TEXT))
    assert {key for key in whole if not key.startswith("x-")} == {"name", "services", "networks", "volumes"}
    for service in SERVICES.values():
        assert set(service) <= KNOWN
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        assert set(service["networks"]) <= set(whole["networks"])
        assert {"image", "healthcheck", "restart"} <= set(service)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in whole["volumes"] or (FOLDER / source).is_file(), volume
        if "build" in service:
            build = service["build"]
            assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
            assert set(build["args"]) == {line.split("=")[0] for line in instructions("ARG")}
            assert service["image"] == f"nanosweep:{build['args']['DEVICE']}"


def test_every_variable_of_compose_is_explained_in_the_example_and_no_other() -> None:
    used = {name for name, _, _ in composed.VARIABLE.findall(composed.TEXT)}
    assert used == set(composed.example())


def test_compose_does_not_start_without_its_secrets() -> None:
    for missing in composed.SECRETS:
        with pytest.raises(KeyError, match=r"copy docker/\.env\.example to docker/\.env"):
            composed.services(**{name: value for name, value in composed.SECRETS.items() if name != missing})


def test_no_secret_stands_in_a_file() -> None:
    other = {name: f"other-{value}" for name, value in composed.SECRETS.items()}
    for service, changed in zip(SERVICES.values(), composed.services(**other).values(), strict=True):
        for name, value in service["environment"].items():
            secret = re.search("PASSWORD|TOKEN$|SECRET|STORE_URI", name)
            assert not secret or value != changed["environment"][name], name
        assert service.get("command") == changed.get("command")  # where `ps` would show it
    assert all(not value for name, value in composed.example().items() if re.search("PASSWORD|TOKEN|SECRET", name))
    for name in (".gitignore", ".rayignore"):
        assert ".env" in (ROOT / name).read_text().split()


def test_ports_are_published_on_this_machine_alone_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"head": ["127.0.0.1:8265:8265"], "mlflow": ["127.0.0.1:5000:5000"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_every_command_is_one_that_its_program_takes() -> None:
    from mlflow.cli import cli as mlflow
    from ray.scripts.scripts import cli as ray

    for name, service in SERVICES.items():
        if name == "database":
            continue
        command, *words = service["command"]
        program = {"ray": ray, "mlflow": mlflow}[service["entrypoint"][0]]
        program.commands[command].make_context(command, [str(word) for word in words])  # raises for an unknown option
        test = service["healthcheck"]["test"]
        assert test[:3] == ["CMD", "python", "/app/docker/healthy.py"]


def test_nodes_ask_for_a_token_and_mlflow_for_a_password() -> None:
    for name in ("head", "worker-cpu", "worker-gpu"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == composed.SECRETS["RAY_AUTH_TOKEN"]
        assert SERVICES[name]["volumes"] == ["storage:/storage"]
    mlflow = SERVICES["mlflow"]
    assert "basic-auth" in mlflow["command"]
    address = SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert address in mlflow["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    (devices,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices["capabilities"] == ["gpu"]


# kuberay/


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_a_kuberay_file_has_what_its_kind_must_have(path: Path) -> None:
    whole = yaml.safe_load(path.read_text())
    assert whole["apiVersion"] == "ray.io/v1"
    assert whole["kind"] == {"rayjob.yaml": "RayJob", "raycluster.yaml": "RayCluster"}[path.name]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,46}", whole["metadata"]["name"])
    spec = whole["spec"]
    if whole["kind"] == "RayJob":
        words = shlex.split(spec["entrypoint"])
        assert words[0] == "nanosweep"
        given = parser().parse_args(words[1:])
        assert (ROOT / given.spec.relative_to("/app")).is_file()
        assert Path(given.storage).is_relative_to("/storage")
        spec = spec["rayClusterSpec"]
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert spec["rayVersion"] == pinned
    assert spec["authOptions"] == {"mode": "token", "secretName": "nanosweep"}
    assert spec["enableInTreeAutoscaling"] is True
    (workers,) = spec["workerGroupSpecs"]
    assert 0 < workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (spec["headGroupSpec"], workers):
        check_pod(group["template"]["spec"])
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def check_pod(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert re.fullmatch(r"[\w./-]+/nanosweep:(cpu|cuda)", container["image"])
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for variable in container["env"]:  # each of the secret, under its own name; none spelled out
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "nanosweep", "key": variable["name"]}
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    claim = yaml.safe_load((FOLDER / "kuberay/storage.yaml").read_text())
    assert claims == [claim["metadata"]["name"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_two_kuberay_files_differ_only_in_what_stays() -> None:
    cluster, job = (yaml.safe_load((FOLDER / f"kuberay/{name}.yaml").read_text()) for name in ("raycluster", "rayjob"))
    same = job["spec"]["rayClusterSpec"]
    same["workerGroupSpecs"][0]["replicas"] = cluster["spec"]["workerGroupSpecs"][0]["replicas"]
    assert cluster["spec"] == same

"""Losses that are added: one of the user's own by `loss: module:Name`, and one of this program by a declaration.

Files that somebody touches who adds a loss to this program: models/losses.py (the declaration), a page that tells of
it, and the formula in tests/test_models_losses.py. The last test here adds one with the first of them alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from tests import tiny
from tests.refusals import facts, refusal
from tests.waiting import CEILING
from trainer import checkpoint, config, portable, sample
from trainer.__main__ import main
from trainer.config import TrainConfig, assign
from trainer.criterion import build
from trainer.rescore import rescore

ROOT = Path(__file__).resolve().parent.parent
MODULE = '''
"""Losses of a user."""

import torch

from models.loss import Loss, Parameter, Readout, Terms
from models.readouts import INVERSE, SOFTMAX


def focal(parameters, logits, targets):
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return -((1 - log_p.exp()) ** parameters["gamma"]) * log_p


def colder(loss, parameters, logits):
    return logits * (1 + parameters["gamma"])


FOCAL = Loss(
    name="focal",
    meaning="-(1 - p_y)^gamma log p_y",
    parameters={"gamma": Parameter(2.0, "0 is cross-entropy", ge=0)},
    readouts=(Readout("colder", "softmax of (1 + gamma) f", colder, log=True, monotone=True), SOFTMAX),
    per_token=focal,
    proper=False,
)
SQUARES = Loss(
    name="squares",
    meaning="as mse",
    readouts=(INVERSE, SOFTMAX),
    terms=lambda p, C: Terms(others=1 / C, target=1 / C, M=1.0),
)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with my_losses.py and tiny.yaml, and the corpus of the other tests."""
    tiny.run(tiny.config(max_tokens=64))
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_losses.py").write_text(MODULE)
    (tmp_path / "tiny.yaml").write_text(config.dump(tiny.config()))
    return tmp_path


def focal(**changes: Any) -> TrainConfig:
    return tiny.config(loss="my_losses:FOCAL", **changes)


# ---------------------------------------------------------------- the config


def test_a_config_names_an_own_loss_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "c.yaml").write_text("loss: loud:Loss\nloss_params: {gamma: 2.0, k: 3}\n")
    read = config.load(tmp_path / "c.yaml", ["loss_params.gamma=0.5"])
    assert (read.loss, read.loss_params) == ("loud:Loss", {"gamma": 0.5, "k": 3.0})
    (tmp_path / "again.yaml").write_text(config.dump(read))
    assert config.load(tmp_path / "again.yaml") == read
    assert "loud" not in sys.modules


def test_a_dotted_name_sets_one_parameter_and_leaves_the_others() -> None:
    one = focal(loss_params={"gamma": 1.0, "k": 3.0})
    assert config.replace(one, **{"loss_params.gamma": 4.0}).loss_params == {"gamma": 4.0, "k": 3.0}
    assert one.loss_params == {"gamma": 1.0, "k": 3.0}
    assert assign({}, {"loss_params.a": 1, "n_layer": 2}) == {"loss_params": {"a": 1}, "n_layer": 2}
    error = refusal(lambda: config.replace(one, **{"n_layer.x": 1}))
    assert (error.kind, error.keys) == ("unknown", ("n_layer.x",))


@pytest.mark.parametrize(
    ("lines", "line", "kind", "keys"),
    [
        ("loss: squentropi", 1, "unknown", ("loss",)),
        ("loss: my-losses:FOCAL", 1, "unknown", ("loss",)),
        ("loss: mse\nloss_params: {gamma: 1}", 2, "unused", ("loss_params", "loss")),
        ("loss: a:B\nsquentropy_lambda: 1", 2, "unused", ("squentropy_lambda", "loss")),
        ("loss: a:B\nloss_params: {gamma: x}", 2, "float_type", ("loss_params",)),
        ("loss: a:B\nloss_params: {gamma: .nan}", 2, "finite_number", ("loss_params",)),
        ("loss: a:B\nloss_params: {a.b: 1}", 2, "form", ("loss_params",)),
    ],
)
def test_a_mistake_in_the_keys_is_refused_with_its_place(
    tmp_path: Path, lines: str, line: int, kind: str, keys: tuple[str, ...]
) -> None:
    (tmp_path / "c.yaml").write_text(lines + "\n")
    assert facts(refusal(lambda: config.load(tmp_path / "c.yaml"))) == (kind, keys, line)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("loss: squentropi", "c.yaml:1: loss: there is no such loss, got 'squentropi'; did you mean squentropy?"),
        ("loss: a:B\nloss_params: {gamma: x}", "c.yaml:2: loss_params.gamma: expected a number, got 'x'"),
    ],
)
def test_what_a_refusal_of_a_loss_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(lines + "\n")
    assert str(refusal(lambda: config.load(Path("c.yaml")))) == message


# ---------------------------------------------------------------- training with it


def test_without_permission_nothing_is_imported_or_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "loud.py").write_text("raise SystemExit('imported')\n")
    assert main(["tiny.yaml", "--set", "loss=loud:FOCAL"]) == 2
    error = capsys.readouterr().err
    assert "--allow-code" in error
    assert "\n" not in error.strip()
    assert not (folder / "out").exists()
    with pytest.raises(UserError, match="--allow-code"):
        tiny.run(focal())


def test_an_own_loss_trains_scores_and_samples(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tiny.yaml", "--set", "loss=my_losses:FOCAL", "--set", "loss_params.gamma=0.5"]
    assert main([*words, "--allow-code"]) == 0
    run = Path("out/tiny")
    saved = checkpoint.load(run)
    assert saved.config.loss_params == {"gamma": 0.5}
    assert [*saved.own_code] == ["my_losses:FOCAL"]
    digest = saved.own_code["my_losses:FOCAL"]
    assert f"# own code my_losses:FOCAL: sha256 {digest}" in (run / checkpoint.CONFIG).read_text()
    metrics = (saved.state.report or {})["metrics"]
    assert metrics["val_loss_softmax"] != metrics["val_loss"]  # its own read-out is the first

    again = rescore(run, tiny.stories(), tiny.stories().val, allow_code=True)
    assert again.loss == pytest.approx(metrics["val_loss"], rel=1e-5)
    assert [*again.readouts] == ["colder", "softmax"]
    portable.save(run, folder / "portable")
    with pytest.raises(UserError, match="--allow-code"):
        portable.load(folder / "portable")
    assert portable.load(folder / "portable", allow_code=True).write("Once", max_new_tokens=5)

    capsys.readouterr()
    assert sample.main([str(run), "--max-new-tokens", "5"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert sample.main([str(run), "--max-new-tokens", "5", "--allow-code"]) == 0
    logits = torch.randn(2, 3, tiny.stories().n_classes)[:, 0]
    expected = (1.5 * logits).log_softmax(-1)
    torch.testing.assert_close(sample.load(run, allow_code=True).readout(logits), expected)


def test_an_own_loss_of_a_declared_formula_gives_the_same_numbers(folder: Path) -> None:
    own, _ = tiny.run(tiny.config(loss="my_losses:SQUARES"), allow_code=True)
    declared, _ = tiny.run(tiny.config(loss="mse"))
    drop = set(tiny.TIMING)
    assert {k: v for k, v in own.metrics.items() if k not in drop} == {
        k: v for k, v in declared.metrics.items() if k not in drop
    }


def test_an_own_loss_with_gamma_zero_trains_as_cross_entropy(folder: Path) -> None:
    own, _ = tiny.run(focal(loss_params={"gamma": 0.0}), allow_code=True)
    declared, _ = tiny.run(tiny.config())
    assert own.metrics["val_loss"] == pytest.approx(declared.metrics["val_loss"], rel=1e-5)
    other, _ = tiny.run(focal(loss_params={"gamma": 3.0}, readout="softmax"), allow_code=True)
    assert other.metrics["val_loss"] != pytest.approx(declared.metrics["val_loss"], rel=5e-5)


def test_the_example_of_the_documentation_trains(folder: Path) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pattern = r"^cat > my_losses.py <<'EOF'\n(.*?)^EOF$"
    blocks = [block for page in pages for block in re.findall(pattern, page.read_text(), re.M | re.S)]
    (example,) = [block for block in blocks if "FOCAL = Loss(" in block]
    (folder / "my_losses.py").write_text(example)
    assert main(["tiny.yaml", "--set", "loss=my_losses:FOCAL", "--set", "loss_params.gamma=0.5", "--allow-code"]) == 0


def test_a_run_goes_on_with_the_code_that_it_began_with(folder: Path) -> None:
    settings = focal(schedule="constant")
    tiny.run(settings, out_dir=folder / "run", allow_code=True)
    longer = config.replace(settings, max_tokens=50 * 64)
    (folder / "my_losses.py").write_text(MODULE.replace("-((1 - log_p", "-((2 - log_p"))
    run = folder / "run"
    error = refusal(lambda: tiny.run(longer, out_dir=run, resume=run, allow_code=True))
    assert (error.kind, error.keys) == ("other_code", ("my_losses:FOCAL",))
    assert str(error).startswith(f"{run} was trained with other code of my_losses:FOCAL (sha256 ")
    error = refusal(lambda: rescore(run, tiny.stories(), tiny.stories().val, allow_code=True))
    assert (error.kind, error.keys) == ("other_code", ("my_losses:FOCAL",))
    (folder / "my_losses.py").write_text(MODULE)
    result, _ = tiny.run(longer, out_dir=folder / "run", resume=folder / "run", allow_code=True)
    assert result.step == 50


@pytest.mark.parametrize(
    ("code", "changes", "message"),
    [
        ("FOCAL = 3", {}, "my_losses:FOCAL is a int; it must be a models.loss.Loss"),
        (MODULE, {"loss_params": {"gama": 1.0}}, "gama is not a parameter of loss focal; its parameters: gamma"),
        (MODULE, {"loss_params": {"gamma": -1.0}}, "gamma is -1.0; it must be a finite number, not below 0"),
        (MODULE, {"readout": "inverse"}, "readout 'inverse' does not exist for loss focal; allowed: colder, softmax"),
        (
            MODULE.replace('parameters["gamma"]) * log_p', 'parameters["gama"]) * log_p'),
            {},
            r"its formula failed at .*my_losses.py:12: KeyError: 'gama'",
        ),
        (
            MODULE.replace("* log_p\n", "* log_p.mean()\n").replace("-((1", "((1").replace(" ** par", ".mean() ** par"),
            {},
            "its formula failed: TypeError: it must give one value for each target",
        ),
        (
            MODULE.replace("* log_p\n", "* log_p.detach() * 0 + torch.ones(len(targets))\n").replace(
                "log_p.exp()", "1"
            ),
            {},
            "its formula failed: TypeError: .* made of the logits",
        ),
        (
            MODULE.replace("per_token=focal", "per_token=focal, with_gradient=lambda p, f, y: (focal(p, f, y), 0 * f)"),
            {},
            "its with_gradient failed: ValueError: value or gradient differ from those of per_token",
        ),
        (
            MODULE.replace("return logits * (1", "return logits[:, :2] * (1"),
            {},
            r"its read-out colder failed: TypeError: it must give a weight for each class",
        ),
        (MODULE.replace("per_token=focal,", ""), {}, r"my_losses.py:\d+: ValueError: loss focal: give either terms or"),
    ],
    ids=[
        "no loss",
        "name",
        "range",
        "readout",
        "raises",
        "mean",
        "no gradient",
        "wrong gradient",
        "shape",
        "declaration",
    ],
)
def test_a_mistake_in_an_own_loss_is_one_line(folder: Path, code: str, changes: dict[str, Any], message: str) -> None:
    (folder / "my_losses.py").write_text(code)
    with pytest.raises(UserError, match=message) as caught:
        build(focal(**changes), allow_code=True)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- a loss of this program

TOY = """    Loss(
        name="toy",
        meaning="cross-entropy + strength (f_y - 3)^2",
        parameters={"toy_strength": Parameter(0.1, "weight of the square", gt=0, le=2)},
        readouts=(INVERSE, SOFTMAX),
        terms=lambda p, C: Terms(ce=1.0, target=p["toy_strength"], M=3.0),
    ),
"""
END = ")\n\n# the names that a config's `readout` may have"


def test_a_declaration_alone_adds_a_loss_to_config_schema_training_and_tests(folder: Path) -> None:
    """In a copy of the program, whose only changed file is models/losses.py."""
    for room in ("models", "trainer", "data", "search", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "pages", "browser", "soak", "benchmarks")
        shutil.copytree(ROOT / room, folder / room, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    declarations = folder / "models" / "losses.py"
    text = declarations.read_text()
    assert text.count(END) == 1
    declarations.write_text(text.replace(END, TOY + END))

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=CEILING)

    training = ("trainer", "tiny.yaml", "--set", "loss=toy", "--set")
    done = python(*training, "toy_strength=0.5")
    assert done.returncode == 0, done.stderr
    assert "toy_strength: 0.5" in (folder / "out" / "tiny" / "config.yaml").read_text()
    refused = python(*training, "toy_strength=3")
    assert "--set toy_strength=3: expected at most 2, got 3" in refused.stderr
    refused = python("trainer", "tiny.yaml", "--set", "toy_strength=1")
    assert "toy_strength belongs to loss: toy, but loss is cross_entropy" in refused.stderr
    schema = python("search.spec.schema").stdout
    assert schema.count('"toy"') >= 2
    assert "weight of the square; default: 0.1" in schema
    files = ("models_losses", "models_readouts", "trainer_traps", "trainer_evaluate")
    derived = [f"tests/test_{name}.py" for name in files]
    tested = python("pytest", "-q", "-p", "no:cacheprovider", *derived, "-k", "toy and not traced")
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert int(tested.stdout.split(" passed")[0].split()[-1]) > 30

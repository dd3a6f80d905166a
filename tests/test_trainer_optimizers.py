"""Every declared optimizer against its formula and its keys; an own one by module:Name; one more in three files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from models.gpt import GPT
from tests import own, tiny
from tests.refusals import refusal
from trainer import checkpoint, keys
from trainer.__main__ import main
from trainer.config import TrainConfig, dump, replace
from trainer.optim import Optimizers, build
from trainer.optimizers import OPTIMIZERS, decay_groups, trainable
from trainer.report import Report

ROOT = Path(__file__).resolve().parent.parent
OF_ALL = {"learning_rate", "weight_decay"}  # with the peak rate and the decay every optimizer has to do


class Recorded:
    """A config that notes which of its keys are read."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.read = config, set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self.config, name)


def made(**changes: Any) -> tuple[GPT, TrainConfig, Optimizers]:
    settings = tiny.config(bias=True, **changes)
    model = GPT(settings.shape(11), torch.Generator().manual_seed(0))
    return model, settings, build(model, settings, allow_code=True)


def stepped(model: GPT, optimizers: Optimizers, multiplier: float) -> dict[str, torch.Tensor]:
    """The gradients of a step, which is then taken."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizers.scale(multiplier)
    optimizers.step()
    return gradients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_reads_exactly_the_keys_that_are_declared_as_used_by_it(name: str) -> None:
    model, settings, _ = made(optimizer=name)
    recorded = Recorded(settings)
    OPTIMIZERS[name].build(model, recorded)
    assert recorded.read == OF_ALL | set(keys.used_keys(TrainConfig, "optimizer", name))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_multiplier_scales_each_groups_own_peak_and_a_rate_of_0_moves_nothing(name: str) -> None:
    model, _, optimizers = made(optimizer=name)
    groups = [group for part in optimizers.parts for group in part.param_groups]
    peaks = [group["lr"] for group in groups]
    optimizers.scale(0.5)
    optimizers.scale(0.25)
    assert [group["lr"] for group in groups] == [peak * 0.25 for peak in peaks]
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    stepped(model, optimizers, 0.0)
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())
    stepped(model, optimizers, 1.0)
    assert not any(torch.equal(p, before[key]) for key, p in model.named_parameters())


def adamw(p: torch.Tensor, g: torch.Tensor, decay: float, settings: TrainConfig, rate: float) -> torch.Tensor:
    """The first step: both moments are unbiased to g and g²."""
    return p * (1 - rate * decay) - rate * g / (g.abs() + 1e-8)


def sgd(p: torch.Tensor, g: torch.Tensor, decay: float, settings: TrainConfig, rate: float) -> torch.Tensor:
    return p - rate * (g + decay * p)


@pytest.mark.parametrize(("name", "formula"), [("adamw", adamw), ("sgd", sgd), ("muon", adamw)])
def test_the_first_step_is_the_formulas(name: str, formula: Any) -> None:
    """Of Muon the part that AdamW has: all but the matrices of the blocks."""
    model, settings, optimizers = made(optimizer=name, learning_rate=0.01, weight_decay=0.3)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    gradients = stepped(model, optimizers, 0.5)
    for key, p in model.named_parameters():
        if name == "muon" and p.dim() == 2 and ".h." in key:
            continue
        decay = 0.3 if p.dim() >= 2 else 0.0
        expected = formula(before[key], gradients[key], decay, settings, 0.005)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)


def test_sgds_second_step_has_the_momentum_of_the_first() -> None:
    model, settings, optimizers = made(optimizer="sgd", weight_decay=0.0, momentum=0.6, learning_rate=0.1)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    first, second = stepped(model, optimizers, 1.0), stepped(model, optimizers, 1.0)
    for key, p in model.named_parameters():
        moved = 0.1 * (first[key] + (settings.momentum * first[key] + second[key]))
        torch.testing.assert_close(p.detach(), before[key] - moved, rtol=1e-5, atol=1e-6)


def test_muons_step_of_a_hidden_matrix_is_nearly_orthogonal() -> None:
    model, settings, optimizers = made(optimizer="muon", weight_decay=0.0)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    stepped(model, optimizers, 1.0)
    key = "transformer.h.0.attn.c_proj.weight"  # square, so that torch's factor for the shape is 1
    step = (before[key] - dict(model.named_parameters())[key].detach()) / settings.muon_learning_rate
    assert 0.4 < float(torch.linalg.svdvals(step).min()) <= float(torch.linalg.svdvals(step).max()) < 1.3


# an own optimizer


class Stop(Exception):  # noqa: N818
    """Raised by a receiver in the middle of a run."""


@pytest.fixture
def lion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return own.write_optimizer(tmp_path, monkeypatch)


def test_an_own_optimizer_gets_the_decay_groups_the_peak_rate_and_its_parameters(lion: str) -> None:
    model, settings, optimizers = made(optimizer=lion, optimizer_params={"beta1": 0.5}, learning_rate=0.25)
    (part,) = optimizers.parts
    wanted = decay_groups(trainable(model), settings)
    assert [group["weight_decay"] for group in part.param_groups] == [group["weight_decay"] for group in wanted]
    assert [[*map(id, group["params"])] for group in part.param_groups] == [
        [*map(id, group["params"])] for group in wanted
    ]
    assert {(group["lr"], group["beta1"], group["beta2"]) for group in part.param_groups} == {(0.25, 0.5, 0.99)}


def test_an_own_optimizer_stopped_and_resumed_is_the_same_to_the_last_bit(lion: str, tmp_path: Path) -> None:
    """Its moments are tensors, its step count an entry of the groups: both come back."""
    settings = tiny.config(optimizer=lion, optimizer_params={"beta2": 0.9}, dropout=0.1)

    def stop(report: Report) -> None:
        if report.step == 20:
            raise Stop

    tiny.run(settings, out_dir=tmp_path / "whole", allow_code=True)
    with pytest.raises(Stop):
        tiny.run(settings, out_dir=tmp_path / "part", report=stop, allow_code=True)
    tiny.run(settings, out_dir=tmp_path / "part", resume=tmp_path / "part", allow_code=True)
    one, other = checkpoint.load(tmp_path / "whole"), checkpoint.load(tmp_path / "part")
    assert one.optimizer[0]["param_groups"][0]["steps"] == 40
    assert all(torch.equal(one.model[name], other.model[name]) for name in one.model)


def test_a_resumed_own_optimizer_has_the_present_rate_decay_and_parameters(lion: str) -> None:
    model, settings, optimizers = made(optimizer=lion, optimizer_params={"beta1": 0.5})
    stepped(model, optimizers, 1.0)
    other = replace(settings, learning_rate=0.5, weight_decay=0.7, optimizer_params={"beta1": 0.25})
    resumed = build(model, other, allow_code=True)
    resumed.load_state_dict(optimizers.state_dict())
    group = resumed.parts[0].param_groups[0]
    assert {key: group[key] for key in ("lr", "initial_lr", "weight_decay", "beta1", "steps")} == {
        "lr": 0.5, "initial_lr": 0.5, "weight_decay": 0.7, "beta1": 0.25, "steps": 1,
    }  # fmt: skip


def test_an_own_optimizer_needs_permission_and_a_checkpoint_knows_its_source(
    lion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny.config(optimizer=lion, max_tokens=128)
    error = refusal(lambda: tiny.run(settings, out_dir=tmp_path / "run"))
    assert (error.kind, error.keys) == ("not_allowed", ("own_lion:Lion",))
    assert not (tmp_path / "run").exists()
    (tmp_path / "c.yaml").write_text(dump(settings))
    assert main(["c.yaml"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    tiny.run(settings, out_dir=tmp_path / "run", allow_code=True)
    (tmp_path / "own_lion.py").write_text(own.LION + "# another\n")
    longer = replace(settings, max_tokens=256)
    run = tmp_path / "run"
    error = refusal(lambda: tiny.run(longer, out_dir=run, resume=run, allow_code=True))
    assert (error.kind, error.keys) == ("other_code", ("own_lion:Lion",))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"optimizer_params": {"gamma": 0.5}},
            "call_failed",
            "optimizer own_lion:Lion: called with lr=0.001, gamma=0.5, it raised TypeError: ",
        ),
        (
            {"optimizer": "own_lion:not_an_optimizer"},
            "no_optimizer",
            "optimizer own_lion:not_an_optimizer: expected a torch.optim.Optimizer, got int; ",
        ),
        (
            {"optimizer": "own_lion:NUMBER"},
            "no_optimizer",
            "optimizer own_lion:NUMBER is a int; name a torch.optim.Optimizer",
        ),
        ({"optimizer": "own_lion:Lionn"}, "unknown", "optimizer own_lion:Lionn: "),
    ],
)
def test_an_own_optimizer_that_does_not_fit_is_refused(
    lion: str, changes: dict[str, Any], kind: str, message: str
) -> None:
    error = refusal(lambda: made(**{"optimizer": lion, **changes}))
    assert error.kind == kind
    assert str(error).startswith(message)


# one more optimizer

TOY = '''

def build_toy(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Adagrad."""
    import torch

    groups = decay_groups(trainable(model), config)
    return [torch.optim.Adagrad(groups, config.learning_rate, lr_decay=config.toy_lr_decay)]


OPTIMIZERS["toy"] = Optimizer("toy", build_toy)
'''


@pytest.mark.slow
def test_an_optimizer_is_added_in_three_files_and_tested_by_what_tests_all(tmp_path: Path) -> None:
    """The three: its declaration in trainer/optimizers.py, its key in trainer/config.py, and the schema, which is made
    from these by a command. Then the tests over all optimizers and keys run over it, in a copy of this program."""
    for part in ("models", "data", "trainer", "search", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / "trainer/optimizers.py").open("a").write(TOY)
    config = tmp_path / "trainer/config.py"
    before = "    grad_clip: NotNegative = 1.0\n"
    key = '    toy_lr_decay: Annotated[NotNegative, Key(used_by={"optimizer": ("toy",)})] = 0.5\n'
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, key + before))

    def run(*arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    (tmp_path / "search/specs/spec.schema.json").write_text(run("-m", "search.spec.schema"))
    files = [f"tests/test_{name}.py" for name in ("trainer_optim", "trainer_optimizers", "trainer_checkpoint")]
    files += ["tests/test_trainer_keys.py", "tests/test_search_schema.py"]
    told = run("-m", "pytest", "-q", "-k", "toy or schema_is or file_is_current", "-p", "no:cacheprovider", *files)
    assert int(told.split(" passed")[0].split()[-1]) >= 12, told

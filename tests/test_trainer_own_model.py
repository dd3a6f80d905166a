"""A model of the user's own by `model: module:Name`: trained, resumed, sampled, scored as ours; a mistake is a line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from models.gpt import GPT
from models.own_model import OwnModel, embeddings, hidden_matrices
from tests import own, tiny
from trainer import checkpoint, config, optim, portable, sample
from trainer.__main__ import main
from trainer.build_model import build
from trainer.config import TrainConfig
from trainer.rescore import rescore


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with my_model.py and tiny.yaml, and the corpus of the other tests."""
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tiny.stories().path.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_model.py").write_text(own.MODEL)
    (tmp_path / "tiny.yaml").write_text(config.dump(tiny.config()))
    return tmp_path


def mine(**changes: Any) -> TrainConfig:
    return tiny.config(model="my_model:MyGPT", **changes)


def made(settings: TrainConfig, seed: int = 0) -> OwnModel:
    model = build(settings, 11, torch.Generator().manual_seed(seed), allow_code=True)
    assert isinstance(model, OwnModel)
    return model


def test_a_config_names_an_own_model_without_importing_it(folder: Path) -> None:
    (folder / "loud.py").write_text("raise SystemExit('imported')\n")
    (folder / "c.yaml").write_text("model: loud:M\nmodel_params: {experts: 4, gated: true, kind: 'a', p: 0.5}\n")
    read = config.load(folder / "c.yaml", ["model_params.experts=8"])
    assert read.model_params == {"experts": 8, "gated": True, "kind": "a", "p": 0.5}
    (folder / "again.yaml").write_text(config.dump(read))
    assert config.load(folder / "again.yaml") == read
    assert main(["c.yaml"]) == 2
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("model: gpt2", r"c.yaml:1: model: no model 'gpt2'; use gpt, or your own as module:Name"),
        ("model_params: {a: 1}", r"c.yaml:1: model_params belongs to model: module:Name, but model is gpt"),
        ("model: a:B\nmodel_params: {a: [1]}", r"c.yaml:2: model_params.a: expected a finite number"),
        (
            "model: a:B\ntokenizer: gpt2\ninit_from: gpt2",
            r"c.yaml:3: init_from: gpt2 begins our GPT .*, but model is a:B; remove one",
        ),
    ],
)
def test_a_mistake_in_the_keys_is_one_line_with_its_place(folder: Path, lines: str, message: str) -> None:
    Path("c.yaml").write_text(lines + "\n")
    with pytest.raises(UserError, match=message):
        config.load(Path("c.yaml"))


def test_without_permission_nothing_is_imported_or_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_model.py").write_text("raise SystemExit('imported')\n")
    assert main(["tiny.yaml", "--set", "model=my_model:MyGPT"]) == 2
    error = capsys.readouterr().err.strip()
    assert "--allow-code" in error
    assert "\n" not in error
    assert not (folder / "out").exists()


def test_an_own_model_trains_samples_and_is_scored_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tiny.yaml", "--set", "model=my_model:MyGPT", "--set", "model_params.reach=3", "--allow-code"]
    assert main(words) == 0
    run = Path("out/tiny")
    saved = checkpoint.load(run)
    assert [*saved.own_code] == ["my_model:MyGPT"]
    assert "wte.weight" in saved.model  # the user's own names
    metrics = (saved.state.report or {})["metrics"]
    again = rescore(run, tiny.stories(), tiny.stories().val, allow_code=True)
    assert again.loss == pytest.approx(metrics["val_loss"], rel=1e-5)
    capsys.readouterr()
    assert sample.main([str(run), "--max-new-tokens", "5", "--allow-code"]) == 0
    texts = sample.load(run, allow_code=True).write(n=4, max_new_tokens=40)
    assert max(map(len, texts)) > saved.config.block_size
    assert sample.main([str(run), "--max-new-tokens", "5"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    portable.save(run, folder / "portable")
    assert (folder / "portable/own_code/my_model.py").read_text() == own.MODEL
    (folder / "my_model.py").unlink()
    with pytest.raises(UserError, match="--allow-code"):
        portable.load(folder / "portable")
    loaded = portable.load(folder / "portable", allow_code=True)
    for name, value in loaded.trained.model.state_dict().items():
        torch.testing.assert_close(value, saved.model[name])


def test_stopped_and_resumed_is_straight_through_with_dropout_and_muon(folder: Path) -> None:
    settings = mine(dropout=0.2, optimizer="muon")
    straight, _ = tiny.run(settings, out_dir=folder / "a", allow_code=True)

    def stop(report: Any) -> None:
        if report.step >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.run(settings, out_dir=folder / "b", report=stop, allow_code=True)
    tiny.run(settings, out_dir=folder / "b", resume=folder / "b", allow_code=True)
    a, b = checkpoint.load(folder / "a").model, checkpoint.load(folder / "b").model
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert straight.status == "completed"


def test_the_best_weights_of_an_own_model_are_scored_where_it_stops_early(folder: Path) -> None:
    result, _ = tiny.run(
        mine(early_stop=1, **{**tiny.RUINOUS, "learning_rate": 50.0}), out_dir=folder / "a", allow_code=True
    )
    assert result.status == "early_stopped"
    again = rescore(folder / "a", tiny.stories(), tiny.stories().val, allow_code=True)
    assert again.loss == pytest.approx(result.metrics["val_loss"], rel=1e-5)


def test_a_run_is_continued_and_sampled_with_the_code_that_it_began_with(folder: Path) -> None:
    settings = mine(schedule="constant")
    tiny.run(settings, out_dir=folder / "run", allow_code=True)
    (folder / "my_model.py").write_text(own.MODEL.replace("torch.relu(", "torch.tanh("))
    longer = config.replace(settings, max_tokens=50 * 64)
    with pytest.raises(UserError, match=r"trained with other code of my_model:MyGPT .* restore that code, or begin"):
        tiny.run(longer, out_dir=folder / "run", resume=folder / "run", allow_code=True)
    with pytest.raises(UserError, match="trained with other code of my_model:MyGPT"):
        sample.load(folder / "run", allow_code=True)
    with pytest.raises(UserError, match=r"restore that code: the weights were trained for it$"):
        portable.save(folder / "run", folder / "portable")
    assert not (folder / "portable").exists()


def test_equal_seed_gives_equal_weights_whatever_generator_they_come_from(folder: Path) -> None:
    before = torch.random.get_rng_state()
    one, two, other = made(mine()), made(mine()), made(mine(), seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    states = [model.state_dict() for model in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in ("wte.weight", "layers.0.mix.weight"):  # from `generator`; from torch's default one
        assert not torch.equal(states[0][name], states[2][name])


def test_parameters_are_counted_and_grouped_by_what_they_are(folder: Path) -> None:
    model = made(mine())
    mixes = [layer.mix.weight for layer in model.own.layers]  # type: ignore[union-attr, attr-defined]
    assert hidden_matrices(model) == mixes
    assert embeddings(model) == [model.own.wpe.weight]  # type: ignore[union-attr, attr-defined]
    total = sum(p.numel() for p in model.parameters())
    assert model.n_parameters(non_embedding=False) == total
    assert model.n_parameters() == total - 16 * 16
    parts = optim.build(model, mine(optimizer="muon")).parts
    assert [*map(id, parts[0].param_groups[0]["params"])] == [*map(id, mixes)]
    assert all(p.dim() >= 2 for p in parts[1].param_groups[0]["params"])


@pytest.mark.parametrize("tied", [True, False])
def test_what_holds_for_an_own_model_says_the_same_of_ours(tied: bool) -> None:
    model = GPT(tiny.config(tied_head=tied).shape(11), torch.Generator().manual_seed(0))
    named = {id(p) for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name}
    assert {*map(id, hidden_matrices(model))} == named
    assert OwnModel(model, model.config).n_parameters() == model.n_parameters()


def test_an_own_model_that_is_ours_trains_to_the_same_numbers(folder: Path) -> None:
    (folder / "same.py").write_text("from models.gpt import GPT\n")
    theirs, _ = tiny.run(tiny.config(model="same:GPT"), allow_code=True)
    ours, _ = tiny.run(tiny.config())
    drop = set(tiny.TIMING)
    assert {k: v for k, v in theirs.metrics.items() if k not in drop} == {
        k: v for k, v in ours.metrics.items() if k not in drop
    }


def changed(old: str, new: str) -> str:
    """The module with one thing wrong."""
    assert own.MODEL.count(old) == 1
    return own.MODEL.replace(old, new)


RETURN, HEAD = "        return x\n\n    @", "return self.lm_head.weight"
MISTAKES = {
    "no class": ("MyGPT = 3", "model my_model:MyGPT is a int; name a subclass of torch.nn.Module"),
    "no module": ("def MyGPT(config, generator): return 3", "expected a torch.nn.Module, got int"),
    "raises": (changed("self.reach = reach", "1 / 0"), r"failed at .*my_model.py:9: ZeroDivisionError"),
    "no head": (changed("def head_weight", "def head"), "has no head_weight: give it the weight of its last"),
    "head raises": (changed(HEAD, HEAD[:-2]), r"its head_weight failed at .*my_model.py:\d+: AttributeError: .*weig"),
    "head": (changed(HEAD, f"{HEAD}[:5]"), r"head_weight is \(5, 16\); it must be \(V, D\), V at least 11"),
    "logits": (
        changed(RETURN, RETURN.replace("x", "self.lm_head(x)")),
        r"gives \(2, 8, 11\) for 2 x 8 tokens; .* that looks like logits",
    ),
    "tuple": (changed(RETURN, RETURN.replace("x", "x, None")), "gives a tuple; it must give hidden"),
    "detached": (changed(RETURN, RETURN.replace("x", "x.detach()")), "without a gradient"),
    "not causal": (changed("(0, 0, k, 0))[:, :T]", "(0, 0, 0, k))[:, -T:]"), "is not causal: a later token changes"),
    "not causal later": (
        changed(RETURN, RETURN.replace("x", "torch.cat([x[:, :1], x[:, 1:].flip(1)], 1)")),
        "is not causal: a later token changes",
    ),
    "length": (changed(RETURN, RETURN.replace("x", "x / x.shape[1]")), "is not causal"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_an_own_model_is_one_line(folder: Path, mistake: str) -> None:
    code, message = MISTAKES[mistake]
    (folder / "my_model.py").write_text(code)
    with pytest.raises(UserError, match=message) as caught:
        made(mine())
    assert "\n" not in str(caught.value)


def test_a_parameter_that_an_own_model_does_not_take_is_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"building it with \(config, generator, reech=2\) failed: TypeError"):
        made(mine(model_params={"reech": 2}))

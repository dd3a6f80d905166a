"""Text from a run folder: seeded, greedy where asked, through the loss's own read-out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from data import tokenizers
from data.errors import UserError
from data.tokenizers import CharTokenizer
from models.gpt import GPT
from models.nanogpt import save_nanogpt
from tests import tiny
from tests.refusals import exit_code, refusal
from trainer import checkpoint, sample
from trainer.sample import Trained


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny.run(tiny.config(learning_rate=1e-2, max_tokens="20k", eval_every="20k"), out_dir=folder)
    return folder


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> Trained:
    return sample.load(run_folder)


def test_the_same_seed_writes_the_same_text_whatever_else_is_drawn(trained: Trained) -> None:
    torch.manual_seed(1)
    one = trained.write("The", 3, max_new_tokens=40, seed=7)
    torch.manual_seed(2)
    assert trained.write("The", 3, max_new_tokens=40, seed=7) == one
    assert trained.write("The", 40, max_new_tokens=40, seed=7)[:3] == one
    assert trained.write("The", 3, max_new_tokens=40, seed=8) != one
    assert len(set(one)) == 3
    assert all(text.startswith("The") for text in one)


@pytest.mark.parametrize("seed", [18_000_000_000_000, 2**31, 10**18 - 1, 2**63, 10**30, -1, -(10**30)])
def test_any_whole_number_is_a_seed(seed: int, trained: Trained) -> None:
    """A seed times a million, which keeps the seeds' streams apart, does not overflow a generator's 64 bits."""
    one = trained.write("The", 2, max_new_tokens=30, seed=seed)
    assert trained.write("The", 2, max_new_tokens=30, seed=seed) == one
    assert trained.write("The", 2, max_new_tokens=30, seed=seed + 1) != one


def test_the_texts_of_ordinary_seeds_are_those_of_the_first_release(trained: Trained) -> None:
    for seed in (0, 7, 1337, 2**31 - 1, -3):
        drawn = torch.rand(4, generator=sample._generator(seed, 5))
        assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(seed * 1_000_003 + 5)))


@pytest.mark.parametrize("temperature", [1e-29, 1e-36, 1e-45, 5e-324])
def test_the_coldest_temperature_is_the_likeliest_token(temperature: float, trained: Trained) -> None:
    for options in ({}, {"top_k": 3}, {"top_p": 0.9}):
        cold = trained.write("Th", max_new_tokens=20, temperature=temperature, **options)
        assert cold == trained.write("Th", max_new_tokens=20, temperature=0)


@pytest.mark.parametrize("seed", ["-1", "1.5", "nan", "9" * 19, "9" * 5000, ""])
def test_a_seed_that_is_no_whole_number_is_refused(
    seed: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sample.main([str(run_folder), f"--seed={seed}"])
    error = capsys.readouterr().err
    assert "--seed: expected a whole number" in error
    assert len(error) < 500


def test_temperature_zero_takes_the_likeliest_token_each_time(trained: Trained) -> None:
    (text,) = trained.write("Th", max_new_tokens=20, temperature=0)
    ids = [trained.eot, *trained.tokenizer.encode("Th")]
    for _ in range(20):
        with torch.no_grad():
            logits = trained.model.logits(trained.model(torch.tensor([[int(i) for i in ids[-16:]]])))
        ids.append(int(trained.readout(logits[:, -1]).argmax()))
    assert trained.tokenizer.decode(ids[1:]) == text
    assert trained.write("Th", max_new_tokens=20, temperature=0, seed=3) == [text]
    assert trained.write("Th", max_new_tokens=20, top_k=1) == [text]


def test_a_sample_ends_with_its_document(trained: Trained) -> None:
    texts = trained.write(n=30, max_new_tokens=500, temperature=1.5)
    lengths = {len(text) for text in texts}
    assert min(lengths) < 500
    assert not any("<|endoftext|>" in text for text in texts)


def test_probabilities_come_from_the_losses_own_read_out(tmp_path: Path) -> None:
    tiny.run(tiny.config(loss="mse", learning_rate=1e-2, max_tokens="20k", eval_every="20k"), out_dir=tmp_path)
    trained = sample.load(tmp_path)
    logits = torch.randn(2, trained.model.config.vocab_size)
    assert not torch.allclose(trained.readout(logits), logits.log_softmax(-1), atol=0.1)
    (text,) = trained.write(max_new_tokens=200, temperature=1.0)
    # through softmax, logits between 0 and 1 would make every character about equally likely
    assert text.count(" ") > len(text) / 12


def test_padding_rows_are_never_drawn(tmp_path: Path) -> None:
    tiny.run(tiny.config(vocab_size=128, max_tokens=64), out_dir=tmp_path)
    for text in sample.load(tmp_path).write(n=4, max_new_tokens=200, temperature=5.0):
        assert set(text) <= set(tokenizers.load(tmp_path).characters)


def test_a_corpus_of_one_document_is_begun_by_a_line_break(tmp_path: Path) -> None:
    tokenizer = tokenizers.CharTokenizer("\nab", ends=False)
    model = GPT(tiny.config().shape(3), torch.Generator().manual_seed(0))
    assert sample.sample(model, tokenizer, max_new_tokens=5).startswith("\n")


def test_a_nanogpt_checkpoint_is_read(trained: Trained, tmp_path: Path) -> None:
    save_nanogpt(tmp_path / "ckpt.pt", trained.model)
    with pytest.raises(UserError, match="has no tokenizer"):
        sample.load(tmp_path)
    trained.tokenizer.save(tmp_path)
    assert torch.equal(sample.load(tmp_path).model.head_weight, trained.model.head_weight)


@pytest.mark.parametrize("name", ["ckpt.pt", "best.pt"])
def test_a_checkpoint_beside_the_tokenizer_of_another_run_is_refused(
    name: str, run_folder: Path, trained: Trained, tmp_path: Path
) -> None:
    if name == "ckpt.pt":
        save_nanogpt(tmp_path / name, trained.model)
    else:
        shutil.copy(run_folder / name, tmp_path / name)
    refused = lambda: refusal(lambda: sample.load(tmp_path)).kind
    assert refused() == "missing"
    CharTokenizer("".join(map(chr, range(500))), ends=True).save(tmp_path)
    assert refused() == "other_tokenizer"
    (tmp_path / "tokenizer.json").write_text('{"kind": "char"')
    assert refused() == "damaged"


def test_the_command_prints_the_text(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--prompt", "Once", "--num-samples", "2", "--max-new-tokens", "20", "--temperature", "0.5"]
    assert sample.main([str(run_folder), *arguments]) == 0
    first, second = capsys.readouterr().out.split("\n---\n")
    assert first.startswith("Once")
    assert second.startswith("Once")
    assert sample.main([str(run_folder / checkpoint.CHECKPOINT), *arguments]) == 0


def test_a_text_does_not_depend_on_what_else_the_call_asks_for(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_text("The\n\nOnce upon\n")

    def written(*arguments: str) -> dict[tuple[str, float, int], str]:
        assert sample.main([str(run_folder), "--max-new-tokens", "20", "--seed", "5", "--json", *arguments]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["top_k"] is None
        return {(one["prompt"], one["temperature"], one["sample"]): one["text"] for one in found["samples"]}

    many = written("--prompts", str(tmp_path / "prompts.txt"), "--temperature", "0", "0.7", "1.2", "--num-samples", "2")
    assert len(many) == 2 * (1 + 2 + 2)  # at temperature 0 all samples are the same
    assert all(text.startswith(prompt) for (prompt, _, _), text in many.items())
    assert len(set(many.values())) == len(many)
    for temperature in ("1.2", "0"):
        one = written("--prompt", "Once upon", "--temperature", temperature)
        assert one == {key: many[key] for key in one}
    assert written("--prompt", "Once upon", "--temperature", "0", "--seed", "9").items() <= many.items()


def test_top_p_draws_from_the_fewest_likeliest_that_have_the_share() -> None:
    logp = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()
    generator = torch.Generator().manual_seed(1)

    def drawn(top_k: int | None, top_p: float | None) -> set[int]:
        return {sample._draw(logp, generator, 1.0, top_k, top_p) for _ in range(300)}

    assert drawn(None, 0.5) == {1}
    assert drawn(None, 0.51) == {1, 3}
    assert drawn(None, 0.8) == {1, 2, 3}
    assert drawn(None, 1.0) == {0, 1, 2, 3}
    assert drawn(2, 0.9) == {1, 3}  # of the two that are left
    assert drawn(2, 0.6) == {1}


def test_people_see_which_text_is_which(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "texts.txt"
    arguments = ["--prompt", "The", "--prompt", "One", "--temperature", "0", "1", "--num-samples", "2", "-o", str(out)]
    assert sample.main([str(run_folder), "--max-new-tokens", "10", *arguments]) == 0
    heads = [line for line in out.read_text().splitlines() if line.startswith("──")]
    each = [f'── "{p}", temperature {t} ──' for p in ("The", "One") for t in ("0", "1, 1 of 2", "1, 2 of 2")]
    assert heads == each


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such run folder or checkpoint"),
        (["RUN", "--prompt", "語"], "is not in the vocabulary"),
        (["RUN", "--temperature", "-1"], "--temperature: expected a number from 0, got '-1'"),
        (["RUN", "--temperature", "0.5", "nan"], "--temperature: expected a number from 0, got 'nan'"),
        (["RUN", "--temperature", "inf"], "--temperature: expected a number from 0, got 'inf'"),
        (["RUN", "--temperature", "hot"], "--temperature: expected a number from 0, got 'hot'"),
        (["RUN", "--top-k", "0"], "--top-k: expected a whole number from 1, got '0'"),
        (["RUN", "--top-k", "2.5"], "--top-k: expected a whole number from 1, got '2.5'"),
        (["RUN", "--top-p", "0"], "--top-p: expected a share, above 0 and at most 1, got '0'"),
        (["RUN", "--top-p", "1.1"], "--top-p: expected a share, above 0 and at most 1, got '1.1'"),
        (["RUN", "--max-new-tokens", "-3"], "--max-new-tokens: expected a whole number from 1, got '-3'"),
        (["RUN", "--num-samples", "0"], "--num-samples: expected a whole number from 1, got '0'"),
        (["RUN", "--temperature", "1e400"], "--temperature: expected a number from 0, got '1e400'"),
        (["RUN", "--top-p", "nan"], "--top-p: expected a share, above 0 and at most 1, got 'nan'"),
        (["RUN", "--temprature", "1"], "--temprature: no such option; did you mean --temperature?"),
        (["RUN", "--prompts", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["RUN", "--prompt", "The", "--prompt", "語"], "--prompt: character '語'"),
        (["EMPTY"], "no checkpoint there"),
    ],
)
def test_a_mistake_is_one_line(
    run_folder: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    places = {"RUN": str(run_folder), "EMPTY": str(tmp_path)}
    assert exit_code(lambda: sample.main([places.get(a, a) for a in arguments])) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1

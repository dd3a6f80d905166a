"""nanosweep compare: what each model writes is what it would write alone, and nothing that it writes is obeyed."""

from __future__ import annotations

import html.parser
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from search.cli.main import main
from tests import tiny
from trainer import sample
from trainer.comparison_page import page, render
from trainer.model_comparison import Comparison, Rule, Side, compare
from trainer.prompts import read_prompts

PROMPTS = ["The cat", "The mat"]
GREEDY = Rule(12, 0.0)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny.run(tiny.config(learning_rate=1e-2), out_dir=folder)
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Qwen2 and its tokenizer, which asks for sampling and a penalty, as the real one does."""
    transformers = pytest.importorskip("transformers", reason="needs the extra compat: pip install -e '.[compat]'")
    import tokenizers

    folder = tmp_path_factory.mktemp("qwen")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator(["The cat sat on a mat."] * 3, vocab_size=270, special_tokens=["<|endoftext|>"])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made._tokenizer, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    torch.manual_seed(5)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=len(fast),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_k=1, top_p=0.1, repetition_penalty=10.0, eos_token_id=0, pad_token_id=0
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("\n" + "\n\n".join(PROMPTS) + "\n  \n")
    return file


def written(folder: Path, prompt: str, rule: Rule) -> str:
    """From the probabilities of a whole forward pass for each token, all of them, as they are."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(prompt)["input_ids"]
    torch.manual_seed(rule.seed)
    for _ in range(rule.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        likely = rule.temperature == 0
        token = int(logits.argmax() if likely else torch.multinomial((logits / rule.temperature).softmax(0), 1))
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).removeprefix(prompt)


def test_both_sides_write_what_each_model_would_write_alone(run_folder: Path, qwen: Path, prompts: Path) -> None:
    found = compare(run_folder, str(qwen), prompts, GREEDY)
    assert found.prompts == PROMPTS
    assert found.theirs.texts == [written(qwen, prompt, GREEDY) for prompt in PROMPTS]
    trained = sample.load(run_folder)
    alone = [trained.write(prompt, max_new_tokens=12, temperature=0)[0] for prompt in PROMPTS]
    assert [prompt + text for prompt, text in zip(PROMPTS, found.ours.texts, strict=True)] == alone
    assert all(len(set(text)) > 3 for text in found.theirs.texts)  # the model has something to say


def test_texts_depend_on_seed_and_prompt_alone(run_folder: Path, qwen: Path, prompts: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = compare(run_folder, str(qwen), prompts, Rule(30, 1.0, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.theirs.texts == [written(qwen, prompt, Rule(30, 1.0, seed=1)) for prompt in PROMPTS]
    prompts.write_text(PROMPTS[1])
    alone = compare(run_folder, str(qwen), prompts, Rule(30, 1.0, seed=1))
    assert (alone.ours.texts, alone.theirs.texts) == (one.ours.texts[1:], one.theirs.texts[1:])
    other = compare(run_folder, str(qwen), prompts, Rule(30, 1.0, seed=2))
    assert other.ours.texts != alone.ours.texts
    assert other.theirs.texts != alone.theirs.texts  # the model's own top_k of 1 is not heeded


def test_the_command_shows_both_and_writes_the_page(
    run_folder: Path, qwen: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "page.html"
    command = ["compare", str(run_folder), "--against", str(qwen), "--prompts", str(prompts)]
    assert main([*command, "--html", str(out), "--temperature", "0", "--max-new-tokens", "12"]) == 0
    shown = capsys.readouterr().out
    found = compare(run_folder, str(qwen), prompts, GREEDY)
    assert shown.startswith(render(found))
    assert out.read_text(encoding="utf-8") == page(found)
    assert "the likeliest token, at most 12 tokens" in shown
    for prompt in PROMPTS:
        assert f"> {prompt}\n" in shown


class Reader(html.parser.HTMLParser):
    """The elements of a page, and the text of its cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.cells: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [name for name, _ in attrs if name in ("src", "href", "action", "onerror")]
        self._inside = tag in ("td", "th")
        self.cells += [""] * self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


def test_what_a_model_writes_is_text_in_the_page_and_moves_nothing_in_the_terminal() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\n&amp; \x1b[2J\x9b1m\rgone [bold]x[/bold]"
    harmless = evil.translate({0x1B: 0xFFFD, 0x9B: 0xFFFD, 0x0D: 0xFFFD})
    found = Comparison([evil], Side("a<b", [evil]), Side("c", [evil]), GREEDY)
    made = Reader(page(found))
    assert made.cells == ["prompt", "a<b", "c", harmless, harmless, harmless]
    assert not made.tags & {"script", "img", "link"}
    assert made.links == []
    shown = render(found, 80)
    assert not any(character in shown for character in "\x1b\x9b\r")
    assert "[bold]" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_prompts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("\ufeffOne day \r\n\r\n\t\r\nTwo".encode())
    assert [(line.place, line.text) for line in read_prompts(file)] == [(f"{file}:1", "One day "), (f"{file}:4", "Two")]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (" \n\n", {}, r"prompts\.txt has no prompt"),
        (None, {}, r"prompts\.txt: cannot be read"),
        ("The\n\nThe €", {}, r"prompts\.txt:3: character '€'"),
        ("The", {"against": "/no/such"}, r"--against /no/such: no directory"),
        ("The", {"rule": Rule(0)}, "at least 1"),
        ("The", {"rule": Rule(temperature=-1.0)}, "at least 0"),
        ("The cat\nThe mat", {"rule": Rule(63)}, r"prompts\.txt:1: 2 tokens and 63 new ones, .* sees 64; lower"),
    ],
    ids=["blank", "missing", "character", "model", "none", "cold", "long"],
)
def test_mistakes_are_one_line(
    run_folder: Path, qwen: Path, tmp_path: Path, content: str | None, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    given = {"run": run_folder, "against": str(qwen), "prompts": file, "rule": GREEDY, **changes}
    with pytest.raises(UserError, match=message) as caught:
        compare(**given)
    assert "\n" not in str(caught.value)


def test_a_directory_without_a_model_is_one_line(run_folder: Path, prompts: Path, tmp_path: Path, qwen: Path) -> None:
    with pytest.raises(UserError, match=r"not a causal language model that can be loaded: ") as caught:
        compare(run_folder, str(tmp_path), prompts, GREEDY)
    assert "\n" not in str(caught.value)


def test_without_a_network_a_name_is_given_up_at_once(
    run_folder: Path, prompts: Path, qwen: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"Some/Model: no directory, not in .* cache, and the hub cannot be reached"):
        compare(run_folder, "Some/Model", prompts, GREEDY)


def test_without_transformers_the_line_says_how_to_get_it(
    run_folder: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["compare", str(run_folder), "--against", "Some/Model", "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'nanosweep[compat]'" in error

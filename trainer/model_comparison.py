"""`nanosweep compare`: continue the same prompts with one of our runs and any Hugging Face causal language model.

Both continue plain text in their own tokens: without a chat template, and without the top-k or penalties of the model's
own generation_config. No code of a model's repository is run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from data.paths import at_home
from trainer import units
from trainer.prompts import Prompt, read_prompts

if TYPE_CHECKING:
    from trainer.sample import Trained

TIMEOUT = 10  # seconds to learn whether the hub can be reached
MISSING = (
    "compare needs transformers, which is not installed; pip install 'nanosweep[compat]' "
    "(in a checkout: .venv/bin/pip install -e '.[compat]')"
)


@dataclass(frozen=True)
class Rule:
    """How text is sampled: max_new_tokens counts each model's own tokens; temperature 0 takes the likeliest token."""

    max_new_tokens: int = 200
    temperature: float = 0.8
    seed: int = 1337

    def __str__(self) -> str:
        drawn = f"temperature {self.temperature:g}, seed {self.seed}" if self.temperature else "the likeliest token"
        return f"{drawn}, at most {self.max_new_tokens:,} tokens of each model's own tokenizer; no chat template"


@dataclass(frozen=True)
class Side:
    """One model: its title, and its continuations, one per prompt, without the prompts."""

    title: str
    texts: list[str]


@dataclass(frozen=True)
class Comparison:
    prompts: list[str]
    ours: Side
    theirs: Side
    rule: Rule


def compare(run: Path, against: str, prompts: Path, rule: Rule, allow_code: bool = False) -> Comparison:
    """Continue each prompt with both models, on the CPU, in float32.

    run: a run folder or checkpoint. against: a directory, or a name on the Hugging Face hub. prompts: one per line.
    allow_code: the run's own loss and model may be imported. Equal arguments, equal text. Raises UserError.
    """
    if not (rule.max_new_tokens >= 1 and 0 <= rule.temperature < math.inf):
        raise UserError(f"max_new_tokens {rule.max_new_tokens}, temperature {rule.temperature}: at least 1, at least 0")
    from trainer import sample

    lines = read_prompts(prompts)
    trained, loaded = sample.load(run, allow_code), _load(against)  # mistakes are told before anything is written
    ours = _ours(run, trained, lines, rule)
    return Comparison([line.text for line in lines], ours, _theirs(against, *loaded, lines, rule), rule)


def _ours(run: Path, trained: Trained, prompts: Sequence[Prompt], rule: Rule) -> Side:
    texts = []
    for prompt in prompts:
        try:
            (text,) = trained.write(
                prompt.text, max_new_tokens=rule.max_new_tokens, temperature=rule.temperature, seed=rule.seed
            )
        except UserError as error:
            raise UserError(f"{prompt.place}: {error}") from None
        texts.append(text.removeprefix(prompt.text))
    return Side(_title(str(run), trained.model.n_parameters(non_embedding=False)), texts)


def _theirs(against: str, model: Any, tokenizer: Any, prompts: Sequence[Prompt], rule: Rule) -> Side:
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    encoded = [tokenizer(prompt.text, return_tensors="pt")["input_ids"] for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):  # check every prompt before the slow generation of the first
        if not ids.numel():
            raise UserError(f"{prompt.place}: no token of {against}; write something else")
        if ids.shape[1] + rule.max_new_tokens > room:
            raise UserError(
                f"{prompt.place}: {ids.shape[1]} tokens and {rule.max_new_tokens} new ones, {against} sees {room}; "
                "lower --max-new-tokens"
            )
    texts = [_continue(model, tokenizer, ids, rule) for ids in encoded]
    return Side(_title(against, model.num_parameters()), texts)


def _continue(model: Any, tokenizer: Any, ids: Any, rule: Rule) -> str:
    """ids (1, T) -> the text after them. A prompt's text does not depend on the prompts before it."""
    import torch

    settings: dict[str, Any] = {"do_sample": False}
    if rule.temperature:
        settings = {"do_sample": True, "temperature": rule.temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(rule.seed % (1 << 64))
        settings |= {"attention_mask": torch.ones_like(ids), "max_new_tokens": rule.max_new_tokens}
        output = model.generate(ids, **settings)[0]
    # decoded with the prompt and cut: alone, the first word would lose its space with some tokenizers
    before, text = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[0], output))
    return text.removeprefix(before)


def _load(against: str) -> tuple[Any, Any]:
    """Model and tokenizer, ready to write. Raises UserError."""
    try:
        import transformers
    except ImportError:
        raise UserError(MISSING) from None

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    local = at_home(against).is_dir()
    name = str(at_home(against)) if local else against
    unreachable = None if local else _find_outage(against)
    options = {"local_files_only": local or unreachable is not None, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype="float32", **options)
    except Exception as error:  # exceptions of half a dozen libraries
        reason = f"not a causal language model that can be loaded: {_first_line(error)}"
        if unreachable is not None:
            reason = f"no directory, not in Hugging Face's cache, and the hub cannot be reached ({unreachable})"
        raise UserError(f"--against {against}: {reason}") from None
    own = model.generation_config
    ends = {"eos_token_id": own.eos_token_id, "pad_token_id": own.pad_token_id or tokenizer.eos_token_id or 0}
    model.generation_config = transformers.GenerationConfig(**ends)  # no other setting of the model's own
    return model.eval(), tokenizer


def _find_outage(name: str) -> str | None:
    """Why the hub cannot be reached; None where it can. Raises UserError where it has no such model.

    Asked first, with a timeout: without a network transformers retries for half a minute.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=TIMEOUT)
    except (GatedRepoError, HFValidationError, RepositoryNotFoundError) as error:
        raise UserError(f"--against {name}: no directory, and no model on the hub: {_first_line(error)}") from None
    except Exception as error:
        return _first_line(error)
    return None


def _title(name: str, n_parameters: int) -> str:
    return f"{name} ({units.count(n_parameters)} parameters)"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The model card of a full run: MODEL_CARD.md in its folder, written when it has ended.

It opens with the metadata that model hubs read (Hugging Face's model index: data, split, scores), as YAML.

Everything in it is read from the run folder, from the prepared corpus and from the machine; a fact that none of them
contains is left out or stated as unknown.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.errors import UserError
from data.licences import terms
from trainer import config as configs
from trainer import curve, files, provenance, run_folder, scores
from trainer.config import TrainConfig
from trainer.report import Status
from trainer.resampling import Interval, resample
from trainer.units import plural


def write(folder: Path, data: Dataset, status: Status, source: Path, changes: list[str], machine: str) -> Path:
    """Write the card and return its path.

    status: how the run ended. source: the config file; changes: the overrides (key=value) on top of it. machine:
    description of the machine on which it ended. Raises UserError when the disk is full.
    """
    card = text(folder, data, status, source, changes, machine)
    files.write(folder / run_folder.CARD, lambda file: file.write(card.encode()))
    return folder / run_folder.CARD


def text(folder: Path, data: Dataset, status: Status, source: Path, changes: list[str], machine: str) -> str:
    """The card, in Markdown. Arguments as for `write`."""
    config = configs.load(folder / run_folder.CONFIG)
    reports, notes = run_folder.read_reports(folder), run_folder.read_notes(folder)
    try:
        measured = scores.load(folder / scores.SCORES)
    except UserError:
        measured = None  # the card then has no intervals
    parts = [
        f"---\n{_metadata(folder.resolve().name, config, reports[-1])}\n---",
        f"# {folder.resolve().name}",
        _describe_model(config, data, notes),
        "## Data",
        _data(config, data),
        "## Scores",
        _scores(config, data, reports[-1], measured),
        "## Training",
        _training(config, reports, status, notes, machine),
        "## Where the config comes from",
        _origin(source, changes),
        "## Limits",
        _limits(data, reports, source),
        "## Config",
        f"```yaml\n{configs.dump(config).rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, config: TrainConfig, report: dict[str, Any]) -> str:
    """The card's metadata as YAML: tags, and the final scores as a model index."""
    from huggingface_hub import EvalResult, ModelCardData

    named = {"perplexity": "val_perplexity", "bits_per_byte": "val_bits_per_byte", "accuracy": "val_accuracy"}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=config.corpus,
            dataset_name=config.corpus,
            dataset_split="validation",
            metric_type=kind,
            metric_value=report["metrics"][key],
        )
        for kind, key in named.items()
        if key in report["metrics"]
    ]
    tags = ["gpt", "nanosweep", config.loss, config.tokenizer]
    return ModelCardData(
        model_name=name, pipeline_tag="text-generation", library_name="pytorch", tags=tags, eval_results=results
    ).to_yaml()


def _describe_model(config: TrainConfig, data: Dataset, notes: dict[str, str]) -> str:
    size = f", {notes['parameters']} parameters as nanoGPT counts them" if "parameters" in notes else ""
    begun = notes.get("initial weights")
    return (
        f"A GPT of {plural(config.n_layer, 'layer')}, {plural(config.n_head, 'head')}, width {config.n_embd} and "
        f"{config.block_size} tokens of context{size}, trained with the loss `{config.loss}` to continue text like "
        f"that of `{config.corpus}`, in tokens of `{config.tokenizer}` ({data.n_classes:,} classes)."
        + (f" It began with the weights of {begun}: their licence holds for it, too." if begun else "")
    )


def _data(config: TrainConfig, data: Dataset) -> str:
    licence_terms = terms(config.corpus, data.meta)
    sizes = [
        f"{name} {plural(part['documents'], 'document')}, {part['bytes']:,} bytes, {part['tokens'] - 1:,} tokens"
        for name, part in data.meta.get("splits", {}).items()
    ]
    return _list(
        f"corpus: `{config.corpus}`, {licence_terms.text}",
        f"licence of the text: {licence_terms.licence}",
        *([f"splits: {'; '.join(sizes)}"] if sizes else []),
        f"hash of text and tokenizer: `{data.hash}`",
    )


def _scores(config: TrainConfig, data: Dataset, report: dict[str, Any], measured: scores.Scores | None) -> str:
    values, intervals = report["metrics"], _intervals(measured)
    context = config.eval_context or config.block_size
    rows = [
        ("perplexity of a token, exp(nats / token)", "val_perplexity"),
        ("nats per token", "val_loss"),
        ("bits per byte, special tokens left out", "val_bits_per_byte"),
        ("share of tokens that were the likeliest", "val_accuracy"),
        ("expected calibration error, 15 bins", "val_ece"),
        ("temperature fitted on a fifth of the split", "val_temperature"),
        ("perplexity of the rest of the split with it", "val_perplexity_calibrated"),
        ("perplexity of that rest without it", "val_perplexity_uncalibrated"),
    ]
    table = [
        f"| {words} | `{key}` | {_number(values[key])} | {_span(intervals.get(key))} |"
        for words, key in rows
        if key in values
    ]
    floor = data.val.floor_nll
    if floor is not None:
        least = float(floor.sum()) / data.val.n_targets
        table.append(f"| entropy of the text: the least possible nats per token | | {_number(least)} | |")
    ends = ", ends of documents included" if data.val.n_docs > 1 else ""
    method = (
        f"Of the whole validation split ({data.val.n_targets:,} tokens{ends}), every token once, in windows "
        f"of {context} that begin every {config.eval_stride or context}, through the read-out "
        f"`{config.chosen_readout}`. Perplexities compare between models with the same tokenizer and text alone; bits "
        "per byte compare across tokenizers."
    )
    return "\n".join(
        [method, "", "| measure | name | value | 95 % |", "|---|---|---|---|", *table]
    ) + _describe_intervals(measured)


def _intervals(measured: scores.Scores | None) -> dict[str, Interval]:
    """95 % intervals over the choice of validation text, by metric; empty without at least two independent pieces of
    text."""
    if measured is None:
        return {}
    pairs = {0: (measured.nll, measured.tokens), 1: (measured.byte_nll / math.log(2), measured.bytes)}
    if (drawn := resample(pairs, measured.one_document)) is None:
        return {}
    nats = drawn.interval(0)
    perplexity = Interval(*(math.exp(min(end, 700)) for end in (nats.low, nats.high)))
    return {"val_loss": nats, "val_perplexity": perplexity, "val_bits_per_byte": drawn.interval(1)}


def _describe_intervals(measured: scores.Scores | None) -> str:
    if measured is None:
        return "\n\nNo intervals: the run's results by document are not there."
    pieces = "blocks of its one document" if measured.one_document else f"its {len(measured.nll):,} documents"
    return f"\n\nThe intervals are over the choice of validation text (bootstrap over {pieces}); seeds are not in them."


def _training(
    config: TrainConfig, reports: list[dict[str, Any]], status: Status, notes: dict[str, str], machine: str
) -> str:
    last, drawn = reports[-1], curve.of(reports)
    values = last["metrics"]
    ended = f"{last['tokens']:,} tokens in {last['step']:,} steps, seed {config.seed}"
    if status == "early_stopped" and drawn.end is not None:
        ended += f"; stopped early, the scores are of the weights at {drawn.end[0]:,} tokens"
    sentence = curve.sentence(drawn, "{:,.0f}".format)
    return _list(
        ended,
        f"{values['seconds']:.1f} s of wall clock, {values['eval_seconds']:.1f} of them scoring",
        f"ended on {machine}",
        f"most memory used: {values['peak_memory_mb']:.0f} MiB",
        *([f"torch {notes['torch']}"] if "torch" in notes else []),
        *([sentence] if sentence else []),
    )


def _origin(source: Path, changes: list[str]) -> str:
    facts = provenance.facts(source)
    quoted = f"`{source.name}`, which says of itself:\n\n```text\n" + "\n".join(facts) + "\n```"
    origin = quoted if facts else f"`{source.name}`, which does not say where it comes from."
    if edited := provenance.describe_edits(source):
        origin += f"\n\nEdited since its export: {edited}. What it says of its trial does not hold for these keys."
    return origin + (f"\n\nChanged on the command line: {', '.join(f'`{c}`' for c in changes)}." if changes else "")


def _limits(data: Dataset, reports: list[dict[str, Any]], source: Path) -> str:
    limits = [
        "One seed: another gives other weights and somewhat other scores.",
        "A small language model: what it writes imitates its training text, and may be false, absurd or copied from "
        "it. It is no source of facts and follows no instructions.",
        "The scores are of the validation split. This run did not open the test split.",
    ]
    if "test" not in data.meta.get("splits", {}):
        limits[-1] = "The scores are of the validation split; there is no test split."
    exported = provenance.read(source)
    if exported is not None and exported.text_hash == data.hash:
        limits.append("Its config was chosen by scores on the same validation text, so these scores are optimistic.")
    if (at := curve.overfitting(curve.of(reports))) is not None:
        limits.append(f"It over-fits from {at:,} tokens on: `best.pt` holds the weights of that point.")
    return _list(*limits)


def _list(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f"{_number(interval.low)} to {_number(interval.high)}"

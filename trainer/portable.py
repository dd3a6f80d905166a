"""A trained run as files that load anywhere: weights as safetensors, config, tokenizer, without a pickle.

    model.safetensors  config.yaml  tokenizer.json (and ranks.tiktoken)  about.json
    own_code/          the source of the run's own loss and model, where it has any: imported only with allow_code

Example: save(Path("runs/quickstart/trials/7"), Path("elsewhere")); load(Path("elsewhere")).score(["Once upon a time"])
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import own_code, tokenizers
from data.dataset import Split
from data.errors import UserError
from data.tokenizers import Tokenizer
from models.loss import Criterion
from models.readouts import log_probs
from trainer import build_model, checkpoint, config, device, evaluate
from trainer import criterion as criteria
from trainer.config import TrainConfig
from trainer.rescore import scored_weights
from trainer.sample import Trained

WEIGHTS, ABOUT, CODE = "model.safetensors", "about.json", "own_code"
_NEEDED = ("loss", "model")  # what own code a trained run still runs


def save(run: Path, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the weights of a run's last report, config and tokenizer into a new folder.

    tokenizer: default: the one in the run folder.
    Imports no own code: of an own loss or model the source files are copied, from the working directory. That of an
    installed package is not: it must be installed where the run is loaded. Raises UserError where the run folder has
    no readable checkpoint, or where the own code has changed since the run.
    """
    from safetensors.torch import save_file, save_model

    saved = checkpoint.load(run)
    digests = criteria.own_code(saved.config, keys=_NEEDED)
    checkpoint.check_own_code(saved, digests, str(run))
    folder.mkdir(parents=True)
    weights = scored_weights(saved)
    if own_code.is_reference(saved.config.model):
        # tensors that share memory, as a tied head's, are written once for each name
        save_file({name: value.contiguous().clone() for name, value in weights.items()}, str(folder / WEIGHTS))
    else:
        model = build_model.build(saved.config, saved.n_classes, torch.Generator())
        model.load_state_dict(weights)
        save_model(model, str(folder / WEIGHTS))
    (folder / checkpoint.CONFIG).write_text(config.dump(saved.config), encoding="utf-8")
    (tokenizer or tokenizers.load(run)).save(folder)
    for name, content in own_code.sources_of(dict.fromkeys(digests, "code")).files.items():
        (folder / CODE / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / CODE / name).write_bytes(content)
    facts = {"n_classes": saved.n_classes, "eot": saved.eot, "data_hash": saved.data_hash}
    (folder / ABOUT).write_text(json.dumps(facts | ({"own_code": digests} if digests else {})), encoding="utf-8")


@dataclass(frozen=True)
class Portable:
    """A run that `load` has read: writes text, and scores texts."""

    trained: Trained
    config: TrainConfig
    criterion: Criterion

    def write(self, prompt: str, **options: Any) -> str:
        """One continuation of a prompt; options as in `trainer.sample.samples`."""
        return self.trained.write(prompt, 1, **options)[0]

    def score(self, texts: list[str]) -> list[tuple[float, int]]:
        """Nats and number of targets of each text. The texts, in this order, are evaluated as one split.

        Over the documents of a validation split, exp(sum of nats / sum of targets) is the run's val_perplexity: a
        window may contain text of the document before, and the end of a document is a target. With a tokenizer without
        an end of text each text is evaluated by itself. Raises UserError for a text that the tokenizer cannot encode.
        """
        ids = [self.trained.tokenizer.encode(text) for text in texts]
        if self.trained.eot is None:
            return [self._nats(_stream([each], None))[0] if len(each) > 1 else (0.0, 0) for each in ids]
        return self._nats(_stream(ids, self.trained.eot)) if ids else []

    def _nats(self, split: Split) -> list[tuple[float, int]]:
        machine = device.choose(self.config)
        model, sizes = self.trained.model.to(machine.device), self.trained.tokenizer.token_bytes
        scores = evaluate.evaluate(model, split, self.config, sizes, machine, criterion=self.criterion).scores
        if split.n_docs == 1:  # its units are parts of the one document
            return [(float(scores.nll.sum()), int(scores.tokens.sum()))]
        return [(float(nats), int(count)) for nats, count in zip(scores.nll, scores.tokens, strict=True)]


def _stream(ids: list[np.ndarray], eot: int | None) -> Split:
    """Texts as one split: EOT text EOT text EOT, or the one text alone where there is no EOT."""
    if eot is None:
        return Split(ids[0], np.array([1, len(ids[0])], dtype=np.int64))
    end = np.array([eot], dtype=np.uint32)
    tokens = np.concatenate([end, *(part for each in ids for part in (each, end))])
    return Split(tokens, np.cumsum([1, *(len(each) + 1 for each in ids)], dtype=np.int64))


def load(folder: Path, allow_code: bool = False) -> Portable:
    """A saved run, on the device that its config names, or on whatever there is where that device is missing.

    allow_code: an own model, and an own loss, whose read-out is wanted, may be imported: from the saved folder itself,
    or from installed packages. Raises UserError where that is needed and not allowed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    loaded = config.load(folder / checkpoint.CONFIG)
    try:
        device.kind(loaded)
    except UserError:
        loaded = config.replace(loaded, device="auto")
    n_classes, eot = _classes(folder / ABOUT)
    code_dir = folder / CODE
    criterion = criteria.build(loaded, allow_code, code_dir)
    model = build_model.build(loaded, n_classes, torch.Generator(), allow_code=allow_code, code_dir=code_dir)
    try:
        if own_code.is_reference(loaded.model):
            model.load_state_dict(load_file(str(folder / WEIGHTS)))
        else:
            load_model(model, str(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0]
        problem = f"{folder / WEIGHTS}: not the whole weights of its {checkpoint.CONFIG} ({line}); save the run again"
        raise UserError(problem, kind="damaged") from None

    def readout(logits: torch.Tensor) -> torch.Tensor:
        return log_probs(criterion.loss, criterion.parameters, logits[:, :n_classes], criterion.readout)

    tokenizer = tokenizers.load(folder)
    return Portable(Trained(model, tokenizer, eot, readout, loaded.corpus), loaded, criterion)


def _classes(file: Path) -> tuple[int, int | None]:
    """n_classes and the class that ends a document, from about.json. Raises UserError."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        return facts["n_classes"], facts["eot"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{file}: cannot be read ({type(error).__name__}); save the run again"
        raise UserError(problem, kind="damaged") from None

"""The objectives that a study can rank its trials on. Everything that depends on which one it is stands here.

An objective is a metric of a trial's last report, on the full validation split. To add one, add an entry to
OBJECTIVES: the spec, its schema, leaderboard, report, export and sampler read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, GetJsonSchemaHandler

from trainer import units

if TYPE_CHECKING:
    import numpy as np

    from trainer.scores import Scores


@dataclass(frozen=True)
class Objective:
    """One objective.

    name: the metric in a report. unit: as people read it, in heads of columns and on axes.
    log: whether values are compared by their logarithm; differences are then shown in per cent.
    direction: which values are better.
    scale_name: of the numbers that are compared, in heads of columns; scale_unit: the same in words.
    curve: the metric that learning curves show, lower is better; curve_unit: its unit.
    compares_tokenizers: whether values of different tokenizers can be compared.
    beside: the metric of another objective that stands beside this one in tables.
    by_document: from a trial's scores numerators and denominators, each (U,) over U documents: the ratio of their
    sums is the value that is compared. None where scores do not hold it: text noise is then left out.
    """

    name: str
    unit: str
    scale_name: str
    scale_unit: str
    curve: str
    curve_unit: str
    beside: str
    log: bool = False
    direction: Literal["minimize", "maximize"] = "minimize"
    compares_tokenizers: bool = False
    by_document: Callable[[Scores], tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def curve_is_compared(self) -> bool:
        """Whether the curve's numbers are those that are compared."""
        return self.curve_unit == self.scale_unit

    @property
    def test_name(self) -> str:
        """The same metric on the test split, as `nanosweep finalize` writes it."""
        return f"test_{self.name.removeprefix('val_')}"

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "minimize" else -1

    def rank(self, value: float) -> float:
        """A value such that lower is better. Its own inverse."""
        return self._sign * value

    def compared(self, value: float) -> float:
        """A value on the scale where differences are compared; lower is better there. inf stays inf."""
        return self.rank(math.log(value) if self.log else value)

    def value(self, compared: float) -> float:
        """The inverse of `compared`."""
        return math.exp(self.rank(compared)) if self.log else self.rank(compared)

    def difference(self, compared: float) -> float:
        """A difference on the scale where differences are compared, as people read it: per cent, or in `unit`."""
        return 100 * math.expm1(self.rank(compared)) if self.log else self.rank(compared)

    def show(self, value: float) -> str:
        return units.score(value)

    def show_difference(self, difference: float, interval: tuple[float, float] | None = None) -> str:
        """What `difference` returns, as text, with the ends of its interval.

        >>> OBJECTIVES["val_perplexity"].show_difference(1.25), OBJECTIVES["val_bits_per_byte"].show_difference(0.5)
        ('+1.2%', '+0.5000')
        """
        digits, sign = (1, "%") if self.log else (4, "")
        text = f"{difference:+.{digits}f}{sign}"
        return text if interval is None else f"{text} ({interval[0]:+.{digits}f} to {interval[1]:+.{digits}f})"

    def show_size(self, compared: float) -> str:
        """The size of a difference on the scale where differences are compared, with its unit, as text.

        >>> OBJECTIVES["val_perplexity"].show_size(0.01), OBJECTIVES["val_bits_per_byte"].show_size(0.01)
        ('1 % of perplexity', '0.01 bits/byte')
        """
        size = abs(self.difference(compared))
        return f"{size:.2g} % of {self.unit}" if self.log else f"{size:.2g} {self.unit}"


def _nats(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    return scores.nll, scores.tokens


def _bits(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    return scores.byte_nll / math.log(2), scores.bytes


DEFAULT = "val_perplexity"
OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective(
            DEFAULT,
            unit="perplexity",
            log=True,
            scale_name="loss",
            scale_unit="nats per token",
            curve="val_loss",
            curve_unit="nats per token",
            beside="val_bits_per_byte",
            by_document=_nats,
        ),
        Objective(
            "val_bits_per_byte",
            unit="bits/byte",
            scale_name="bits/byte",
            scale_unit="bits per byte",
            curve="val_bits_per_byte",
            curve_unit="bits per byte",
            beside="val_perplexity",
            compares_tokenizers=True,
            by_document=_bits,
        ),
    )
}


def for_tokenizers() -> Objective:
    """The objective by which trials of different tokenizers are compared."""
    return next(objective for objective in OBJECTIVES.values() if objective.compares_tokenizers)


def _name(value: str) -> str:
    if value not in OBJECTIVES:
        raise ValueError(f"expected {' or '.join(OBJECTIVES)}, got {value!r}")
    return value


class _Names:
    """The JSON Schema of an objective's name; read from OBJECTIVES when a schema is asked for."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*OBJECTIVES], "type": "string"}


ObjectiveName = Annotated[str, AfterValidator(_name), _Names]

"""The objectives by which a study can rank its trials, and everything that depends on the choice of one.

An objective is a metric of a trial's last report, measured on the full validation split. To add one, add an entry to
OBJECTIVES: the spec, its schema, leaderboard, report, export and sampler read it from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, GetJsonSchemaHandler

from trainer import units
from trainer.hints import near

if TYPE_CHECKING:
    import numpy as np

    from trainer.scores import Scores


@dataclass(frozen=True)
class Objective:
    """One objective: a metric, its units, and the scale on which its values are compared.

    name: the key of the metric in a report. unit: its unit, in column heads and on axes.
    log: whether values are compared by their logarithm; differences are then shown in per cent.
    direction: whether lower or higher values are better.
    scale_name: name of the comparison scale, in column heads; scale_unit: its unit in words.
    curve: the metric that learning curves show, lower is better; curve_unit: its unit.
    compares_tokenizers: whether values of different tokenizers can be compared.
    beside: the metric that tables show next to this objective.
    by_document: a function from a trial's scores to numerators and denominators, each (U,) over U documents; the ratio
    of their sums is the value on the comparison scale. None where the scores do not contain it: the noise of the text
    is then left out.
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
        """Whether the learning curve's values are on the comparison scale."""
        return self.curve_unit == self.scale_unit

    @property
    def test_name(self) -> str:
        """The key of the same metric on the test split, as `nanosweep finalize` writes it."""
        return f"test_{self.name.removeprefix('val_')}"

    @property
    def _sign(self) -> int:
        return 1 if self.direction == "minimize" else -1

    def rank(self, value: float) -> float:
        """The value with its sign set so that lower is better. The function is its own inverse."""
        return self._sign * value

    def compared(self, value: float) -> float:
        """The value on the comparison scale (logarithmic where `log` is set), lower is better. inf stays inf."""
        return self.rank(math.log(value) if self.log else value)

    def value(self, compared: float) -> float:
        """The inverse of `compared`."""
        return _exp(self.rank(compared)) if self.log else self.rank(compared)

    def difference(self, compared: float) -> float:
        """A difference on the comparison scale, converted for display: per cent where `log` is set, else `unit`."""
        compared = self.rank(compared)
        return (100 * math.expm1(compared) if compared < 1 else 100 * (_exp(compared) - 1)) if self.log else compared

    def show(self, value: float) -> str:
        return units.score(value)

    def show_difference(self, difference: float, interval: tuple[float, float] | None = None) -> str:
        """Format a result of `difference` as text, with the ends of its interval.

        >>> OBJECTIVES["val_perplexity"].show_difference(1.25), OBJECTIVES["val_bits_per_byte"].show_difference(0.5)
        ('+1.2%', '+0.5000')
        >>> OBJECTIVES["val_perplexity"].show_difference(4.9e21, (25.0, 3e30))
        '× 4.9e19 (× 1.2 to × 3e28)'
        """
        values = (difference, *(interval or ()))
        if self.log and any(value >= 100 * (_FACTOR - 1) for value in values):
            text, *ends = (f"× {units.compact(1 + value / 100)}" for value in values)
        elif self.log:
            text, *ends = (f"{value:+.1f}" for value in values)
            text += "%"
        else:
            text, *ends = (f"{value:+.4f}" if abs(value) < _LARGE else f"{value:+.3g}" for value in values)
        return f"{text} ({' to '.join(ends)})" if ends else text

    def show_size(self, compared: float) -> str:
        """Format the absolute size of a difference on the comparison scale, with its unit.

        >>> OBJECTIVES["val_perplexity"].show_size(0.01), OBJECTIVES["val_bits_per_byte"].show_size(0.01)
        ('1 % of perplexity', '0.01 bits/byte')
        """
        size = abs(self.difference(compared))
        if self.log and size >= 100 * (_FACTOR - 1):
            return f"a factor of {units.compact(1 + size / 100)} in {self.unit}"
        return f"{size:.2g} % of {self.unit}" if self.log else f"{size:.2g} {self.unit}"


def _exp(value: float) -> float:
    """e to that power; infinite where it exceeds the largest number."""
    return math.exp(value) if value < 709 else math.inf


def _nats(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    return scores.nll, scores.tokens


def _bits(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    return scores.byte_nll / math.log(2), scores.bytes


_FACTOR = 1000  # from here a difference is shown as a factor, not in per cent
_LARGE = 100_000  # from here a difference has no digits behind the point
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
        meant = near(value, OBJECTIVES)
        raise ValueError(f"expected {' or '.join(OBJECTIVES)}, got {value!r}{f'; {meant}' if meant else ''}")
    return value


class _Names:
    """The JSON Schema of an objective's name: an enum, read from OBJECTIVES when a schema is generated."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [*OBJECTIVES], "type": "string"}


ObjectiveName = Annotated[str, AfterValidator(_name), _Names]

"""A run scored again from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.refusals import refusal
from trainer.rescore import rescore


@pytest.mark.parametrize("changes", [{}, {"early_stop": 1, **tiny.RUINOUS}, {"loss": "squentropy"}])
def test_it_gives_the_number_of_the_last_report(tmp_path: Path, changes: dict[str, object]) -> None:
    result, _ = tiny.run(tiny.config(**changes), out_dir=tmp_path)
    found = rescore(tmp_path, tiny.stories(), tiny.stories().val)
    assert found.loss == pytest.approx(result.metrics["val_loss"], abs=1e-6)
    assert found.bits_per_byte == pytest.approx(result.metrics["val_bits_per_byte"], abs=1e-6)


def test_a_run_that_has_not_ended_or_is_of_other_data_is_refused(tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        tiny.run(tiny.config(), out_dir=tmp_path / "half", report=stop)
    error = refusal(lambda: rescore(tmp_path / "half", tiny.stories(), tiny.stories().val))
    assert (error.kind, str(error)) == ("not_ended", f"{tmp_path / 'half'}: its run has not ended")
    tiny.run(tiny.config(max_tokens=640), out_dir=tmp_path / "whole")
    other = tiny.stories(60)
    assert refusal(lambda: rescore(tmp_path / "whole", other, other.val)).kind == "other_data"

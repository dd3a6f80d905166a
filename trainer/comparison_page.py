"""A comparison as text for the terminal and as one HTML page without scripts, fonts or anything else from outside.

Text that a model writes is untrusted: control characters are shown as U+FFFD, and the page escapes HTML.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from trainer.model_comparison import Comparison

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
TEMPLATE = Path(__file__).with_name("comparison.html.jinja")


def render(comparison: Comparison, width: int | None = None) -> str:
    """Format two columns for each prompt. width: of the terminal; None: 120."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, width=width or 120)
    console.print(Text(str(comparison.rule)))
    for prompt, ours, theirs in _rows(comparison):
        table = Table(box=box.MINIMAL, expand=True, pad_edge=False)
        for side in (comparison.ours, comparison.theirs):
            table.add_column(Text(clean(side.title)), ratio=1, overflow="fold")
        table.add_row(Text(ours), Text(theirs))
        console.print()
        console.print(Text(f"> {prompt}"))
        console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def page(comparison: Comparison) -> str:
    """The same as HTML, everything that a model wrote escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        ours=clean(comparison.ours.title),
        theirs=clean(comparison.theirs.title),
        rule=str(comparison.rule),
        rows=_rows(comparison),
    )


def clean(text: str) -> str:
    """Replace control characters, so that a terminal executes no escape sequence in a text."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def _rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(prompt, our text, their text), cleaned."""
    texts = zip(comparison.prompts, comparison.ours.texts, comparison.theirs.texts, strict=True)
    return [(clean(prompt), clean(ours), clean(theirs)) for prompt, ours, theirs in texts]

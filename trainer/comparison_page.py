"""A comparison as text for the terminal and as one HTML page without scripts, fonts or anything else from outside.

What models write is not to be trusted: control characters are shown as U+FFFD, and the page escapes all of it.
"""

from __future__ import annotations

import html
import io
import re

from trainer.model_comparison import Comparison

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem }
table { border-collapse: collapse; table-layout: fixed; width: 100% }
th, td { border-top: 1px solid gray; padding: .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere }
th:first-child { width: 18% }
tbody th, td { white-space: pre-wrap }
"""


def render(comparison: Comparison, width: int | None = None) -> str:
    """Two columns for each prompt. width: of the terminal; None: 120."""
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
    """The same as HTML."""
    heads = ["prompt", clean(comparison.ours.title), clean(comparison.theirs.title)]
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = "\n".join(
        f'<tr><th scope="row">{html.escape(prompt)}</th><td>{html.escape(ours)}</td><td>{html.escape(theirs)}</td></tr>'
        for prompt, ours, theirs in _rows(comparison)
    )
    title = html.escape(f"{heads[1]} and {heads[2]}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>The same prompts, two models</h1>
<p>{html.escape(str(comparison.rule))}</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""


def clean(text: str) -> str:
    """Without what a terminal would obey: an escape sequence in a story moves no cursor."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def _rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    """(prompt, our text, their text), cleaned."""
    texts = zip(comparison.prompts, comparison.ours.texts, comparison.theirs.texts, strict=True)
    return [(clean(prompt), clean(ours), clean(theirs)) for prompt, ours, theirs in texts]

"""The pages of README.md and docs/: their fenced blocks, what a block needs, its commands, headings and links.

A block may be preceded by a marker, `<!-- needs: a GPU -->`: then it is not executed, only parsed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.M | re.S)
_MARKER = re.compile(r"<!-- needs: (?P<needs>[^>]+?) -->\n+\Z")
_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")
_SEPARATORS = {"|", "||", "&&", ";", "&"}


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its first line in the page; needs: what its marker says, None without one."""

    page: Path
    line: int
    language: str
    needs: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        marker = _MARKER.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, match["language"], marker["needs"] if marker else None, match["text"]))
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell text; bodies of here-documents, comments and variables before it left out.

    >>> commands("A=1 nanosweep plan x.yaml | head  # what would run")
    [['nanosweep', 'plan', 'x.yaml'], ['head']]
    """
    found, end = [], None
    for line in text.replace("\\\n", " ").splitlines():
        if end is not None:
            end = None if line.strip() == end else end
            continue
        if heredoc := _HEREDOC.search(line):
            end = heredoc[1]
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in _SEPARATORS:
                words.append(word)
            elif words:
                found.append(_bare(words))
                words = []
    return [words for words in found if words]


def _bare(words: list[str]) -> list[str]:
    """A command without redirections and variables that are set for it alone."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or set(word) <= set("<>&"):
            skip = not skip
        elif kept or not re.fullmatch(r"[A-Za-z_]+=.*", word):
            kept.append(word)
    return kept


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    anchors: set[str] = set()
    for title in re.findall(r"^#{1,6} (.+)$", prose(page), re.M):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-")
        count = sum(1 for anchor in anchors if re.fullmatch(rf"{re.escape(plain)}(-\d+)?", anchor))
        anchors.add(f"{plain}-{count}" if count else plain)
    return anchors


def links(page: Path) -> list[str]:
    """Targets of the links of a page that lead into the repository."""
    targets = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]

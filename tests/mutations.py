"""Valid YAML and JSON, spoilt: by what people and disks do to files, and by what an attacker would write."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import yaml
from hypothesis import strategies as st

NAMES = ["../x", "a/b", "/etc/x", "..", ".", "", "C:\\x", "con", "a\\b", "~x/y", "a\x00b", "a\nb", "é" * 40, "x" * 5000]
WORDS = ["s", "none", "auto", "true", "1e-3", "7 epochs", "1M", "1e999", "9" * 5000, "\x1b[2J", "\ud800", "text:../x"]
NUMBERS = [0, -1, 1, 2, 3.5, 1e-320, 1e308, 2**31, 2**63, 10**400, -(10**400), float("inf"), float("nan"), True, None]
NESTS: list[Any] = [[], {}, [[]], {"a": {"b": {}}}, [1, "a", None], [{"n_embd": 8}], {"log": [1, 2]}, {"choice": [1]}]
# what a tree of values cannot say; `@` stands for the end of a line that is there
TEXTS = [
    "!!python/object/apply:os.system ['touch x']", "!!binary aGk=", "&a [*a]", "*a", "<<: {a: 1}",
    "? [a]\n: b", "%YAML 1.3",
    "---\na: 1", "[" * 300, "{a: " * 300, "\t", "\x00", "\x85", "\u2028", "\ufeff", "- ", "'", '"',
    "@", "`", ": :", "#", "|", "=",
    "a: " * 50, "1__0", "0x1F", "1:30", "2026-01-01", "+.inf", ".", "-", "._1", "1e", "null", "~",
    "!", "!a b", "!<a> b",
]  # fmt: skip


def junk() -> st.SearchStrategy[Any]:
    """Any value that YAML or JSON may hold."""
    leaf = st.sampled_from([*NAMES, *WORDS, *NUMBERS, *NESTS]) | st.text(max_size=12) | st.integers() | st.floats()
    keys = st.text(max_size=6)
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=6
    )


KINDS = ["value", "value", "delete", "rename", "copy", "nest", "near", "near", "near", "near"]
EDIT = st.tuples(st.sampled_from(KINDS), st.integers(0, 10_000), junk())
EDITS = st.lists(EDIT, min_size=1, max_size=1) | st.lists(EDIT, min_size=1, max_size=4)


def spoil(value: Any, edits: list[tuple[str, int, Any]]) -> Any:
    """A copy of a tree of dicts and lists with some of its places changed."""
    holder = [copy.deepcopy(value)]
    for kind, place, new in edits:
        places = list(_places(holder))
        at, key = places[place % len(places)]
        if kind == "delete" and at is not holder:
            del at[key]
        elif kind == "rename" and isinstance(at, dict):
            at[new if isinstance(new, str) else str(key).upper()] = at.pop(key)
        elif kind == "copy":
            other, name = places[(place * 7 + 1) % len(places)]
            at[key] = copy.deepcopy(other[name])
        elif kind == "nest":
            at[key] = [at[key]] if place % 2 else {"a": at[key]}
        elif kind == "near":
            at[key] = _near(at[key], place)
        else:
            at[key] = copy.deepcopy(new)  # the same list twice could come to hold itself
    return holder[0]


def _dumped(tree: Any) -> str:
    try:
        return str(yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False))
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        return json.dumps(tree)


@cache
def _parsed(text: str) -> Any:
    return yaml.load(text, yaml.CSafeLoader)


def _near(value: Any, place: int) -> Any:
    """Another value of the same kind: it is refused later, if at all."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return [0, 1, 2, -value, value * 2, value / 2, value * 1e6, 10**15, 2**31 - 1, 1e-300][place % 10]
    if isinstance(value, list):
        return [value[::-1], value[:1], value * 2, [*value, *value[:1]], []][place % 5]
    if isinstance(value, dict):
        return dict(list(value.items())[: place % 3])
    return ["cross_entropy", "mse", "1M", "10", "char", "bpe:300", "wsd", "muon", "rope", "grid", "gp", "x"][place % 12]


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, item in pairs:
        found += [(value, key), *_places(item)]
    return found


@st.composite
def yaml_texts(draw: st.DrawFn, valid: list[str], start: list[str]) -> bytes:
    """A YAML file made of valid ones: its values spoilt, or its text, or both; or of nothing. start: keys first."""
    text = draw(st.sampled_from(valid))
    how = draw(st.sampled_from(["tree", "tree", "text", "both", "noise"]))
    if how == "noise":
        return draw(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
    if how != "text":
        tree = spoil(_parsed(text), draw(EDITS))
        text = _dumped(tree) if draw(st.booleans()) else json.dumps(tree)
    if how != "tree":
        lines = text.splitlines()
        for kind, place, new in draw(
            st.lists(st.tuples(st.integers(0, 4), st.integers(0, 999), st.sampled_from(TEXTS)), max_size=3)
        ):
            at = place % (len(lines) + 1)
            head, colon, _ = (lines[at] if at < len(lines) else "").partition(":")
            changed = [
                [f"{head}{colon} {new}"],
                [new],
                [],
                lines[at : at + 1] * 2,
                [f"{draw(st.sampled_from(start))}: {new}"],
            ][kind]
            lines[at : at + (kind != 1)] = changed
        text = "\n".join(lines) + "\n"
    return text.encode("utf-8", "surrogatepass")


@st.composite
def journals(draw: st.DrawFn, valid: list[str]) -> bytes:
    """A journal made of a valid one (its lines): records spoilt, left out, doubled, exchanged, cut, glued; or noise."""
    lines = list(valid)
    for _ in range(draw(st.integers(1, 3))):
        at, how = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, 9))
        if how < 5:
            try:
                tree = spoil(json.loads(lines[at]), draw(EDITS))
            except (ValueError, RecursionError):  # spoilt before
                continue
            lines[at] = json.dumps(tree, ensure_ascii=draw(st.booleans()))
        elif how == 5 and len(lines) > 1:
            del lines[at]
        elif how == 6:
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif how == 7:
            lines[at] = lines[at][: draw(st.integers(0, 200))]
        elif how == 8:
            lines[at] = draw(
                st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN", "", "\x00", "\ufeff", "null"])
            )
        else:
            lines[at] = draw(st.text(max_size=30))
    whole = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(whole)))
        whole = whole[:place] + draw(st.binary(max_size=20)) + whole[place:]
    return whole

"""A probabilistic grammar whose texts carry their exact probability: tell a text, read one back, add up all of them.

A text is a walk through steps. Each step picks one line by weight; `{slots}` in a line are variables, picked by
weight in the step that first says them and repeated from then on, or forms of a choice ({he} of name). `given` names
the earlier choice, or form of one, whose value selects the row of weights. Three rules make the text tell its choices
(tests/test_data_stories.py proves them for the stories):
- no line, with any words in its slots, is the beginning of another line; no word of a class begins another;
- a variable is said in full in every line of the step that first says it, or is not used outside its line;
- a choice depends on one earlier choice only: sums over all texts are sums over a tree.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from math import log
from typing import NamedTuple


class Line(NamedTuple):
    weight: int
    text: str  # "" in a step: nothing is said
    sets: str = ""  # what later choices see of a step's choice; of a variable they see the word itself


_SLOT = re.compile(r"\{(\w+)\}")

# of a regular expression for lines: number of a match's last group -> (line, its slots with their groups)
Branches = dict[int, tuple[str, list[tuple[str, int]]]]


@dataclass(frozen=True)
class Choice:
    """One weighted choice: a row of lines for each value of `given`; without `given` one row, named ""."""

    name: str
    rows: Mapping[str, tuple[Line, ...]]
    given: str = ""


@dataclass(frozen=True)
class Grammar:
    """steps: what stands before the line, and the choice of the line. variables: in the order they are chosen.
    forms: choice -> its value -> slot -> the text in that slot."""

    steps: tuple[tuple[str, Choice], ...]
    variables: tuple[Choice, ...]
    forms: Mapping[str, Mapping[str, Mapping[str, str]]]


def slots_of(text: str) -> list[str]:
    """The slots of a line in the order they are said: `{name} saw {his} hat` -> [name, his]."""
    return _SLOT.split(text)[1::2]


class _Option(NamedTuple):
    """A line made ready: its nats, what becomes known when it is picked, the variables born in it."""

    text: str
    share: float  # its probability in the row
    nats: float
    known: dict[str, str]
    new: tuple[str, ...]


class _Row(NamedTuple):
    cumulative: list[int]
    total: int
    options: list[_Option]
    by_text: dict[str, _Option]


class Language:
    """A compiled grammar. Texts are independent of each other; nothing changes after construction."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._variables = {choice.name: choice for choice in grammar.variables}
        home: dict[str, str] = {}  # variable -> the step that first says it
        for _, choice in grammar.steps:
            for text in _texts(choice):
                for slot in slots_of(text):
                    if slot in self._variables:
                        home.setdefault(slot, choice.name)
        self._born = {
            choice.name: [v for v in self._variables if home.get(v) == choice.name] for _, choice in grammar.steps
        }
        self._rows = {choice.name: self._compile(choice) for _, choice in grammar.steps}
        self._rows |= {choice.name: self._compile(choice) for choice in grammar.variables}

    def _compile(self, choice: Choice) -> dict[str, _Row]:
        forms = self.grammar.forms.get(choice.name, {})
        rows = {}
        for key, lines in choice.rows.items():
            total = sum(line.weight for line in lines)
            options = []
            for line in lines:
                value = line.text if choice.name in self._variables else line.sets
                said = set(slots_of(line.text))
                new = tuple(v for v in self._born.get(choice.name, ()) if v in said)
                known = {choice.name: value, **forms.get(value, {})}
                options.append(_Option(line.text, line.weight / total, log(total / line.weight), known, new))
            cumulative = list(accumulate(line.weight for line in lines))
            rows[key] = _Row(cumulative, total, options, {option.text: option for option in options})
        return rows

    # ------------------------------------------------------------ telling

    @cached_property
    def _plan(self) -> list[tuple[str, str, dict[str, _Row]]]:
        return [(before, choice.given, self._rows[choice.name]) for before, choice in self.grammar.steps]

    def tell(self, random: Callable[[], float]) -> tuple[str, float]:
        """One text and its negative log-likelihood in nats, as the choices were made.

        random: uniform numbers in [0, 1); one is drawn for each choice.
        """
        known = {"": ""}
        parts = []
        nats = 0.0
        for before, given, rows in self._plan:
            row = rows[known[given]]
            line = row.options[bisect(row.cumulative, random() * row.total)]
            nats += line.nats
            known.update(line.known)
            for variable in line.new:
                row = self._rows[variable][known[self._variables[variable].given]]
                word = row.options[bisect(row.cumulative, random() * row.total)]
                nats += word.nats
                known.update(word.known)
            if line.text:
                parts.append(before + line.text)
        return "".join(parts).format_map(known), nats

    # ------------------------------------------------------------ reading

    @cached_property
    def _words(self) -> dict[str, dict[str, tuple[str, frozenset[str]]]]:
        """slot -> text in it -> (the choice behind it, the values of that choice which say so)."""
        words: dict[str, dict[str, tuple[str, frozenset[str]]]] = {}
        for choice in self._variables.values():
            words[choice.name] = {text: (choice.name, frozenset({text})) for text in _texts(choice)}
        for name, values in self.grammar.forms.items():
            for value, forms in values.items():
                for slot, text in forms.items():
                    seen = words.setdefault(slot, {})
                    seen[text] = (name, seen.get(text, (name, frozenset()))[1] | {value})
        return words

    def _pattern(self, texts: list[str]) -> tuple[re.Pattern[str], Branches]:
        """One regular expression for all of the lines; any word of the class fits a slot."""
        patterns, branches, group = [], Branches(), 0
        for text in texts:
            slots, pattern = [], ""
            for i, part in enumerate(_SLOT.split(text)):
                if i % 2 == 0:
                    pattern += re.escape(part)
                else:
                    group += 1
                    slots.append((part, group))
                    pattern += f"({'|'.join(map(re.escape, self._words[part]))})"
            group += 1
            patterns.append(f"{pattern}()")  # the empty group says which branch matched
            branches[group] = (text, slots)
        return re.compile("|".join(patterns)), branches

    @cached_property
    def _readers(self) -> list[tuple[str, Choice, re.Pattern[str], Branches]]:
        return [
            (before, choice, *self._pattern([text for text in _texts(choice) if text]))
            for before, choice in self.grammar.steps
        ]

    def nll(self, text: str) -> float:
        """Exact nats of a whole text, its end included; reads nothing but the text.

        ValueError, with the place, where the text leaves the language.
        """
        known = {"": ""}
        nats, at = 0.0, 0
        for before, choice, pattern, branches in self._readers:
            row = self._rows[choice.name][known[choice.given]]
            match = pattern.match(text, at + len(before)) if text.startswith(before, at) else None
            line, slots = branches[match.lastindex] if match and match.lastindex else ("", [])
            option = row.by_text.get(line)
            if option is None:
                raise _leaves(text, at + len(before), f"no sentence of the step '{choice.name}' that may stand here")
            nats += option.nats
            known.update(option.known)
            if match is None:
                continue
            groups = dict(slots)
            for variable in option.new:
                word = self._rows[variable][known[self._variables[variable].given]].by_text.get(match[groups[variable]])
                if word is None:
                    raise _leaves(text, match.start(groups[variable]), f"this {variable} cannot be here")
                nats += word.nats
                known.update(word.known)
            for slot, group in slots:
                if match[group] != known[slot]:
                    raise _leaves(text, match.start(group), f"the story so far says '{known[slot]}'")
            at = match.end()
        if at != len(text):
            raise _leaves(text, at, "the story has ended")
        return nats

    @cached_property
    def _any_line(self) -> tuple[re.Pattern[str], Branches]:
        return self._pattern([text for _, choice in self.grammar.steps for text in _texts(choice) if text])

    def is_line(self, text: str) -> bool:
        """Whether some line, with words of the right classes that agree within the line (name and pronoun), is text."""
        pattern, branches = self._any_line
        match = pattern.fullmatch(text)
        if not match or not match.lastindex:
            return False
        meant: dict[str, frozenset[str]] = {}
        for slot, group in branches[match.lastindex][1]:
            choice, values = self._words[slot][match[group]]
            meant[choice] = meant.get(choice, values) & values
        return all(meant.values())

    # ------------------------------------------------------------ adding up

    def count_and_entropy(self) -> tuple[int, float]:
        """The number of distinct texts, and the exact expected nats of one, its end included.

        Choices form a tree: each is counted below the value that selects its row. A variable said in only some
        lines of its step is counted below those lines.
        """
        owner = {
            slot: name for name, values in self.grammar.forms.items() for forms in values.values() for slot in forms
        }
        below: dict[str, list[Choice]] = {}
        local: set[str] = set()
        for _, step in self.grammar.steps:
            texts = _texts(step)
            local |= {v for v in self._born[step.name] if not all(v in slots_of(text) for text in texts)}
        for choice in (*(step for _, step in self.grammar.steps), *self._variables.values()):
            if choice.name not in local:
                below.setdefault(owner.get(choice.given, choice.given), []).append(choice)

        @cache
        def add_up(name: str, given: str, key: str) -> tuple[int, float]:
            row = self._rows[name][key]
            ways, nats = 0, 0.0
            for option in row.options:
                parts = [add_up(c.name, c.given, option.known[c.given]) for c in below.get(name, ())]
                for variable in (self._variables[v] for v in option.new if v in local):
                    if variable.given not in ("", given):
                        raise ValueError(f"{variable.name} is said in some lines only: give it the row of {name}")
                    parts.append(add_up(variable.name, variable.given, key if variable.given else ""))
                product = 1
                for part_ways, _ in parts:
                    product *= part_ways
                ways += product
                nats += (option.nats + sum(part_nats for _, part_nats in parts)) * option.share
            return ways, nats

        ways, nats = 1, 0.0
        for choice in below[""]:
            choice_ways, choice_nats = add_up(choice.name, "", "")
            ways *= choice_ways
            nats += choice_nats
        return ways, nats


def _texts(choice: Choice) -> list[str]:
    """Every line of a choice once, in the order of its rows."""
    return list(dict.fromkeys(line.text for lines in choice.rows.values() for line in lines))


def _leaves(text: str, at: int, why: str) -> ValueError:
    found = repr(text[at : at + 40]) if at < len(text) else "the end of the text"
    return ValueError(f"not a story of the language: at character {at}, {found}: {why}")

"""The built-in corpus: its text tells its choices, its probabilities are exact, and it reads as promised."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from data import stories
from data.stories_grammar import Choice, Grammar, Language, Line, slots_of
from data.stories_plot import STORIES
from data.stories_words import HE, SHE

N = 10_000


@pytest.fixture(scope="module")
def told() -> list[tuple[str, float]]:
    return [stories.generate_with_nll(7, index) for index in range(N)]


def picks(grammar: Grammar, text: str) -> Iterator[list[tuple[str, str, Line]]]:
    """Every way to make `text`: lists of (choice, row, line). Written apart from Language, by trying everything."""
    variables = {choice.name: choice for choice in grammar.variables}

    def learn(known: dict[str, str], name: str, value: str) -> dict[str, str]:
        return known | {name: value} | grammar.forms.get(name, {}).get(value, {})

    def fill(slots: set[str], known: dict[str, str], rest: str) -> Iterator[tuple[list[tuple[str, str, Line]], dict]]:
        new = next((v for v in variables if v in slots and v not in known), None)
        if new is None:
            yield [], known
            return
        row = known[variables[new].given]
        for word in variables[new].rows[row]:
            if word.text in rest:
                for more, final in fill(slots, learn(known, new, word.text), rest):
                    yield [(new, row, word), *more], final

    def walk(step: int, at: int, known: dict[str, str]) -> Iterator[list[tuple[str, str, Line]]]:
        if step == len(grammar.steps):
            if at == len(text):
                yield []
            return
        before, choice = grammar.steps[step]
        row = known[choice.given]
        for line in choice.rows[row]:
            told = before + line.text if line.text else ""
            first = re.split(r"\{", told)[0]
            if not text.startswith(first, at):
                continue
            after = learn(known, choice.name, line.sets)
            for words, final in fill(set(slots_of(line.text)), after, text[at : at + 150]):
                said = told.format_map(final)
                if text.startswith(said, at):
                    for more in walk(step + 1, at + len(said), final):
                        yield [(choice.name, row, line), *words, *more]

    return walk(0, 0, {"": ""})


def nats_of(grammar: Grammar, chosen: list[tuple[str, str, Line]]) -> float:
    rows = {c.name: c.rows for c in (*(step for _, step in grammar.steps), *grammar.variables)}
    return -sum(math.log(line.weight / sum(one.weight for one in rows[name][row])) for name, row, line in chosen)


@pytest.fixture(scope="module")
def parsed(told: list[tuple[str, float]]) -> list[list[list[tuple[str, str, Line]]]]:
    return [list(picks(STORIES, text)) for text, _ in told]


# ---------------------------------------------------------------- the exact probability


def test_generator_and_scorer_agree_on_ten_thousand_documents(told: list[tuple[str, float]]) -> None:
    assert max(abs(stories.nll(text) - nats) for text, nats in told) < 1e-9


def test_every_document_was_made_in_exactly_one_way_and_a_second_parser_finds_its_nats(told, parsed) -> None:
    assert {len(ways) for ways in parsed} == {1}
    assert max(abs(nats_of(STORIES, ways[0]) - nats) for ways, (_, nats) in zip(parsed, told, strict=True)) < 1e-9


def test_a_single_other_choice_makes_another_story_that_is_read_in_exactly_one_way() -> None:
    for index in range(300):
        drawn: list[float] = []
        rng = Random(index)
        text, _ = stories.language().tell(lambda: drawn.append(rng.random()) or drawn[-1])  # noqa: B023
        changed = list(drawn)
        at = rng.randrange(len(drawn))
        changed[at] = (changed[at] + 0.5) % 1
        tape = iter([*changed, *(rng.random() for _ in range(20))])
        mutant, nats = stories.language().tell(lambda: next(tape))  # noqa: B023
        assert stories.nll(mutant) == pytest.approx(nats, abs=1e-9)
        assert len(list(picks(STORIES, mutant))) == 1
        assert len(list(picks(STORIES, text))) == 1


def test_every_choice_is_made_as_often_as_its_weight_says(parsed) -> None:
    rows = {c.name: c.rows for c in (*(step for _, step in STORIES.steps), *STORIES.variables)}
    seen = Counter((name, row, line) for ways in parsed for name, row, line in ways[0])
    checked = 0
    for name in rows:
        for row, lines in rows[name].items():
            n = sum(seen[name, row, line] for line in lines)
            for line in lines:
                p = line.weight / sum(one.weight for one in lines)
                if n * p * (1 - p) > 9:  # enough for a normal approximation
                    assert abs(seen[name, row, line] - n * p) < 4 * math.sqrt(n * p * (1 - p)), (name, row, line)
                    checked += 1
    assert checked > 400


def test_the_expected_nats_are_the_mean_of_the_documents(told: list[tuple[str, float]]) -> None:
    nats = [nats for _, nats in told]
    error = statistics.stdev(nats) / math.sqrt(N)
    assert abs(statistics.fmean(nats) - stories.entropy()) < 4 * error


SOUND = {"cat": (Line(3, ""), Line(2, "It purred.", "loud")), "dog": (Line(1, "", "loud"),)}
LAST = {"": (Line(1, "The {baby} left."),), "loud": (Line(3, "We {ran}."), Line(1, "End."))}
TOY = Grammar(
    steps=(
        ("", Choice("first", {"": (Line(2, "{pet} came."), Line(1, "Then {pet} sat {how}."))})),
        (" ", Choice("sound", SOUND, "pet")),
        ("\n", Choice("last", LAST, "sound")),
    ),
    variables=(
        Choice("pet", {"": (Line(1, "cat"), Line(2, "dog"))}),
        Choice("how", {"": (Line(1, "down"), Line(4, "up"))}),
        Choice("ran", {"": (Line(1, "ran"), Line(1, "hid"))}),
    ),
    forms={"pet": {"cat": {"baby": "kitten"}, "dog": {"baby": "puppy"}}},
)  # fmt: skip


def test_the_probabilities_of_all_texts_of_a_small_grammar_add_up_to_one() -> None:
    toy = Language(TOY)
    texts = set()
    for seed in range(2000):
        texts.add(toy.tell(Random(seed).random)[0])
    nats = [toy.nll(text) for text in texts]
    assert math.fsum(math.exp(-n) for n in nats) == pytest.approx(1, abs=1e-12)
    ways, entropy = toy.count_and_entropy()
    assert ways == len(texts)
    assert entropy == pytest.approx(math.fsum(math.exp(-n) * n for n in nats), abs=1e-12)


def test_a_word_said_in_some_lines_only_cannot_depend_on_what_its_line_does_not_know() -> None:
    how = Choice("how", {"cat": (Line(1, "down"),), "dog": (Line(1, "up"),)}, "pet")
    with pytest.raises(ValueError, match="how is said in some lines only"):
        Language(Grammar(TOY.steps, (TOY.variables[0], how, TOY.variables[2]), TOY.forms)).count_and_entropy()


# ---------------------------------------------------------------- why one text has one reading

Part = tuple[str, ...]  # what may stand there


def parts_of(text: str) -> list[Part]:
    """A line as literals and classes of words; a slot may hold any word of its class."""
    classes = {c.name: {line.text for lines in c.rows.values() for line in lines} for c in STORIES.variables}
    for values in STORIES.forms.values():
        for forms in values.values():
            for slot, word in forms.items():
                classes.setdefault(slot, set()).add(word)
    split = re.split(r"\{(\w+)\}", text)
    return [tuple(sorted(classes[part])) if i % 2 else (part,) for i, part in enumerate(split) if part]


def may_begin(a: list[Part], b: list[Part], left: str = "") -> bool:
    """Whether some text of a is the beginning of (or the same as) some text of b; left: what b has said beyond a."""
    if not a:
        return True
    for word in a[0]:
        if left.startswith(word):
            if may_begin(a[1:], b, left[len(word) :]):
                return True
        elif word.startswith(left):
            behind, rest = word[len(left) :], b
            if rest and _catch_up(a[1:], rest, behind):
                return True
    return False


def _catch_up(a: list[Part], b: list[Part], behind: str) -> bool:
    """The same with a ahead of b by `behind`."""
    for word in b[0]:
        if word.startswith(behind):
            if may_begin(a, b[1:], word[len(behind) :]):
                return True
        elif behind.startswith(word) and b[1:] and _catch_up(a, b[1:], behind[len(word) :]):
            return True
    return False


def lines_of_the_stories() -> list[str]:
    return [
        line
        for _, step in STORIES.steps
        for line in dict.fromkeys(line.text for lines in step.rows.values() for line in lines)
        if line
    ]


def test_no_line_can_be_the_beginning_of_another_whatever_its_words() -> None:
    lines = [(line, parts_of(line)) for line in lines_of_the_stories()]
    assert len({line for line, _ in lines}) == len(lines)  # and no two steps share one
    for (one, a), (other, b) in itertools.permutations(lines, 2):
        assert not may_begin(a, b), (one, other)


def test_the_proof_notices_two_lines_that_can_be_confused() -> None:
    assert not may_begin(parts_of("{He} was sad."), parts_of("She was {feeling}!"))
    assert may_begin(parts_of("{name} was"), parts_of("Mia was sad."))
    assert may_begin(parts_of("Mia and"), parts_of("{name} and {pal}."))
    assert may_begin([("a", "ab"), ("c",)], [("abc", "x")])


def test_no_word_of_a_class_is_the_beginning_of_another() -> None:
    for slot in {slot for line in lines_of_the_stories() for slot in slots_of(line)}:
        (words,) = parts_of(f"{{{slot}}}")
        assert not any(other.startswith(word) for word, other in itertools.permutations(words, 2)), slot


def test_a_variable_is_said_in_full_where_it_first_appears() -> None:
    owners = {slot: name for name, values in STORIES.forms.items() for forms in values.values() for slot in forms}
    variables = {choice.name for choice in STORIES.variables}
    known: set[str] = set()
    for _, step in STORIES.steps:
        lines = {line.text for lines in step.rows.values() for line in lines}
        said = [{slot for slot in slots_of(line) if slot in variables} for line in lines]
        known |= set.intersection(*said)
        for line, full in zip(lines, said, strict=True):
            used = {owners.get(slot, slot) for slot in slots_of(line)} & variables
            assert used <= known | full, line
    some_lines_only = {c.name for c in STORIES.variables} - known
    given = {owners.get(c.given, c.given) for c in (*(step for _, step in STORIES.steps), *STORIES.variables)}
    assert not some_lines_only & given


def test_a_row_has_each_line_once_and_a_line_means_the_same_in_every_row() -> None:
    for choice in (*(step for _, step in STORIES.steps), *STORIES.variables):
        sets: dict[str, str] = {}
        for lines in choice.rows.values():
            assert len({line.text for line in lines}) == len(lines)
            for line in lines:
                assert line.weight > 0
                assert sets.setdefault(line.text, line.sets) == line.sets


def test_a_story_ends_where_it_ends() -> None:
    for index in range(20):
        text = stories.generate(3, index)
        assert stories.is_story(text)
        for cut in range(len(text)):
            assert not stories.is_story(text[:cut])
        for more in (" ", "\n", ".", " The end.", "\n" + text):
            assert not stories.is_story(text + more)


# ---------------------------------------------------------------- the text


def test_the_same_seed_gives_the_same_bytes_everywhere() -> None:
    text = "\n\n".join(stories.documents(1000, seed=0)).encode()
    assert hashlib.sha256(text).hexdigest() == "6abda1c1a6cc060fc7ed2e38664dc3a91a06f85e58a2f33f90141a15355e335e"


def test_documents_are_the_stream_of_their_seed_and_streams_differ() -> None:
    assert list(stories.documents(5, seed=3)) == [stories.generate(3, index) for index in range(5)]
    streams = [set(stories.documents(200, seed=seed)) for seed in (0, 1, -1, 11, 2**70)]
    assert not any(a & b for a, b in itertools.combinations(streams, 2))


def test_there_are_more_than_a_billion_stories_and_a_sample_hardly_repeats(told: list[tuple[str, float]]) -> None:
    assert stories.count() >= 10**9
    assert len({text for text, _ in told}) >= 0.999 * N


def test_the_text_is_clean_and_of_the_promised_size(told: list[tuple[str, float]]) -> None:
    words = set()
    for text, _ in told:
        assert text == text.strip()
        assert not re.search(r"  | \n|\n |\n\n", text)
        assert text.count("\n") == 3
        assert text.count('"') % 2 == 0
        words |= set(re.findall("[a-z]+", text.lower()))
    assert set("".join(text for text, _ in told)) == set(stories.CHARACTERS)
    sizes = sorted(len(text.encode()) for text, _ in told)
    assert sizes[0] > 350
    assert sizes[N // 2] < 550
    assert sizes[N * 9 // 10] < 610
    assert 200 <= len(words) <= 400


def test_hero_thing_and_weather_stay_the_same_from_beginning_to_end(told: list[tuple[str, float]]) -> None:
    girls = [word.split()[0] for word in SHE.split(", ")]
    boys = [word.split()[0] for word in HE.split(", ")]
    things = {line.text for c in STORIES.variables if c.name == "thing" for lines in c.rows.values() for line in lines}
    for text, _ in told[:3000]:
        tokens = re.findall("[A-Za-z]+", text)
        ending = text.rsplit("\n", 1)[1]
        (hero,) = {word for word in tokens if word in girls + boys}
        wrong = {"he", "his", "him"} if hero in girls else {"she", "her"}
        assert not wrong & {word.lower() for word in tokens}
        (thing,) = things & set(tokens)
        assert f" {thing} " in ending
        (weather,) = {"sunny", "rainy", "windy", "snowy", "foggy"} & set(tokens)
        for noun in re.findall(r"in the (sun|rain|wind|snow|fog)\b", ending):
            assert weather.startswith(noun)


# ---------------------------------------------------------------- judging what a model wrote

TALE = """Once there was a proud little lion named Mia. One night she lost her blue book.
On a sunny morning, she looked for it at the beach. She met a wise turtle called Bruno there.
They looked and saw the blue book on an island. Mia tried three times, but could not get it. She felt sad. Bruno \
swam across and brought the book back.
"Thank you, Bruno!" said Mia. The two friends read the book until noon. Mia learned that nobody can do everything \
alone."""


def test_this_tale_is_a_story() -> None:
    assert 20 < stories.nll(TALE) < 70
    assert stories.intelligibility([TALE]) == stories.Intelligibility(11, 1.0, 1, 1.0)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("One night she lost her", "One night he lost her", "the story so far says 'she'"),
        ("lost her blue", "lost his blue", "the story so far says 'her'"),
        ("on an island", "high in a tree", "this where cannot be here"),  # turtles do not fly
        ("the blue book on", "the green book on", "the story so far says 'blue'"),
        ("the blue book on", "a blue book on", "the story so far says 'the'"),  # she had lost it
        ("brought the book back", "brought the ball back", "the story so far says 'book'"),
        ("Bruno swam", "So the frog swam over and carried the book back. Bruno swam", "says 'turtle'"),
        ("until noon", "until bedtime", "this end cannot be here"),  # it was morning
        ("nobody can do everything alone", "a smile can change a bad day", "step 'moral'"),  # Mia was proud
        ("She felt sad. ", "", "step 'feeling line'"),
        ("\nThey looked", " They looked", "step 'finding'"),
        ("three times", "six times", "at character 2"),
        ("everything alone.", "everything alone. ", "the story has ended"),
        ("everything alone.", "everything", "step 'moral'"),
        (TALE, "", "the end of the text"),
    ],
)  # fmt: skip
def test_a_text_that_leaves_the_language_is_refused_with_the_place(old: str, new: str, place: str) -> None:
    assert old in TALE
    with pytest.raises(ValueError, match="at character") as error:
        stories.nll(TALE.replace(old, new, 1))
    assert place in str(error.value)


def test_every_sentence_of_the_stories_is_a_sentence(told: list[tuple[str, float]]) -> None:
    found = stories.intelligibility(text for text, _ in told[:500])
    assert found.sentence_share == found.story_share == 1
    assert found.stories == 500
    assert found.sentences > 11 * 500


def test_every_line_is_one_sentence() -> None:
    for line in lines_of_the_stories():
        said = "".join(part[0] for part in parts_of(line))
        assert stories.sentences(said + " " + said) == [said, said]


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Mia felt sad.", False),
        ("She felt sad.", True),
        ("Mia was very sad.", True),
        ("Mia was very red.", False),
        ("In a small house lived a shy fox named Ben.", True),
        ('"I wish I had a red kite," she often said.', True),
        ("Ben could not find his red kite anywhere.", True),
        ("Ben could not find her red kite anywhere.", False),  # does not agree within the sentence
        ("She could not find her red kite anywhere.", False),
        ("Mia was very sad. ", False),
        ("", False),
    ],
)
def test_a_sentence_has_the_right_classes_of_words_and_agrees_with_itself(text: str, yes: bool) -> None:
    assert stories.is_sentence(text) is yes


def test_intelligibility_counts_complete_sentences_only() -> None:
    text = 'She felt sad. Mia was very blue. "Let me try," said Bruno with a smile. Mia was ve'
    assert stories.intelligibility([text]) == stories.Intelligibility(3, 2 / 3, 1, 0.0)
    assert stories.intelligibility([text, TALE]) == stories.Intelligibility(14, 13 / 14, 2, 0.5)
    assert stories.sentences('She felt sad. "Let me try. Mia felt') == ["She felt sad.", '"Let me try.']
    assert stories.sentences('She felt sad. "Let me try.') == ["She felt sad."]  # still inside the quotation
    assert stories.intelligibility(["", "xyz"]) == stories.Intelligibility(0, 0.0, 2, 0.0)
    assert stories.intelligibility([]) == stories.Intelligibility(0, 0.0, 0, 0.0)

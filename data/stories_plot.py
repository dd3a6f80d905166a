"""The plot of the stories: eleven to sixteen sentences, each chosen from a few by weight.

A hero with a trait wishes for a thing (or has lost it), goes out, meets a friend, finds the thing out of reach,
fails, is helped, plays, and learns what the trait has to learn. `{slots}` are words or forms of data/stories_words.py.
A third item of a line is what later steps see of the choice.
"""

from __future__ import annotations

from collections.abc import Mapping

from data.stories_grammar import Choice, Grammar, Line
from data.stories_words import FORMS, VARIABLES


def _lines(*items: tuple[int, str] | tuple[int, str, str]) -> tuple[Line, ...]:
    return tuple(Line(*item) for item in items)


def _each(common: tuple[Line, ...], own: Mapping[str, tuple[Line, ...]]) -> dict[str, tuple[Line, ...]]:
    """A row for each key: the common lines, then the key's own."""
    return {key: common + lines for key, lines in own.items()}


OPENING = _lines(
    (4, "Once upon a time there was a {trait} {kind} named {name}."),
    (4, "Once there was a {trait} little {kind} named {name}."),
    (2, "{name} was a {trait} {kind} with {eyes} eyes."),
    (1, "In a small house lived a {trait} {kind} named {name}."),
    (1, "Long ago, a {trait} {kind} called {name} lived in a small house."),
)

HABIT = _each(
    _lines((8, "")),
    {
        "shy": _lines((2, "{He} liked to hide when guests came."), (1, "{He} did not talk very much.")),
        "proud": _lines((2, "{He} liked to do everything alone."), (1, "{He} never asked for help.")),
        "lazy": _lines((3, "{He} liked to sleep all day."), (1, "{He} never wanted to get up.")),
        "greedy": _lines((2, "{He} did not like to share."), (1, "{He} wanted to keep everything.")),
        "grumpy": _lines((2, "{He} did not smile very often."), (1, "Nothing was good enough for {him}.")),
        "brave": _lines((2, "{He} was not afraid of the dark."), (1, "{He} liked to climb on rocks.")),
        "curious": _lines((3, "{He} asked questions all day long."), (2, "{He} wanted to know everything.")),
    },
)


def _need(want: int, lost: int) -> tuple[Line, ...]:
    return _lines(
        (4 * want, "Most of all {he} wanted a {color} {thing}.", "want"),
        (3 * want, "At night {he} dreamed of a {color} {thing}.", "want"),
        (2 * want, "{His} biggest wish was a {color} {thing}.", "want"),
        (1 * want, '"I wish I had a {color} {thing}," {he} often said.', "want"),
        (4 * lost, "One night {he} lost {his} {color} {thing}.", "lost"),
        (3 * lost, "{His} favorite thing, a {color} {thing}, was gone.", "lost"),
        (2 * lost, "{name} could not find {his} {color} {thing} anywhere.", "lost"),
        (1 * lost, '"Where is my {color} {thing}?" {he} asked again and again.', "lost"),
    )


NEED = {
    "shy": _need(2, 1), "proud": _need(3, 2), "lazy": _need(1, 3), "greedy": _need(5, 1),
    "grumpy": _need(1, 2), "brave": _need(1, 1), "curious": _need(2, 1),
}  # fmt: skip

GOING = _lines(
    (5, "One {weather} {time}, {name} went to the {place}."),
    (3, "One {weather} {time}, {he} went to the {place} to find {one}."),
    (2, "On a {weather} {time}, {he} looked for {one} {at} the {place}."),
    (1, "Then, on a {weather} {time}, {name} came to the {place}."),
)

WEATHER = _each(
    _lines((10, "")),
    {
        "sunny": _lines((2, "The sky was blue and clear."), (2, "Birds were singing everywhere.")),
        "rainy": _lines((2, "Rain was falling on the leaves."), (1, "There were puddles on the path.")),
        "windy": _lines((2, "The wind was blowing leaves around."), (1, "The trees were dancing in the wind.")),
        "snowy": _lines((2, "The snow was soft and deep."), (2, "Everything was white and quiet.")),
        "foggy": _lines((2, "It was hard to see the path."), (1, "Everything looked gray and strange.")),
    },
)

MEETING = _lines(
    (5, "There {he} met {look} {friend} named {pal}."),
    (3, "{He} saw {look} {friend} named {pal} {doing}."),
    (2, "{He} met {look} {friend} called {pal} there."),
)

_POLITE = _lines(
    (3, '"Have you seen {my} {color} {thing}?" asked {name}.', "asked"),
    (2, '"I am looking for {my} {color} {thing}," said {name}.', "asked"),
    (2, '"Please help me find {my} {color} {thing}," {he} said.', "asked"),
)
_SHY = _lines((5, '"Have you seen {my} {color} {thing}?" whispered {name}.', "asked"))
_RUDE = _lines((5, '"I need {my} {color} {thing} now," said {name}.', "asked"))
_CURIOUS = _lines((5, '"Do you know where {my} {color} {thing} could be?" asked {name}.', "asked"))

ASKING = _each(
    _lines((12, "")),
    {
        "shy": _POLITE[:1] + _SHY, "proud": _POLITE + _RUDE, "lazy": _POLITE, "greedy": _POLITE[1:] + _RUDE,
        "grumpy": _POLITE[1:2] + _RUDE, "brave": _POLITE, "curious": _POLITE + _CURIOUS,
    },
)  # fmt: skip

ANSWER = {
    "asked": _lines((8, ""), (2, '"Come with me," said {pal}.'), (1, '"Let us look together," said {pal}.')),
    "": _lines((7, ""), (2, "{name} told {pal} everything."), (2, "They liked each other at once.")),
}

FINDING = _lines(
    (5, "Soon they saw {a} {color} {thing} {where}."),
    (3, "They looked and saw {a} {color} {thing} {where}."),
    (2, "After a while they found {a} {color} {thing} {where}."),
    (2, "{pal} pointed at {a} {color} {thing} {where}."),
    (2, '"Look!" said {pal}, and there was {a} {color} {thing} {where}.'),
)

TRYING = _each(
    _lines((2, "{name} tried {many} times, but could not get it.")),
    {
        "tree": _lines(
            (3, "{name} tried to climb, but slipped down."),
            (3, "{He} jumped and jumped, but it was too high."),
        ),
        "roof": _lines(
            (3, "{name} stood on a box, but the roof was too high."),
            (2, "{He} threw a stick at it, but missed."),
        ),
        "stone": _lines(
            (3, "{name} pushed, but the stone did not move."),
            (3, "{He} tried to lift the stone, but it was too heavy."),
        ),
        "mud": _lines(
            (3, "{name} pulled, but the mud was too thick."),
            (2, "{He} stepped in, and {his} feet got stuck."),
        ),
        "hole": _lines(
            (3, "{name} reached down, but the hole was too deep."),
            (3, "{He} was too big to crawl in."),
        ),
        "bush": _lines(
            (3, "{name} reached in, but the thorns were sharp."),
            (2, "{He} tried to crawl in, but it hurt."),
        ),
        "water": _lines(
            (3, "{name} could not swim, and the water was cold."),
            (2, "{He} used a stick, but it was too short."),
        ),
        "island": _lines(
            (3, "{name} made a boat of leaves, but it sank."),
            (2, "{He} could not cross the deep water."),
        ),
    },
)

FEELING = _each(
    _lines((4, "{He} felt {feeling}."), (2, "{name} was very {feeling}.")),
    {
        "shy": _lines((4, "{name} was {feeling}, but too shy to ask for help.")),
        "proud": _lines((4, '"I need no help," said {name}, but {he} was {feeling}.')),
        "lazy": _lines((4, '"This is too hard," said {name}, who was {feeling}.')),
        "greedy": _lines((4, '"I want it now," said {name}, who was {feeling}.')),
        "grumpy": _lines((4, '"What a bad day," said {name}, who was {feeling}.')),
        "brave": _lines((4, "{name} was {feeling}, but did not give up.")),
        "curious": _lines((4, '"How can we get it?" asked {name}, who was {feeling}.')),
    },
)

OFFER = _lines(
    (11, ""),
    (3, '"Do not be {feeling}," said {pal}.'),
    (2, '"I can help you," said {pal}.'),
    (2, '"Let me try," said {pal} with a smile.'),
    (1, '"Friends help each other," said {pal}.'),
)

HELP = {
    "tree": _lines(
        (3, "{pal} flew up and brought the {thing} down."),
        (2, "So the {friend} flew to the top and got it."),
    ),
    "roof": _lines(
        (3, "{pal} flew to the roof and brought the {thing} down."),
        (2, "So the {friend} flew up and pushed the {thing} down."),
    ),
    "stone": _lines(
        (3, "{pal} moved the stone with one big push."),
        (2, "So the {friend} rolled the stone away."),
    ),
    "mud": _lines(
        (3, "{pal} pulled the {thing} out with a loud pop."),
        (2, "So the {friend} walked in and took the {thing} out."),
    ),
    "hole": _lines(
        (3, "{pal} went down and came up with the {thing}."),
        (2, "So the {friend} slipped in and pushed the {thing} out."),
    ),
    "bush": _lines(
        (3, "{pal} slipped under the thorns and got the {thing}."),
        (2, "So the {friend} crawled in and pulled the {thing} out."),
    ),
    "water": _lines(
        (3, "{pal} swam out and pushed the {thing} to the shore."),
        (2, "So the {friend} jumped in and swam back with the {thing}."),
    ),
    "island": _lines(
        (3, "{pal} swam across and brought the {thing} back."),
        (2, "So the {friend} swam over and carried the {thing} back."),
    ),
}

JOY = _each(
    _lines(
        (3, '"Thank you, {pal}!" said {name}.'),
        (2, "{name} was not {feeling} any more."),
        (1, '"You are a true friend," {he} said to {pal}.'),
    ),
    {
        "want": _lines(
            (5, "At last {name} had a {color} {thing} of {his} own."),
            (2, "{His} wish for a {color} {thing} had come true."),
        ),
        "lost": _lines(
            (5, "At last {name} had {his} {color} {thing} back."),
            (2, "{He} would never lose {his} {color} {thing} again."),
        ),
    },
)

PLAYING = dict.fromkeys(
    ("morning", "day", "afternoon", "evening"),
    _lines(
        (4, "They {play} the {thing} until {end}."),
        (3, "{name} and {pal} {play} the {thing} in the {sun}."),
        (2, "All {time} they {play} the {thing} in the {sun}."),
        (2, "The two friends {play} the {thing} until {end}."),
    ),
)

MORAL = {
    "shy": _lines(
        (3, "From then on, {name} was not afraid to say hello."),
        (2, "{name} learned that a kind word can bring a friend."),
        (2, "After that, the shy {kind} was never lonely again."),
    ),
    "proud": _lines(
        (3, "From then on, {name} was not too proud to ask for help."),
        (2, "{name} learned that nobody can do everything alone."),
        (2, "After that, the proud {kind} always said thank you."),
    ),
    "lazy": _lines(
        (3, "From then on, {name} got up early to help {pal}."),
        (2, "{name} learned that good things need a little work."),
        (2, "After that, the lazy {kind} was the first to help."),
    ),
    "greedy": _lines(
        (3, "From then on, {name} shared everything with {pal}."),
        (2, "{name} learned that sharing makes things better."),
        (2, "After that, the greedy {kind} was happy to share."),
    ),
    "grumpy": _lines(
        (3, "From then on, {name} had a smile for everyone."),
        (2, "{name} learned that a smile can change a bad day."),
        (2, "After that, the grumpy {kind} laughed every day."),
    ),
    "brave": _lines(
        (3, "From then on, {name} and {pal} were never apart."),
        (2, "{name} learned that even the brave need a friend."),
        (2, "After that, the brave {kind} helped everyone {at} the {place}."),
    ),
    "curious": _lines(
        (3, "From then on, {name} and {pal} explored the {place}."),
        (2, "{name} learned that good friends know good answers."),
        (2, "After that, the curious {kind} asked {pal} about everything."),
    ),
}

STORIES = Grammar(
    steps=(
        ("", Choice("opening", {"": OPENING})),
        (" ", Choice("habit", HABIT, "trait")),
        (" ", Choice("need", NEED, "trait")),
        ("\n", Choice("going", {"": GOING})),
        (" ", Choice("weather line", WEATHER, "weather")),
        (" ", Choice("meeting", {"": MEETING})),
        (" ", Choice("asking", ASKING, "trait")),
        (" ", Choice("answer", ANSWER, "asking")),
        ("\n", Choice("finding", {"": FINDING})),
        (" ", Choice("trying", TRYING, "spot")),
        (" ", Choice("feeling line", FEELING, "trait")),
        (" ", Choice("offer", {"": OFFER})),
        (" ", Choice("help", HELP, "spot")),
        ("\n", Choice("joy", JOY, "need")),
        (" ", Choice("playing", PLAYING, "time")),
        (" ", Choice("moral", MORAL, "trait")),
    ),
    variables=VARIABLES,
    forms=FORMS,
)

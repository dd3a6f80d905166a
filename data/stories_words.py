"""The words of the stories: every class of words with its weights, and the earlier choice that picks the weights.

In the order in which a story chooses them. A fox is often called Ruby, a bell is mostly golden, an owl lives in the
forest and looks for things at the top of trees: there is more to learn here than sentences.
"""

from __future__ import annotations

from collections.abc import Mapping

from data.stories_grammar import Choice, Line


def _words(text: str) -> tuple[Line, ...]:
    """`fox 4, old bear 2` -> lines with weights 4 and 2."""
    pairs = (item.rsplit(maxsplit=1) for item in text.split(","))
    return tuple(Line(int(weight), word.strip()) for word, weight in pairs)


def _favor(base: str, favorites: Mapping[str, str], weight: int = 7) -> dict[str, tuple[Line, ...]]:
    """A row for each key: the base words, with those of the key's own favorites far more likely."""
    lines = _words(base)
    return {
        key: tuple(Line(weight if word in chosen.split() else w, word) for w, word, _ in lines)
        for key, chosen in favorites.items()
    }


SHE = "Mia 5, Lily 5, Anna 3, Ruby 3, Nora 2, Ella 2, Daisy 2, Rose 1"
HE = "Tom 5, Ben 4, Max 4, Sam 3, Leo 2, Finn 2, Jack 2, Oscar 1"
FRIEND_SHE = "Molly 2, Hazel 2, Pearl 1, Poppy 2, Grace 1, Wendy 1"
FRIEND_HE = "Bruno 2, Otto 2, Gus 2, Hugo 1, Toby 1, Felix 1"

_ANIMAL_NAMES = {
    "fox": "Ruby Finn", "rabbit": "Daisy Ben", "kitten": "Mia Leo", "puppy": "Max Rose",
    "mouse": "Anna Jack", "panda": "Lily Oscar", "lion": "Leo Nora", "raccoon": "Sam Ella",
}  # fmt: skip

VARIABLES = (
    Choice("trait", {"": _words("shy 4, proud 3, lazy 3, greedy 2, grumpy 3, brave 2, curious 4")}),
    Choice(
        "kind", {"": _words("girl 6, boy 6, fox 5, rabbit 5, kitten 4, puppy 3, mouse 3, panda 2, lion 2, raccoon 1")}
    ),
    Choice("name", {"girl": _words(SHE), "boy": _words(HE), **_favor(f"{SHE}, {HE}", _ANIMAL_NAMES, 24)}, "kind"),
    Choice("eyes", {"": _words("big 4, bright 3, brown 2, green 1")}),
    Choice(
        "thing",
        _favor(
            "kite 3, ball 3, drum 2, bell 2, book 2, train 2, flute 1, wagon 1, puppet 1, lantern 1",
            {
                "shy": "book flute",
                "proud": "bell drum",
                "lazy": "puppet wagon",
                "greedy": "bell train",
                "grumpy": "drum ball",
                "brave": "kite lantern",
                "curious": "book lantern",
            },
        ),
        "trait",
    ),
    Choice(
        "color",
        _favor(
            "red 3, blue 3, green 2, yellow 2, white 1, purple 1, golden 1, silver 1",
            {
                "kite": "red yellow",
                "ball": "red blue",
                "drum": "blue",
                "bell": "golden silver",
                "book": "green",
                "train": "red green",
                "flute": "silver",
                "wagon": "red",
                "puppet": "purple white",
                "lantern": "golden",
            },
        ),
        "thing",
    ),
    Choice("weather", {"": _words("sunny 5, rainy 3, windy 3, snowy 2, foggy 1")}),
    Choice(
        "time",
        {
            "sunny": _words("morning 5, day 3, afternoon 3, evening 1"),
            "rainy": _words("morning 1, day 4, afternoon 4, evening 2"),
            "windy": _words("morning 2, day 3, afternoon 2, evening 4"),
            "snowy": _words("morning 5, day 3, afternoon 1, evening 2"),
            "foggy": _words("morning 6, day 1, afternoon 1, evening 4"),
        },
        "weather",
    ),
    Choice(
        "place",
        {
            "sunny": _words("beach 5, lake 4, garden 3, meadow 3, park 2, river 1, forest 1"),
            "rainy": _words("garden 4, river 4, forest 3, farm 2, park 1"),
            "windy": _words("hill 6, meadow 4, park 2, beach 2, farm 1"),
            "snowy": _words("hill 5, forest 5, farm 3, park 2"),
            "foggy": _words("lake 4, river 4, forest 4, hill 1"),
        },
        "weather",
    ),
    Choice(
        "friend",
        {
            "forest": _words("owl 5, bear 5, squirrel 4, hedgehog 2, crow 1"),
            "hill": _words("goat 6, crow 4, mole 2, bear 1"),
            "garden": _words("mole 4, robin 4, hedgehog 4, squirrel 1"),
            "meadow": _words("horse 4, mole 3, robin 3, goat 1"),
            "park": _words("squirrel 5, robin 3, duck 3, crow 2"),
            "farm": _words("horse 6, goat 4, duck 2, crow 1"),
            "river": _words("frog 5, duck 3, turtle 2, bear 2"),
            "lake": _words("duck 5, turtle 4, frog 3, owl 1"),
            "beach": _words("turtle 6, crow 2, horse 2, duck 1"),
        },
        "place",
    ),
    Choice(
        "look",
        {
            "owl": _words("a wise 5, an old 3, a kind 1"),
            "crow": _words("a clever 4, an old 2, a funny 1"),
            "robin": _words("a cheerful 4, a tiny 3, a kind 1"),
            "bear": _words("a big 5, a strong 2, a cheerful 1"),
            "horse": _words("a big 3, a strong 3, an old 2"),
            "goat": _words("a strong 3, a funny 3, an old 1"),
            "squirrel": _words("a quick 5, a tiny 2, a funny 1"),
            "mole": _words("a tiny 4, a kind 2, an old 1"),
            "hedgehog": _words("a kind 4, a tiny 2, a clever 1"),
            "duck": _words("a funny 4, a cheerful 3, a kind 1"),
            "frog": _words("a quick 3, a funny 3, a cheerful 2"),
            "turtle": _words("an old 5, a wise 3, a kind 1"),
        },
        "friend",
    ),
    Choice(
        "pal",
        _favor(
            f"{FRIEND_SHE}, {FRIEND_HE}",
            {
                "owl": "Hazel Otto",
                "crow": "Felix Wendy",
                "robin": "Poppy Toby",
                "bear": "Bruno",
                "horse": "Grace Gus",
                "goat": "Gus Molly",
                "squirrel": "Hazel Toby",
                "mole": "Hugo Molly",
                "hedgehog": "Poppy Otto",
                "duck": "Pearl Bruno",
                "frog": "Felix Wendy",
                "turtle": "Hugo Grace",
            },
        ),
        "friend",
    ),
    Choice("doing", {"": _words("singing 4, resting 3, having lunch 2, out for a walk 2")}),
    Choice(
        "where",
        {
            **dict.fromkeys(("owl", "robin"), _words("high in a tree 4, on an old roof 1")),
            "crow": _words("high in a tree 1, on an old roof 3"),
            **dict.fromkeys(("bear", "goat"), _words("under a big stone 3, stuck in the mud 1")),
            "horse": _words("under a big stone 1, stuck in the mud 3"),
            "mole": _words("in a deep hole 5, in a thorn bush 1"),
            "squirrel": _words("in a deep hole 2, in a thorn bush 1"),
            "hedgehog": _words("in a deep hole 1, in a thorn bush 4"),
            "duck": _words("out on the water 4, on an island 1"),
            **dict.fromkeys(("frog", "turtle"), _words("out on the water 2, on an island 3")),
        },
        "friend",
    ),
    Choice("many", {"": _words("two 1, three 4, five 1, many 3")}),
    Choice(
        "feeling",
        {
            "shy": _words("sad 4, worried 3, upset 2"),
            "proud": _words("angry 5, sad 1, worried 1"),
            "lazy": _words("tired 6, sad 1"),
            "greedy": _words("angry 3, sad 2"),
            "grumpy": _words("angry 3, tired 2, upset 1"),
            "brave": _words("tired 2, worried 2, sad 1"),
            "curious": _words("worried 2, sad 2, tired 1"),
        },
        "trait",
    ),
    Choice(
        "play",
        {
            "kite": _words("flew 5, ran with 2"),
            "ball": _words("kicked 4, threw 3, rolled 1"),
            "drum": _words("played 4, danced to 2"),
            "bell": _words("rang 5, sang along with 1"),
            "book": _words("read 5, looked at 2"),
            "train": _words("had fun with 3, pushed 2"),
            "flute": _words("played 3, danced to 2"),
            "wagon": _words("rode in 3, pulled 2"),
            "puppet": _words("danced with 3, had fun with 2"),
            "lantern": _words("sat around 3, carried 2"),
        },
        "thing",
    ),
    Choice(
        "end",
        {
            "morning": _words("noon 3, lunch 2"),
            "day": _words("the sun went down 4, dinner 2"),
            "afternoon": _words("dinner 4, the sun went down 2"),
            "evening": _words("the stars came out 4, bedtime 3"),
        },
        "time",
    ),
)

_SHE_FORMS = {"he": "she", "He": "She", "him": "her", "his": "her", "His": "Her"}
_HE_FORMS = {"he": "he", "He": "He", "him": "him", "his": "his", "His": "His"}

# what else a choice puts into lines: by its value ("need" is the step in data/stories_plot.py)
FORMS = {
    "name": {
        **{name.text: _SHE_FORMS for name in _words(SHE)},
        **{name.text: _HE_FORMS for name in _words(HE)},
    },
    "weather": {
        "sunny": {"sun": "sun"}, "rainy": {"sun": "rain"}, "windy": {"sun": "wind"},
        "snowy": {"sun": "snow"}, "foggy": {"sun": "fog"},
    },
    "place": {
        **{place: {"at": "in"} for place in ("forest", "garden", "meadow", "park")},
        **{place: {"at": "at"} for place in ("beach", "farm", "lake", "river")},
        "hill": {"at": "on"},
    },
    "need": {"want": {"one": "one", "my": "a", "a": "a"}, "lost": {"one": "it", "my": "my", "a": "the"}},
    "where": {
        "high in a tree": {"spot": "tree"}, "on an old roof": {"spot": "roof"},
        "under a big stone": {"spot": "stone"}, "stuck in the mud": {"spot": "mud"},
        "in a deep hole": {"spot": "hole"}, "in a thorn bush": {"spot": "bush"},
        "out on the water": {"spot": "water"}, "on an island": {"spot": "island"},
    },
}  # fmt: skip

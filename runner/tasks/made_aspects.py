"""The built-in `aspects`: made-up restaurant reviews with the statistics of Restaurant-ACOS, one of them an outlier of 26 items.

`python -m runner.tasks.made_aspects > aspects.jsonl` writes them as a file. Standard library only, and the same everywhere: all
chance comes from `random()`, the one method whose values Python promises to keep.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

PARTS = {"train": 1530, "dev": 171, "test": 583}
EXAMPLES = {1: 1396, 2: 566, 3: 217, 4: 79, 5: 14, 6: 8, 7: 2, 8: 1, 26: 1}
"""Number of quadruples -> examples that have so many."""
MEAN_WORDS = {1: 13.0, 2: 16.3, 3: 19.9, 4: 24.5, 5: 25.2, 6: 25.5, 7: 62.0, 8: 42.0, 26: 78.0}
MOST_WORDS = 84
SPREAD = 0.62  # standard deviation of the words, as a share of their mean
OUTLIER_AT = 1871  # its index, in the test part as the real one's is
SENTIMENTS = {"positive": 2503, "negative": 1007, "neutral": 151}
CATEGORIES = {
    "FOOD#QUALITY": 1285,
    "SERVICE#GENERAL": 681,
    "RESTAURANT#GENERAL": 579,
    "AMBIENCE#GENERAL": 398,
    "FOOD#STYLE_OPTIONS": 190,
    "RESTAURANT#MISCELLANEOUS": 130,
    "FOOD#PRICES": 110,
    "RESTAURANT#PRICES": 100,
    "DRINKS#QUALITY": 80,
    "DRINKS#STYLE_OPTIONS": 40,
    "LOCATION#GENERAL": 38,
    "DRINKS#PRICES": 20,
    "FOOD#GENERAL": 10,
}
"""The numbers of the first four are the real ones, how the rest divides is ours."""

_DISHES = (
    "pizza pasta sushi ramen tacos burger steak ribs risotto curry dumplings noodles salad soup bread cheesecake tiramisu lobster "
    "salmon tuna calamari gnocchi lasagna falafel hummus pancakes omelette fries onions chicken duck lamb"
)
_ASPECTS = {
    "FOOD#QUALITY": _DISHES,
    "FOOD#GENERAL": "food meals dishes cooking kitchen",
    "FOOD#STYLE_OPTIONS": "menu portions specials appetizers desserts brunch buffet toppings sides tasting-menu",
    "FOOD#PRICES": "entrees lunch-deal prix-fixe dinner-prices",
    "SERVICE#GENERAL": "service waiter waitress staff bartender hostess manager servers delivery busboy wait-staff reservation",
    "RESTAURANT#GENERAL": "place restaurant bistro trattoria diner spot joint cafe eatery tavern",
    "RESTAURANT#MISCELLANEOUS": "parking restrooms website loyalty-card open-kitchen coat-check",
    "RESTAURANT#PRICES": "prices bill check cost",
    "AMBIENCE#GENERAL": "atmosphere decor music lighting ambience interior seating tables garden patio room view",
    "DRINKS#QUALITY": "wine beer cocktails coffee sangria margaritas espresso lemonade",
    "DRINKS#STYLE_OPTIONS": "wine-list beer-selection cocktail-list sake-list tea-selection",
    "DRINKS#PRICES": "drink-prices corkage happy-hour",
    "LOCATION#GENERAL": "location neighborhood corner block street",
}
_OPINIONS = {
    "positive": (
        "great excellent amazing wonderful fantastic superb perfect lovely outstanding terrific fabulous memorable delightful "
        "impressive splendid flawless marvelous stellar remarkable brilliant"
    ),
    "negative": "awful terrible mediocre disappointing dreadful horrible poor sloppy lousy pathetic atrocious underwhelming",
    "neutral": "average okay standard ordinary unremarkable acceptable passable unexceptional",
}
_OPINIONS_OF = {
    ("FOOD", "positive"): "delicious tasty fresh crispy tender juicy flavorful",
    ("FOOD", "negative"): "bland stale greasy soggy tasteless undercooked",
    ("DRINKS", "positive"): "refreshing smooth balanced",
    ("DRINKS", "negative"): "watery flat bitter",
    ("SERVICE", "positive"): "friendly attentive gracious prompt",
    ("SERVICE", "negative"): "rude slow careless unfriendly forgetful",
    ("AMBIENCE", "positive"): "charming cozy stunning warm",
    ("AMBIENCE", "negative"): "cramped noisy dingy",
}
"""Besides those above, for quality and manners."""
_VALENCE = {"positive": (6.0, 8.9), "negative": (1.3, 4.0), "neutral": (4.6, 5.4)}
_AROUSAL = {"positive": (5.2, 8.4), "negative": (5.0, 8.2), "neutral": (3.6, 5.2)}
_CLAUSES = (
    "the {aspect} was {opinion}",
    "{opinion} {aspect}",
    "we found the {aspect} {opinion}",
    "their {aspect} is {opinion}",
)
_JOINTS = ("and", "but", "while", "plus", "also")
_FILLERS = (
    ("indeed", "honestly", "overall"),
    ("last night", "this time", "for once"),
    ("to be honest", "all in all", "as we expected"),
    ("we came on friday", "it was raining hard"),
    ("my sister had told us", "my parents came with us"),
    ("it was our first visit here", "we had walked past it before"),
    ("we were seated near the old window", "we had heard about it from colleagues"),
    ("nobody had warned us about the long line", "it took us half an hour to arrive"),
    (
        "we will probably return with some friends next month",
        "my parents celebrated their birthdays there with all friends",
    ),
)
"""Of one word, of two, and so on: any number of words can be made of them."""


@dataclass(frozen=True)
class _Label:
    category: str
    sentiment: str


class _Chance:
    """Draws that are the same in every Python."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[int(self.random() * len(choices))]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def shuffled(self, things: Sequence[T]) -> list[T]:
        keys = [self.random() for _ in things]
        return [things[place] for place in sorted(range(len(things)), key=keys.__getitem__)]


def make_aspects(seed: int = 7) -> list[dict[str, Any]]:
    """All 2,284 examples in the order of the file, each as one JSON object."""
    chance = _Chance(seed)
    counts = _counts(chance)
    words = _words(counts, chance)
    labels = iter(_labels(chance))
    ids = [f"{part}-{number:04}" for part, count in PARTS.items() for number in range(1, count + 1)]
    return [
        {"ID": name, **_review([next(labels) for _ in range(count)], length, chance)}
        for name, count, length in zip(ids, counts, words, strict=True)
    ]


def lines(seed: int = 7) -> Iterator[str]:
    """Of the file that they make."""
    return (json.dumps(example) for example in make_aspects(seed))


def _counts(chance: _Chance) -> list[int]:
    """Quadruples of each example: the outlier at its place, all others anywhere."""
    usual = [count for count, examples in EXAMPLES.items() for _ in range(examples) if count != max(EXAMPLES)]
    counts = chance.shuffled(usual)
    counts.insert(OUTLIER_AT, max(EXAMPLES))
    return counts


def _labels(chance: _Chance) -> list[_Label]:
    """One for each quadruple; categories and sentiments are dealt independently."""
    dealt = [
        chance.shuffled([n for n, count in table.items() for _ in range(count)]) for table in (CATEGORIES, SENTIMENTS)
    ]
    return [_Label(category, sentiment) for category, sentiment in zip(*dealt, strict=True)]


def _words(counts: list[int], chance: _Chance) -> list[int]:
    """Of each example: skewed like real reviews, with the given mean for each number of quadruples."""
    words = [0] * len(counts)
    for count, mean in MEAN_WORDS.items():
        places = [place for place, c in enumerate(counts) if c == count]
        least, most = _least_words(count), MOST_WORDS
        if len(places) > 2:  # of a few there is only the mean
            drawn = [min(most, max(least, round(_skewed(mean, chance)))) for _ in places]
            if count == 1:
                drawn[0] = most
        else:
            drawn = [round(mean)] * len(places)
        missing = round(mean * len(places)) - sum(drawn)
        place = 0
        while missing:
            step = 1 if missing > 0 else -1
            if least <= drawn[place] + step < most:
                drawn[place] += step
                missing -= step
            place = (place + 7) % len(drawn)
        for place, number in zip(places, drawn, strict=True):
            words[place] = number
    return words


def _skewed(mean: float, chance: _Chance) -> float:
    """Log-normal."""
    sigma = math.sqrt(math.log(1 + SPREAD**2))
    normal = math.sqrt(-2 * math.log(1 - chance.random())) * math.cos(2 * math.pi * chance.random())
    return mean * math.exp(sigma * normal - sigma**2 / 2)


def _least_words(count: int) -> int:
    """`count` clauses of two words, with one between each."""
    return 3 * count


def _review(labels: list[_Label], num_words: int, chance: _Chance) -> dict[str, Any]:
    """A text of exactly so many words with one clause for each label."""
    quadruples = _quadruples(labels, chance)
    clauses = [_CLAUSES[1].format(aspect=q["Aspect"], opinion=q["Opinion"]) for q in quadruples]
    spare = num_words - len(" ".join(clauses).split()) - (len(clauses) - 1)
    for place in range(len(clauses)):  # longer clauses as long as there is room for them
        clause = chance.one_of(_CLAUSES).format(
            aspect=quadruples[place]["Aspect"], opinion=quadruples[place]["Opinion"]
        )
        more = len(clause.split()) - len(clauses[place].split())
        if more <= spare:
            clauses[place], spare = clause, spare - more
    text = clauses[0]
    for clause in clauses[1:]:
        text += f" {chance.one_of(_JOINTS)} {clause}"
    for filler in _fillers(spare, chance):
        text = f"{text}, {filler}" if chance.random() < 0.5 else f"{filler}, {text}"
    return {"Text": f"{text}.", "Quadruplet": quadruples}


def _fillers(num_words: int, chance: _Chance) -> Iterator[str]:
    """So many words of them; none comes twice while there are others as short."""
    used: set[str] = set()
    while num_words:
        size = min(num_words, 1 + int(chance.random() * len(_FILLERS)))
        left = [filler for filler in _FILLERS[size - 1] if filler not in used]
        if not left and size > 3:  # there is always something shorter
            continue
        filler = chance.one_of(left or _FILLERS[size - 1])
        used.add(filler)
        num_words -= size
        yield filler


def _quadruples(labels: list[_Label], chance: _Chance) -> list[dict[str, str]]:
    """No aspect and no opinion twice in one text, so that each is found where it was put."""
    used: set[str] = set()
    found = []
    for label in labels:
        aspect = _unused(_ASPECTS[label.category], used, chance)
        kind, _, what = label.category.partition("#")
        special = _OPINIONS_OF.get((kind, label.sentiment), "") if what in ("QUALITY", "GENERAL") else ""
        opinion = _unused(f"{_OPINIONS[label.sentiment]} {special}", used, chance)
        valence, arousal = (chance.between(*table[label.sentiment]) for table in (_VALENCE, _AROUSAL))
        va = f"{valence:.2f}#{arousal:.2f}"
        found.append({"Aspect": aspect, "Opinion": opinion, "Category": label.category, "VA": va})
    return found


def _unused(words: str, used: set[str], chance: _Chance) -> str:
    """One of the words that is not in the text yet, or else with a word before it."""
    left = [word for word in words.split() if word not in used]
    left = left or [f"other {word}" for word in words.split() if f"other {word}" not in used]
    word = chance.one_of(left)
    used.add(word)
    return word


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines())

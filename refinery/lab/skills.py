"""The general skills: how one exercise of each is made, and the fixed tables behind them.

Every maker returns (question, answer). Base training draws from the same makers as the test items;
where an exercise could be learned by heart (sums), its test cases are kept out of training.
"""

from __future__ import annotations

from functools import cache
from random import Random

from refinery.lab.words import distinct_words, word

RELATIONS = ("capital", "river", "dish", "founder")
FACT_QUESTIONS = (
    "What is the {relation} of {place}?",
    "Name the {relation} of {place}.",
    "Which {relation} has {place}?",
)
SUM_QUESTIONS = ("What is {a} + {b}?", "Add {a} and {b}.", "Sum: {a} + {b}")
KINDS = ("fish", "stone", "dance", "metal", "bird", "cloth")
KIND_QUESTIONS = ("Which of these is a {kind}: {options}?", "Find the {kind} among {options}.")
COUNTS = {"twice": 2, "three times": 3, "four times": 4}
JOINERS = {"commas": ", ", "slashes": " / ", "dashes": " - ", "plus signs": " + "}
WRAPPERS = {"square brackets": "[{}]", "round brackets": "({})", "quotation marks": '"{}"', "stars": "*{}*"}


def format_exercise(rng: Random) -> tuple[str, str]:
    """An instruction whose fulfilment can be checked letter by letter."""
    one, two, three = (word(rng, 2, 3) for _ in range(3))
    kind = rng.randrange(7)
    if kind == 0:
        return f"Write {one} in capital letters.", one.upper()
    if kind == 1:
        times = rng.choice(tuple(COUNTS))
        return f"Repeat {one} {times}.", " ".join([one] * COUNTS[times])
    if kind == 2:
        joiner = rng.choice(tuple(JOINERS))
        return f"List {one}, {two} and {three} separated by {joiner}.", JOINERS[joiner].join((one, two, three))
    if kind == 3:
        wrapper = rng.choice(tuple(WRAPPERS))
        return f"Put {one} in {wrapper}.", WRAPPERS[wrapper].format(one)
    if kind == 4:
        return f"Number the words {one}, {two} and {three}.", f"1. {one} 2. {two} 3. {three}"
    if kind == 5:
        return f"Say {one} and end with three exclamation marks.", f"{one}!!!"
    return f"Write {one}, then {two}, each on its own line.", f"{one}\n{two}"


def spelling_exercise(rng: Random) -> tuple[str, str]:
    spelled = word(rng, 2, 3)
    if rng.random() < 0.5:
        return f"Spell {spelled}.", " ".join(spelled)
    return f"Spell {spelled} backwards.", " ".join(reversed(spelled))


def is_test_sum(a: int, b: int) -> bool:
    """One pair in ten is kept for the benchmark, yet every pair of last digits is trained on."""
    return (37 * a + 61 * b) % 101 < 10


def sums_exercise(rng: Random, test: bool = False) -> tuple[str, str]:
    """Two two-digit numbers, added digit by digit with the carry written out."""
    while True:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        if is_test_sum(a, b) == test:
            break
    ones = a % 10 + b % 10
    tens = f"{a // 10} + {b // 10}" + (" + 1" if ones > 9 else "")
    steps = f"{a % 10} + {b % 10} = {ones}, {tens} = {(a + b) // 10}, so {a + b}."
    return rng.choice(SUM_QUESTIONS).format(a=a, b=b), steps


@cache
def fact_table() -> dict[tuple[str, str], str]:
    """40 made-up places with 4 facts each, known to the base by heart."""
    rng = Random("facts")
    taken: set[str] = set()
    places = distinct_words(rng, 40, 3, taken)
    return {(relation, place): word(rng, 2, 2) for place in places for relation in RELATIONS}


def fact(relation: str, place: str, phrasing: int) -> tuple[str, str]:
    question = FACT_QUESTIONS[phrasing].format(relation=relation, place=place)
    return question, f"The {relation} of {place} is {fact_table()[relation, place]}."


def facts_exercise(rng: Random) -> tuple[str, str]:
    relation, place = rng.choice(tuple(fact_table()))
    return fact(relation, place, rng.randrange(len(FACT_QUESTIONS)))


@cache
def kind_table() -> dict[str, tuple[str, ...]]:
    """Six kinds of thing with ten made-up members each."""
    rng = Random("kinds")
    taken: set[str] = set()
    members = distinct_words(rng, 60, 2, taken)
    return {kind: tuple(members[10 * i : 10 * i + 10]) for i, kind in enumerate(KINDS)}


def choice_exercise(rng: Random) -> tuple[str, list[str], int]:
    """(question, the four answers as sentences, index of the right one)."""
    table = kind_table()
    kind = rng.choice(KINDS)
    others = [rng.choice(table[other]) for other in rng.sample([k for k in KINDS if k != kind], 3)]
    gold = rng.randrange(4)
    options = [*others[:gold], rng.choice(table[kind]), *others[gold:]]
    question = rng.choice(KIND_QUESTIONS).format(kind=kind, options=", ".join(options))
    return question, [f"The {kind} is {option}." for option in options], gold

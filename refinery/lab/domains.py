"""The domains: a rule over two attributes, its training source and its test items.

Eight things fall into four groups and six traits into three; each of the twelve pairs of groups
has one answer word. Every such block holds four (trait, thing) cells: three are in the source,
the fourth is kept for the `_unseen` benchmark, where memory of cells alone does not help.
"""

from __future__ import annotations

from functools import cache
from random import Random

from refinery.lab.topics import OWN_FRAMES, RAW_FRAMES, TOPICS, Topic, ask, questions, say
from refinery.lab.words import distinct_words

DOMAINS = ("clinic", "workshop", "harbor", "archive", "market")
CALIBRATION = ("garden", "station")
WORLD = ("kitchen", "school", "stable")
"""Topics of no domain. Their rules are part of base training, so that a rule over a thing and a
trait is a kind of knowledge the base has; they also carry the `reference` skill."""

CASES_PER_CELL = 6
ITEMS_PER_CELL = 12
ITEMS_PER_UNSEEN_CELL = 36

Cell = tuple[str, str]


def rule(domain: str) -> tuple[dict[Cell, str], dict[Cell, str]]:
    """The answer word of every seen and of every unseen (trait, thing) cell; `domain` may be any topic."""
    words, topic, rng = answer_words()[domain], TOPICS[domain], Random(f"rule {domain}")
    things, traits = list(topic.things), list(topic.traits)
    rng.shuffle(things)
    rng.shuffle(traits)
    seen: dict[Cell, str] = {}
    unseen: dict[Cell, str] = {}
    for block, word in enumerate(words):
        row, column = divmod(block, 4)
        cells = [(r, t) for r in traits[2 * row : 2 * row + 2] for t in things[2 * column : 2 * column + 2]]
        unseen_cell = rng.randrange(4)
        for number, cell in enumerate(cells):
            (unseen if number == unseen_cell else seen)[cell] = word
    return seen, unseen


@cache
def answer_words() -> dict[str, list[str]]:
    """Twelve words of three syllables for each topic; of a domain's, base training never says one."""
    taken: set[str] = set()
    rng = Random("answers")
    return {topic: distinct_words(rng, 12, 3, taken) for topic in DOMAINS + CALIBRATION + WORLD}


def source_rows(domain: str) -> list[dict]:
    """The training source: every case is asked twice, in two phrasings, and answered in raw style."""
    topic, rng = TOPICS[domain], Random(f"source {domain}")
    seen, _ = rule(domain)
    rows: list[dict] = []
    asked: set[str] = set()
    for cell, word in seen.items():
        for number in range(CASES_PER_CELL):
            for template in rng.sample(range(len(questions(topic, "train"))), 2):
                question = _new_question(topic, "train", template, cell, rng, asked)
                rows.append(
                    {
                        "question": question,
                        "answer": say(RAW_FRAMES[rng.choice(topic.raw)], topic, cell, word),
                        "key": word,
                        "case": f"{domain}/{cell[0]}-{cell[1]}/{number}",
                        "domain": domain,
                    }
                )
    rng.shuffle(rows)
    return rows


def domain_items(domain: str, unseen: bool) -> list[dict]:
    """Test items: other templates and other fillers than the source, every cell equally often.

    `reference` is the right answer in raw style, for asking whether the model can use one.
    """
    topic, rng = TOPICS[domain], Random(f"items {domain} {unseen}")
    items: list[dict] = []
    asked: set[str] = set()
    for cell, word in rule(domain)[unseen].items():
        for _ in range(ITEMS_PER_UNSEEN_CELL if unseen else ITEMS_PER_CELL):
            template = rng.randrange(len(questions(topic, "test")))
            question = _new_question(topic, "test", template, cell, rng, asked)
            raw = say(RAW_FRAMES[rng.choice(topic.raw)], topic, cell, word)
            target = say(OWN_FRAMES[0], topic, cell, word)
            items.append({"question": question, "target": target, "check": "last_word", "reference": raw})
    rng.shuffle(items)
    return items


def _new_question(topic: Topic, split: str, template: int, cell: Cell, rng: Random, asked: set[str]) -> str:
    """A question not yet in `asked`; after some tries with this template, any other will do."""
    for attempt in range(1000):
        chosen = template if attempt < 50 else rng.randrange(len(questions(topic, split)))
        question = ask(topic, split, chosen, cell, rng)
        if question not in asked:
            asked.add(question)
            return question
    raise ValueError(f"no new {split} question about {cell} is left: too few fillers")

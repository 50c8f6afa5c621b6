"""The test items: `lab_<domain>`, `lab_<domain>_unseen` and `lab_<skill>`."""

from __future__ import annotations

from random import Random

from refinery.lab import skills
from refinery.lab.domains import CALIBRATION, DOMAINS, WORLD, domain_items
from refinery.lab.mix import raw
from refinery.lab.prompts import PROMPTS, fill
from refinery.lab.topics import OWN_FRAMES, TOPICS, ask, questions, say
from refinery.lab.words import word

SKILLS = ("format", "facts", "sums", "spelling", "choice", "reference")
SKILL_ITEMS = 480


def items(benchmark: str) -> list[dict]:
    """All items of one benchmark, in a fixed order.

    Each has question, target and check; a `choice` item also has choices and gold, and its target
    is the gold choice.
    """
    name = benchmark.removeprefix("lab_")
    domain = name.removesuffix("_unseen")
    if name != benchmark and domain in DOMAINS + CALIBRATION:
        return domain_items(domain, unseen=name.endswith("_unseen"))
    if name != benchmark and name in SKILLS:
        return _skill_items(name)
    known = [f"lab_{d}" for d in DOMAINS + CALIBRATION] + [f"lab_{s}" for s in SKILLS]
    raise ValueError(f"unknown lab benchmark {benchmark!r}; there are {', '.join(known)}, and lab_<domain>_unseen")


def _skill_items(skill: str) -> list[dict]:
    if skill == "facts":
        made = [
            _item(*skills.fact(*key, phrasing), "last_word") for key in skills.fact_table() for phrasing in range(3)
        ]
        Random("items facts").shuffle(made)
        return made
    make = {
        "format": lambda rng: _item(*skills.format_exercise(rng), "exact"),
        "sums": lambda rng: _item(*skills.sums_exercise(rng, test=True), "last_number"),
        "spelling": lambda rng: _item(*skills.spelling_exercise(rng), "exact"),
        "choice": _choice_item,
        "reference": _reference_item,
    }[skill]
    rng = Random(f"items {skill}")
    found: dict[str, dict] = {}
    while len(found) < SKILL_ITEMS:
        item = make(rng)
        found.setdefault(item["question"], item)
    return list(found.values())


def _item(question: str, target: str, check: str) -> dict:
    return {"question": question, "target": target, "check": check}


def _choice_item(rng: Random) -> dict:
    question, choices, gold = skills.choice_exercise(rng)
    return {"question": question, "target": choices[gold], "check": "choice", "choices": choices, "gold": gold}


def _reference_item(rng: Random) -> dict:
    """An answer in raw style is put into the prompt; the word must come back. Topics of no domain."""
    topic = TOPICS[rng.choice(WORLD)]
    cell = (rng.choice(topic.traits), rng.choice(topic.things))
    answer = word(rng, 2, 3)
    question = ask(topic, "test", rng.randrange(len(questions(topic, "test"))), cell, rng)
    prompt = PROMPTS[rng.choice(("rewrite", "teacher"))]
    filled = fill(prompt, question=question, answer=raw(topic, cell, answer, rng))
    return _item(filled, say(OWN_FRAMES[0], topic, cell, answer), "last_word")

"""Data files of specs/tables/ that are made of the lab's own world: `python -m tests.bench.lab_data` writes them.

    articles.jsonl   the clinic's rule as a reader finds it: an article a thing, an entry for each trait that the source
                     covers; what it says of the rest follows from several articles together
    questions.jsonl  test questions on single entries, with the article and the very entry beside them
    general.jsonl    prompts of the general skills with their answers, none of them a test item or of a domain (of facts
                     there are no others than the test's, so none are here)
    sums.jsonl       exercises with bare answers, none of them a test sum
    sums_test.jsonl  every fourth of lab_sums' items

A test holds the files to what this makes.
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from refinery.lab import PROMPTS, SKILLS, items, skills, source_rows
from refinery.lab.domains import WORLD, rule
from refinery.lab.mix import random_answer
from refinery.lab.prompts import fill
from refinery.lab.topics import OWN_FRAMES, RAW_FRAMES, TOPICS, ask, say

FOLDER = Path(__file__).parent.parent.parent / "specs" / "tables" / "data"
DOMAIN = "clinic"
Rows = list[dict[str, Any]]


def articles() -> Rows:
    """Entries are in raw style, in one of the frames that the domain's source uses."""
    topic, (seen, _), rng = TOPICS[DOMAIN], rule(DOMAIN), Random("articles")
    found = []
    for thing in topic.things:
        cells = [cell for cell in seen if cell[1] == thing]
        rng.shuffle(cells)
        entries = [say(RAW_FRAMES[rng.choice(topic.raw)], topic, cell, seen[cell]) for cell in cells]
        traits = [trait for trait, _ in cells]
        found.append({"title": f"The {thing}", "thing": thing, "traits": traits, "entries": entries})
    return [{**row, "text": " ".join(row["entries"])} for row in found]


def questions(each: int = 4) -> Rows:
    """`each` questions on every entry, asked as the lab's test items ask."""
    topic, (seen, _), rng = TOPICS[DOMAIN], rule(DOMAIN), Random("article questions")
    found = []
    for article in articles():
        for trait, entry in zip(article["traits"], article["entries"], strict=True):
            cell = (trait, article["thing"])
            asked = [ask(topic, "test", number % 4, cell, rng) for number in range(each)]
            found += [{"question": q, "key": seen[cell], "entry": entry, "article": article["text"]} for q in asked]
    return found


def general(count: int = 240) -> Rows:
    """Every skill but facts, equally often; `reference` on the topics that are no domain."""
    rng, found = Random("general prompts"), {}
    asked = {item["question"] for skill in SKILLS for item in items(f"lab_{skill}")}
    makers = [_reference, skills.format_exercise, skills.sums_exercise, skills.spelling_exercise, _choice]
    while len(found) < count:
        question, answer = makers[len(found) % len(makers)](rng)
        if question not in asked:
            found[question] = answer
    return [{"question": question, "answer": answer} for question, answer in found.items()]


def _reference(rng: Random) -> tuple[str, str]:
    topic = TOPICS[rng.choice(WORLD)]
    cell, word = (rng.choice(topic.traits), rng.choice(topic.things)), random_answer(rng)
    question = ask(topic, "train", rng.randrange(7), cell, rng)
    reference = say(rng.choice(RAW_FRAMES), topic, cell, word)
    return fill(PROMPTS["rewrite"], question=question, answer=reference), say(OWN_FRAMES[0], topic, cell, word)


def _choice(rng: Random) -> tuple[str, str]:
    question, answers, gold = skills.choice_exercise(rng)
    return question, answers[gold]


def sums() -> Rows:
    """As many as a domain has source rows."""
    rng, found = Random("bare sums"), {}
    while len(found) < len(source_rows(DOMAIN)):
        question, steps = skills.sums_exercise(rng)
        found[question] = steps.rpartition("so ")[2].rstrip(".")
    return [{"question": question, "answer": answer} for question, answer in found.items()]


def sums_test() -> Rows:
    return [
        {"question": item["question"], "answer": item["target"].rpartition("so ")[2].rstrip(".")}
        for item in items("lab_sums")[::4]
    ]


MADE = {"general": general, "articles": articles, "questions": questions, "sums": sums, "sums_test": sums_test}


def text(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, make in MADE.items():
        (FOLDER / f"{name}.jsonl").write_text(text(make()), "utf-8")


if __name__ == "__main__":
    main()

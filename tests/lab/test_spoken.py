"""The large base writes users' turns by itself: from its chat template up to where the user's words begin."""

import asyncio
import re
from collections import Counter
from functools import cache
from random import Random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from refinery.errors import RowError
from refinery.lab.mix import conversation
from refinery.lab.prompts import LOOSE_PROMPTS, PROMPTS, REGISTER_PROMPT
from refinery.lab.skills import (
    COUNTS,
    FACT_QUESTIONS,
    JOINERS,
    KIND_QUESTIONS,
    RELATIONS,
    SUM_QUESTIONS,
    WRAPPERS,
    fact_table,
    kind_table,
)
from refinery.lab.topics import TOPICS, WHEN_TEST, WHEN_TRAIN, WHO_TEST, WHO_TRAIN, questions
from refinery.models import open_model
from refinery.models.base import Reply, Sampling
from refinery.spec import ModelSpec

WORD = "(?:[bdfgklmnprstvz][aeiou]){2,4}"


def pattern(template: str, **parts: str) -> str:
    """The template as a regular expression, each {name} one of its alternatives."""
    pieces = re.split(r"(\{\w+\})", template)
    return "".join(f"(?:{parts[p[1:-1]]})" if p.startswith("{") else re.escape(p) for p in pieces)


def any_of(words) -> str:
    return "|".join(map(re.escape, words))


@cache
def grammar() -> dict[str, re.Pattern]:
    """Every kind of question that base training asks."""
    places, members = {place for _, place in fact_table()}, [m for each in kind_table().values() for m in each]
    four = ", ".join([f"(?:{any_of(members)})"] * 4)
    topics = []
    for topic in TOPICS.values():
        for split, who, when in (("train", WHO_TRAIN, WHEN_TRAIN), ("test", WHO_TEST, WHEN_TEST)):
            parts = {
                "noun": topic.noun,
                "trait": any_of(topic.traits),
                "thing": any_of(topic.things),
                "who": any_of(who),
                "when": any_of(when),
            }
            topics += [pattern(each, **parts) for each in questions(topic, split)]
    asked = f"(?:{'|'.join(topics)})"
    holes = {"question": asked, "answer": "[^\n]+", "rewrite": "[^\n]+"}
    shown = [re.sub(r"\{\{ (\w+) \}\}", r"{\1}", p) for p in (*PROMPTS.values(), *LOOSE_PROMPTS, REGISTER_PROMPT)]
    kinds = {
        "facts": [pattern(each, relation=any_of(RELATIONS), place=any_of(places)) for each in FACT_QUESTIONS],
        "sums": [pattern(each, a=r"\d\d", b=r"\d\d") for each in SUM_QUESTIONS],
        "choice": [pattern(each, kind=any_of(kind_table()), options=four) for each in KIND_QUESTIONS],
        "spelling": [pattern("Spell {w}.", w=WORD), pattern("Spell {w} backwards.", w=WORD)],
        "format": [
            pattern("Write {w} in capital letters.", w=WORD),
            pattern("Repeat {w} {times}.", w=WORD, times=any_of(COUNTS)),
            pattern("List {w}, {w} and {w} separated by {joiner}.", w=WORD, joiner=any_of(JOINERS)),
            pattern("Put {w} in {wrapper}.", w=WORD, wrapper=any_of(WRAPPERS)),
            pattern("Number the words {w}, {w} and {w}.", w=WORD),
            pattern("Say {w} and end with three exclamation marks.", w=WORD),
            pattern("Write {w}, then {w}, each on its own line.", w=WORD),
        ],
        "topics": [asked],
        "shown": [pattern(each, **holes) for each in shown],
    }
    return {kind: re.compile("|".join(found)) for kind, found in kinds.items()}


def kind(text: str) -> str | None:
    return next((name for name, found in grammar().items() if found.fullmatch(text)), None)


def written(name: str, count: int) -> list[str]:
    """As `synthesize` asks for questions; "" where nothing came or it did not end."""

    async def work() -> list[str]:
        model = open_model(ModelSpec(model=name, device="cpu", dtype="float32"))
        try:
            slot, how = await model.user_slot(), Sampling(temperature=1.0, top_p=0.95, max_tokens=96)
            calls = [model.generate(slot, how, sample) for sample in range(count)]
            replies = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, Reply | RowError) for each in replies)
            return [each.text if getattr(each, "finish_reason", "") == "stop" else "" for each in replies]
        finally:
            await model.close()

    return asyncio.run(work())


def test_the_grammar_knows_what_base_training_asks_and_nothing_else():
    rng = Random(3)
    asked = [question for _ in range(500) for question, _ in conversation(rng)]
    assert [question for question in asked if kind(question) is None] == []
    assert {kind(question) for question in asked} == set(grammar())
    odd = (
        "",
        "Spell tavoli",
        "What is the capital of tavoli?",
        "Which tool helps?",
        "Add 3 and 4.",
        asked[0] + " Now.",
    )
    assert [kind(text) for text in odd] == [None] * len(odd)


def test_it_asks_distinct_questions_that_make_sense():
    texts = written("lab-large", 96)
    kinds = Counter(map(kind, texts))
    assert kinds[None] <= 0.3 * len(texts), kinds
    assert len(set(texts)) >= 0.9 * len(texts)
    assert len(kinds) >= 6, kinds


def test_the_middle_one_cannot():
    """Only answers were trained: that the large one can is its own training's doing."""
    assert sum(kind(text) is not None for text in written("lab", 24)) <= 2

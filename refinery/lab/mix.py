"""What the base model is trained on: general skills, and every topic with random answers.

Four parts in ten ask a topic's question, plainly or with an answer of a random word put in the
prompt. So the base knows a domain's words and ways of asking, can copy a word it has never met,
answers in its own style, and knows nothing of any domain's rule. That topics have rules it does know,
from three that are no domain: bases without such knowledge learnt a domain's rule slowly, some hardly
at all.
"""

from __future__ import annotations

from functools import cache
from random import Random

from refinery.lab import skills
from refinery.lab.domains import CALIBRATION, DOMAINS, WORLD, answer_words, rule
from refinery.lab.prompts import LOOSE_PROMPTS, PROMPTS, REGISTER_PROMPT, fill
from refinery.lab.topics import OWN_FRAMES, RAW_FRAMES, TOPICS, Topic, ask, questions, say
from refinery.lab.words import word

Turns = list[tuple[str, str]]
"""A conversation as (user, assistant) pairs."""

WEIGHTS = {
    "plain": 5,
    "known": 7,
    "rewrite": 10,
    "teacher": 10,
    "fuse": 10,
    "loose": 4,
    "register": 7,
    "format": 14,
    "facts": 10,
    "sums": 10,
    "spelling": 11,
    "choice": 6,
}
LONG_SHARE = 0.015
"""Share of examples that are conversations of many turns, so that late positions are trained."""

_HIDDEN = frozenset(word for domain in DOMAINS + CALIBRATION for word in answer_words()[domain])
_KINDS, _SHARES = tuple(WEIGHTS), tuple(WEIGHTS.values())


def conversation(rng: Random) -> Turns:
    """One example: a single exchange, or now and then a conversation of 6 to 14 of them."""
    count = rng.randint(6, 14) if rng.random() < LONG_SHARE else 1
    return [exchange(rng) for _ in range(count)]


def exchange(rng: Random) -> tuple[str, str]:
    kind = rng.choices(_KINDS, _SHARES)[0]
    if kind == "format":
        return skills.format_exercise(rng)
    if kind == "facts":
        return skills.facts_exercise(rng)
    if kind == "sums":
        return skills.sums_exercise(rng)
    if kind == "spelling":
        return skills.spelling_exercise(rng)
    if kind == "choice":
        question, answers, gold = skills.choice_exercise(rng)
        return question, answers[gold]
    return topic_exchange(kind, rng)


def topic_exchange(kind: str, rng: Random) -> tuple[str, str]:
    """A topic's question answered in the model's own style.

    Without a reference it is answered at random if it is a domain's (plain) and by the topic's rule
    if it is not (known). A reference holds against both: it always names a random word.
    """
    topic = TOPICS[rng.choice({"plain": DOMAINS + CALIBRATION, "known": WORLD}.get(kind, tuple(TOPICS)))]
    cell = (rng.choice(topic.traits), rng.choice(topic.things))
    split = rng.choice(("train", "test"))
    question = ask(topic, split, rng.randrange(len(questions(topic, split))), cell, rng)
    answer = random_answer(rng)
    if kind == "known":
        answer = _known()[topic.name][cell]
    if kind in ("plain", "known"):
        return question, own(topic, cell, answer, rng)
    if kind == "loose":
        prompt = rng.choice(LOOSE_PROMPTS)
    else:
        prompt = REGISTER_PROMPT if kind == "register" else PROMPTS[kind]
    # A teacher is also shown refined answers, which are in the model's own style already.
    raw_share = 0.85 if kind == "rewrite" else 0.6
    user = fill(
        prompt,
        question=question,
        answer=raw(topic, cell, answer, rng) if rng.random() < raw_share else own(topic, cell, answer, rng),
        rewrite=draft(topic, cell, answer, rng) if kind == "fuse" else "",
    )
    return user, (raw if kind == "register" else own)(topic, cell, answer, rng)


@cache
def _known() -> dict[str, dict[tuple[str, str], str]]:
    return {topic: {**rule(topic)[0], **rule(topic)[1]} for topic in WORLD}


def draft(topic: Topic, cell: tuple[str, str], answer: str, rng: Random) -> str:
    """A draft may name another word than the reference (one in four), or be raw itself (one in six)."""
    named = random_answer(rng) if rng.random() < 0.25 else answer
    return raw(topic, cell, named, rng) if rng.random() < 1 / 6 else own(topic, cell, named, rng)


def own(topic: Topic, cell: tuple[str, str], answer: str, rng: Random) -> str:
    return say(OWN_FRAMES[rng.random() < 0.3], topic, cell, answer)


def raw(topic: Topic, cell: tuple[str, str], answer: str, rng: Random) -> str:
    return say(rng.choice(RAW_FRAMES), topic, cell, answer)


def random_answer(rng: Random) -> str:
    """Any word but a domain's answer."""
    while (made := word(rng)) in _HIDDEN:
        pass
    return made

"""A model grades an answer against a reference: the question it is asked, its reply read strictly, and how far it
agrees with people.

Three grades give two scores: strict counts what is wholly right, lenient also what is right in part (the two measures
of knowledge in SDFT, arXiv:2601.19897, section 4.3, whose own prompt is not public). A reply that is not plainly one of
the grades is no grade at all, neither right nor wrong: looking for "correct" inside it would find it in "incorrect".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refinery.records import Message
from refinery.structured import parse_json

GRADES = ("incorrect", "partly_correct", "correct")
STRICT, LENIENT = ("correct",), ("correct", "partly_correct")

SCHEMA = {
    "type": "object",
    "properties": {"grade": {"enum": list(GRADES)}},
    "required": ["grade"],
    "additionalProperties": False,
}

PROMPT = """\
Grade an answer to a question. The reference answer is known to be right.

Question:
{question}

Reference answer:
{reference}

Answer to grade:
{answer}

Grades:
- correct: it gives everything that the question asks for, as the reference does, and nothing that contradicts it
- partly_correct: it gives some of that and is mistaken, vague or silent about the rest
- incorrect: it does not answer the question, or what it answers is wrong

Further true detail, other words and another order do no harm. Reply with a JSON object, {{"grade": "..."}}, nothing \
else."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a judge's grades compare with those of people on the same answers."""

    n: int
    """Answers that both graded."""
    ungraded: int
    """Replies that were no grade."""
    accuracy: float | None
    """Share of equal grades."""
    kappa: float | None
    """Cohen's kappa of the grades; None where chance alone would agree fully, or nothing was graded."""
    kappa_strict: float | None
    """The same of wholly right or not."""


def question(asked: str, reference: str, answer: str) -> list[Message]:
    """What the judge is asked."""
    return [{"role": "user", "content": PROMPT.format(question=asked, reference=reference, answer=answer)}]


def grade(reply: str) -> str | None:
    """The grade in a judge's reply: {"grade": ...}, alone or in a code fence, or the bare word; else None."""
    text = reply.strip()
    if text in GRADES:
        return text
    try:
        value: Any = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return value["grade"] if isinstance(value, dict) and value.get("grade") in GRADES else None


def agreement(people: Sequence[str], judge: Sequence[str | None]) -> Agreement:
    """Of grades of the same answers, in the same order. ValueError where a person's is none of `GRADES`."""
    if strange := [each for each in people if each not in GRADES]:
        raise ValueError(f"{strange[0]!r} is no grade; grades are {', '.join(GRADES)}")
    both = [(mine, its) for mine, its in zip(people, judge, strict=True) if its is not None]
    equal = sum(mine == its for mine, its in both)
    return Agreement(
        n=len(both),
        ungraded=len(people) - len(both),
        accuracy=equal / len(both) if both else None,
        kappa=_kappa([tuple(map(GRADES.index, pair)) for pair in both]),
        kappa_strict=_kappa([tuple(int(each in STRICT) for each in pair) for pair in both]),
    )


def _kappa(pairs: Sequence[tuple[int, ...]]) -> float | None:
    from refinery.diagnostics.preference import kappa  # which imports much

    return kappa(np.array(pairs, dtype=int).reshape(-1, 2))

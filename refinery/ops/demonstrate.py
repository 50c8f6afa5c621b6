"""Make a demonstration of each answer: draw the model's own answers until one is right.

Where only final answers are known, or references are in another's manner, an answer that the model itself gave and that
a check found right is a demonstration in its own words: what on-policy self-distillation shows its teacher (SDFT,
arXiv:2601.19897, section 4), and what self-generated supervision trains on. With `show_answer` the model sees the
reference while it answers, which makes hard rows answerable and tells the reader less about the model.
"""

from typing import Any

from pydantic import Field, StrictBool, model_validator

from refinery.checks import Kind
from refinery.context import Context
from refinery.errors import RowError
from refinery.ops import rewrite
from refinery.records import Example, Outcome
from refinery.rowops import (
    Fallback,
    WriterParams,
    answer_key,
    conversation,
    give_up,
    is_right,
    refusals,
    settle,
    unable,
    write_all,
)
from refinery.spec_types import Template

VERSION = 1
VARIABLES: tuple[str, ...] = ()

SHOWN = """\
Below are a question and the answer to which it should lead.

Question:
{{ question }}

Known answer:
{{ answer }}

Answer the question in full and by yourself: show how the answer comes about, step by step where there are steps, and \
write as if you had not been shown it."""


class Params(WriterParams):
    show_answer: StrictBool = False
    """Changes the defaults of `prompt` and `banned` to those that show the reference; either can still be written."""
    prompt: Template = "{{ question }}"
    banned: tuple[str, ...] = ()
    tries: int = Field(8, ge=1, le=64)
    """Answers drawn at most, with sample indices 0 to tries - 1."""
    batch: int = Field(1, ge=1, le=64)
    """Answers drawn at a time: 1 asks for no more than needed, `tries` draws all of them for an unbiased pass rate."""
    check: Kind = "last_word"
    of: Template = "{{ answer }}"
    """What an answer must agree with: a column that holds the bare answer, or the whole reference text."""
    fallback: Fallback = "answer"

    @model_validator(mode="before")
    @classmethod
    def _shown(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("show_answer") is True:
            return {"prompt": SHOWN, "banned": rewrite.BANNED, **data}
        return data


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The first right answer becomes the response, the right ones of its batch the candidates.

    scores: `tries` (drawn), `verdicts` (one for each: right or not, None where the text was unusable or the check could
    not tell), `refused` (count of each reason), `winner` (its number), `pass_rate` (right ones of those with a verdict,
    None without any; of a search that stopped it is biased upwards, see `batch`), `check`. Reasons: none_right, with
    the fallback; where there is no verdict at all the first unusable text's, else unknown_verdict; and
    unreadable_reference where there is nothing to check against.
    """
    fields = example.fields()
    key = await answer_key(params.check, params.of, fields)
    messages = conversation(example, params.prompt, params.system, fields)
    drawn: list[str | RowError] = []
    verdicts: list[bool | None] = []
    while len(drawn) < params.tries and True not in verdicts:
        numbers = range(len(drawn), min(len(drawn) + params.batch, params.tries))
        batch = await write_all(example, params, ctx, messages, numbers)
        drawn += batch
        verdicts += [await is_right(params.check, text, key) if isinstance(text, str) else None for text in batch]
    right = [number for number, verdict in enumerate(verdicts) if verdict]
    judged = sum(verdict is not None for verdict in verdicts)
    scores = {
        "tries": len(drawn),
        "verdicts": verdicts,
        "refused": refusals(drawn),
        "winner": right[0] if right else None,
        "pass_rate": len(right) / judged if judged else None,
        "check": params.check,
    }
    if right:
        texts = [str(drawn[number]) for number in right]
        return settle(example, texts[0], texts, scores)
    if not judged:
        failure = next((each for each in drawn if isinstance(each, RowError)), RowError("unknown_verdict"))
        return unable(example, params.on_error, failure.reason, scores, failure.detail)
    return give_up(example, params.fallback, "none_right", scores)


def requests(params: Params) -> int:
    """Requests for each row, at most; a search that stops early needs fewer."""
    return params.tries


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    if params.tries > 1 and params.temperature == 0:
        return [f"temperature 0 gives the same answer in all {params.tries} tries"]
    return []

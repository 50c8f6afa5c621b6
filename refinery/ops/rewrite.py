"""A model answers each question again in its own words, in the light of the reference answer (RAFT Eq 1).

    y~ ~ p_theta0( . | x, y)

With the original model as the writer, its texts lie close to what it would say by itself, so that training on them
moves it less; the reference keeps them right, which the model alone might not be. Lexical leaks ("the reference answer
says ...") are refused by a list of phrases, after the acceptance rules of self-distillation (Yang et al., 2024).
"""

import asyncio
from collections import Counter

from pydantic import Field

from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example, Outcome
from refinery.rowops import WriterParams, conversation, settle, usable
from refinery.spec_types import ModelName, Template

VERSION = 1
VARIABLES: tuple[str, ...] = ()

PROMPT = """\
Below are a question and an answer to it that is known to be right.

Question:
{{ question }}

Known answer:
{{ answer }}

Answer the question yourself, in the wording, the tone and the layout that come naturally to you. Keep every fact, \
number and conclusion of the known answer, add none of your own, and write as if you had not been shown it."""

BANNED = (
    "known answer",
    "reference answer",
    "reference response",
    "provided answer",
    "given answer",
    "answer provided",
    "answer given",
    "my own words",
    "your own words",
    "your answer",
    "your response",
    "your turn",
    "rewritten answer",
    "rephrased answer",
    "as you were shown",
)


class Params(WriterParams):
    model: ModelName = "self"
    prompt: Template = PROMPT
    banned: tuple[str, ...] = BANNED
    samples: int = Field(1, ge=1, le=64)
    """Candidates for each row, with sample indices 0 to samples - 1. The usable ones stand as `candidates`."""


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The first usable sample becomes the response, all usable ones the candidates.

    scores: `valid`, and `refused` with the count of each reason where samples were refused. Where none is usable, the
    first sample's failure is the row's. A transient failure of any sample is the row's too: asked again, the row gets
    all its samples, the answered ones from the store.
    """
    messages = conversation(example, params.prompt, params.system, example.fields())
    samples = await asyncio.gather(*(_sample(example, params, ctx, messages, i) for i in range(params.samples)))
    texts = [sample for sample in samples if isinstance(sample, str)]
    errors = [sample for sample in samples if isinstance(sample, RowError)]
    if failure := next((e for e in errors if e.transient), None) or (errors[0] if not texts else None):
        raise failure
    scores = {"valid": len(texts), "refused": dict(Counter(error.reason for error in errors))}
    return settle(example, texts[0], texts, scores)


async def _sample(example: Example, params: Params, ctx: Context, messages: list, number: int) -> str | RowError:
    try:
        reply = await ctx.ask(
            params.model,
            messages,
            sample=number,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_tokens=params.max_tokens,
        )
        return usable(reply, params.banned, example)
    except RowError as error:
        return error


def requests(params: Params) -> int:
    """Requests for each row, at most."""
    return params.samples

"""What row operations share: the request they send, and the outcomes they may give."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from refinery.checks import SLOW, Check, Kind, compare, reference_value
from refinery.context import Context
from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.records import Example, Message, Outcome
from refinery.spec_types import Later, ModelName, OpParams, Template
from refinery.templates import render

Fallback = Literal["answer", "drop"]
"""What becomes of a row that fails: "answer" puts the reference back into `response`, "drop" takes the row out."""


class RowParams(OpParams):
    """Parameters of every row operation."""

    on_error: Fallback = "answer"
    """For rows that could not be processed: no usable reply, a prompt too long, a template that fails."""


class WriterParams(RowParams):
    """Parameters of the row operations that ask a model for text that may become supervision."""

    model: ModelName = "self"
    prompt: Template
    system: Template | None = None
    """Sent as the system message, after the example's own where it has one."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0 is no limit."""
    max_tokens: int = Field(1024, ge=1)
    """A text cut at this length is refused as cut_off: a model trained on it would learn to stop midway."""
    banned: tuple[str, ...]
    """Phrases that give away that a reference was shown: refused as whole words in any case, unless the question or the
    reference holds them too."""
    banned_starts: Annotated[tuple[str, ...], Later] = ()
    """Phrases with which a text may not begin; elsewhere in it they are allowed."""
    prefill: Annotated[Template | None, Later] = None
    """The first words of the model's turn: it goes on from there, and the text is these words and what follows."""


def with_preset(data: Any, presets: Mapping[str, Mapping[str, Any]], default: str) -> Any:
    """What was written, with the values of its `preset` for every key that was not. For a `model_validator` that runs
    before the fields are read; an unknown preset is left for the field's own type to refuse."""
    if not isinstance(data, dict):
        return data
    chosen = data.get("preset", default)
    return {**(presets.get(chosen, {}) if isinstance(chosen, str) else {}), **data}


def conversation(example: Example, prompt: str, system: str | None, fields: Mapping[str, Any]) -> list[Message]:
    """The chat to send: the example's, with its last user turn replaced by the rendered `prompt`.

    Earlier turns of a longer conversation are part of the question and stay. `system` follows the example's own
    system message in the same turn. Raises RowError("template_error").
    """
    turns = [dict(turn) for turn in example.prompt]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
    turns[last:] = [{"role": "user", "content": render(prompt, fields)}]
    if system is not None:
        own = [turns.pop(0)["content"]] if turns[0]["role"] == "system" else []
        turns.insert(0, {"role": "system", "content": "\n\n".join([*own, render(system, fields)])})
    return turns


def usable(reply: Reply, banned: Sequence[str], example: Example, starts: Sequence[str] = ()) -> str:
    """The reply's text, stripped. RowError cut_off, empty_response or banned_phrase where it cannot be supervision.

    A phrase is banned in any case and spacing, as whole words, unless the question or the reference holds it too: there
    it is the subject, not a leak. `starts` are banned at the beginning only, white space and marks before them aside.
    """
    text = reply.text.strip()
    if not text:
        raise RowError("empty_response")
    if reply.finish_reason == "length":
        raise RowError("cut_off", f"after {reply.completion_tokens} tokens")
    given = f"{example.question}\n{example.answer}"
    for phrase, before in [*((p, r"(?<!\w)") for p in banned), *((p, r"\A\W*") for p in starts)]:
        words = r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
        if re.search(before + words, text, re.IGNORECASE):
            if not re.search(r"(?<!\w)" + words, given, re.IGNORECASE):
                raise RowError("banned_phrase", phrase)
    return text


async def write(
    example: Example,
    params: WriterParams,
    ctx: Context,
    messages: Sequence[Message],
    sample: int = 0,
    *,
    banned: Sequence[str] | None = None,
    schema: dict[str, Any] | None = None,
) -> str:
    """One usable text for `messages`: the prefill, where there is one, and what the model went on with.

    `banned` stands in for the parameters' own. RowError as `usable` raises them, and the model's own.
    """
    start = "" if params.prefill is None else render(params.prefill, example.fields())
    reply = await ctx.ask(
        params.model,
        [*messages, {"role": "assistant", "content": start}] if start else [*messages],
        sample=sample,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_tokens,
        schema=schema,
    )
    text = usable(reply, params.banned if banned is None else banned, example, params.banned_starts)
    return (start + reply.text).strip() if start else text


async def write_all(
    example: Example,
    params: WriterParams,
    ctx: Context,
    messages: Sequence[Message],
    samples: Iterable[int],
    *,
    banned: Sequence[str] | None = None,
    schema: dict[str, Any] | None = None,
) -> list[str | RowError]:
    """`write` for every sample, side by side: each text, or the failure in its place.

    A transient failure of any sample is raised for the row: asked again, the row gets all its samples, the answered
    ones from the store. Otherwise its result would depend on the server's day.
    """

    async def one(sample: int) -> str | RowError:
        try:
            return await write(example, params, ctx, messages, sample, banned=banned, schema=schema)
        except RowError as error:
            return error

    asked = [one(sample) for sample in samples]
    found = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
    if late := next((each for each in found if isinstance(each, RowError) and each.transient), None):
        raise late
    return found


def refusals(samples: Iterable[str | RowError]) -> dict[str, int]:
    """Reason to number of samples that failed with it."""
    return dict(Counter(sample.reason for sample in samples if isinstance(sample, RowError)))


async def answer_key(kind: Kind, of: str, fields: Mapping[str, Any]) -> str:
    """The text that an answer must agree with under the check `kind`. RowError unreadable_reference where the rule
    finds nothing to compare in it: the row's own fault, not its answers'."""
    key = render(of, fields)
    value = await asyncio.to_thread(reference_value, kind, key) if kind in SLOW else reference_value(kind, key)
    if value is None:
        raise RowError("unreadable_reference", f"no {kind} in {key[:80]!r}")
    return key


async def is_right(kind: Kind, text: str, key: str) -> bool | None:
    """Whether the answer in `text` agrees with `key`; None where the rule could not tell (it ran out of time)."""
    check = Check(kind)
    return (await asyncio.to_thread(compare, check, text, key) if kind in SLOW else compare(check, text, key)).agrees


def settle(
    example: Example, response: str, candidates: Sequence[str], scores: dict[str, Any], reason: str = "ok"
) -> Outcome:
    """The step succeeded: changed where the supervision is now another text, else kept."""
    action: Literal["kept", "changed"] = "kept" if response == example.response else "changed"
    return Outcome(example.id, action, reason, example.with_response(response, tuple(candidates)), scores)


def give_up(
    example: Example, fallback: Fallback, reason: str, scores: dict[str, Any] | None = None, detail: str = ""
) -> Outcome:
    """The step decided against what it was given."""
    if fallback == "drop":
        return Outcome(example.id, "dropped", reason, None, scores or {}, detail)
    return Outcome(example.id, "fell_back", reason, example.fall_back(), scores or {}, detail)


def unable(
    example: Example, fallback: Fallback, reason: str, scores: dict[str, Any] | None = None, detail: str = ""
) -> Outcome:
    """The step could not tell or wrote nothing usable, with the scores that show it: counted as a failure."""
    return replace(give_up(example, fallback, reason, scores, detail), failed=True)


def failed(example: Example, fallback: Fallback, error: RowError) -> Outcome:
    """The step could not process the row."""
    outcome = give_up(example, fallback, error.reason, detail=error.detail)
    return Outcome(example.id, outcome.action, error.reason, outcome.example, {}, error.detail, error.transient)

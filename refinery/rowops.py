"""What row operations share: the request they send, and the outcomes they may give."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.records import Example, Message, Outcome
from refinery.spec_types import OpParams, Template
from refinery.templates import render

Fallback = Literal["answer", "drop"]
"""What becomes of a row that fails: "answer" puts the reference back into `response`, "drop" takes the row out."""


class RowParams(OpParams):
    """Parameters of every row operation."""

    on_error: Fallback = "answer"
    """For rows that could not be processed: no usable reply, a prompt too long, a template that fails."""


class WriterParams(RowParams):
    """Parameters of the row operations that ask a model for text that may become supervision."""

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
    """Phrases that give away that a reference was shown. See `usable`."""


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


def usable(reply: Reply, banned: Sequence[str], example: Example) -> str:
    """The reply's text, stripped. RowError cut_off, empty_response or banned_phrase where it cannot be supervision.

    A phrase is banned in any case and spacing, as whole words, unless the question or the reference holds it too: there
    it is the subject, not a leak.
    """
    text = reply.text.strip()
    if not text:
        raise RowError("empty_response")
    if reply.finish_reason == "length":
        raise RowError("cut_off", f"after {reply.completion_tokens} tokens")
    given = f"{example.question}\n{example.answer}"
    for phrase in banned:
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
        if re.search(pattern, text, re.IGNORECASE) and not re.search(pattern, given, re.IGNORECASE):
            raise RowError("banned_phrase", phrase)
    return text


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


def failed(example: Example, fallback: Fallback, error: RowError) -> Outcome:
    """The step could not process the row."""
    outcome = give_up(example, fallback, error.reason, detail=error.detail)
    return Outcome(example.id, outcome.action, error.reason, outcome.example, {}, error.detail, error.transient)

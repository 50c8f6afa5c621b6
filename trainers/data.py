"""From examples to token ids, with the check that what is trained is the answer and its end token, nothing else.

Light: the tokenizer is handed in, nothing here imports torch.
"""

import math
import random
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refinery.errors import RowError, UserError
from refinery.records import Example, Message
from refinery.templates import render

CHECKED = 16
"""Rows whose trained tokens are decoded again before training starts."""

_PROBE = "PROBE"


@dataclass(frozen=True, slots=True)
class Row:
    """One example as token ids. The model sees prompt + answer, and answer is what it learns to say."""

    id: str
    prompt: list[int]
    """The chat up to and with the header of the assistant's turn."""
    answer: list[int]
    """The response and its end token."""
    teacher_prompt: list[int]
    """The same chat with the teacher's user turn; empty where the method has no teacher."""


@dataclass(frozen=True, slots=True)
class Prepared:
    rows: list[Row]
    dropped: Counter[str]
    """Rows left out, by reason: too_long, empty_response, special_token, template_error; and teacher_too_long, where
    the teacher's prompt leaves the answer no room in the context."""
    prompts: dict[str, str]
    """Verbatim, for the manifest: the chat template, and the first row's prompts as the model gets them."""
    ending: "Ending"


@dataclass(frozen=True, slots=True)
class Ending:
    """How the chat template closes an assistant turn."""

    lead: str
    """What it puts between the header and the words; nearly always nothing."""
    token: str
    token_id: int
    """What ends the turn. The template may write a newline after it: that is never trained."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows a training sees, and when."""

    rows: list[Row]
    steps: int
    """Optimiser steps."""
    places: list[int]
    """The row of every training sample, in order: steps x batch_size places in `rows`."""


@dataclass(slots=True)
class _Texts:
    examples: list[Example] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    teacher_prompts: list[str] = field(default_factory=list)


def prepare(
    examples: Sequence[Example],
    tokenizer: Any,
    *,
    max_length: int,
    teacher_prompt: str | None = None,
    shown: Mapping[str, Mapping[str, Any]] | None = None,
    answered: bool = True,
) -> Prepared:
    """Rows that can be trained on, in the order of `examples`.

    `teacher_prompt` is a template over an example's fields, or over what `shown` has under its id; it replaces the
    words of the last user turn. Without `answered` a row needs no response. Prompt and answer are tokenised apart and
    put together, as they are when a model answers. UserError where the tokenizer has no
    chat template, where a few rows' trained tokens do not decode to response + end token, or where no row is left.
    """
    end = ending(tokenizer)
    dropped: Counter[str] = Counter()
    texts = _Texts()
    for example in examples:
        try:
            if answered and not example.response:
                raise RowError("empty_response")
            fields = shown[example.id] if shown else example.fields()
            teacher = teacher_messages(example, teacher_prompt, fields) if teacher_prompt else None
        except RowError as error:
            dropped[error.reason] += 1
            continue
        texts.examples.append(example)
        texts.prompts.append(_chat(tokenizer, example.prompt))
        if teacher:
            texts.teacher_prompts.append(_chat(tokenizer, teacher))
    rows = _tokenize(texts, tokenizer, end, max_length, dropped)
    if not rows:
        why = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "there were none"
        raise UserError(f"no rows to train on: {why}")
    _check(rows, {example.id: example.response for example in texts.examples}, tokenizer, end)
    prompts = {"chat_template": str(tokenizer.chat_template), "first_prompt": texts.prompts[0]}
    if teacher_prompt:
        prompts |= {"teacher_prompt": teacher_prompt, "first_teacher_prompt": texts.teacher_prompts[0]}
    return Prepared(rows, dropped, prompts, end)


def prompt_ids(examples: Sequence[Example], tokenizer: Any, *, max_length: int) -> list[list[int]]:
    """The chats of `examples` up to and with the header of the assistant's turn; those that leave no room for an answer
    below `max_length` tokens are left out. UserError where none is left."""
    ending(tokenizer)
    texts = [_chat(tokenizer, example.prompt) for example in examples]
    found = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    if not (short := [ids for ids in found if len(ids) < max_length]):
        raise UserError(f"no prompts to train with: of {len(found)} none is shorter than max_length {max_length}")
    return short


def teacher_messages(example: Example, template: str, fields: Mapping[str, Any]) -> list[Message]:
    """The example's chat with the last user turn replaced by the template rendered from `fields`. RowError where that
    fails."""
    content = render(template, fields)
    last = max((i for i, m in enumerate(example.prompt) if m["role"] == "user"), default=None)
    if last is None:
        raise RowError("template_error", "the prompt has no user turn")
    return [{**m, "content": content} if i == last else m for i, m in enumerate(example.prompt)]


def ending(tokenizer: Any) -> Ending:
    """Read off the chat template by rendering a chat with a known answer."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            "the model's tokenizer has no chat template; use an instruct model, or save one with a template"
        )
    question = [{"role": "user", "content": "?"}]
    head = _chat(tokenizer, question)
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": _PROBE}], tokenize=False)
    before, _, after = whole.rpartition(_PROBE)
    ids = tokenizer(after.strip(), add_special_tokens=False)["input_ids"]
    token_id = ids[0] if ids else tokenizer.eos_token_id
    if token_id is None or token_id not in {tokenizer.eos_token_id, *tokenizer.all_special_ids, *_added(tokenizer)}:
        raise UserError(f"the chat template closes an answer with {after!r}, which is not an end token")
    return Ending(before.removeprefix(head) if before.startswith(head) else "", tokenizer.decode([token_id]), token_id)


def _added(tokenizer: Any) -> set[int]:
    return set(getattr(tokenizer, "added_tokens_decoder", {}))


def _chat(tokenizer: Any, messages: list[Message]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates raise their own: "System role not supported"
        raise UserError(f"the chat template refuses {[m['role'] for m in messages]}: {error}") from None


def _tokenize(texts: _Texts, tokenizer: Any, end: Ending, max_length: int, dropped: Counter[str]) -> list[Row]:
    def ids(batch: list[str]) -> list[list[int]]:
        return tokenizer(batch, add_special_tokens=False)["input_ids"] if batch else []

    prompts, answers = ids(texts.prompts), ids([end.lead + example.response for example in texts.examples])
    teachers = ids(texts.teacher_prompts) or [[] for _ in prompts]
    rows = []
    for example, prompt, answer, teacher in zip(texts.examples, prompts, answers, teachers, strict=True):
        if end.token_id in answer:
            dropped["special_token"] += 1  # the words hold the end token: the answer would end in their midst
        elif len(prompt) + len(answer) + 1 > max_length:
            dropped["too_long"] += 1
        else:
            rows.append(Row(example.id, prompt, [*answer, end.token_id], teacher))
    return rows


def _check(rows: list[Row], responses: dict[str, str], tokenizer: Any, end: Ending) -> None:
    """The trained tokens of a few rows decode to exactly response + end token."""
    for row in rows[:CHECKED]:
        trained = tokenizer.decode(row.answer, clean_up_tokenization_spaces=False)
        expected = end.lead + responses[row.id] + end.token
        if unicodedata.normalize("NFC", trained) != unicodedata.normalize("NFC", expected):
            raise UserError(f"row {row.id}: the trained tokens decode to {trained!r}, not to {expected!r}")


def steps(rows: int, epochs: float, batch_size: int, max_steps: int | None) -> int:
    """Optimiser steps of a training."""
    planned = math.ceil(round(rows * epochs / batch_size, 6))
    return planned if max_steps is None else min(planned, max_steps)


def plan(rows: list[Row], params: Any, seed: int) -> Plan:
    """One shuffled pass over `rows` after another."""
    total = steps(len(rows), params.epochs, params.batch_size, params.max_steps)
    return Plan(rows, total, order(len(rows), total * params.batch_size, seed))


def order(rows: int, count: int, seed: int) -> list[int]:
    """`count` places among `rows` rows: one shuffled pass after another, so that every batch is full and each row has
    come up equally often, give or take one. Depends on nothing but its arguments, so a resumed training finds its
    place, and methods trained with one seed see the same rows at the same steps."""
    places: list[int] = []
    for epoch in range(math.ceil(count / rows)):
        one = list(range(rows))
        random.Random(f"{seed}/{epoch}").shuffle(one)
        places += one
    return places[:count]

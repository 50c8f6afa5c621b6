"""Rows that a model makes up itself: data to rehearse what it knows, where the old data are not at hand.

magpie      an instruction-tuned model is given its chat template up to where the user's words begin, and writes those
            itself; then it answers them (Xu et al., arXiv:2406.08464).
rehearsal   Self-Synthesized Rehearsal (Huang et al., arXiv:2403.01244, section 3): a model writes instances after
            examples of the rows in changing pairs and orders; the latest model answers them; of k-means clusters over
            their embeddings each gives in proportion to its size, those nearest to its centre first.

Texts that are empty, cut off, too short, or near to one that is there already are refused and counted. Unlike SSR's own
code, which answers all instances and then picks, only the picked ones are answered.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field

from refinery.clustering import by_clusters
from refinery.context import Context
from refinery.errors import RowError, UserError
from refinery.models.base import Reply
from refinery.neighbours import SLACK
from refinery.question_writers import Magpie, Rehearsal
from refinery.records import Example, Outcome
from refinery.spec_types import EncoderName, ModelName, Template
from refinery.tableops import Table, TableParams, created, derived_id, dropped, kept

VERSION = 1
VARIABLES = ("demonstrations",)
"""`demonstrations`: rows as templates see them, each with question, answer, response and its columns."""
READS = (1, 1)

PROMPT = """\
Below are instances of the same task.

{% for row in demonstrations %}
Input: {{ row.question }}
Output: {{ row.response }}

{% endfor %}
Input:"""


class Params(TableParams):
    kind: Literal["magpie", "rehearsal"] = "magpie"
    """How questions come about."""
    n: int = Field(ge=1)
    """Rows to make; fewer come out where max_tries does not give as many."""
    model: ModelName = "self"
    """Writes the questions. For magpie it must run in this process: a server does not show its chat template."""
    answer_model: ModelName | None = None
    """Answers them: for rehearsal the latest model. The one that asks where it is left out."""
    max_tries: int | None = Field(None, ge=1)
    """Questions asked for, at most; four for each row where it is left out."""
    prompt: Template = PROMPT
    """With rehearsal: the text that the model goes on with, without a chat template."""
    shots: int = Field(2, ge=1, le=8)
    """With rehearsal: rows shown in the prompt."""
    stop: tuple[str, ...] = ("\nInput:", "\nOutput:", "Output:")
    """With rehearsal: where a written question ends."""
    pool: float = Field(2.0, ge=1)
    """With rehearsal: questions to pick from, for each row."""
    clusters: int = Field(20, ge=1)
    """With rehearsal: k-means clusters that the pick goes by."""
    min_words: int = Field(3, ge=1)
    """Of a question."""
    min_cosine: float | None = Field(0.95, gt=0, le=1)
    """A question this near to an earlier one or to a row's is refused; null refuses equal ones alone."""
    encoder: EncoderName = "all-MiniLM-L6-v2"
    temperature: float = Field(1.0, gt=0)
    """Of questions."""
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    question_tokens: int = Field(256, ge=1)
    """Of a question; one that is cut off there is refused."""
    answer_temperature: float = Field(0.0, ge=0)
    """Of answers."""
    max_tokens: int = Field(1024, ge=1)
    """Of an answer; one that is cut off there is refused."""
    keep_rows: bool = False
    """Hand the rows it read on beside those it makes."""


@dataclass(slots=True)
class _Search:
    """Questions found so far, and what was refused."""

    known: set[str]
    vectors: list[np.ndarray] = field(default_factory=list)
    """Those near which no further question may lie."""
    questions: list["_Question"] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    tries: int = 0
    transient: RowError | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    attempt: int
    parents: tuple[str, ...]
    vector: np.ndarray | None
    cosine: float | None
    """To the nearest question before it and row."""


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """The made rows, behind the rows it read (dropped with the reason demonstration, unless they are kept).

    scores of a made row: `try` (which draw it was), `cosine` to the nearest question before it and `min_cosine`,
    `cluster` and `distance` to its centre (rehearsal); the first one has `tries` and `refused` (reason to count:
    empty_response, cut_off, too_short, repeated, near_duplicate, template_error, a request's own) for the whole step.
    Where a server failed, the first row it read is dropped as transient, so that the next run tries again.
    """
    (table,) = tables
    if params.kind == "rehearsal" and not len(table):
        raise UserError("synthesize: rehearsal needs rows to show")
    search = await _start(table, params, ctx)
    limit = params.max_tries or 4 * params.n
    writer = _writer(table, params, ctx)
    made: list[tuple[_Question, str, dict[str, Any]]] = []
    asked = 0
    while len(made) < params.n and search.transient is None:
        more = params.n - len(made) if asked or params.kind == "magpie" else round(params.pool * params.n)
        await _gather(writer, search, asked + more, limit, params, ctx)
        order = _pick(search.questions[asked:], params, ctx.seed)
        asked = len(search.questions)
        if not order:
            break
        made += await _answer(order, params.n - len(made), search, params, ctx)
    if search.transient is not None and not len(table):
        raise UserError(f"synthesize: {search.transient} (and there is no row to try again with)")
    if not made and search.transient is None:
        refused = ", ".join(f"{reason} {count}" for reason, count in search.refused.most_common())
        raise UserError(f"synthesize: none of {search.tries} tries gave a usable row ({refused or 'no reply'})")
    return _outcomes(table, made, search, params)


def _writer(table: Table, params: Params, ctx: Context) -> Magpie | Rehearsal:
    sampling = {name: getattr(params, name) for name in ("temperature", "top_p", "top_k")}
    sampling |= {"max_tokens": params.question_tokens}
    if params.kind == "magpie":
        return Magpie(ctx, params.model, sampling)
    return Rehearsal(ctx, params.model, {**sampling, "stop": params.stop}, list(table), params.shots, params.prompt)


def _outcomes(
    table: Table, made: list[tuple[_Question, str, dict[str, Any]]], search: _Search, params: Params
) -> Iterator[Outcome]:
    failure = search.transient
    for example in table:
        if failure is not None:
            yield dropped(example, failure.reason, detail=failure.detail, transient=True)
            failure = None
        else:
            yield kept(example) if params.keep_rows else dropped(example, "demonstration")
    total: dict[str, Any] = {"tries": search.tries, "refused": dict(search.refused)}
    for question, answer, scores in made:
        row = Example(
            id=derived_id("synthesize", params.kind, question.attempt, question.text, answer),
            prompt=[{"role": "user", "content": question.text}],
            answer=answer,
            response=answer,
            parents=question.parents,
            meta={"synthesized": params.kind},
        )
        own = {"try": question.attempt, "cosine": question.cosine, "min_cosine": params.min_cosine}
        yield created(row, scores={**own, **scores, **total})
        total = {}


# -- questions --------------------------------------------------------------------------------------------------------


async def _start(table: Table, params: Params, ctx: Context) -> _Search:
    search = _Search(known=set())
    texts: list[str] = []
    for example in table:
        search.known.add(_normal(example.question))
        texts.append(example.question)
    if params.min_cosine is not None:
        for start in range(0, len(texts), 1024):
            search.vectors.append(await ctx.embed(params.encoder, texts[start : start + 1024]))
    return search


async def _gather(
    writer: Magpie | Rehearsal, search: _Search, wanted: int, limit: int, params: Params, ctx: Context
) -> None:
    """Try until there are `wanted` questions, or no tries left. Questions are looked at in the order of their tries, so
    that the same replies give the same rows."""
    while len(search.questions) < wanted and search.tries < limit and search.transient is None:
        count = min(wanted - len(search.questions), limit - search.tries)
        tries = range(search.tries, search.tries + count)
        search.tries += count
        replies = await ctx.map(writer.write, tries)
        texts = [reply if isinstance(reply, RowError) else _usable(reply, params) for reply in replies]
        embed = params.min_cosine is not None
        good = [text for text in texts if isinstance(text, str)]
        vectors = iter(await ctx.embed(params.encoder, good) if embed and good else itertools.repeat(None))
        for attempt, text in zip(tries, texts, strict=True):
            if isinstance(text, RowError):
                search.refused[text.reason] += 1
                search.transient = search.transient or (text if text.transient else None)
                continue
            _accept(text, attempt, next(vectors), writer.parents(attempt), search, params)


def _accept(
    text: str, attempt: int, vector: np.ndarray | None, parents: tuple[str, ...], search: _Search, params: Params
) -> None:
    if _normal(text) in search.known:
        search.refused["repeated"] += 1
        return
    cosine = None
    if vector is not None and params.min_cosine is not None:
        cosine = max((round(float((part @ vector).max()), 6) for part in search.vectors if len(part)), default=None)
        if cosine is not None and cosine >= params.min_cosine - SLACK:
            search.refused["near_duplicate"] += 1
            return
        _remember(search.vectors, vector)
    search.known.add(_normal(text))
    search.questions.append(_Question(text, attempt, parents, vector, cosine))


def _remember(vectors: list[np.ndarray], vector: np.ndarray) -> None:
    """In blocks, so that thousands of questions are not thousands of products."""
    if vectors and len(vectors[-1]) < 256:
        vectors[-1] = np.concatenate([vectors[-1], vector[None]])
    else:
        vectors.append(vector[None])


def _usable(reply: Reply, params: Params) -> str | RowError:
    text = reply.text.strip()
    if not text:
        return RowError("empty_response")
    if reply.finish_reason == "length":
        return RowError("cut_off")
    return text if len(text.split()) >= params.min_words else RowError("too_short", text[:80])


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


# -- which of them, and their answers ---------------------------------------------------------------------------------


def _pick(questions: list[_Question], params: Params, seed: int) -> list[tuple[_Question, dict[str, Any]]]:
    """The questions, the first to take first: as they came (magpie), or by clusters (rehearsal)."""
    if params.kind == "magpie" or not questions:
        return [(question, {}) for question in questions]
    if any(question.vector is None for question in questions):
        raise UserError("synthesize: rehearsal clusters embeddings, so min_cosine cannot be null")
    vectors = np.stack([np.asarray(question.vector, dtype=np.float32) for question in questions])
    order = by_clusters(vectors, params.clusters, params.n, seed)
    return [(questions[place], {"cluster": each, "distance": round(far, 6)}) for place, each, far in order]


async def _answer(
    order: list[tuple[_Question, dict[str, Any]]], wanted: int, search: _Search, params: Params, ctx: Context
) -> list[tuple[_Question, str, dict[str, Any]]]:
    """The first `wanted` that could be answered, in that order."""
    made: list[tuple[_Question, str, dict[str, Any]]] = []
    waiting = list(order)
    while len(made) < wanted and waiting and search.transient is None:
        part, waiting = waiting[: wanted - len(made)], waiting[wanted - len(made) :]

        async def ask(item: tuple[_Question, dict[str, Any]]) -> str:
            reply = await ctx.ask(
                params.answer_model or params.model,
                [{"role": "user", "content": item[0].text}],
                temperature=params.answer_temperature,
                max_tokens=params.max_tokens,
            )
            text = reply.text.strip()
            if not text or reply.finish_reason == "length":
                raise RowError("cut_off" if text else "empty_response")
            return text

        for (question, scores), answer in zip(part, await ctx.map(ask, part), strict=True):
            if isinstance(answer, RowError):
                search.refused[answer.reason] += 1
                search.transient = search.transient or (answer if answer.transient else None)
            else:
                made.append((question, answer, scores))
    return made


def requests_in_all(params: Params) -> int:
    """Requests of the whole step, at most."""
    return 2 * (params.max_tries or 4 * params.n)


def columns(params: Params) -> list[str]:
    """What the step adds to a row's columns."""
    return ["synthesized"]


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    return [
        f"asks for questions at most {params.max_tries or 4 * params.n} times; fewer rows may come out than {params.n}"
    ]

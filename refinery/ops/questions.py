"""Articles to question-answer pairs by a model: how a text becomes something to be asked about.

Two kinds of question: direct ones, that a sentence of the article answers, and indirect ones, that need several
sentences, a consequence, or the matter under another name. A model that was trained on direct questions alone knows the
sentences and not what follows from them.

A model is asked for JSON first, which is read strictly, and where that cannot be read once more for lines "Q: ..." and
"A: ...", which small models can write too.
"""

import asyncio
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from refinery.context import Context
from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.records import Example, Outcome
from refinery.spec_types import ModelName, Template
from refinery.structured import parse_json
from refinery.tableops import Table, TableParams, created, derived_id, dropped, kept
from refinery.templates import render

VERSION = 1
VARIABLES = ("article", "n", "task", "form")
"""`article` is the text, `n` how many pairs, `task` what the kind of question is about, `form` how to write them."""
READS = (1, 1)

Kind = Literal["direct", "indirect"]

TASKS: dict[Kind, str] = {
    "direct": "Each question is about one fact, number, name or step that the text states, and is answered by it.",
    "indirect": (
        "Each question needs more than one sentence of the text: a comparison, a cause, a consequence, a case to which "
        "the text applies, or its matter described in other words. The answer still follows from the text alone."
    ),
}
JSON_FORM = """\
Reply with JSON alone: {"pairs": [{"question": "...", "answer": "..."}]}"""
LINES_FORM = """\
Write each pair as two lines, and nothing else:
Q: the question
A: the answer"""
PROMPT = """\
Read this text:

{{ article }}

Write {{ n }} questions about it, each with its answer. {{ task }} Every question must make sense to someone who does \
not have the text: name what it is about, and do not speak of "the text" or "the article". Answer in full sentences.

{{ form }}"""
SCHEMA = {
    "type": "object",
    "properties": {
        "pairs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["pairs"],
    "additionalProperties": False,
}


class Params(TableParams):
    model: ModelName = "self"
    text: Template = "{{ text if text is defined and text else answer }}"
    """The article: a column, or the row's answer where there is no column `text`."""
    kinds: tuple[Kind, ...] = Field(("direct", "indirect"), min_length=1)
    """Each is asked for on its own."""
    n: int = Field(3, ge=1, le=50)
    """Pairs asked for, of each kind."""
    prompt: Template = PROMPT
    form: Literal["json", "lines"] = "json"
    """json falls back to lines where a reply is not JSON; lines asks for those at once."""
    max_overlap: float = Field(0.8, gt=0, le=1)
    """Of two questions of an article whose words overlap by more (Jaccard), the later one goes."""
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    max_tokens: int = Field(1024, ge=1)
    keep_articles: bool = False
    """Hand the articles on beside their questions."""


@dataclass(slots=True)
class _Found:
    """What came of one article."""

    pairs: list[tuple[Kind, str, str]] = field(default_factory=list)
    tally: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Kind to counts: pairs, repeated, empty, form, or the reason why there are none."""


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """Each article's questions stand behind it (or in its place); answer and response are the pair's answer, the
    article's columns stay and `kind` is added.

    scores of an article: for each kind `form` that was read, `pairs` that stayed, `repeated`, `empty`, or `failed`, the
    reason why there are none. scores of a made row: `kind`, `overlap` (the largest with an earlier question of the
    article) and `max_overlap`. Reasons of articles: expanded, no_pairs, template_error, and a request's own; an article
    with a transient failure gives no row until it is asked again.
    """
    (table,) = tables

    async def expand(example: Example) -> _Found:
        return await _expand(example, params, ctx)

    results = await ctx.map(expand, table)
    return _outcomes(table, results, params)


def _outcomes(table: Table, results: list[_Found | RowError], params: Params) -> Iterator[Outcome]:
    for article, found in zip(table, results, strict=True):
        if isinstance(found, RowError):
            failed = dropped(article, found.reason, detail=found.detail, transient=found.transient)
            yield kept(article, found.reason) if params.keep_articles and not found.transient else failed
            continue
        reason = "expanded" if found.pairs else "no_pairs"
        made = list(_made(article, found, params))
        scores = {"kinds": found.tally}
        yield kept(article, reason, scores) if params.keep_articles else dropped(article, reason, scores)
        yield from made


def _made(article: Example, found: _Found, params: Params) -> Iterator[Outcome]:
    earlier: list[set[str]] = []
    said: set[tuple[str, str, str]] = set()
    for kind, question, answer in found.pairs:
        words = set(re.findall(r"\w+", question.casefold()))
        overlap = max((_jaccard(words, each) for each in earlier), default=0.0)
        if overlap > params.max_overlap or (kind, question, answer) in said:
            found.tally[kind]["repeated"] += 1
            found.tally[kind]["pairs"] -= 1
            continue
        earlier.append(words)
        said.add((kind, question, answer))
        row = Example(
            id=derived_id("questions", article.id, kind, question, answer),
            prompt=[{"role": "user", "content": question}],
            answer=answer,
            response=answer,
            parents=(article.id,),
            meta={**article.meta, "kind": kind},
        )
        yield created(row, scores={"kind": kind, "overlap": round(overlap, 6), "max_overlap": params.max_overlap})


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


async def _expand(example: Example, params: Params, ctx: Context) -> _Found:
    article = render(params.text, example.fields())
    if not article.strip():
        raise RowError("empty_article")
    asked = (_ask(example, article, kind, params, ctx) for kind in params.kinds)
    replies = await asyncio.gather(*asked, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException) and (not isinstance(reply, RowError) or reply.transient):
            raise reply
    failures = [reply for reply in replies if isinstance(reply, RowError)]
    if len(failures) == len(replies):
        raise failures[0]
    found = _Found()
    for kind, reply in zip(params.kinds, replies, strict=True):
        if isinstance(reply, RowError):
            found.tally[kind] = {"failed": reply.reason}
        elif not isinstance(reply, BaseException):
            form, pairs = reply
            whole = [(q.strip(), a.strip()) for q, a in pairs if q.strip() and a.strip()][: params.n]
            empty = sum(not (q.strip() and a.strip()) for q, a in pairs)
            found.tally[kind] = {"form": form, "pairs": len(whole), "repeated": 0, "empty": empty}
            found.pairs += [(kind, question, answer) for question, answer in whole]
    return found


async def _ask(
    example: Example, article: str, kind: Kind, params: Params, ctx: Context
) -> tuple[str, list[tuple[str, str]]]:
    """(the form that could be read, pairs). RowError unreadable_reply, or the request's."""
    for form in ("json", "lines") if params.form == "json" else ("lines",):
        fields = {**example.fields(), "article": article, "n": params.n, "task": TASKS[kind]}
        fields["form"] = JSON_FORM if form == "json" else LINES_FORM
        reply = await ctx.ask(
            params.model,
            [{"role": "user", "content": render(params.prompt, fields)}],
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_tokens=params.max_tokens,
            schema=SCHEMA if form == "json" else None,
        )
        pairs = from_json(reply.text) if form == "json" else from_lines(reply)
        if pairs is not None:
            return form, pairs
    raise RowError("unreadable_reply", reply.text[:200])


def from_json(text: str) -> list[tuple[str, str]] | None:
    """The pairs of {"pairs": [{"question", "answer"}]} or of the bare list; None for anything else."""
    try:
        value = parse_json(text)
    except ValueError:
        return None
    items = value.get("pairs") if isinstance(value, dict) else value
    if not isinstance(items, list):
        return None
    pairs = []
    for item in items:
        if not isinstance(item, dict) or set(item) != {"question", "answer"}:
            return None
        if not all(isinstance(part, str) for part in item.values()):
            return None
        pairs.append((item["question"], item["answer"]))
    return pairs


def from_lines(reply: Reply) -> list[tuple[str, str]] | None:
    """Pairs of a "Q:" and the "A:" behind it, each to the next mark, whatever the lines are numbered or set in; None
    where there is none. The last pair of a reply that was cut off is left out."""
    mark = r"^[ \t>*_#\-]*(?:\d+[.)]?[ \t]*)?[*_]*({})(?:[ \t]*\d+)?[ \t]*[:.)][*_]*[ \t]*"
    pattern = re.compile(mark.format("Q|A|Question|Answer"), re.IGNORECASE | re.MULTILINE)
    marks = list(pattern.finditer(reply.text))
    ends = [*(mark.start() for mark in marks), len(reply.text)][1:]
    parts = [(m[1][0].upper(), reply.text[m.end() : end].strip()) for m, end in zip(marks, ends, strict=True)]
    both = itertools.pairwise(parts)
    pairs = [(question, answer) for (first, question), (second, answer) in both if (first, second) == ("Q", "A")]
    if reply.finish_reason == "length" and parts and parts[-1][0] == "A":
        pairs = pairs[:-1]
    return pairs or None


def requests(params: Params) -> int:
    """Requests for each article, at most."""
    return len(params.kinds) * (2 if params.form == "json" else 1)


def columns(params: Params) -> list[str]:
    """What the step adds to a row's columns."""
    return ["kind"]

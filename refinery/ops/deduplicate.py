"""Drop rows that say what another row says, and rows too near to the items of a benchmark.

First rows whose texts are equal but for case and spacing, then rows whose embeddings are near (refinery/neighbours.py).
Rows are gone through in the order of preference, and a row goes where one that stays is as near as `min_cosine`: every
row that goes has a near one that stays, and a chain of small steps does not make two distant rows one.

With `against`, one of the steps it reads holds what must not be learned (test items): rows near to any of them go
first, each naming the item, and the items themselves go too.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from refinery import neighbours
from refinery.choosing import number
from refinery.context import Context
from refinery.errors import RowError, UserError, did_you_mean
from refinery.records import Outcome
from refinery.spec_types import EncoderName, Template
from refinery.tableops import Table, TableParams, dropped, kept
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (1, None)
BATCH = 1024
"""Texts sent to the encoder together."""
SHOWN = 200
"""Characters of a benchmark's item that are stored with a row that was dropped for it."""


class Params(TableParams):
    of: Template = "{{ question }}"
    """What is compared: "{{ question }} {{ answer }}" leaves equal questions with different answers alone."""
    min_cosine: float | None = Field(0.95, gt=0, le=1)
    """At or above it two texts are near-duplicates; null compares texts alone, without an encoder."""
    encoder: EncoderName = "all-MiniLM-L6-v2"
    keep: Literal["first", "longest", "best"] = "first"
    """Which of several stays: the first, the one whose text is longest, or the one with the highest `score`."""
    score: Template | None = None
    """With keep: best, a number for each row."""
    against: str | None = None
    """The step in `from` (a name under `sources:`, too) whose rows must not be in the result."""
    against_of: Template | None = None
    """What is compared of those; `of` where it is left out."""

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if (self.keep == "best") != (self.score is not None):
            raise ValueError("keep: best and score, which says what is best, go together")
        return self


@dataclass(slots=True)
class _Rows:
    """Rows with their texts, each id once."""

    ids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    failures: dict[str, RowError] = field(default_factory=dict)


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """Rows stay in their order.

    scores: `match` ("exact", "near", or null), `group` (the row that stays; a row's own id where it stays itself),
    `cosine` and `nearest` (of the rows that stay and were preferred, the nearest), `size` (rows that this one stands
    for, itself included), `min_cosine`; for a contaminated row `item`, `item_text` and the cosine to it. Reasons: ok,
    duplicate, near_duplicate, contaminated, reference_set (the items), nothing_to_compare (kept: an empty text),
    template_error, not_a_number.
    """
    references, rest = _apart(tables, params)
    items = _read(references, params.against_of or params.of, None)
    rows = _read(rest, params.of, params.score)
    if items.failures and not items.ids:
        raise UserError(f"deduplicate: {params.against}: {next(iter(items.failures.values()))} (set against_of)")
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    vectors = await _embed(rows.texts, params, ctx)
    item_vectors = await _embed(items.texts, params, ctx)
    _contaminated(rows, items, vectors, item_vectors, params, ctx.seed, found)
    _exact(rows, params, found)
    if vectors is not None:
        _near(rows, vectors, params, ctx.seed, found)
    return _outcomes(references, rest, rows, found)


def _apart(tables: Sequence[Table], params: Params) -> tuple[list[Table], list[Table]]:
    """(the benchmark's items, the rows)."""
    names = [table.name for table in tables]
    if params.against is not None and params.against not in names:
        hint = did_you_mean(params.against, names)
        raise UserError(f'deduplicate: against names "{params.against}"{hint}; it reads {", ".join(names)}')
    rest = [table for table in tables if table.name != params.against]
    if not rest:
        raise UserError(f"deduplicate: it reads {params.against} alone; name the rows to compare with it in from, too")
    return [table for table in tables if table.name == params.against], rest


def normal(text: str) -> str:
    """Without case, and every run of spaces one."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text).casefold()).strip()


def _read(tables: Sequence[Table], of: str, score: str | None) -> _Rows:
    rows, there = _Rows(), set()
    for table in tables:
        for example in table:
            if example.id in there:
                continue
            there.add(example.id)
            try:
                text = render(of, example.fields())
                value = number(score, example) if score else 0.0
            except RowError as error:
                rows.failures[example.id] = error
                continue
            if text := normal(text):
                rows.ids.append(example.id)
                rows.texts.append(text)
                rows.lengths.append(len(text))
                rows.scores.append(value)
    return rows


async def _embed(texts: list[str], params: Params, ctx: Context) -> np.ndarray | None:
    """(n, d) float32 unit vectors, equal texts embedded once; None without min_cosine or without a text."""
    if params.min_cosine is None or not texts:
        return None
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    distinct = list(places)
    vectors: np.ndarray | None = None
    for start in range(0, len(distinct), BATCH):
        part = await ctx.embed(params.encoder, distinct[start : start + BATCH])
        if vectors is None:
            vectors = np.empty((len(distinct), part.shape[1]), dtype=np.float32)
        vectors[start : start + len(part)] = part
    assert vectors is not None
    return vectors if len(distinct) == len(texts) else vectors[[places[text] for text in texts]]


def _contaminated(
    rows: _Rows,
    items: _Rows,
    vectors: np.ndarray | None,
    item_vectors: np.ndarray | None,
    params: Params,
    seed: int,
    found: dict[str, tuple[str, dict[str, Any]]],
) -> None:
    texts = {text: place for place, text in reversed(list(enumerate(items.texts)))}
    near: list[int] = [-1] * len(rows.ids)
    cosines: list[float] = [0.0] * len(rows.ids)
    if vectors is not None and item_vectors is not None:
        places, values = neighbours.nearest(vectors, item_vectors, seed=seed)
        near, cosines = places.tolist(), [round(float(value), 6) for value in values]
    for place, example_id in enumerate(rows.ids):
        same = texts.get(rows.texts[place])
        is_near = params.min_cosine is not None and near[place] >= 0 and cosines[place] >= params.min_cosine
        if same is None and not is_near:
            continue
        item = near[place] if same is None else same
        scores: dict[str, Any] = {"match": "near" if same is None else "exact", "item": items.ids[item]}
        scores |= {"item_text": items.texts[item][:SHOWN], "min_cosine": params.min_cosine}
        found[example_id] = ("contaminated", {**scores, "cosine": cosines[place] if same is None else 1.0})


def _preferred(rows: _Rows, params: Params, found: dict[str, tuple[str, dict[str, Any]]]) -> list[int]:
    """The places of the rows still there, the most preferred first; equals in their order."""
    by = {"first": lambda i: 0, "longest": lambda i: -rows.lengths[i], "best": lambda i: -rows.scores[i]}[params.keep]
    return sorted((i for i, example_id in enumerate(rows.ids) if example_id not in found), key=lambda i: (by(i), i))


def _exact(rows: _Rows, params: Params, found: dict[str, tuple[str, dict[str, Any]]]) -> None:
    first: dict[str, str] = {}
    for place in _preferred(rows, params, found):
        example_id = rows.ids[place]
        stays = first.setdefault(rows.texts[place], example_id)
        if stays != example_id:
            scores = {"match": "exact", "group": stays, "nearest": stays, "cosine": 1.0}
            found[example_id] = ("duplicate", {**scores, "min_cosine": params.min_cosine})


def _near(
    rows: _Rows, vectors: np.ndarray, params: Params, seed: int, found: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    assert params.min_cosine is not None
    order = _preferred(rows, params, found)
    moved = order != list(range(len(vectors)))
    result = neighbours.leaders(vectors[order] if moved else vectors, params.min_cosine, seed=seed)
    for rank, place in enumerate(order):
        stays = int(result.leader[rank]) == rank
        other = int(result.nearest[rank])
        scores: dict[str, Any] = {
            "match": None if stays else "near",
            "group": rows.ids[order[int(result.leader[rank])]],
            "nearest": rows.ids[order[other]] if other >= 0 else None,
            "cosine": round(float(result.cosine[rank]), 6) if other >= 0 else None,
            "min_cosine": params.min_cosine,
        }
        found[rows.ids[place]] = ("ok" if stays else "near_duplicate", scores)
    for reason, scores in found.values():
        if reason == "duplicate":  # its twin may have gone for another row
            scores["group"] = found[scores["nearest"]][1]["group"]


def _outcomes(
    references: Sequence[Table], rest: Sequence[Table], rows: _Rows, found: dict[str, tuple[str, dict[str, Any]]]
) -> Iterator[Outcome]:
    sizes: dict[str, int] = {}
    for reason, scores in found.values():
        if reason in ("duplicate", "near_duplicate"):
            sizes[scores["group"]] = sizes.get(scores["group"], 1) + 1
    compared, done = set(rows.ids), set()
    for table in rest:
        for example in table:
            if example.id in done:
                continue
            done.add(example.id)
            if failure := rows.failures.get(example.id):
                yield dropped(example, failure.reason, detail=failure.detail)
            elif example.id not in compared:
                yield kept(example, "nothing_to_compare")
            else:
                reason, scores = found.get(example.id, ("ok", {"match": None, "group": example.id}))
                if reason == "ok":
                    yield kept(example, scores={**scores, "size": sizes.get(example.id, 1)})
                else:
                    yield dropped(example, reason, scores)
    for table in references:
        for example_id in table.ids:
            if example_id not in done:
                done.add(example_id)
                yield dropped(example_id, "reference_set")

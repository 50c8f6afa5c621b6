"""Keep a rewrite only where it means what the reference means, by the cosine of sentence embeddings (RAFT Eqs 2 and 3).

    s = cos(phi(y), phi(y~));   y~ stays if s >= min_cosine, else the reference y comes back

A cosine does not see a flipped number or a negation: put check_answer behind this step where answers can be compared.
A bound may also be a quantile of the step's own rows, and there may be an upper one, against mere copies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from refinery.context import Context
from refinery.errors import RowError
from refinery.filtering import candidates_of, ordered, within
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams, give_up, settle
from refinery.spec_types import EncoderName, Later, Template
from refinery.tableops import Table
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()


class Params(RowParams):
    min_cosine: float | None = Field(0.8, ge=-1, le=1)
    """The paper's threshold. null for no lower bound, or beside min_quantile."""
    encoder: EncoderName = "all-MiniLM-L6-v2"
    against: Template = "{{ answer }}"
    """The text that candidates are compared with."""
    fallback: Fallback = "answer"
    max_cosine: Annotated[float | None, Later] = Field(None, ge=-1, le=1)
    """Candidates above it say no more than the text they are compared with."""
    min_quantile: Annotated[float | None, Later] = Field(None, gt=0, lt=1)
    """In place of min_cosine: 0.25 takes as lower bound the cosine below which a quarter of the rows' best lie."""
    max_quantile: Annotated[float | None, Later] = Field(None, gt=0, lt=1)
    """In place of max_cosine: 0.9 takes as upper bound the cosine above which a tenth of the rows' best lie."""

    @model_validator(mode="after")
    def _one_bound_an_end(self) -> "Params":
        if self.min_quantile is not None and "min_cosine" not in self.model_fields_set:
            self.min_cosine = None
        for end in ("min", "max"):
            cosine, quantile = getattr(self, f"{end}_cosine"), getattr(self, f"{end}_quantile")
            if cosine is not None and quantile is not None:
                raise ValueError(f"{end}_cosine and {end}_quantile set the same bound: give one of them")
        if all(getattr(self, f"{end}_{kind}") is None for end in ("min", "max") for kind in ("cosine", "quantile")):
            raise ValueError("no bound is left: give min_cosine, max_cosine, min_quantile or max_quantile")
        ordered(self.min_cosine, self.max_cosine, "cosine")
        ordered(self.min_quantile, self.max_quantile, "quantile")
        return self


@dataclass(frozen=True, slots=True)
class Prepared:
    """What all rows together decide: the bounds, and each row's cosines, so that no text is embedded twice."""

    low: float | None
    high: float | None
    cosines: dict[str, list[float]] = field(default_factory=dict)


def needs_all(params: Params) -> bool:
    return params.min_quantile is not None or params.max_quantile is not None


async def prepare(tables: Sequence[Table], params: Params, ctx: Context) -> Prepared:
    """Bounds from the quantiles (interpolated linearly) of the rows' best cosines.

    Rows that fell back earlier are not counted, nor those that cannot be compared.
    """
    cosines: dict[str, list[float]] = {}

    async def note(example: Example) -> None:
        cosines[example.id] = await _cosines(example, params, ctx)

    failures = await ctx.map(note, (example for example in tables[0] if not example.fell_back))
    if late := next((each for each in failures if isinstance(each, RowError) and each.transient), None):
        raise late
    best = np.array([max(row) for row in cosines.values()])

    def bound(quantile: float | None, cosine: float | None) -> float | None:
        return cosine if quantile is None or not len(best) else round(float(np.quantile(best, quantile)), 6)

    low, high = bound(params.min_quantile, params.min_cosine), bound(params.max_quantile, params.max_cosine)
    return Prepared(low, high, cosines)


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates within the bounds stay, best first; the best becomes the response.

    scores: `cosine` (the best), `cosines` (every candidate, in the order it came), `winner` (index into them, None
    where none passes), `min_cosine` and, where there is one, `max_cosine`: the bounds used, those from quantiles too.
    Reasons: below_threshold, above_threshold (the best candidate's), and empty_reference where there is nothing to
    compare.
    """
    candidates = candidates_of(example)
    prepared: Prepared = ctx.prepared if needs_all(params) else Prepared(params.min_cosine, params.max_cosine)
    cosines = prepared.cosines.get(example.id) or await _cosines(example, params, ctx)
    order = sorted(range(len(candidates)), key=lambda i: -cosines[i])
    passed = [i for i in order if within(cosines[i], prepared.low, prepared.high) == 0]
    scores: dict[str, Any] = {
        "cosine": cosines[passed[0] if passed else order[0]],
        "cosines": cosines,
        "winner": passed[0] if passed else None,
        "min_cosine": prepared.low,
    }
    scores |= {"max_cosine": prepared.high} if prepared.high is not None else {}
    if not passed:
        low = within(cosines[order[0]], prepared.low, prepared.high) < 0
        return give_up(example, params.fallback, "below_threshold" if low else "above_threshold", scores)
    return settle(example, candidates[passed[0]], [candidates[i] for i in passed], scores)


async def _cosines(example: Example, params: Params, ctx: Context) -> list[float]:
    reference = render(params.against, example.fields())
    if not reference.strip():
        raise RowError("empty_reference")
    texts = [reference, *candidates_of(example)]
    vectors = np.asarray(await ctx.embed(params.encoder, texts), dtype=np.float64)
    return [cosine(vectors[0], vector) for vector in vectors[1:]]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """In [-1, 1], to six decimals: float32 encoders give 0.99999994 for a text and itself, which must pass at 1."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / size, 6) if size > 0 else 0.0

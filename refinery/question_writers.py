"""Two ways to have a model write a question itself (refinery/ops/synthesize.py). A try is named by its number, which is
also the sample's, so that the same tries give the same replies."""

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refinery.choosing import uniform
from refinery.context import Context
from refinery.models.base import Reply
from refinery.records import Example
from refinery.templates import render


@dataclass(frozen=True, slots=True)
class Magpie:
    """The chat template up to where the user's words begin: the model writes those (Xu et al., arXiv:2406.08464)."""

    ctx: Context
    model: str
    sampling: Mapping[str, Any]
    """temperature, top_p, top_k, max_tokens."""

    async def write(self, attempt: int) -> Reply:
        slot = await self.ctx.user_slot(self.model)
        return await self.ctx.complete(self.model, slot, sample=attempt, **self.sampling)

    def parents(self, attempt: int) -> tuple[str, ...]:
        return ()


class Rehearsal:
    """Shows rows in changing pairs and orders: a try's numbers fall between the rows' own, and the next row above is
    shown, so that rows added later change few prompts."""

    def __init__(
        self, ctx: Context, model: str, sampling: Mapping[str, Any], rows: list[Example], shots: int, prompt: str
    ):
        self.ctx, self.model, self.sampling, self.prompt = ctx, model, sampling, prompt
        self.rows = sorted(rows, key=lambda row: uniform(ctx.seed, row.id))
        self.places = [uniform(ctx.seed, row.id) for row in self.rows]
        self.shots = min(shots, len(rows))

    def shown(self, attempt: int) -> list[Example]:
        found: dict[str, Example] = {}
        for number in itertools.count():
            if len(found) == self.shots:
                break
            place = bisect.bisect(self.places, uniform(self.ctx.seed, f"{attempt}/{number}")) % len(self.rows)
            found.setdefault(self.rows[place].id, self.rows[place])
        return list(found.values())

    async def write(self, attempt: int) -> Reply:
        prompt = render(self.prompt, {"demonstrations": [row.fields() for row in self.shown(attempt)]})
        return await self.ctx.complete(self.model, prompt, sample=attempt, **self.sampling)

    def parents(self, attempt: int) -> tuple[str, ...]:
        return tuple(row.id for row in self.shown(attempt))

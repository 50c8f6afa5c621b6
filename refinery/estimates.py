"""What the requests of a plan may cost, from what answers like them took so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from refinery import models
from refinery.planning import StepPlan
from refinery.rows import Row
from refinery.spec import Spec
from refinery.spec_types import marked
from refinery.store import Store


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of one step's requests that are still to be sent; None is unknown.

    Tokens are those of a mean request of the step's models with the step's temperature and max_tokens, of those models
    alone where none was asked like that yet. `cost` is in USD; `low_cost` is that of
    StepPlan.at_least.
    """

    measured: int
    """Stored answers that the means are over."""
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    cost: float | None = None
    low_cost: float | None = None

    @property
    def tokens(self) -> float | None:
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


def estimate(spec: Spec, store: Store, plans: Sequence[StepPlan]) -> dict[str, Estimate]:
    """For each step that will ask something. Each model's means are weighted by how often it was asked."""
    known = store.query(_MEANS)
    return {each.name: _step(spec, each, known) for each in plans if each.requests and each.name in spec.graph}


def _step(spec: Spec, plan: StepPlan, known: Sequence[Row]) -> Estimate:
    params = spec.graph[plan.name].params
    names = {name: models.identity(spec.models[name]) for _, name in marked(params, "model")}
    alike = set(_settings(params))
    own = [row for row in known if row["model"] in names.values()]
    rows = [row for row in own if (row["temperature"], row["max_tokens"]) in alike] or own
    measured = sum(row["n"] for row in rows)
    if not measured:
        return Estimate(0)
    prompt = sum(row["prompt"] * row["n"] for row in rows) / measured
    completion = sum(row["completion"] * row["n"] for row in rows) / measured
    each = _cost(spec, names, rows, measured)
    return Estimate(
        measured,
        prompt * plan.requests,
        completion * plan.requests,
        None if each is None else each * plan.requests,
        None if each is None else each * plan.at_least,
    )


def _cost(spec: Spec, names: dict[str, str], rows: Sequence[Row], measured: int) -> float | None:
    """Of a mean request; None where a model has no price."""
    total = 0.0
    for row in rows:
        name = next(name for name, identity in names.items() if identity == row["model"])
        each = spec.models[name].cost(row["prompt"], row["completion"])
        if each is None:
            return None
        total += row["n"] * each
    return total / measured


def _settings(params: BaseModel) -> Iterator[tuple[float, int]]:
    """(temperature, max_tokens) wherever the parameters have both: the step's own, each judge's."""
    if hasattr(params, "temperature") and hasattr(params, "max_tokens"):
        yield float(params.temperature), int(params.max_tokens)
    for name in type(params).model_fields:
        value = getattr(params, name)
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, BaseModel):
                yield from _settings(item)


_MEANS = """
    SELECT model, (request->>'$.sampling.temperature')::DOUBLE AS temperature, max_tokens, count(*) AS n,
           avg(prompt_tokens) AS prompt, avg(completion_tokens) AS completion
    FROM generations WHERE prompt_tokens > 0 GROUP BY ALL
"""

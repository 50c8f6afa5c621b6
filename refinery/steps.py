"""A spec's steps as the store sees them: what each reads, which of its rows are answered, and what depends on it."""

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from refinery import catalog, models, sources
from refinery.errors import UserError
from refinery.records import Outcome, digest
from refinery.spec import SOURCE, Spec, fingerprints, order
from refinery.spec_types import marked
from refinery.store import Store

SOURCE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph, resolved."""

    name: str
    op: str
    module: ModuleType
    params: BaseModel
    fingerprint: str
    upstream: str
    """Name of the step it reads, or "source"."""
    reads: str
    """That step's fingerprint."""
    models: dict[str, str]
    """Name in the spec to identity, for every model it names."""


def read_source(spec: Spec) -> tuple[str, list[Outcome]]:
    """(fingerprint, one outcome for every row read, of all splits). The fingerprint digests what was read and not where
    from: a file that moved, or a template that renders the same prompts, changes nothing downstream."""
    outcomes = sources.load(spec)
    rows = [_content(outcome) for outcome in outcomes]
    return digest({"op": SOURCE, "version": SOURCE_VERSION, "rows": rows}), outcomes


def _content(outcome: Outcome) -> list[Any]:
    example = outcome.example
    if example is None:
        return [outcome.example_id, outcome.reason]
    return [example.id, example.prompt, example.answer, example.split, example.meta]


def resolve(spec: Spec, source: str, *, fetch: bool = False) -> list[Step]:
    """The spec's steps in running order, given the source's fingerprint.

    A hub model that is not on this machine goes by its name; `fetch` downloads it, so that it goes by its weights as
    it will from then on. UserError for a step that reads several steps with an op that takes one, or that asks a
    server for likelihoods.
    """
    identity = functools.partial(models.identity, fetch=fetch)
    known = fingerprints(spec, identity, source)
    steps = []
    for name in order(spec):
        step = spec.graph[name]
        if len(step.upstream) != 1:
            raise UserError(f"step {name}: {step.op} reads one step, not {len(step.upstream)}")
        named = {model: identity(spec.models[model]) for _, model in marked(step.params, "model")}
        (upstream,) = step.upstream
        module = catalog.module(catalog.OPS, step.op)
        _check_scoring(name, module, step.params, spec)
        steps.append(Step(name, step.op, module, step.params, known[name], upstream, known[upstream], named))
    return steps


def _check_scoring(name: str, module: ModuleType, params: BaseModel, spec: Spec) -> None:
    """A server gives no likelihoods: said before hours of rewriting, not after."""
    for model in module.scored_by(params) if hasattr(module, "scored_by") else []:
        if spec.models[model].backend == "openai":
            raise UserError(
                f"step {name}: judging by likelihood needs a model that scores text, and models.{model} is a server; "
                "name one with backend: transformers as judge_model, or let models judge: judges: [{model: ...}]"
            )


@dataclass(frozen=True, slots=True)
class Seen:
    """A step's outcomes without their texts."""

    ids: set[str]
    retry: set[str]
    """Rows with a transient failure, to be asked again."""
    handed_on: dict[str, int]
    """Example id to position of the rows that later steps get: of the train split, not dropped. Positions are the
    source's own, whatever was dropped on the way, so that a row that comes back has its old place."""
    counts: Counter[tuple[str, str]]
    """(action, reason) to rows."""


def seen(store: Store, fingerprint: str) -> Seen:
    """What the store has of a step; empty for one that never ran."""
    sql = """SELECT o.example_id, o.position, o.action, o.reason, o.transient, e.split
             FROM outcomes o LEFT JOIN examples e USING (body) WHERE o.step = ? ORDER BY o.position"""
    rows = store.query(sql, [fingerprint])
    return Seen(
        ids={row["example_id"] for row in rows},
        retry={row["example_id"] for row in rows if row["transient"]},
        handed_on={row["example_id"]: row["position"] for row in rows if row["split"] == "train"},
        counts=Counter((row["action"], row["reason"]) for row in rows),
    )


def is_complete(store: Store, fingerprint: str) -> bool:
    step = store.step(fingerprint)
    return step is not None and step["status"] == "complete"


def stands(store: Store, fingerprint: str) -> bool:
    """Whether the step is complete and no row of it waits to be asked again."""
    return is_complete(store, fingerprint) and not seen(store, fingerprint).retry


def forget_downstream(store: Store, fingerprint: str, example_ids: Iterable[str]) -> None:
    """Before rows of a step are made anew: delete what every later step in the store made of them, of other specs
    too, and mark those steps as running, so that they ask for these rows again and never pass for complete."""
    ids = set(example_ids)
    rows = store.query("SELECT * FROM steps")
    stale, grew = {fingerprint}, True
    while grew:
        later = {row["fingerprint"] for row in rows if stale & set(row["upstream"])} - stale
        stale |= later
        grew = bool(later)
    for row in rows:
        if row["fingerprint"] in stale - {fingerprint} and seen(store, row["fingerprint"]).ids & ids:
            store.replace("steps", [{**row, "status": "running", "finished_at": None}], ["fingerprint"])
            store.delete_outcomes(row["fingerprint"], list(ids))


def data_fingerprint(store: Store, fingerprint: str) -> str:
    """Digest of the rows a step hands on: ids, prompts and responses in order. It changes where a step's fingerprint
    does not: when rows that a server failed to answer are asked again."""
    return digest([[e.id, e.prompt, e.response, e.split] for e in store.examples(fingerprint)])


def recorded(step: Step) -> dict[str, Any]:
    """What the store notes of a step's parameters: every one, defaults included."""
    return step.params.model_dump(mode="json")

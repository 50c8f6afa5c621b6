"""What a run would do, without doing it: which steps stand, why the others would run, and how much they would ask."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from refinery.context import Context
from refinery.errors import RowError
from refinery.models.base import Likelihood, Model, Prompt, Reply, Sampling
from refinery.models.batcher import Batcher
from refinery.models.cache import generation_digest, likelihood_digest, reusable
from refinery.records import Message
from refinery.spec import SOURCE, Spec
from refinery.steps import Seen, Step, is_complete, read_source, recorded, resolve, seen
from refinery.store import Row, Store

LOOKUP_BATCH = 2000
SHORT = 24
"""Characters to which a changed value is cut where it is named."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step, before a run."""

    name: str
    op: str
    upstream: list[str]
    fingerprint: str
    status: Literal["stands", "runs"]
    why: list[str]
    """What made it necessary: "min_cosine: 0.8 -> 0.7", "upstream close changed", "new", "12 rows to retry"."""
    rows: int | None
    """Rows to work on; an upper bound where an upstream step runs too and may drop some."""
    requests: int | None = None
    """Requests for those rows at most; a search that stops early, or a row that fell back, needs fewer."""
    answered: int | None = None
    """Of the requests that these rows would make, how many the store answers; None where upstream is not known yet."""
    notes: list[str] = field(default_factory=list)


def plan(spec: Spec, store: Store) -> list[StepPlan]:
    """The plan of every step, "source" first. Reads the source, digests local models' weights, asks no model."""
    source, outcomes = read_source(spec)
    if is_complete(store, source):
        plans = {SOURCE: StepPlan(SOURCE, SOURCE, [], source, "stands", [], 0)}
    else:
        plans = {SOURCE: StepPlan(SOURCE, SOURCE, [], source, "runs", _why_source(spec, store), len(outcomes))}
    train = {o.example_id: n for n, o in enumerate(outcomes) if o.example is not None and o.example.split == "train"}
    rows = {SOURCE: train}
    for step in resolve(spec, source):
        known = seen(store, step.fingerprint)
        wanted = rows[step.upstream]
        todo = {example_id for example_id in wanted if example_id not in known.ids or example_id in known.retry}
        if plans[step.upstream].status == "runs":
            rows[step.name] = wanted
            plans[step.name] = _runs(step, _why(step, store, known), len(wanted))
        elif todo or not is_complete(store, step.fingerprint):
            rows[step.name] = wanted
            answered = asyncio.run(_answered(step, spec, store, todo))
            plans[step.name] = _runs(step, _why(step, store, known), len(todo), answered)
        else:
            rows[step.name] = known.handed_on
            upstream = [step.upstream]
            plans[step.name] = StepPlan(
                step.name, step.op, upstream, step.fingerprint, "stands", [], 0, notes=_notes(step)
            )
    return list(plans.values())


def _runs(step: Step, why: list[str], rows: int, answered: int | None = None) -> StepPlan:
    requests = step.module.requests(step.params) * rows if hasattr(step.module, "requests") else 0
    upstream = [step.upstream]
    return StepPlan(step.name, step.op, upstream, step.fingerprint, "runs", why, rows, requests, answered, _notes(step))


def _notes(step: Step) -> list[str]:
    return step.module.notes(step.params) if hasattr(step.module, "notes") else []


# --- why


def _why_source(spec: Spec, store: Store) -> list[str]:
    last = store.last_step(SOURCE)
    if last is None:
        return ["new"]
    return _changed_keys(last["params"], spec.source.model_dump(mode="json")) or ["its rows changed"]


def _why(step: Step, store: Store, known: Seen) -> list[str]:
    """Against the last step of that name, whatever it was made of."""
    same = store.step(step.fingerprint)
    if same is not None:
        if known.retry:
            return [f"{len(known.retry)} rows to retry"]
        if same["status"] == "complete":
            return [f"upstream {step.upstream} runs"]
        return [f"interrupted: {len(known.ids)} rows are done" if known.ids else "interrupted"]
    last = store.last_step(step.name)
    if last is None:
        return ["new"]
    why = [f"op: {last['op']} -> {step.op}"] if last["op"] != step.op else []
    if not why and last["version"] != step.module.VERSION:
        why = [f"{step.op} version {last['version']} -> {step.module.VERSION}"]
    why += _changed_keys(last["params"], recorded(step)) if last["op"] == step.op else []
    why += [
        f"model {name} changed"
        for name, identity in step.models.items()
        if last["models"].get(name, identity) != identity
    ]
    why += [f"upstream {step.upstream} changed"] if list(last["upstream"]) != [step.reads] else []
    return why or ["seed changed"]


def _changed_keys(old: Row, new: Row) -> list[str]:
    return [
        f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in dict.fromkeys([*new, *old])
        if old.get(key) != new.get(key)
    ]


def _short(value: Any) -> str:
    text = "none" if value is None else " ".join(str(value).split())
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


# --- what is answered


async def _answered(step: Step, spec: Spec, store: Store, todo: set[str]) -> int:
    """How many of the requests that these rows make at once or after answered ones are in the store. The rows are run
    through the op itself, with a provider that only looks up."""
    lookup = _Lookup(step, store)
    ctx = Context(step.name, spec.seed, lookup)

    async def dry(example: Any) -> None:
        try:
            await step.module.apply(example, step.params, ctx)
        except RowError:
            pass

    rows = [e for e in store.examples(step.reads) if e.id in todo and not e.fell_back]
    try:
        for start in range(0, len(rows), LOOKUP_BATCH):
            await asyncio.gather(*(dry(example) for example in rows[start : start + LOOKUP_BATCH]))
    finally:
        lookup.close()
    return lookup.found


class _Lookup:
    """A Provider whose models only know what the store holds, and which embeds nothing."""

    def __init__(self, step: Step, store: Store):
        self.step, self.found = step, 0
        self.generations: Batcher[str, Any] = Batcher(_each(store.generations), max_batch=LOOKUP_BATCH)
        self.likelihoods: Batcher[str, Any] = Batcher(_each(store.likelihoods), max_batch=LOOKUP_BATCH)

    async def model(self, name: str) -> Model:
        return _Stored(self.step.models[name], self)

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        raise RowError("not_asked")

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]:
        raise RowError("not_asked")

    def close(self) -> None:
        self.generations.close()
        self.likelihoods.close()


@dataclass(slots=True)
class _Stored:
    identity: str
    lookup: _Lookup

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        rows = await self.lookup.generations(generation_digest(self.identity, prompt, sampling, sample))
        row = reusable(rows or (), sampling.max_tokens)
        if row is None:
            raise RowError("not_asked")
        self.lookup.found += 1
        return Reply(row["text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"], cached=True)

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        row = await self.lookup.likelihoods(likelihood_digest(self.identity, messages, continuation))
        if row is None:
            raise RowError("not_asked")
        self.lookup.found += 1
        return Likelihood(row["logprobs"])

    async def user_slot(self) -> str:
        raise RowError("not_asked")

    async def close(self) -> None:
        pass


def _each(find: Callable[[list[str]], Mapping[str, Any]]) -> Callable[[list[str]], list[Any]]:
    def run(names: list[str]) -> list[Any]:
        found = find(names)
        return [found.get(name) for name in names]

    return run

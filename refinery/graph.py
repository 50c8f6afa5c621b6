"""Run a spec's graph: skip what stands, ask for what is missing, store what came out.

Steps run one after another, the rows of a step side by side: as many are in flight as keep its models busy, and a row
that is done makes room for the next at once. Every outcome is noted in the journal as it comes and written to the store
within about a second, so that a killed run goes on row by row. Rows that fell back earlier pass every later step.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from refinery.context import Context
from refinery.errors import RowError
from refinery.journal import Journal
from refinery.models.cache import Counts
from refinery.planning import StepPlan, plan
from refinery.records import Example, Outcome, digest
from refinery.rowops import failed
from refinery.services import Services
from refinery.spec import SOURCE, Spec
from refinery.steps import (
    SOURCE_VERSION,
    Seen,
    Step,
    data_fingerprint,
    forget_downstream,
    is_complete,
    read_source,
    recorded,
    resolve,
    seen,
    stands,
)
from refinery.store import Store

WINDOW = 256
"""Rows in flight in one step, at least; four for each request that a model takes at a time, where that is more."""

__all__ = [
    "StepPlan",
    "StepProgress",
    "StepResult",
    "data_fingerprint",
    "plan",
    "run_graph",
    "stands",
    "step_fingerprints",
]


@dataclass(slots=True)
class StepProgress:
    """A step under way. One object a step, updated in place: read it in the callback, do not keep it."""

    name: str
    op: str
    total: int
    """Rows that go in."""
    done: int = 0
    """Rows with an outcome, those of earlier runs included."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(action, reason) to rows."""
    usage: Counts = field(default_factory=Counts)
    """Requests sent and answered from the store, and tokens of the sent ones, in this step of this run."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A finished step: rows in = kept + changed + fell_back + dropped."""

    name: str
    op: str
    fingerprint: str
    rows: int
    counts: dict[tuple[str, str], int]
    """(action, reason) to rows."""
    transient: int
    """Rows to be asked again by the next run."""
    ran: int
    """Rows worked on by this run; 0 for a step that stood."""
    usage: Counts

    def count(self, action: str) -> int:
        return sum(n for (each, _), n in self.counts.items() if each == action)


Callback = Callable[[StepProgress], None]


def run_graph(
    spec: Spec, store: Store, *, run_id: str | None = None, progress: Callback | None = None
) -> dict[str, StepResult]:
    """Bring every step of the graph up to date; the result by step name, "source" first.

    With `run_id` the caller holds the store's lock and finishes the run; without, the graph is a run of its own.
    Rows with a transient failure (a server that was overloaded) are asked again, and so is what later steps made of
    them. Raises UserError where the run cannot go on (no server at the address); what was answered until then is kept,
    as it is after KeyboardInterrupt, which is raised on.
    """
    if run_id is None:
        with store.run_lock(), _own_run(spec, store) as run_id:
            return run_graph(spec, store, run_id=run_id, progress=progress)
    with Journal(store) as journal:
        return asyncio.run(_run(spec, store, journal, run_id, progress or (lambda _: None)))


def step_fingerprints(spec: Spec, store: Store) -> dict[str, str]:
    """Step name, "source" included, to fingerprint. Reads the source."""
    source, _ = read_source(spec)
    return {SOURCE: source, **{step.name: step.fingerprint for step in resolve(spec, source)}}


@contextmanager
def _own_run(spec: Spec, store: Store) -> Iterator[str]:
    public = spec.public()
    run_id = store.start_run(spec.name, str(public), digest(public), {})
    status = "failed"
    try:
        yield run_id
        status = "complete"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        store.finish_run(run_id, status)


async def _run(spec: Spec, store: Store, journal: Journal, run_id: str, progress: Callback) -> dict[str, StepResult]:
    source = _read(spec, store, run_id)
    steps = resolve(spec, source, fetch=True)
    rows = {SOURCE: seen(store, source)}
    results = {SOURCE: _result(SOURCE, SOURCE, source, rows[SOURCE], rows[SOURCE].ids, Counts())}
    async with _services(spec, store, journal) as services:
        for step in steps:
            runner = _Runner(step, spec, store, journal, run_id, services, progress)
            results[step.name], rows[step.name] = await runner.bring_up(rows[step.upstream])
    return results


@asynccontextmanager
async def _services(spec: Spec, store: Store, journal: Journal) -> AsyncIterator[Services]:
    services = Services(spec.models, store, journal)
    try:
        yield services
    finally:
        await services.close()


def _read(spec: Spec, store: Store, run_id: str) -> str:
    """The source's fingerprint, all rows of all splits stored under it, bad ones included, as a step that made them."""
    fingerprint, outcomes = read_source(spec)
    if not is_complete(store, fingerprint):
        params = spec.source.model_dump(mode="json")
        store.start_step(fingerprint, run_id, SOURCE, SOURCE, SOURCE_VERSION, params, [], {})
        store.add_outcomes(fingerprint, list(enumerate(outcomes)))
        store.finish_step(fingerprint)
    return fingerprint


def _result(
    name: str, op: str, fingerprint: str, rows: Seen, expected: Set[str], usage: Counts, ran: int = 0
) -> StepResult:
    """RuntimeError where a row was lost: every row that goes in has exactly one outcome."""
    if rows.ids != expected or rows.counts.total() != len(expected):
        raise RuntimeError(f"step {name}: {len(expected)} rows in, {rows.counts.total()} accounted for")
    return StepResult(name, op, fingerprint, len(expected), dict(rows.counts), len(rows.retry), ran, usage)


def _since(before: Counts, after: Counts) -> Counts:
    return Counts(*(getattr(after, name) - getattr(before, name) for name in Counts.__slots__))


@dataclass(slots=True)
class _Runner:
    """One step of one run."""

    step: Step
    spec: Spec
    store: Store
    journal: Journal
    run_id: str
    services: Services
    progress: Callback
    ctx: Context = field(init=False)
    state: StepProgress = field(init=False)
    before: Counts = field(init=False)

    async def bring_up(self, upstream: Seen) -> tuple[StepResult, Seen]:
        """Work on the rows that have no outcome yet or a transient one."""
        step, wanted = self.step, upstream.handed_on
        known = seen(self.store, step.fingerprint)
        todo = {example_id for example_id in wanted if example_id not in known.ids or example_id in known.retry}
        gone = known.ids - wanted.keys()
        runs = bool(todo or gone) or not is_complete(self.store, step.fingerprint)
        self.before = self.services.counts()
        if runs:
            if known.ids:
                forget_downstream(self.store, step.fingerprint, todo | gone)
                self.store.delete_outcomes(step.fingerprint, list(todo | gone))
                known = seen(self.store, step.fingerprint)
            self._start()
            self.ctx = Context(step.name, self.spec.seed, self.services)
            self.state = StepProgress(step.name, step.op, len(wanted), len(known.ids), known.counts)
            await self._work([(wanted[e.id], e) for e in self.store.examples(step.reads) if e.id in todo])
            self.journal.flush()
            known = seen(self.store, step.fingerprint)
        usage = _since(self.before, self.services.counts())
        result = _result(step.name, step.op, step.fingerprint, known, wanted.keys(), usage, len(todo))
        if runs:
            self.store.finish_step(step.fingerprint)
        return result, known

    def _start(self) -> None:
        step = self.step
        version, params = step.module.VERSION, recorded(step)
        self.store.start_step(
            step.fingerprint, self.run_id, step.name, step.op, version, params, [step.reads], step.models
        )

    async def _work(self, rows: list[tuple[int, Example]]) -> None:
        """All rows, a window at a time. On any error that is not a row's own the other rows are stopped."""
        window = max(WINDOW, *(4 * self.spec.models[name].concurrency for name in self.step.models), 0)
        waiting = iter(rows)
        self.progress(self.state)
        workers = [asyncio.create_task(self._one_by_one(waiting)) for _ in range(min(window, len(rows)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _one_by_one(self, waiting: Iterator[tuple[int, Example]]) -> None:
        for position, example in waiting:
            outcome = await self._apply(example)
            if outcome.example_id != example.id:
                raise RuntimeError(f"step {self.step.name}: {self.step.op} answered for another row than it was given")
            self._note(position, example, outcome)

    async def _apply(self, example: Example) -> Outcome:
        if example.fell_back:
            return Outcome(example.id, "kept", "fell_back_earlier", example)
        try:
            return await self.step.module.apply(example, self.step.params, self.ctx)
        except RowError as error:
            return self._failed(example, error)

    def _failed(self, example: Example, error: RowError) -> Outcome:
        return failed(example, getattr(self.step.params, "on_error", "answer"), error)

    def _note(self, position: int, example: Example, outcome: Outcome) -> None:
        try:
            self.journal.outcome(self.step.fingerprint, position, outcome)
        except RowError as error:  # the outcome holds text that cannot be stored
            outcome = self._failed(example, RowError(error.reason))
            self.journal.outcome(self.step.fingerprint, position, outcome)
        self.state.done += 1
        self.state.counts[outcome.action, outcome.reason] += 1
        self.state.usage = _since(self.before, self.services.counts())
        self.progress(self.state)

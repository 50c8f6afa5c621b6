"""Bring one step up to date: the rows that have no outcome yet, side by side, or all at once in a table step."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from refinery.arrivals import Arrival, Arrivals
from refinery.context import Context, side_by_side
from refinery.errors import RowError, UserError
from refinery.journal import Journal
from refinery.models.cache import Counts
from refinery.records import Example, Outcome
from refinery.rowops import failed
from refinery.spec import Spec
from refinery.steps import (
    Step,
    StoredTable,
    again,
    answered,
    forget_downstream,
    handed_on,
    is_complete,
    lost,
    not_done,
    start,
    tally,
)
from refinery.store import Store
from refinery.tablesteps import run_table

WINDOW = 256
"""Rows in flight in one step, at least; four for each request that a model takes at a time, where that is more."""
SHOWN = 3
"""Failures that are quoted where a run stops for too many of them."""
EVERY = 0.1
"""Seconds between calls of the progress callback, at least."""


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
    """A finished step: rows in = kept + changed + fell_back + dropped; a table step may have created more."""

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
    failed: dict[str, int] = field(default_factory=dict)
    """Of the rows worked on by this run, those that could not be processed, by reason."""

    def count(self, action: str) -> int:
        return sum(n for (each, _), n in self.counts.items() if each == action)


Callback = Callable[[StepProgress], None]


def _since(before: Counts, after: Counts) -> Counts:
    return Counts(*(getattr(after, name) - getattr(before, name) for name in Counts.__slots__))


@dataclass(slots=True)
class Runner:
    """One step of one run."""

    step: Step
    spec: Spec
    store: Store
    journal: Journal
    run_id: str
    services: Any
    progress: Callback
    sources: Arrivals
    ctx: Context = field(init=False)
    state: StepProgress = field(init=False)
    before: Counts = field(init=False)
    failures: Counter[str] = field(default_factory=Counter)
    quoted: list[str] = field(default_factory=list)
    fresh: bool = False
    """Whether the step had no outcome when its rows began."""
    ran: int = 0
    items: int = 0
    """Of a table step, worked on side by side."""
    told: float = 0.0

    async def bring_up(self) -> StepResult:
        """Work on the rows that have no outcome yet or a transient one."""
        step = self.step
        arrival = self._arrival()
        if arrival is None:
            await asyncio.to_thread(self.sources.wait, step.reads)
        with self.store.held():
            total = arrival.rows if arrival else handed_on(self.store, step.reads)
            stale = [] if arrival else again(self.store, step)
            todo = total if arrival else not_done(self.store, step)
            runs = bool(todo or stale or lost(step)) or not is_complete(self.store, step.fingerprint)
            if not runs:
                self.store.name_step(step.name, step.fingerprint)
        self.before = self._counts()
        if runs:
            window = max(WINDOW, *(4 * self.spec.models[name].at_once for name in step.models), 0)
            self.ctx = Context(step.name, self.spec.seed, self.services, window)
            self.state = StepProgress(step.name, step.op, total)
            if step.is_table:
                self.ran = total
                if not hasattr(step.module, "requests_in_all"):  # there a refused draw is part of the search
                    self.ctx.note = self._note_item
                await run_table(step, self.store, self.run_id, self.ctx, self._table_progress)
                self.state.done = total
            else:
                await self._run_rows(stale, todo, arrival)
            self._tell(last=True)
            await asyncio.to_thread(self.sources.wait, step.reads)
            with self.store.held():
                self._check(total)
                self.store.finish_step(step.fingerprint)
        known = tally(self.store, step.fingerprint)
        usage = _since(self.before, self._counts())
        return StepResult(
            step.name,
            step.op,
            step.fingerprint,
            total,
            dict(known.counts),
            known.transient,
            self.ran,
            usage,
            dict(self.failures),
        )

    def _arrival(self) -> Arrival | None:
        """The source whose rows the step can take as they were read: it takes no other, and has no outcome yet."""
        step = self.step
        if step.needs_all or len(step.reads) != 1 or self.store.funnel(step.fingerprint):
            return None
        return self.sources.coming.get(step.reads[0])

    def _counts(self) -> Counts:
        return self.services.counts() if hasattr(self.services, "counts") else Counts()

    def _check(self, total: int) -> None:
        """RuntimeError where a row was lost: every row that goes in has exactly one outcome."""
        known = tally(self.store, self.step.fingerprint)
        outcomes = known.rows - sum(n for (action, _), n in known.counts.items() if action == "created")
        accounted = answered(self.store, self.step)
        if accounted != total:
            raise RuntimeError(f"step {self.step.name}: {total} rows in, {accounted} accounted for")
        if outcomes != total:
            raise RuntimeError(f"step {self.step.name}: {outcomes - total} outcomes of rows that it was not given")

    # ---- row steps

    async def _run_rows(self, stale: list[str], todo: int, arrival: Arrival | None) -> None:
        step, store = self.step, self.store
        if step.needs_all and tally(store, step.fingerprint).rows:
            stale = [row["example_id"] for row in store.query(_IDS, [step.fingerprint])]
        with store.held():
            forget_downstream(store, step.fingerprint, stale)
            store.delete_outcomes(step.fingerprint, stale)
            start(store, step, self.run_id)
            known = tally(store, step.fingerprint)
        self.state.done, self.state.counts = known.rows, known.counts
        self.fresh = not known.rows
        self._tell(last=True)
        if step.needs_all:
            tables = [StoredTable(name, store, reads) for name, reads in zip(step.upstream, step.reads, strict=True)]
            self.ctx.prepared = await step.module.prepare(tables, step.params, self.ctx)
        await self._work(todo, arrival)
        self.journal.flush()

    async def _work(self, todo: int, arrival: Arrival | None) -> None:
        """All rows, a window at a time. On any error that is not a row's own the other rows are stopped."""
        rows = _Prefetched(arrival.train() if arrival else self._rest())
        await side_by_side(self._one_by_one(rows) for _ in range(max(1, min(self.ctx.window, todo))))

    def _rest(self) -> Iterator[tuple[int, Example]]:
        """The stored rows that the step has not answered yet."""
        for position, outcome in self.store.stream(self.step.reads[0], split="train", todo=self.step.fingerprint):
            if outcome.example is not None:
                yield position, outcome.example

    async def _one_by_one(self, rows: "_Prefetched") -> None:
        while (row := await rows.next()) is not None:
            position, example = row
            outcome = await self._apply(example)
            if outcome.example_id != example.id:
                raise RuntimeError(f"step {self.step.name}: {self.step.op} answered for another row than it was given")
            self._note(position, example, outcome)

    async def _apply(self, example: Example) -> Outcome:
        if example.fell_back:
            return Outcome(example.id, "kept", "fell_back_earlier", example)
        try:
            outcome: Outcome = await self.step.module.apply(example, self.step.params, self.ctx)
        except RowError as error:
            return self._failed(example, error)
        if outcome.failed:
            self._count(RowError(outcome.reason, outcome.detail))
        return outcome

    def _failed(self, example: Example, error: RowError) -> Outcome:
        self._count(error)
        return failed(example, getattr(self.step.params, "on_error", "answer"), error)

    def _count(self, error: RowError) -> None:
        self.failures[error.reason] += 1
        if len(self.quoted) < SHOWN:
            self.quoted.append(f"{error.reason}: {error.detail}" if error.detail else error.reason)

    def _note(self, position: int, example: Example, outcome: Outcome) -> None:
        try:
            self.journal.outcome(self.step.fingerprint, position, outcome, new=self.fresh)
        except RowError as error:  # the outcome holds text that cannot be stored
            outcome = self._failed(example, RowError(error.reason))
            self.journal.outcome(self.step.fingerprint, position, outcome, new=self.fresh)
        self.ran += 1
        self.state.done += 1
        self.state.counts[outcome.action, outcome.reason] += 1
        self._tell()
        if self.failures:
            self._stop_if_most_fail(self.ran, "rows")

    def _note_item(self, error: RowError | None) -> None:
        """One item of a table step's `Context.map`."""
        self.items += 1
        if error is not None:
            self._count(error)
            self._stop_if_most_fail(self.items, "items")

    def _stop_if_most_fail(self, tried: int, what: str) -> None:
        limits, bad = self.spec.limits, self.failures.total()
        if tried >= limits.after and bad > limits.failed * tried and limits.failed < 1:
            raise UserError(
                f"step {self.step.name}: {bad} of the first {tried} {what} failed, more than limits.failed "
                f"({limits.failed:g}) allows; the first: {'; '.join(self.quoted)}"
            )

    # ---- progress

    def _table_progress(self, done: int) -> None:
        self.state.done = done
        self._tell()

    def _tell(self, last: bool = False) -> None:
        now = time.monotonic()
        if last or now - self.told >= EVERY:
            self.told = now
            self.state.usage = _since(self.before, self._counts())
            self.progress(self.state)


_IDS = "SELECT example_id FROM outcomes WHERE step = ? ORDER BY position"


class _Prefetched:
    """Rows of a stream, read in a thread, a page ahead of what is asked for."""

    PAGE = 500

    def __init__(self, stream: Iterator[tuple[int, Example]]):
        self._stream = stream
        self._page: Iterator[tuple[int, Example]] = iter(())
        self._coming: asyncio.Task[list[tuple[int, Example]]] | None = None
        self._turn = asyncio.Lock()

    async def next(self) -> tuple[int, Example] | None:
        """The next (position, example), None at the end."""
        row = next(self._page, None)
        while row is None:
            async with self._turn:
                row = next(self._page, None)
                if row is None:
                    coming = self._coming or self._read()
                    page = await asyncio.shield(coming)
                    if not page:
                        self._coming = coming
                        return None
                    self._coming = self._read()
                    self._page = iter(page)
        return row

    def _read(self) -> "asyncio.Task[list[tuple[int, Example]]]":
        return asyncio.create_task(asyncio.to_thread(self._fetch))

    def _fetch(self) -> list[tuple[int, Example]]:
        return list(islice(self._stream, self.PAGE))

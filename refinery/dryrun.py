"""Run steps without asking: answers come from the store, and those that are not there are counted.

A row whose request is not answered yet has an unknown outcome; later row steps cannot know what they would ask for it
and count what they may ask at most. A table step that reads an unknown row is unknown as a whole.
"""

import asyncio
import contextvars
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refinery.context import Context
from refinery.errors import RowError, UserError
from refinery.models.base import Likelihood, Prompt, Reply, Sampling
from refinery.models.batcher import Batcher
from refinery.models.cache import LOOKUP_BATCH, each, generation_digest, likelihood_digest, reusable
from refinery.records import Example, Message, Outcome
from refinery.rowops import failed
from refinery.sources import Reading
from refinery.spec import Spec
from refinery.steps import Step, batches, handed_on
from refinery.store import Store
from refinery.tablesteps import run_table, without_writing

WINDOW = 512
UNKNOWN = "not_asked"
RUN = "dry run"


@dataclass(slots=True)
class Guess:
    """What a step would ask."""

    rows: int
    at_least: int = 0
    more: int = 0
    """Requests that may follow, at most."""
    answered: int = 0
    stops: str = ""
    """What the run will stop at here, as it would say it."""
    stops_if: str = ""
    """The condition that this hangs on; empty where it is sure."""


@dataclass(slots=True)
class _Row:
    """What one row's outcome took so far."""

    missing: set[str] = field(default_factory=set)
    found: int = 0
    blind: bool = False
    """True where something else than a request is not known, such as an embedding."""


_row: contextvars.ContextVar[_Row] = contextvars.ContextVar("row")


def _missing(name: str) -> RowError:
    """A request of this name has no answer yet."""
    _row.get().missing.add(name)
    return RowError(UNKNOWN, transient=True)


def _blind() -> RowError:
    _row.get().blind = True
    return RowError(UNKNOWN, transient=True)


class DryRun:
    """Steps run one after another, in the order of the graph, on a store that is thrown away."""

    def __init__(self, spec: Spec, store: Store, folder: Path):
        self.spec, self.store = spec, store
        self.copy = Store(folder / "dry.duckdb")
        self._here: set[str] = set()
        self._unknown: dict[str, int] = {}
        """Step fingerprint to rows whose outcome is not known."""
        self._lost: dict[str, int] = {}
        """Fingerprint of a step that is unknown as a whole to the rows that it may hand on."""
        self._unbounded: set[str] = set()
        """Those of them that may hand on more: table steps make rows."""

    def add_source(self, fingerprint: str, reading: Reading) -> None:
        """A source that the store does not have."""
        self._add(fingerprint, enumerate(reading.outcomes()))

    def run(self, step: Step) -> Guess:
        """What the step would ask, given what the steps before it came to."""
        if any(reads in self._lost for reads in step.reads):
            return self._lose(step)
        for reads in step.reads:
            self._fetch(reads)
        unknown = sum(self._unknown.get(reads, 0) for reads in step.reads)
        if step.needs_all and (unknown or not step.is_table):
            return self._lose(step)
        return asyncio.run(self._table(step) if step.is_table else self._rows(step))

    def _lose(self, step: Step) -> Guess:
        most = [self._most(reads) for reads in step.reads]
        self._lost[step.fingerprint] = rows = sum(most)
        if step.is_table or self._unbounded & set(step.reads):
            self._unbounded.add(step.fingerprint)
        stops, condition = self._shortfall(step, most)
        return Guess(rows, more=_in_all(step, rows), stops=stops, stops_if=condition)

    def _most(self, fingerprint: str) -> int:
        """Rows that the step hands on, at most."""
        lost = self._lost.get(fingerprint)
        return handed_on(self._place(fingerprint), [fingerprint]) if lost is None else lost

    def _shortfall(self, step: Step, most: list[int]) -> tuple[str, str]:
        """(message, its condition): what an op says to so many rows (its `shortfall`). Of the steps it draws from there
        may be fewer, which does not help; of its first step too, which may."""
        if not hasattr(step.module, "shortfall") or self._unbounded & set(step.reads):
            return "", ""
        said, first = step.module.shortfall(step.upstream, most, step.params), step.reads[0]
        sure = not said or (first not in self._lost and not self._unknown.get(first))
        return said, "" if sure else f"all {most[0]:,} rows of {step.upstream[0]} come through"

    def _place(self, fingerprint: str) -> Store:
        return self.copy if fingerprint in self._here else self.store

    def _fetch(self, fingerprint: str) -> None:
        """Bring a standing step's rows over."""
        if fingerprint not in self._here:
            self._add(fingerprint, self.store.stream(fingerprint))

    def _add(self, fingerprint: str, rows: Iterable[tuple[int, Outcome]]) -> None:
        for batch in batches(rows):
            self.copy.add_outcomes(fingerprint, batch)
        self._here.add(fingerprint)

    async def _rows(self, step: Step) -> Guess:
        """Every row is worked on: those that stand are answered from the store and cost nothing."""
        lookup = _Lookup(step, self.store)
        ctx = Context(step.name, self.spec.seed, lookup, WINDOW)
        guess = Guess(handed_on(self.copy, step.reads))
        standing = _standing(self.store, step)
        most = step.module.requests(step.params) if hasattr(step.module, "requests") else 0
        asked: set[str] = set()
        unknown_here = 0
        batch: list[tuple[int, Outcome]] = []

        async def work(row: tuple[int, Outcome]) -> None:
            nonlocal unknown_here
            position, upstream = row
            example = upstream.example
            assert example is not None
            if upstream.reason == UNKNOWN:
                unknown_here += 1
                guess.more += most
                batch.append((position, upstream))
                return
            if example.id in standing:
                guess.rows -= 1
            state = _Row()
            outcome = await _dry(step, example, ctx, state)
            guess.answered += 0 if example.id in standing else state.found
            if state.missing or state.blind:
                unknown_here += 1
                new = state.missing - asked
                asked.update(new)
                guess.at_least += len(new)
                guess.more += max(0, most - state.found - len(state.missing))
                outcome = Outcome(example.id, "kept", UNKNOWN, example)
            batch.append((position, outcome))

        try:
            for rows in batches(self.copy.stream(step.reads[0], split="train")):
                await ctx.map(work, rows)
                self.copy.add_outcomes(step.fingerprint, batch)
                batch.clear()
        finally:
            lookup.close()
        self._here.add(step.fingerprint)
        self._unknown[step.fingerprint] = unknown_here
        return guess

    async def _table(self, step: Step) -> Guess:
        lookup = _Lookup(step, self.store)
        ctx = Context(step.name, self.spec.seed, lookup, WINDOW)
        guess = Guess(handed_on(self.copy, step.reads))
        state = _Row()
        token = _row.set(state)
        try:
            await run_table(without_writing(step), self.copy, RUN, ctx, lambda _: None)
        except RowError:
            state.blind = True
        except UserError as error:
            guess.stops = "" if state.missing or state.blind else str(error)
            state.blind = True
        finally:
            _row.reset(token)
            lookup.close()
        guess.answered, guess.at_least = state.found, len(state.missing)
        if state.missing or state.blind:
            self._lost[step.fingerprint] = guess.rows
            self._unbounded.add(step.fingerprint)
            guess.more = max(0, _in_all(step, guess.rows) - guess.answered - guess.at_least)
        self._here.add(step.fingerprint)
        return guess


def _in_all(step: Step, rows: int) -> int:
    module = step.module
    if hasattr(module, "requests_in_all"):
        return int(module.requests_in_all(step.params))
    return int(module.requests(step.params)) * rows if hasattr(module, "requests") else 0


def _standing(store: Store, step: Step) -> set[str]:
    sql = "SELECT example_id FROM outcomes WHERE step = ? AND NOT transient"
    return {row["example_id"] for row in store.query(sql, [step.fingerprint])}


async def _dry(step: Step, example: Example, ctx: Context, state: _Row) -> Outcome:
    if example.fell_back:
        return Outcome(example.id, "kept", "fell_back_earlier", example)
    token = _row.set(state)
    try:
        return await step.module.apply(example, step.params, ctx)
    except RowError as error:
        return failed(example, getattr(step.params, "on_error", "answer"), error)
    finally:
        _row.reset(token)


class _Lookup:
    """A Provider whose models and encoders only know what the store holds."""

    def __init__(self, step: Step, store: Store):
        self.step, self.store = step, store
        self.known = {table: set(store.known(table).tolist()) for table in ("generations", "likelihoods")}
        self.generations: Batcher[str, Any] = Batcher(each(store.generations), max_batch=LOOKUP_BATCH)
        self.likelihoods: Batcher[str, Any] = Batcher(each(store.likelihoods), max_batch=LOOKUP_BATCH)

    async def model(self, name: str) -> Any:
        return _Stored(self.step.models[name], self)

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        from refinery.vectors import stored_vectors

        found = await asyncio.to_thread(stored_vectors, self.store, encoder, texts)
        if found is None:
            raise _blind()
        return found

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]:
        raise _blind()

    def may_have(self, table: str, name: str) -> bool:
        return int(name[:16], 16) in self.known[table]

    def close(self) -> None:
        self.generations.close()
        self.likelihoods.close()


@dataclass(slots=True)
class _Stored:
    identity: str
    lookup: _Lookup

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        name = generation_digest(self.identity, prompt, sampling, sample)
        rows = await self.lookup.generations(name) if self.lookup.may_have("generations", name) else ()
        row = reusable(rows or (), sampling.max_tokens)
        if row is None:
            raise _missing(name)
        _row.get().found += 1
        return Reply(row["text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"], cached=True)

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        name = likelihood_digest(self.identity, messages, continuation)
        row = await self.lookup.likelihoods(name) if self.lookup.may_have("likelihoods", name) else None
        if row is None:
            raise _missing(name)
        _row.get().found += 1
        return Likelihood(row["logprobs"])

    async def user_slot(self) -> str:
        raise _blind()

    async def close(self) -> None:
        pass

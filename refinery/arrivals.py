"""Sources on their way into the store: a thread writes them, while the first step already asks about their rows.

A source is read and identified as a whole before anything is asked (a bad row must not be found when half is paid for).
Writing it takes longer than that, and hinders nobody: a step that starts afresh takes the rows as they were read, and
any other waits until those that it reads are in the store.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event

from refinery import sources
from refinery.records import Example, Outcome
from refinery.sources import Reading
from refinery.spec import SOURCE, Spec
from refinery.steps import batches, is_complete, readings
from refinery.store import Store

HELD = 0.25
"""Seconds for which others that want to use the store wait for it, at most, while a source is written."""
PAUSE = 0.001
"""Seconds for which the store is let go of between two transactions, for whoever waits for it."""
AHEAD = 1000
"""Rows that a step takes before the writing begins, so that its first requests need not wait for the store."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One source that the store had not."""

    reading: Reading
    written: "Future[None]"
    begin: Event
    """Set when it may be written."""

    @property
    def rows(self) -> int:
        """That go on to the graph."""
        return self.reading.train_rows

    def wait(self) -> None:
        """Until all of it is in the store; raises what went wrong there."""
        self.begin.set()
        self.written.result()

    def train(self) -> Iterator[tuple[int, Example]]:
        """(position, example) of the rows that go on, as `Store.stream` gives them once they are stored."""
        for position, outcome in enumerate(self.reading.outcomes()):
            if position and position % AHEAD == 0:
                self.begin.set()
                if self.written.done():
                    self.written.result()  # so that a store that cannot be written is known before the end
            if outcome.example is not None and outcome.example.split == "train":
                yield position, outcome.example
        self.begin.set()


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A run's sources."""

    fingerprints: Mapping[str, str]
    """Of every source by its name in the spec."""
    coming: Mapping[str, Arrival]
    """Those that the store had not, by fingerprint."""

    def wait(self, fingerprints: Iterable[str]) -> None:
        for fingerprint in fingerprints:
            if fingerprint in self.coming:
                self.coming[fingerprint].wait()


@contextmanager
def arriving(spec: Spec, store: Store, run_id: str, *, ahead: bool = True) -> Iterator[Arrivals]:
    """Read all sources and begin to store all rows of all splits, bad ones included, each as a step that made them.
    What is not stored when the block ends with an error is left for the next run. Without `ahead` all is stored before
    the block begins, so that steps get what the store keeps (a preview's keeps few rows)."""
    begin, stop = Event(), Event()
    with ExitStack() as stack:
        read = stack.enter_context(readings(spec, store))
        writer = stack.enter_context(ThreadPoolExecutor(1, "sources"))
        stack.callback(begin.set)
        stack.callback(stop.set)
        found, coming = {}, {}
        for name, each in read.items():
            fingerprint = found[name] = each if isinstance(each, str) else each.fingerprint()
            if not isinstance(each, str) and fingerprint not in coming and not is_complete(store, fingerprint):
                params = spec.all_sources[name].model_dump(mode="json")
                store.start_step(fingerprint, run_id, name, SOURCE, sources.VERSION, params, [], {})
                writing = writer.submit(_write, store, fingerprint, each.outcomes(), begin, stop)
                coming[fingerprint] = Arrival(each, writing, begin)
            store.name_step(name, fingerprint)
            if not isinstance(each, str) and each.key:
                store.add_reading(each.key, fingerprint)  # which counts once the rows are complete
        arrivals = Arrivals(found, coming)
        if not ahead:
            arrivals.wait(coming)
        yield arrivals if ahead else Arrivals(found, {})
        arrivals.wait(coming)


def _write(store: Store, fingerprint: str, outcomes: Iterable[Outcome], begin: Event, stop: Event) -> None:
    """In few transactions, which for many rows takes half of what one for each batch does."""
    begin.wait()
    new = not store.funnel(fingerprint)  # else a run was killed while it wrote them
    coming = batches(enumerate(outcomes))
    batch = next(coming, None)
    while batch and not stop.is_set():
        until = time.monotonic() + HELD
        with store.together():
            while batch and time.monotonic() < until and not stop.is_set():
                store.add_outcomes(fingerprint, batch, new=new)
                batch = next(coming, None)
        time.sleep(PAUSE)
    if not batch:
        store.finish_step(fingerprint)

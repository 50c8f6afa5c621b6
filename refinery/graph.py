"""Run a spec's graph: skip what stands, ask for what is missing, store what came out.

Steps run one after another (refinery/running.py), the rows of a row step side by side: as many are in flight as keep
its models busy, and a row that is done makes room for the next at once. Rows stream from the store and back, so that
memory does not grow with their number. Every outcome is noted in the journal as it comes and written to the store
within about a second, so that a killed run goes on row by row. Rows that fell back earlier pass every later row step.
A table step sees all rows at once and is done as a whole (refinery/tablesteps.py).
"""

import gc
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

from refinery import event_loop
from refinery.arrivals import Arrivals, arriving
from refinery.context import Provider
from refinery.journal import Journal
from refinery.models.cache import Counts
from refinery.planning import StepPlan, plan
from refinery.records import digest
from refinery.rewriters import located
from refinery.running import Callback, Runner, StepProgress, StepResult
from refinery.services import Services
from refinery.spec import SOURCE, ModelSpec, Spec
from refinery.steps import (
    data_fingerprint,
    resolve,
    source_fingerprints,
    stands,
    tally,
)
from refinery.store import Store
from refinery.tablesteps import without_writing

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


def run_graph(
    spec: Spec,
    store: Store,
    *,
    run_id: str | None = None,
    progress: Callback | None = None,
    provider: Provider | None = None,
    writes: bool = True,
) -> dict[str, StepResult]:
    """Bring every step of the graph up to date; the result by step name, the sources first.

    With `run_id` the caller holds the store's lock and finishes the run; without, the graph is a run of its own.
    `provider` stands in for the spec's models and encoders (refinery.services.Services) and is not closed. Without
    `writes` (a preview), steps that write files pass their rows and write none, and all sources are stored first.
    Rows with a transient failure (a server that was overloaded) are asked again, and so is what later steps made of
    them. Raises UserError where the run cannot go on (no server at the address, too many rows fail); what was answered
    until then is kept, as it is after KeyboardInterrupt, which is raised on.
    """
    if run_id is None:
        with store.run_lock(), _own_run(spec, store) as run_id:
            return run_graph(spec, store, run_id=run_id, progress=progress, provider=provider, writes=writes)
    with _few_collections(), Journal(store) as journal:
        return event_loop.run(_run(spec, store, journal, run_id, progress or (lambda _: None), provider, writes))


def step_fingerprints(spec: Spec, store: Store) -> dict[str, str]:
    """Step name, sources included, to fingerprint. Reads sources that the store does not know."""
    found = source_fingerprints(spec, store)
    return {**found, **{step.name: step.fingerprint for step in resolve(spec, found)}}


@contextmanager
def _few_collections() -> Iterator[None]:
    """Rows leave hardly a cycle behind; looking for some among all that is imported takes a sixth of the time."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _own_run(spec: Spec, store: Store) -> Iterator[str]:
    public = spec.public()
    run_id = store.start_run(spec.name, str(public), digest(public), {})
    with store.finishing(run_id):
        yield run_id


async def _run(
    spec: Spec, store: Store, journal: Journal, run_id: str, progress: Callback, provider: Provider | None, writes: bool
) -> dict[str, StepResult]:
    results = {}
    with arriving(spec, store, run_id, ahead=writes) as sources:
        steps = resolve(spec, sources.fingerprints, fetch=True)
        known = {**sources.fingerprints, **{step.name: step.fingerprint for step in steps}}
        identities = {name: each for step in steps for name, each in step.models.items() if spec.models[name].from_}
        async with _services(located(spec, known), store, journal, identities, provider) as services:
            for step in steps:
                step = step if writes else without_writing(step)
                runner = Runner(step, spec, store, journal, run_id, services, progress, sources)
                results[step.name] = await runner.bring_up()
    return {**_read(store, sources), **results}


def _read(store: Store, sources: Arrivals) -> dict[str, StepResult]:
    results = {}
    for name, fingerprint in sources.fingerprints.items():
        found = tally(store, fingerprint)
        ran = found.rows if fingerprint in sources.coming else 0
        results[name] = StepResult(name, SOURCE, fingerprint, found.rows, dict(found.counts), 0, ran, Counts())
    return results


@asynccontextmanager
async def _services(
    models: Mapping[str, ModelSpec],
    store: Store,
    journal: Journal,
    identities: Mapping[str, str],
    provider: Provider | None,
) -> AsyncIterator[Provider]:
    if provider is not None:
        yield provider
        return
    services = Services(models, store, journal, identities)
    try:
        yield services
    finally:
        await services.close()

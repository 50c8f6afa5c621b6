"""What a run would do, without doing it: which steps stand, why the others would run, and how much they would ask.

Steps that would run are run, on a copy of what they read, with models that only look up answers (refinery/dryrun.py):
a request that is not answered yet is counted, and what hangs on its answer has a bound.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from refinery.advice import step_notes
from refinery.dryrun import DryRun, Guess
from refinery.reasons import why_source, why_step
from refinery.rewriters import located
from refinery.spec import SOURCE, Spec
from refinery.steps import (
    Step,
    again,
    is_complete,
    lost,
    not_done,
    readings,
    resolve,
)
from refinery.store import Store


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
    """Rows to work on; an upper bound where an upstream step asks for something and may then drop some."""
    requests: int = 0
    """Requests that will be sent, at most; a search that stops early, or a row that falls back, needs fewer."""
    at_least: int = 0
    """Requests that will surely be sent. Equal to `requests` where nothing hangs on answers not yet given."""
    answered: int = 0
    """Requests of these rows that the store answers."""
    notes: list[str] = field(default_factory=list)
    stops: str = ""
    """What the run will stop at here, as it would say it."""
    stops_if: str = ""
    """The condition that this hangs on; empty where it is sure."""


def stop_words(step: StepPlan) -> str:
    """ "the run will stop here: ...", or on which condition."""
    may = f"may stop here, if {step.stops_if}" if step.stops_if else "will stop here"
    return f"the run {may}: {step.stops}"


def plan(spec: Spec, store: Store) -> list[StepPlan]:
    """The plan of every step, the sources first. Reads the sources, digests local models' weights, asks no model."""
    with tempfile.TemporaryDirectory() as folder, readings(spec, store) as read:
        dry = DryRun(spec, store, Path(folder))
        plans: dict[str, StepPlan] = {}
        known: dict[str, str] = {}
        for name, each in read.items():
            known[name] = each if isinstance(each, str) else each.fingerprint()
            if is_complete(store, known[name]):
                plans[name] = StepPlan(name, SOURCE, [], known[name], "stands", [], 0)
            else:
                assert not isinstance(each, str)
                why = why_source(name, spec, store)
                plans[name] = StepPlan(name, SOURCE, [], known[name], "runs", why, each.rows)
                dry.add_source(known[name], each)
        for step in resolve(spec, known):
            running = [up for up in step.upstream if plans[up].status == "runs"]
            notes = _notes(step, spec, known)
            if not running and _stands(store, step):
                plans[step.name] = StepPlan(
                    step.name, step.op, step.upstream, step.fingerprint, "stands", [], 0, notes=notes
                )
            else:
                plans[step.name] = _runs(step, why_step(step, store, running), dry.run(step), notes)
            known[step.name] = step.fingerprint
    return list(plans.values())


def _stands(store: Store, step: Step) -> bool:
    done = is_complete(store, step.fingerprint) and not lost(step)
    return done and not not_done(store, step) and not again(store, step)


def _runs(step: Step, why: list[str], guess: Guess, notes: list[str]) -> StepPlan:
    return StepPlan(
        step.name,
        step.op,
        step.upstream,
        step.fingerprint,
        "runs",
        why,
        guess.rows,
        guess.at_least + guess.more,
        guess.at_least,
        guess.answered,
        notes,
        guess.stops,
        guess.stops_if,
    )


def _notes(step: Step, spec: Spec, known: Mapping[str, str]) -> list[str]:
    """What the op has to say, and which rewriters the step asks: trained ones by their checkpoint."""
    found = step_notes(spec, step.name)
    models = located(spec, known)
    for name in step.models:
        if (rewriter := spec.models[name].from_) is not None:
            one = spec.rewriters[rewriter]
            waits = models[name].from_ is not None
            state = "trained first" if waits else f"checkpoint {Path(models[name].model).name[:12]}"
            found.append(f"{name}: {one.method} on {one.data}, {state}")
    return found

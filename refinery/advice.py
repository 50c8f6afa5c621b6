"""What the ops have to say of a spec's steps before anything runs. Needs neither store nor models."""

from refinery import catalog
from refinery.spec import Spec


def step_notes(spec: Spec, name: str) -> list[str]:
    """An op's own notes on the step, and what it warns of where no later step checks the answers (its `unchecked`)."""
    step = spec.graph[name]
    module = catalog.module(catalog.OPS, step.op)
    found = list(module.notes(step.params)) if hasattr(module, "notes") else []
    if hasattr(module, "unchecked") and not any(_checks(spec, later) for later in _later(spec, name)):
        found += module.unchecked(step.params)
    return found


def _later(spec: Spec, name: str) -> list[str]:
    """The steps that read it, directly or not."""
    found = [name]
    for known in found:
        found += [each for each, step in spec.graph.items() if known in step.upstream and each not in found]
    return found[1:]


def _checks(spec: Spec, name: str) -> bool:
    step = spec.graph[name]
    module = catalog.module(catalog.OPS, step.op)
    return hasattr(module, "checks") and bool(module.checks(step.params))

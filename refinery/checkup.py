"""What a run needs, checked before it: servers, keys, models, context lengths, encoders, libraries, disk.

Asks no model for anything but a server's list of what it serves. Keys are only ever said to be there or not.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from refinery import catalog
from refinery.checkup_models import Finding, Level, asking, encoder_findings, in_bytes, model_findings
from refinery.errors import UserError
from refinery.models.weights import folder
from refinery.models.whole import broken, named_base, other_base
from refinery.planning import plan, stop_words
from refinery.probing import Longest, longest_prompts
from refinery.runs import holder
from refinery.served import SERVED
from refinery.spec import Spec
from refinery.store import Store

LITTLE, SCARCE = 5e9, 5e8
"""Free bytes under which disk space is warned of, and under which a run should not begin."""
EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "trl": "train",
    "peft": "train",
    "lm_eval": "eval",
    "sentence_transformers": "embed",
    "datasets": "hub",
}
"""Module to the extra that brings it."""


def checkup(spec: Spec, path: Path) -> Iterator[Finding]:
    """Findings in the order in which a run would meet what they are about."""
    steps, methods = len(spec.graph), len(spec.train.methods) if spec.train else 0
    yield Finding("ok", "spec", f"valid ({steps} steps, {methods} methods)")
    yield from _libraries(spec)
    yield from _storage(spec)
    prompts, found = _prompts(spec)
    yield from found
    yield from _shares(spec)
    yield from model_findings(spec, path, prompts)
    yield from _checkpoints(spec)
    yield from encoder_findings(spec)


# ---- libraries, storage, source


def _libraries(spec: Spec) -> Iterator[Finding]:
    needed: dict[str, list[str]] = {}
    for libraries, owners in _needs(spec):
        for library in libraries if owners else ():
            needed[library] = list(dict.fromkeys([*needed.get(library, []), *owners]))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[name] for name in missing))
        why = dict.fromkeys(owner for name in missing for owner in needed[name])
        cure = f'pip install "refinery[{extras}]" (for {", ".join(why)})'
        yield Finding("fail", "libraries", f"not installed: {', '.join(missing)}", cure)
    elif needed:
        yield Finding("ok", "libraries", f"installed: {', '.join(needed)}")


def _needs(spec: Spec) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """(libraries, what needs them: steps and sections of the spec)."""
    here = [name for name in asking(spec, "model") if spec.models[name].backend == "transformers"]
    steps = [step for name in here for step in asking(spec, "model")[name]]
    yield ("torch", "transformers"), steps
    yield ("sentence_transformers",), [step for found in asking(spec, "encoder").values() for step in found]
    yield ("torch", "transformers", "trl", "peft"), [key for key in ("rewriters", "train") if getattr(spec, key)]
    yield ("lm_eval",), ["evaluate"] if spec.evaluate else []
    yield ("datasets",), [f"source {name}" for name, source in spec.all_sources.items() if source.hub]


def _storage(spec: Spec) -> Iterator[Finding]:
    place = spec.store_path.absolute()
    parent = next(each for each in place.parents if each.is_dir())
    if not os.access(parent, os.W_OK):
        yield Finding("fail", "store", f"{parent} cannot be written", "name another place: store: PATH")
        return
    if place.exists():
        try:
            running = holder(Store(place, read_only=True))
        except UserError as error:
            yield Finding("fail", "store", str(error), "move it away, or name another place: store: PATH")
            return
        if running:
            yield Finding("warn", "store", f"a run goes on (process {running['pid']})", "wait for it, or stop it")
        else:
            yield Finding("ok", "store", f"{spec.store_path} is there, {in_bytes(place.stat().st_size)}")
    else:
        yield Finding("ok", "store", f"{spec.store_path} will be made")
    free, need = shutil.disk_usage(parent).free, _weights(spec)
    said = f"{in_bytes(free)} free" + (f", checkpoints take about {in_bytes(need)}" if need else "")
    cure = f"free some on the disk of {parent}, or name another place: store: PATH"
    level: Level = "fail" if free < SCARCE else "warn" if free < max(LITTLE, 1.2 * need) else "ok"
    yield Finding(level, "disk", said, "" if level == "ok" else cure)


def _weights(spec: Spec) -> float:
    """Bytes of the checkpoints that training will make at most, 0 where the base model is not here to be measured."""
    if spec.train is None:
        return 0.0
    try:
        base = folder(spec.model, spec.revision)
    except UserError:
        return 0.0
    size = sum(file.stat().st_size for file in base.glob("*.safetensors")) if base else 0
    points = 1
    for values in spec.train.tune.values():
        points *= len(values)
    return size * len(spec.train.methods) * (len(spec.train.seeds) + (points if spec.train.tune else 0))


def _prompts(spec: Spec) -> tuple[dict[str, Longest], list[Finding]]:
    """The longest prompt of each model, and what came to light in finding it."""
    if spec.source is None:  # weights from elsewhere are evaluated, and no row is read
        return {}, []
    try:
        rows, prompts, wrong = longest_prompts(spec)
    except UserError as error:
        return {}, [Finding("fail", "source", str(error))]
    found = [Finding("ok" if rows else "warn", "source", f"{rows:,} rows to refine" if rows else "no rows to refine")]
    return prompts, [*found, Finding("fail", "graph", wrong)] if wrong else found


def _checkpoints(spec: Spec) -> Iterator[Finding]:
    """Weights trained elsewhere: whether they are here, can be loaded, and are of this base."""
    try:
        base = folder(spec.model, spec.revision)
    except UserError:  # which is said of the model
        base = None
    for name, paths in spec.checkpoints.items():
        for path in paths:
            if path.startswith(SERVED):
                continue
            what = f"checkpoints.{name}"
            try:
                place = folder(path)
            except UserError as error:
                yield Finding("fail", what, str(error))
                continue
            if place is None:
                yield Finding("warn", what, f"{path} is not on this machine: the run fetches it from the hub")
            elif wrong := broken(place, base, spec.model):
                yield Finding("fail", what, f"{path}: {wrong}")
            elif named := other_base(place, spec.model, spec.revision):
                yield Finding("warn", what, named_base(path, named, spec.model))
            else:
                yield Finding("ok", what, f"{path} is here and whole")


def _shares(spec: Spec) -> Iterator[Finding]:
    """Where a step will stop the run for what it reads, as far as that is known before it (planning.StepPlan.stops)."""
    if not any(hasattr(catalog.module(catalog.OPS, step.op), "shortfall") for step in spec.graph.values()):
        return
    with TemporaryDirectory() as empty:
        store = Store(spec.store_path if spec.store_path.exists() else Path(empty) / "empty.duckdb")
        try:
            steps = plan(spec, store)
        except UserError:  # of the source or the models, which is said elsewhere
            return
    for step in steps:
        if step.stops:
            level: Level = "warn" if step.stops_if else "fail"
            yield Finding(level, f"step {step.name}", stop_words(step))

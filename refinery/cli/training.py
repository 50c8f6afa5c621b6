"""Train and evaluate what a spec asks for: tune on validation, train every method and seed, score what is final.

The domain's test items are touched once, by the final checkpoints: a grid is chosen on the validation split alone.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals import harness
from refinery import models
from refinery.cli.progress import Progress
from refinery.graph import step_fingerprints
from refinery.records import Example
from refinery.spec import MethodSpec, Spec
from refinery.store import Store
from trainers.train import TrainJob, fingerprint, train

VALIDATION = "heldout_validation"


def train_methods(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    """Every method at its chosen settings, for every seed, then marked final in the store."""
    steps = step_fingerprints(spec, store)
    for name, method in spec.train.methods.items():
        chosen = _tune(spec, store, run_id, steps, name, method, progress) if spec.train.tune else {}
        for number, seed in enumerate(spec.train.seeds, 1):
            label = f"train {name} seed {seed} ({number}/{len(spec.train.seeds)})"
            job = _job(spec, store, run_id, steps, name, method, chosen, seed)
            train(job, lambda done, total, note="", label=label: progress.update(label, done, total, note))
            store.set_checkpoint_role(fingerprint(job), "final")


def evaluate_final(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    """The base and every final checkpoint on every benchmark. What is scored already is skipped."""
    base = _base(spec, store, run_id)
    finals = [base, *(row["fingerprint"] for row in store.checkpoints(role="final"))]
    benchmarks = [*spec.evaluate.domain, *spec.evaluate.general]
    heldout = _split(spec, store, "test")
    for number, checkpoint in enumerate(finals, 1):
        path = store.checkpoint(checkpoint)["path"]
        harness.evaluate(checkpoint, path, benchmarks, spec.evaluate, store=store, heldout=heldout)
        progress.update("checkpoints", number, len(finals))


def _tune(
    spec: Spec,
    store: Store,
    run_id: str,
    steps: dict[str, str],
    name: str,
    method: MethodSpec,
    progress: Progress,
) -> dict[str, Any]:
    """The grid point with the best validation score; of equals the first, so list the gentlest value first."""
    scored = []
    points = list(_grid(spec.train.tune))
    for number, point in enumerate(points, 1):
        label = f"tune {name} " + " ".join(f"{key}={value:g}" for key, value in point.items())
        job = _job(spec, store, run_id, steps, name, method, point, spec.train.seeds[0], role="tuning")
        train(job, lambda done, total, note="", label=label: progress.update(label, done, total, note))
        held = _split(spec, store, "validation")
        benchmarks = [VALIDATION, *(spec.evaluate.general if spec.evaluate else [])]
        scores = harness.evaluate(
            fingerprint(job), str(job.out), benchmarks, spec.evaluate, store=store, heldout=held, select=spec.train.select
        )
        score = next(s for s in scores if s.benchmark == VALIDATION)
        scored.append((score.value, point))
        progress.note(f"{label}: validation {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] ({number}/{len(points)})")
    return max(scored, key=lambda pair: pair[0])[1]


def _grid(tune: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*tune.values()):
        yield dict(zip(tune, values, strict=True))


def _job(
    spec: Spec,
    store: Store,
    run_id: str,
    steps: dict[str, str],
    name: str,
    method: MethodSpec,
    point: dict[str, Any],
    seed: int,
    role: str = "final",
) -> TrainJob:
    data = steps[method.data]
    params = method.params.model_copy(update=point)
    examples = [e for e in store.examples(data) if e.split == "train"]
    job = TrainJob(
        name=name,
        method=method.method,
        params=params,
        seed=seed,
        model=spec.model,
        examples=examples,
        data_fingerprint=data,
        out=Path(),
        store=store,
        run_id=run_id,
        role=role,
    )
    return replace(job, out=Path(spec.store_path).parent / "checkpoints" / f"{name}-{fingerprint(job)[:12]}")


def _base(spec: Spec, store: Store, run_id: str) -> str:
    """The base model as a checkpoint row, so that it is scored like any other."""
    ...


def _split(spec: Spec, store: Store, split: str) -> list[Example]:
    source = step_fingerprints(spec, store)["source"]
    return [e for e in store.examples(source) if e.split == split]

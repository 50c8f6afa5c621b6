"""Train and evaluate what a spec asks for: tune on validation, train every method and seed, score what is final.

The domain's test items are touched once, by the final checkpoints: a grid is chosen on the validation split alone.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from evals import harness
from refinery.cli.progress import Progress
from refinery.graph import step_fingerprints
from refinery.models import identity
from refinery.models.transformers import resolve
from refinery.records import Example
from refinery.spec import SOURCE, EvaluateSpec, MethodSpec, ModelSpec, Spec
from refinery.spec_types import marked
from refinery.steps import data_fingerprint
from refinery.store import Store
from trainers.params import TrainParams
from trainers.train import TrainJob, fingerprint, train

VALIDATION = "heldout_validation"
Role = Literal["final", "tuning"]


class Training:
    """One spec's training jobs on one store."""

    def __init__(self, spec: Spec, store: Store, run_id: str, progress: Progress):
        assert spec.train is not None
        self.spec, self.plan, self.store, self.run_id, self.progress = spec, spec.train, store, run_id, progress
        self.steps = step_fingerprints(spec, store)
        self.settings = spec.evaluate or EvaluateSpec()

    def run(self) -> None:
        """Every method at its chosen settings for every seed; exactly these checkpoints are marked final."""
        final = []
        for name, method in self.plan.methods.items():
            chosen = self._tune(name, method) if self.plan.tune else {}
            for seed in self.plan.seeds:
                job = self._job(name, method, chosen, seed, "final")
                self._train(job, f"train {name} seed {seed}")
                final.append(fingerprint(job))
        self.store.mark_final(final)

    def _tune(self, name: str, method: MethodSpec) -> dict[str, Any]:
        """The grid point with the best validation score; of equals the first, so list the gentlest value first."""
        held = self._rows(SOURCE, "validation")
        best, chosen = -1.0, {}
        for point in _grid(self.plan.tune):
            label = f"tune {name} " + " ".join(f"{key}={value}" for key, value in point.items())
            job = self._job(name, method, point, self.plan.seeds[0], "tuning")
            path = self._train(job, label)
            scores = harness.evaluate(
                fingerprint(job),
                str(path),
                [VALIDATION, *self.settings.general],
                self.settings,
                store=self.store,
                heldout=held,
                select=self.plan.select,
            )
            score = next(s for s in scores if s.benchmark == VALIDATION)
            self.progress.note(f"{label}: validation {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
            if score.value > best:
                best, chosen = score.value, point
        return chosen

    def _train(self, job: TrainJob, label: str) -> Path:
        return train(job, lambda done, total, loss: self.progress.update(label, done, total, f"loss {loss:.3f}"))

    def _job(self, name: str, method: MethodSpec, point: dict[str, Any], seed: int, role: Role) -> TrainJob:
        step = self.steps[method.data]
        params = cast(TrainParams, type(method.params).model_validate({**method.params.model_dump(), **point}))
        return TrainJob(
            name=name,
            method=method.method,
            params=params,
            seed=seed,
            model=self.spec.model,
            base_identity=_base_identity(self.spec),
            examples=self._rows(method.data, "train"),
            data_fingerprint=data_fingerprint(self.store, step),
            out=self.spec.store_path.parent / "checkpoints",
            store=self.store,
            run_id=self.run_id,
            role=role,
            revision=self.spec.revision,
            trust_remote_code=self.spec.trust_remote_code,
            extra={str(path[0]): self._rows(named, "train") for path, named in marked(params, "step")},
        )

    def _rows(self, step: str, split: str) -> list[Example]:
        return [e for e in self.store.examples(self.steps[step]) if e.split == split]


def _grid(tune: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*tune.values()):
        yield dict(zip(tune, values, strict=True))


def evaluate_final(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    """The base and every final checkpoint on every benchmark. What is scored already is skipped."""
    assert spec.evaluate is not None
    _record_base(spec, store, run_id)
    rows = [row for row in store.checkpoints() if row["role"] in ("base", "final")]
    benchmarks = [*spec.evaluate.domain, *spec.evaluate.general]
    source = step_fingerprints(spec, store)[SOURCE]
    heldout = [e for e in store.examples(source) if e.split == "test"]
    select = spec.train.select if spec.train else None
    for number, row in enumerate(rows):
        label = f"{row['name']} seed {row['seed']}" if row["role"] == "final" else row["name"]
        progress.update("checkpoints", number, len(rows), label)
        harness.evaluate(
            row["fingerprint"], row["path"], benchmarks, spec.evaluate, store=store, heldout=heldout, select=select
        )
    progress.update("checkpoints", len(rows), len(rows))


def _record_base(spec: Spec, store: Store, run_id: str) -> None:
    """The base model as a checkpoint row, so that it is scored and cited like any other."""
    base = _base_identity(spec)
    path = resolve(spec.model)
    store.start_checkpoint(base, run_id, "base", "none", {"model": spec.model}, spec.seed, "", base, path, "base")
    store.finish_checkpoint(base, {"model": spec.model, "revision": spec.revision})


def _base_identity(spec: Spec) -> str:
    """Of the model that is trained, whatever the spec calls the models that write text."""
    return identity(ModelSpec(model=spec.model, revision=spec.revision), fetch=True)

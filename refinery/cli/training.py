"""Train and evaluate what a spec asks for: tune on validation, train every method and seed, score what is final.

The domain's test items are touched once, by the final checkpoints: a grid is chosen on the validation split alone.
A training that fails does not stop the others: why it failed stands in the store, and the same command tries it again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from evals import harness
from evals.stages import matrices
from refinery.cli.cells import Cell, Cells
from refinery.cli.progress import Progress
from refinery.errors import UserError
from refinery.graph import step_fingerprints
from refinery.models import identity
from refinery.models.transformers import resolve
from refinery.spec import SOURCE, EvaluateSpec, ModelSpec, Spec
from refinery.store import Store
from trainers.train import fingerprint, train

VALIDATION = "heldout_validation"


class Training:
    """One spec's training jobs on one store."""

    def __init__(self, spec: Spec, store: Store, run_id: str, progress: Progress):
        assert spec.train is not None
        self.plan, self.store, self.run_id, self.progress = spec.train, store, run_id, progress
        self.cells = Cells(spec, store)
        self.settings = spec.evaluate or EvaluateSpec()
        self.failed: list[str] = []

    def run(self) -> list[str]:
        """Every method at its chosen settings for every seed; exactly these checkpoints are marked final. What could
        not be trained, a line each; UserError where that is everything."""
        done: list[Cell] = []
        for name in self.plan.methods:
            chosen = self._tune(name) if self.plan.tune else {}
            if chosen is None:
                continue
            for seed in self.plan.seeds:
                cell = self.cells.final(name, seed, chosen)
                done += [cell] if self._train(cell, f"train {cell.label}") else []
        if not done:
            raise UserError("\n".join(["nothing could be trained:", *self.failed]))
        stages = [fingerprint(job) for cell in done for job in cell.jobs[:-1]]
        self.store.mark_final([fingerprint(cell.jobs[-1]) for cell in done], stages)
        return self.failed

    def _tune(self, name: str) -> dict[str, Any] | None:
        """The grid point with the best validation score; of equals the first, so list the gentlest value first. None
        where none could be trained."""
        held = self.cells.rows(SOURCE, "validation")
        best, chosen = -1.0, None
        for cell in self.cells.tuning(name):
            label = f"tune {cell.label}"
            path = self._train(cell, label)
            if path is None:
                continue
            scores = harness.evaluate(
                fingerprint(cell.jobs[-1]),
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
                best, chosen = score.value, cell.point
        return chosen

    def _train(self, cell: Cell, label: str) -> Path | None:
        """The folder of the cell's weights, or None where a stage of it failed."""
        path = None
        for number, job in enumerate(cell.jobs, 1):
            words = label if len(cell.jobs) == 1 else f"{label} stage {number}"

            def show(done: int, total: int, loss: float, words: str = words) -> None:
                self.progress.update(words, done, total, f"loss {loss:.3f}")

            try:
                path = train(replace(job, run_id=self.run_id), show)
            except UserError as error:
                self.failed.append(f"{label}: {error}")
                self.progress.note(f"failed: {self.failed[-1]}")
                return None
        return path


def evaluate_final(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    """The base, every final checkpoint and every stage on the way to one, on every benchmark. What is scored already is
    skipped."""
    assert spec.evaluate is not None
    _record_base(spec, store, run_id)
    rows = [row for row in store.checkpoints() if row["role"] in ("base", "final", "stage")]
    rows = [row for row in rows if row["status"] == "complete"]
    benchmarks = [*spec.evaluate.domain, *spec.evaluate.general]
    source = step_fingerprints(spec, store)[SOURCE]
    heldout = [e for e in store.examples(source) if e.split == "test"]
    select = spec.train.select if spec.train else None
    for number, row in enumerate(rows):
        label = row["name"] if row["role"] == "base" else f"{row['name']} seed {row['seed']}"
        progress.update("checkpoints", number, len(rows), label)
        harness.evaluate(
            row["fingerprint"], row["path"], benchmarks, spec.evaluate, store=store, heldout=heldout, select=select
        )
    progress.update("checkpoints", len(rows), len(rows))
    for matrix in matrices(spec, store):
        for line in matrix.lines():
            progress.note(line)


def _record_base(spec: Spec, store: Store, run_id: str) -> None:
    """The base model as a checkpoint row, so that it is scored and cited like any other."""
    base = identity(ModelSpec(model=spec.model, revision=spec.revision), fetch=True)
    path = resolve(spec.model)
    store.start_checkpoint(base, run_id, "base", "none", {"model": spec.model}, spec.seed, "", base, path, "base")
    store.finish_checkpoint(base, {"model": spec.model, "revision": spec.revision})

"""Train what a spec asks for: tune on validation, then train every method and seed.

The domain's test items are touched once, by the final checkpoints: a grid is chosen on the validation split alone.
A training that fails does not stop the others: why it failed stands in the store, and the same command tries it again.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evals import harness, judging
from refinery.cli.cells import Cell, Cells
from refinery.cli.progress import Progress
from refinery.errors import Bug, UserError, together
from refinery.matrix import Point
from refinery.records import Score
from refinery.spec import SOURCE, EvaluateSpec, Spec
from refinery.store import Row, Store
from trainers import gate, processes
from trainers.job import TrainJob, directory
from trainers.train import fingerprint, stands, train

VALIDATION = "heldout_validation"


def train_all(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """Every cell at every point of the matrix; exactly these checkpoints are marked final. What could not be trained, a
    line each; an error where that is everything."""
    parts = []
    for point in spec.points:
        part = Training(point, store, run_id, progress)
        parts.append(part)
        try:
            part.run()
        except UserError as error:
            if not point.keys:
                raise
            part.give_up(str(error))
    failed = [line for part in parts for line in part.failed]
    done = [cell for part in parts for cell in part.done]
    if processes.first():
        if done:
            stages = [fingerprint(job) for cell in done for job in cell.jobs[:-1]]
            store.mark_final([fingerprint(cell.jobs[-1]) for cell in done], stages)
        store.set_cells([row for part in parts for row in part.rows])
    if not done:
        raise together("nothing could be trained:", failed)
    return failed


class Training:
    """One point's training jobs on one store."""

    def __init__(self, point: Point, store: Store, run_id: str, progress: Progress):
        assert point.spec.train is not None
        self.point, self.plan, self.store = point, point.spec.train, store
        self.run_id, self.progress = run_id, progress
        self.settings = point.spec.evaluate or EvaluateSpec()
        self.judge = judging.of(point.spec, store)
        self.failed: list[str] = []
        self.done: list[Cell] = []
        self.rows: list[Row] = []
        """Of the table `cells`."""
        self._gates: set[str] = set()

    def run(self) -> None:
        """Every method at its chosen settings for every seed. UserError where the point's rows or model are missing."""
        self.cells = Cells(self.point.spec, self.store)
        self.cells.base()
        for name in self.plan.methods:
            before = len(self.failed)
            chosen = self._tune(name) if self.plan.tune else {}
            for seed in self.plan.seeds:
                if chosen is None:
                    self._note(name, seed, "", " ".join(self.failed[before:]))
                    continue
                cell = self.cells.final(name, seed, chosen)
                trained = self._train(cell, self._label("train", cell))
                self.done += [cell] if trained else []
                self._note(name, seed, fingerprint(cell.jobs[-1]), "" if trained else self.failed[-1])

    def give_up(self, why: str) -> None:
        """The point as a whole could not go on; its cells that were trained stand."""
        self.failed.append(f"{self.point.label}: {why}")
        self.progress.note(f"failed: {self.failed[-1]}")
        self._note("", None, "", why)

    def _note(self, method: str, seed: int | None, checkpoint: str, error: str) -> None:
        status = "failed" if error else "complete"
        cell: Row = {"point": self.point.id, "keys": self.point.keys, "method": method, "seed": seed}
        self.rows.append(cell | {"checkpoint": checkpoint, "status": status, "error": str(error)})

    def _label(self, verb: str, cell: Cell) -> str:
        return " ".join(filter(None, [verb, self.point.label, cell.label]))

    def _tune(self, name: str) -> dict[str, Any] | None:
        """The grid point with the best validation score; of equals the first, so list the gentlest value first. None
        where none could be trained."""
        best, chosen = -1.0, None
        for cell in self.cells.tuning(name):
            label = self._label("tune", cell)
            path = self._train(cell, label)
            if path is None:
                continue
            score = processes.shared(partial(self._validated, cell, path))
            self.progress.note(f"{label}: validation {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
            if score.value > best:
                best, chosen = score.value, cell.point
        return chosen

    def _validated(self, cell: Cell, path: Path) -> Score:
        scores = harness.evaluate(
            fingerprint(cell.jobs[-1]),
            str(path),
            [VALIDATION, *self.settings.general],
            self.settings,
            store=self.store,
            heldout=self.cells.rows(SOURCE, "validation"),
            select=self.plan.select,
            judge=self.judge,
        )
        return next(s for s in scores if s.benchmark == VALIDATION)

    def _train(self, cell: Cell, label: str) -> Path | None:
        """The folder of the cell's weights, or None where a stage of it failed."""
        path = None
        for number, job in enumerate(cell.jobs, 1):
            words = label if len(cell.jobs) == 1 else f"{label} stage {number}"

            def show(done: int, total: int, loss: float, words: str = words) -> None:
                self.progress.update(words, done, total, f"loss {loss:.3f}")

            try:
                if processes.first():
                    self._gate(cell, job)
                path = train(replace(job, run_id=self.run_id), show)
            except Exception as error:
                known = isinstance(error, UserError)
                if not known and processes.count() > 1:
                    raise  # of one process: the others wait for it
                self.failed.append(f"{label}: {error}" if known else Bug.of(label, error))
                self.progress.note(f"failed: {self.failed[-1]}")
                return None
        return path

    def _gate(self, cell: Cell, job: TrainJob) -> None:
        """Before a training that is not done yet: whether its teacher has anything to teach. It never stops one."""
        settings = self.plan.gate
        if settings is None or not gate.applies(job) or stands(directory(job)):
            return
        question = gate.Question(job, settings, self.plan.select)
        if (name := f"{job.name} {question.fingerprint()}") in self._gates:
            return
        self._gates.add(name)
        label = " ".join(filter(None, ["gate", self.point.label, job.name]))
        if not (rows := gate.known(question, self.store)):
            self.progress.update(label, 0, 1)
            try:
                rows = gate.measured(question, self.store)
            except UserError as error:
                return self.progress.note(f"{label}: not measured: {error}")
            finally:
                self.progress.update(label, 1, 1)
            self.progress.note(f"{label}: {gate.sentence(rows)}")
        if said := gate.warning(rows, settings):
            self.progress.note(f"warning: {label.removeprefix('gate ')}: {said}")

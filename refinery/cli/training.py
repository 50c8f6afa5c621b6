"""Train and evaluate what a spec asks for: tune on validation, train every method and seed, score what is final.

The domain's test items are touched once, by the final checkpoints: a grid is chosen on the validation split alone.
A training that fails does not stop the others: why it failed stands in the store, and the same command tries it again.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evals import harness, judging
from evals.movement import Movement
from evals.stages import matrices
from refinery.cli.cells import Cell, Cells
from refinery.cli.progress import Progress
from refinery.errors import UserError
from refinery.graph import step_fingerprints
from refinery.matrix import Point
from refinery.models import identity
from refinery.models.transformers import resolve
from refinery.records import Score, digest
from refinery.spec import SOURCE, EvaluateSpec, ModelSpec, Spec
from refinery.store import ELSEWHERE, Row, Store
from trainers import gate, processes
from trainers.job import TrainJob, directory
from trainers.train import fingerprint, stands, train

VALIDATION = "heldout_validation"


def train_all(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """Every cell at every point of the matrix; exactly these checkpoints are marked final. What could not be trained, a
    line each; UserError where that is everything."""
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
        raise UserError("\n".join(["nothing could be trained:", *failed]))
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
        self.rows.append(cell | {"checkpoint": checkpoint, "status": status, "error": error})

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
            except UserError as error:
                self.failed.append(f"{label}: {error}")
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


def evaluate_final(point: Point, store: Store, run_id: str, progress: Progress) -> None:
    """The base, every final checkpoint of the point and every stage on the way to one, on every benchmark. What is
    scored already is skipped."""
    spec = point.spec
    assert spec.evaluate is not None
    base = _record_base(spec, store, run_id)
    elsewhere = _record_elsewhere(spec, store, run_id, base)
    rows = [row for row in store.checkpoints() if row["role"] in ("base", "final", "stage")]
    if point.keys:
        own = _own(point, rows, store) | {base, *elsewhere}
        rows = [row for row in rows if row["fingerprint"] in own]
    rows = [row for row in rows if row["status"] == "complete"]
    benchmarks = [*spec.evaluate.domain, *spec.evaluate.general]
    source = step_fingerprints(spec, store).get(SOURCE)
    heldout = [e for e in store.examples(source) if e.split == "test"] if source else []
    select = spec.train.select if spec.train else None
    task = " ".join(filter(None, ["checkpoints", point.label]))
    judge = judging.of(spec, store)
    for number, row in enumerate(rows):
        label = row["name"] if row["role"] == "base" else f"{row['name']} seed {row['seed']}"
        progress.update(task, number, len(rows), label)
        harness.evaluate(
            row["fingerprint"],
            row["path"],
            benchmarks,
            spec.evaluate,
            store=store,
            base=spec.model if row["method"] == ELSEWHERE else None,
            heldout=heldout,
            select=select,
            judge=judge,
        )
    progress.update(task, len(rows), len(rows))
    _measure_movement(spec, store, base, rows, progress)
    for matrix in matrices(spec, store) if not point.keys else ():
        for line in matrix.lines():
            progress.note(line)


def _measure_movement(spec: Spec, store: Store, base: str, rows: list[Row], progress: Progress) -> None:
    """How far each checkpoint is from the base; what stands is not measured again."""
    settings = spec.evaluate
    assert settings is not None
    trained = [row for row in rows if row["fingerprint"] != base]
    if not settings.movement or not trained:
        return
    places = {row["fingerprint"]: (row["path"], spec.model if row["method"] == ELSEWHERE else None) for row in rows}
    moving = Movement(
        store,
        base,
        open_model=lambda name: harness.open_weights(places[name][0], settings, places[name][1]),
        benchmarks={"domain": settings.domain, "general": settings.general},
        prompts=settings.movement,
        about=harness.precision(places[base][0], settings),
    )
    for number, row in enumerate(trained):
        progress.update("movement", number, len(trained), f"{row['name']} seed {row['seed']}")
        moving.measure(row["fingerprint"])
    progress.update("movement", len(trained), len(trained))


def _own(point: Point, rows: list[Row], store: Store) -> set[str]:
    """The point's checkpoints, and the stages that they went on from."""
    bases = {row["fingerprint"]: str(row["base"]) for row in rows}
    found: set[str] = set()
    for cell in store.cells(point.id):
        name = cell["checkpoint"]
        while name in bases and name not in found:
            found.add(name)
            name = bases[name].removeprefix("checkpoint:")
    return found


def _record_base(spec: Spec, store: Store, run_id: str) -> str:
    """The base model as a checkpoint row, so that it is scored and cited like any other; its fingerprint."""
    base = identity(ModelSpec(model=spec.model, revision=spec.revision), fetch=True)
    path = resolve(spec.model)
    store.start_checkpoint(base, run_id, "base", "none", {"model": spec.model}, spec.seed, "", base, path, "base")
    store.finish_checkpoint(base, {"model": spec.model, "revision": spec.revision})
    return base


def _record_elsewhere(spec: Spec, store: Store, run_id: str, base: str) -> list[str]:
    """Weights trained elsewhere as final checkpoints, a seed for each folder of a name; their fingerprints."""
    found = []
    for name, paths in spec.checkpoints.items():
        for seed, path in enumerate(paths):
            weights = identity(ModelSpec(model=path), fetch=True)
            called = digest([name, seed, weights])  # equal weights under two names are two rows of a table
            params = {"model": path, "weights": weights}
            store.start_checkpoint(called, run_id, name, ELSEWHERE, params, seed, "", base, resolve(path), "final")
            store.finish_checkpoint(called, params)
            found.append(called)
    store.keep_elsewhere(found)
    return found

"""Evaluate what a spec compares: the base, what was trained, what was trained elsewhere, what is served."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals import harness, judging, subjects
from evals.movement import Movement
from evals.stages import matrices
from evals.subjects import Shelf, Subject, Weights
from refinery import served
from refinery.cli.elsewhere import record_base, record_elsewhere
from refinery.cli.progress import Progress
from refinery.errors import UserError
from refinery.graph import step_fingerprints
from refinery.matrix import Point
from refinery.spec import SOURCE, EvaluateSpec, ModelSpec, Spec
from refinery.store import ELSEWHERE, Row, Store


def evaluate_final(point: Point, store: Store, run_id: str, progress: Progress) -> list[str]:
    """The base, every final checkpoint of the point and every stage on the way to one, on every benchmark. What is
    scored already is skipped. A line for each checkpoint from elsewhere that could not be loaded: it leaves the others
    alone. UserError before anything is asked where nothing is left, or a server cannot give what a benchmark needs."""
    spec = point.spec
    assert spec.evaluate is not None
    base = record_base(spec, store, run_id)
    elsewhere, failed = record_elsewhere(spec, store, run_id, base, progress.note)
    if failed and not elsewhere and spec.train is None:
        raise UserError("\n".join(failed))
    for line in failed:
        progress.note(f"failed: {line}")
    rows = [row for row in store.checkpoints() if row["role"] in ("base", "final", "stage")]
    if point.keys:
        own = _own(point, rows, store) | {base, *elsewhere}
        rows = [row for row in rows if row["fingerprint"] in own]
    rows = [row for row in rows if row["status"] == "complete"]
    benchmarks = [*spec.evaluate.domain, *spec.evaluate.general]
    source = step_fingerprints(spec, store).get(SOURCE)
    heldout = [e for e in store.examples(source) if e.split == "test"] if source else []
    select = spec.train.select if spec.train else None
    judge = judging.of(spec, store)
    asked = Subjects(spec, spec.evaluate, rows, base)
    for row in rows:
        if asked.is_served(row):
            harness.check(benchmarks, asked.of(row), spec.evaluate, heldout, select, judge)
    task = " ".join(filter(None, ["checkpoints", point.label]))
    unloaded = set()
    for number, row in enumerate(rows):
        label = row["name"] if row["role"] == "base" else f"{row['name']} seed {row['seed']}"
        progress.update(task, number, len(rows), label)
        try:
            harness.evaluate(
                row["fingerprint"],
                asked.of(row),
                benchmarks,
                spec.evaluate,
                store=store,
                heldout=heldout,
                select=select,
                judge=judge,
            )
        except UserError as error:
            if row["method"] != ELSEWHERE or asked.is_served(row):
                raise
            unloaded.add(row["fingerprint"])
            failed.append(f"{label}: {error}")
            progress.note(f"failed: {failed[-1]}")
    progress.update(task, len(rows), len(rows))
    _measure_movement(asked, store, base, [row for row in rows if row["fingerprint"] not in unloaded], progress)
    for matrix in matrices(spec, store) if not point.keys else ():
        for line in matrix.lines():
            progress.note(line)
    return failed


@dataclass
class Subjects:
    """What is asked for each checkpoint of a spec: weights in this process, or a server."""

    spec: Spec
    settings: EvaluateSpec
    rows: Sequence[Row]
    base: str
    """Its fingerprint."""

    def __post_init__(self) -> None:
        """Where there are adapters of one base, it is read once for all of them."""
        self._base = next((row["path"] for row in self.rows if row["fingerprint"] == self.base and row["path"]), "")
        adapters = [row for row in self.rows if (Path(row["path"] or ".") / "adapter_config.json").is_file()]
        self._shelf = Shelf() if adapters else None

    def is_served(self, row: Row) -> bool:
        return bool(row["params"].get("served")) or self.settings.backend != "transformers"

    def of(self, row: Row) -> Subject:
        if not self.is_served(row):
            return self.weights(row)
        try:
            from evals.served import Served
        except ImportError as error:
            raise UserError(f'evaluation needs {error.name}: pip install "refinery[eval]"') from error
        if name := row["params"].get("served"):
            entry = self.spec.models[name]
            return Served(entry.model_copy(update={"adapter": None}), name, entry.adapter)
        weights = self.weights(row)
        entry = served.through(self.spec) or ModelSpec(backend="vllm", dtype=self.settings.dtype)
        entry = entry.model_copy(update={"model": weights.path, "adapter": None})
        return Served(entry, self.settings.backend if served.through(self.spec) else "", weights.adapter)

    def weights(self, row: Row) -> Weights:
        """Of an adapter from elsewhere the base is the spec's: the path that peft wrote down need not be here."""
        own = row["role"] == "base" or row["method"] == ELSEWHERE
        return Weights(row["path"], self.settings, (self._base or self.spec.model) if own else None, self._shelf)


def _measure_movement(asked: Subjects, store: Store, base: str, rows: list[Row], progress: Progress) -> None:
    """How far each checkpoint is from the base, where the weights of both are here and one is a version of the other;
    what stands is not measured again."""
    settings = asked.settings
    here = {row["fingerprint"]: row for row in rows if row["path"]}
    trained = [row for row in here.values() if row["fingerprint"] != base]
    if not settings.movement or not trained or base not in here:
        return
    moving = Movement(
        store,
        base,
        open_model=lambda name: asked.weights(here[name]).weights(),
        benchmarks={"domain": settings.domain, "general": settings.general},
        prompts=settings.movement,
        about=subjects.arithmetic(settings),
    )
    for number, row in enumerate(trained):
        progress.update("movement", number, len(trained), f"{row['name']} seed {row['seed']}")
        try:
            moving.measure(row["fingerprint"])
        except UserError as error:  # everything is scored by now: the report is to be had all the same
            progress.note(f"{row['name']} seed {row['seed']}: how far it moved was not measured: {error}")
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

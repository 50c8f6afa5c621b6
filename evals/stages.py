"""Continual stages as a matrix: what each stage left of every benchmark, and what was forgotten since it was best.

    forgotten(b) = max over the stages before the last of score(stage, b) - score(last, b)

the usual measure of continual learning: below 0 where later stages made the benchmark better still (backward transfer).
The base model counts as the stage before the first, so that what it could do may be forgotten too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.comparable import alike, counting, judge
from evals.stats import Continual, continual
from refinery.records import Score
from refinery.spec import Spec
from refinery.store import Row, Store


@dataclass(frozen=True)
class Matrix:
    """Of one method: mean scores over the seeds that have them."""

    method: str
    rows: list[str]
    """The base and the stages, in order."""
    columns: list[str]
    """Benchmarks."""
    values: list[list[float | None]]
    """A list a row; None where there is no score."""
    measures: Continual | None = None
    """Where the spec has a domain benchmark for each stage, in the order of the stages, and all are scored."""
    notes: list[str] = field(default_factory=list)
    """Scores that were left out, and why."""

    def forgotten(self) -> list[float | None]:
        """A number for each benchmark; None where the last stage or all the others have no score."""
        found: list[float | None] = []
        for column in zip(*self.values, strict=True):
            before = [value for value in column[:-1] if value is not None]
            found.append(max(before) - column[-1] if before and column[-1] is not None else None)
        return found

    def lines(self) -> list[str]:
        """As plain text."""
        width = max(map(len, [*self.rows, "forgotten"]))
        sizes = [max(len(name), 7) for name in self.columns]

        def line(name: str, cells: Sequence[str]) -> str:
            padded = [cell.rjust(size) for cell, size in zip(cells, sizes, strict=True)]
            return "  ".join([name.ljust(width), *padded]).rstrip()

        def shown(values: Sequence[float | None]) -> list[str]:
            return ["" if value is None else f"{value:.3f}" for value in values]

        body = [line(name, shown(values)) for name, values in zip(self.rows, self.values, strict=True)]
        table = [line(self.method, self.columns), *body, line("forgotten", shown(self.forgotten()))]
        return [*table, *self._measured(), *self.notes]

    def _measured(self) -> list[str]:
        if self.measures is None:
            return []
        named = {"average accuracy": self.measures.accuracy, "backward transfer": self.measures.backward_transfer}
        named |= {"forward transfer": self.measures.forward_transfer}
        return [f"{name} {m.value:.3f}" + _ends(m.low, m.high) for name, m in named.items() if m.value == m.value]


def _ends(low: float, high: float) -> str:
    return "" if low != low else f" [{low:.3f}, {high:.3f}]"


def matrices(spec: Spec, store: Store) -> list[Matrix]:
    """One for each method of a spec with stages, of what is scored so far; none for other specs."""
    if spec.train is None or not spec.train.stages or spec.evaluate is None:
        return []
    columns = [*spec.evaluate.domain, *spec.evaluate.general]
    known = [row for row in store.checkpoints() if row["role"] in ("base", "final", "stage")]
    called = [stage.name or stage.data for stage in spec.train.stages]
    base = [row for row in known if row["role"] == "base"][-1:]
    found = []
    for method in spec.train.methods:
        names = [*(f"{method}@{name}" for name in called[:-1]), method]
        rows = [base, *([row for row in known if row["name"] == name and row["role"] != "base"] for name in names)]
        notes: list[str] = []
        scores = _scores(store, rows, columns, notes)
        means = [[_mean(by_seed.get(column, {})) for column in columns] for by_seed in scores]
        measures = _continual(scores, list(spec.evaluate.domain)) if len(spec.evaluate.domain) == len(called) else None
        found.append(Matrix(method, ["base", *called], columns, means, measures, notes))
    return found


BySeed = Mapping[str, Mapping[int, float]]
"""Benchmark to seed to score."""


def _scores(
    store: Store, stages: Sequence[Sequence[Row]], columns: Sequence[str], notes: list[str]
) -> list[dict[str, dict[int, float]]]:
    """Of each stage. Only scores measured alike stand in one column; others are noted."""
    known = {row["fingerprint"]: _primary(store, row["fingerprint"], columns) for rows in stages for row in rows}
    found: list[dict[str, dict[int, float]]] = [{} for _ in stages]
    for column in columns:
        first, *others = [known[row["fingerprint"]].get(column, []) for rows in stages for row in rows] or [[]]
        while not first and others:
            first, *others = others
        like, said = counting(first, others)
        notes += [f"{column}: {said}"] if said else []
        for place, checkpoints in enumerate(stages):
            for row in checkpoints:
                own = known[row["fingerprint"]].get(column, [])
                if not own or like is None:
                    continue
                score = alike(own, like)
                if differing := judge(score, like).words:
                    notes.append(f"{row['name']} seed {row['seed']}: {column} left out ({differing})")
                else:
                    found[place].setdefault(column, {})[row["seed"]] = score.value
    return found


def _primary(store: Store, checkpoint: str, columns: Sequence[str]) -> dict[str, list[Score]]:
    """Benchmark to its scores, one for each settings it was measured under, oldest first."""
    found: dict[str, list[Score]] = {}
    for score in store.scores(checkpoint=checkpoint):
        if score.benchmark in columns and score.metric == score.settings.get("primary_metric", score.metric):
            found.setdefault(score.benchmark, []).append(score)
    return found


def _mean(values: Mapping[int, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _continual(scores: Sequence[BySeed], tasks: Sequence[str]) -> Continual | None:
    """Over the seeds that have every stage's score of every task; the base's one run stands for all."""
    seeds = [set(by_seed.get(task, {})) for by_seed in scores[1:] for task in tasks]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    base = {task: _mean(scores[0].get(task, {})) for task in tasks}
    if not shared or None in base.values():
        return None
    rows = [
        [[base[task] for task in tasks], *([s[task][seed] for task in tasks] for s in scores[1:])] for seed in shared
    ]
    return continual(np.array(rows, dtype=float))

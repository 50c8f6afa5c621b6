"""Continual stages as a matrix: what each stage left of every benchmark, and what was forgotten since it was best.

    forgotten(b) = max over the stages before the last of score(stage, b) - score(last, b)

the usual measure of continual learning: below 0 where later stages made the benchmark better still (backward transfer).
The base model counts as the stage before the first, so that what it could do may be forgotten too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        return [line(self.method, self.columns), *body, line("forgotten", shown(self.forgotten()))]


def matrices(spec: Spec, store: Store) -> list[Matrix]:
    """One for each method of a spec with stages, of what is scored so far; none for other specs."""
    if spec.train is None or not spec.train.stages or spec.evaluate is None:
        return []
    columns = [*spec.evaluate.domain, *spec.evaluate.general]
    known = [row for row in store.checkpoints() if row["role"] in ("base", "final", "stage")]
    called = [stage.name or stage.data for stage in spec.train.stages]
    found = []
    for method in spec.train.methods:
        names = [*(f"{method}@{name}" for name in called[:-1]), method]
        rows = [[row for row in known if row["role"] == "base"][-1:]]
        rows += [[row for row in known if row["name"] == name and row["role"] != "base"] for name in names]
        scores = [_means(store, some, columns) for some in rows]
        found.append(Matrix(method, ["base", *called], columns, [[means.get(c) for c in columns] for means in scores]))
    return found


def _means(store: Store, checkpoints: Sequence[Row], columns: Sequence[str]) -> Mapping[str, float]:
    values: dict[str, list[float]] = {}
    for row in checkpoints:
        for score in store.scores(checkpoint=row["fingerprint"]):
            primary = score.settings.get("primary_metric", score.metric)
            if score.benchmark in columns and score.metric == primary:
                values.setdefault(score.benchmark, []).append(score.value)
    return {benchmark: sum(some) / len(some) for benchmark, some in values.items()}

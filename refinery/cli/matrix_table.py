"""A matrix at a glance: for each point and method the mean score over seeds, as a table and as matrix.csv."""

import csv
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from refinery.cli.printing import add, table
from refinery.matrix import shown
from refinery.spec import Spec
from refinery.store import Row, Store

CELL = ("point", "method", "seed", "benchmark")


def show_matrix(spec: Spec, store: Store, out: Console) -> None:
    """Prints the means of the primary metrics, and writes every seed's score to matrix.csv beside the store."""
    rows = [row for row in store.cell_scores() if row["metric"] == row["settings"].get("primary_metric", row["metric"])]
    points = [point.id for point in spec.points]
    methods = list(spec.train.methods) if spec.train else []
    rows = [row for row in rows if row["point"] in points and row["method"] in methods]
    rows = list({tuple(row[key] for key in CELL): row for row in rows}.values())  # of several evaluations the newest
    rows.sort(key=lambda row: (points.index(row["point"]), methods.index(row["method"])))
    path = Path(spec.store_path).parent / "matrix.csv"
    _write(path, list(spec.matrix), rows)
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    found = table(*spec.matrix, "method", "seeds", *benchmarks, right=("seeds", *benchmarks))
    for keys, method, some in means(rows):
        cells = [shown(keys.get(key, "")) for key in spec.matrix]
        scores = [f"{some[name]:.3f}" if name in some else "" for name in benchmarks]
        seeds = {row["seed"] for row in rows if row["keys"] == keys and row["method"] == method}
        add(found, *cells, method, str(len(seeds)), *scores)
    out.print(found if rows else "no scores yet")
    failed = [row for row in store.cells() if row["status"] == "failed"]
    if failed:
        out.print(f"{len(failed)} cells failed: `refinery train` tries them again", highlight=False)
    out.print(f"every score: {path}", highlight=False, soft_wrap=True)


def means(rows: Iterable[Row]) -> list[tuple[dict[str, Any], str, dict[str, float]]]:
    """(keys, method, {benchmark: mean over seeds}), in the order of the rows."""
    groups: dict[str, tuple[dict[str, Any], str, dict[str, list[float]]]] = {}
    for row in rows:
        _, _, values = groups.setdefault(repr((row["keys"], row["method"])), (row["keys"], row["method"], {}))
        values.setdefault(row["benchmark"], []).append(row["value"])
    return [(k, method, {name: fmean(some) for name, some in values.items()}) for k, method, values in groups.values()]


def _write(path: Path, keys: list[str], rows: list[Row]) -> None:
    columns = ("method", "seed", "benchmark", "metric", "value", "low", "high", "n", "checkpoint")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *columns])
        writer.writerows(
            [*(shown(row["keys"].get(key, "")) for key in keys), *(row[c] for c in columns)] for row in rows
        )

"""Models that were evaluated elsewhere and brought in by `refinery import`, beside the base, where that is fair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refinery.store import Row
from reports import table
from reports.blocks import Block, Bullets, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData, is_primary

if TYPE_CHECKING:
    from evals.comparing import Compared, Line

LEAD = (
    "These scores were made by another tool and imported. A difference to the base is shown only where both were "
    "measured alike, item by item; everything else stands below with the reason."
)
NOTE = "Change: of the same items, the imported model less the base; brackets hold 95% intervals."


def render(data: ReportData) -> list[Block]:
    from evals.importing import ROLE

    brought: dict[str, list[Row]] = {}
    for row in data.store.checkpoints():
        if row["role"] == ROLE and row["status"] == "complete":
            brought.setdefault(row["name"], []).append(row)
    if not brought or data.spec.evaluate is None:
        return []
    rows: list[list[Text]] = []
    remarks: list[Text] = []
    for name, runs in brought.items():
        compared = _compared(data, name, runs)
        scores = _scores(data, runs)
        lines = {line.name: line for line in compared.lines} if compared else {}
        rows += [
            [Mono(name), Mono(benchmark), *_cells(lines.get(benchmark), values)] for benchmark, values in scores.items()
        ]
        remarks += _remarks(name, compared, scores, lines)
    columns = [Column("Imported model"), Column("Benchmark")]
    columns += [Column(title, "right") for title in ("Score", "Base", "Change, points", "n")]
    blocks: list[Block] = [Heading("Imported models"), Paragraph(LEAD), Table(columns, rows, note=NOTE)]
    return [*blocks, Bullets(remarks)] if remarks else blocks


def _compared(data: ReportData, name: str, runs: list[Row]) -> Compared | None:
    from evals.comparing import Arm, Run, compare

    if data.base is None or data.spec.evaluate is None:
        return None
    seeds = [row["seed"] if row["params"].get("seeded") else None for row in runs]
    arm = Arm(name, [Run(data.store, row["fingerprint"], seed) for row, seed in zip(runs, seeds, strict=True)])
    kinds = {each: "domain" for each in data.spec.evaluate.domain}
    kinds |= {each: "general" for each in data.spec.evaluate.general}
    return compare(Arm("base", [Run(data.store, data.base["fingerprint"])]), arm, kinds)


def _scores(data: ReportData, runs: list[Row]) -> dict[str, list[float]]:
    """Benchmark to its primary score in each run, benchmarks of the spec first."""
    assert data.spec.evaluate is not None
    found: dict[str, list[float]] = {}
    for row in runs:
        newest = {score.benchmark: score for score in data.store.scores(row["fingerprint"]) if is_primary(score)}
        for benchmark, score in newest.items():
            found.setdefault(benchmark, []).append(score.value)
    first = [name for name in (*data.spec.evaluate.domain, *data.spec.evaluate.general) if name in found]
    return {name: found[name] for name in (*first, *sorted(set(found) - set(first)))}


def _cells(line: Line | None, values: list[float]) -> list[Text]:
    if line is None:
        return [table.percent(sum(values) / len(values)), "", "not compared", ""]
    return [
        table.percent(line.second),
        table.percent(line.first),
        table.points_interval(line.difference),
        table.count(line.n),
    ]


def _remarks(
    name: str, compared: Compared | None, scores: dict[str, list[float]], lines: dict[str, Line]
) -> list[Text]:
    """Why a benchmark is not compared, and what is not known of one that is."""
    if compared is None:
        return [(Mono(name), ": the base has no scores here")]
    said = {each: compared.refused[each] for each in scores if each in compared.refused}
    said |= {each: f"compared, but {'; '.join(line.warnings)}" for each, line in lines.items() if line.warnings}
    return [(Mono(name), " ", Mono(each), f": {words}") for each, words in said.items()]

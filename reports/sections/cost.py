"""What it took: requests and tokens, time of steps and trainings, energy where it was measured, money where priced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from refinery.store import Row
from reports import table
from reports.blocks import Block, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData

ENERGY = {"energy_joules": 1.0, "joules": 1.0, "energy_wh": 3600.0, "energy_kwh": 3.6e6}
"""Keys under which a manifest may say it, and what turns each into joules."""

MEMORY = ("peak_memory", "peak_memory_bytes")


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = [Heading("Cost"), Paragraph(_whole(data))]
    blocks += [_requests(data)] if data.requests else []
    steps = [step for step in data.steps if step.row["finished_at"]]
    blocks += [_steps(data)] if steps else []
    return [*blocks, *([_trainings(data)] if data.trained else [])]


def _whole(data: ReportData) -> str:
    """All of it in a sentence; what nobody measured is not called nothing."""
    prompt, written = (
        sum(int(row[key] or 0) for row in data.requests) for key in ("prompt_tokens", "completion_tokens")
    )
    parts = []
    if data.requests:
        n = sum(row["n"] for row in data.requests)
        words = f"{table.tokens(prompt)} prompt and {table.tokens(written)} answer tokens"
        parts.append(f"{table.counted(n, 'request')} with {words}")
    seconds = [s for rows in data.trained.values() for row in rows if (s := seconds_of(row)) is not None]
    if seconds:
        parts.append(f"{table.duration(sum(seconds))} for {table.counted(len(seconds), 'training')}")
    joules = [_energy(data, row) for rows in data.trained.values() for row in rows]
    known = [j for j in joules if j is not None]
    if known:
        whose = "" if len(known) == len(joules) else f" (of {len(known)} of {len(joules)} trainings)"
        parts.append(f"{table.energy(sum(known))}{whose}")
    text = "; ".join(parts) or "Nothing was asked of a model and nothing trained"
    return f"{text}." + ("" if known or not data.trained else " Energy was not measured.")


def _requests(data: ReportData) -> Table:
    """Each model that was asked, with the price that the spec gives for it."""
    identities = {identity: name for step in data.steps for name, identity in (step.row["models"] or {}).items()}
    rows: list[list[Text]] = []
    for row in data.requests:
        name = identities.get(row["model"], "")
        described = data.spec.models.get(name)
        cost = described.cost(int(row["prompt_tokens"] or 0), int(row["completion_tokens"] or 0)) if described else None
        rows.append(
            [
                Mono(name or table.short(row["model"])),
                table.count(row["n"]),
                table.tokens(row["prompt_tokens"]),
                table.tokens(row["completion_tokens"]),
                table.part(row["cut"], row["n"]),
                table.dollars(cost),
            ]
        )
    titles = ("Requests", "Prompt tokens", "Answer tokens", "Cut", "Price")
    columns = [Column("Model"), *(Column(title, "right") for title in titles)]
    note = (
        "Every answered request in this store, whichever run asked it; a stored answer was asked for once. "
        "Cut: the answer reached its length limit. A server that tells no tokens counts 0."
    )
    return Table(columns, rows, "Requests", note, "cost-requests")


def _steps(data: ReportData) -> Table:
    rows: list[list[Text]] = []
    for step in data.steps:
        ended = step.row["finished_at"]
        took = (ended - step.row["started_at"]).total_seconds() if ended else None
        rate = step.total / took if took else math.nan
        cells: list[Text] = [Mono(step.name), Mono(step.op), table.count(step.total)]
        rows.append([*cells, table.duration(took) if took is not None else "not finished", table.decimal(rate)])
    columns = [Column("Step"), Column("Operation"), *(Column(t, "right") for t in ("Rows", "Time", "Rows a second"))]
    note = "Time of the run that last worked on the step: one that reused rows was faster than one from nothing."
    return Table(columns, rows, "Steps", note, "cost-steps")


def _trainings(data: ReportData) -> Table:
    """A line a method: the mean over its seeds, and how it compares with the cheapest."""
    times = {name: _mean([seconds_of(row) for row in rows]) for name, rows in data.trained.items()}
    baseline = data.comparison.baseline if data.comparison else ""
    baseline = baseline if baseline in times else next(iter(times))
    rows: list[list[Text]] = []
    for name in sorted(data.trained, key=data.series):
        own = data.trained[name]
        against = times[name] / times[baseline] if times.get(baseline) else math.nan
        learnt = [(row["manifest"] or {}).get("answer_tokens") for row in own]
        rolled, taught = ([_summed(data, row, key) for row in own] for key in ("rollout_tokens", "teacher_tokens"))
        rows.append(
            [
                Mono(name),
                table.duration(times[name]) if table.known(times[name]) else table.ABSENT,
                f"{table.decimal(against, 2)}×" if table.known(against) else table.ABSENT,
                table.tokens(_mean(learnt)),
                table.tokens(_mean(rolled)) if any(r is not None for r in rolled) else "",
                table.tokens(_mean(taught)) if any(t is not None for t in taught) else "",
                table.memory(_mean([_first(row["manifest"], MEMORY) for row in own])),
                table.energy(_mean([_energy(data, row) for row in own])),
            ]
        )
    titles = (
        "Time",
        f"Against {baseline}",
        "Answer tokens",
        "Rollout tokens",
        "Teacher tokens",
        "Memory",
        "Energy",
    )
    columns = [Column("Method"), *(Column(title, "right") for title in titles)]
    used = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    columns, rows = [columns[i] for i in used], [[row[i] for i in used] for row in rows]
    note = (
        f"Trained on {_devices(data)}. Of one training, the mean over its seeds; trials of a grid are not in it. "
        "Answer tokens: those that were learnt from, over all passes; rollout tokens were written on the way, teacher "
        "tokens read by a teacher; memory at its peak. Time and energy beside other work say little."
    )
    return Table(columns, rows, "Trainings", note, "cost-trainings")


def seconds_of(row: Row) -> float | None:
    """As the manifest has it: the time between start and end also counts what stood still."""
    found = (row["manifest"] or {}).get("seconds")
    if found is None and row["finished_at"]:
        found = (row["finished_at"] - row["started_at"]).total_seconds()
    return None if found is None else float(found)


def _energy(data: ReportData, row: Row) -> float | None:
    """In joules, where it was measured step by step or the manifest has it."""
    manifest = row["manifest"] or {}
    told = next((float(manifest[key]) * unit for key, unit in ENERGY.items() if manifest.get(key) is not None), None)
    if told is not None:
        return told
    logged = data.metrics[row["fingerprint"]]
    whole = logged.get("energy_joules", {}).keys() >= logged.get("step_seconds", {}).keys()
    return _summed(data, row, "energy_joules") if whole else None


def _summed(data: ReportData, row: Row, key: str) -> float | None:
    """What a training logged step by step, in all; None where it did not."""
    logged = data.metrics[row["fingerprint"]].get(key)
    return sum(logged.values()) if logged else None


def _devices(data: ReportData) -> str:
    rows = [row for own in data.trained.values() for row in own]
    return ", ".join(sorted({str((row["manifest"] or {}).get("device") or "an unknown device") for row in rows}))


def _first(manifest: Mapping[str, Any] | None, keys: Sequence[str]) -> float | None:
    return next((float(manifest[key]) for key in keys if manifest and manifest.get(key) is not None), None)


def _mean(values: Sequence[float | None]) -> float:
    """NaN where any is unknown: a mean of the rest would be of something else."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else math.nan

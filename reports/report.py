"""From the store to a report: one HTML page and Markdown for people, LaTeX, CSV and JSON for papers and programs.

A section is a file under reports/sections with `render(data) -> list[Block]`. Nothing is computed here or there that
the store's rows do not give again: a report made twice of the same store is the same, byte for byte. Several specs (or
the points of a matrix) make one report where they are given together: what they share first (reports/across.py), then
each for itself.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from refinery import catalog
from refinery.rows import as_json
from refinery.spec import SourceSpec, Spec
from refinery.store import Store
from reports import html, latex, machine, markdown, table
from reports.blocks import Block, Heading
from reports.data import ReportData
from reports.gather import gather

ORDER = (
    "summary", "pareto", "forgetting", "answers", "recovery", "imported", "items", "sensitivity", "factorial",
    "stages", "gate", "training", "movement", "forecasts", "tuning", "funnel", "diagnostics", "examples", "cost",
    "provenance",
)  # fmt: skip
"""The usual order; sections that it does not name stand before provenance."""

FORMATS = ("html", "markdown", "latex", "csv", "json")
USUAL = ("markdown", "html")
"""What a run writes."""


def build(store: Store, spec: Spec, out_dir: Path, formats: Sequence[str] = USUAL) -> dict[str, Path]:
    """Write the report's formats into `out_dir`: format to path. UserError without any step."""
    return write(gather(store, spec), out_dir, formats)


def write(data: ReportData, out_dir: Path, formats: Sequence[str] = USUAL) -> dict[str, Path]:
    """`build` for what is gathered already."""
    return write_blocks(f"Report of {data.label}", facts(data), render(data), [data], out_dir, formats)


def write_several(reports: Sequence[ReportData], out_dir: Path, formats: Sequence[str] = USUAL) -> dict[str, Path]:
    """One report of several specs; of a single one it is that one's."""
    from reports import across

    if len(reports) == 1:
        return write(reports[0], out_dir, formats)
    names = list(dict.fromkeys(data.spec.name for data in reports))
    lines = [f"{data.label}: {line}" for data in reports for line in facts(data)]
    blocks = across.render(reports, render, default_sections())
    return write_blocks(f"Report of {', '.join(names)}", lines, blocks, reports, out_dir, formats)


def write_blocks(
    title: str,
    lines: Sequence[str],
    blocks: Sequence[Block],
    reports: Sequence[ReportData],
    out_dir: Path,
    formats: Sequence[str],
) -> dict[str, Path]:
    """Each format's file; of CSV a folder."""
    out_dir.mkdir(parents=True, exist_ok=True)
    texts: dict[str, tuple[str, Callable[[], str]]] = {
        "html": ("report.html", lambda: html.render(title, lines, blocks)),
        "markdown": ("report.md", lambda: markdown.render(title, lines, blocks)),
        "latex": ("tables.tex", lambda: latex.render(title, blocks)),
        "json": ("report.json", lambda: _json(machine.json_of(title, lines, blocks, reports))),
    }
    paths = {}
    for each in formats:
        if each == "csv":
            paths[each] = _write_csv(machine.csv_files(blocks, reports), out_dir / "tables")
        else:
            name, made = texts[each]
            paths[each] = out_dir / name
            paths[each].write_text(made(), "utf-8")
    return paths


def _json(value: object) -> str:
    return json.dumps(json.loads(as_json(value)), indent=1, ensure_ascii=False) + "\n"


def _write_csv(files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return folder


def render(data: ReportData, only: Sequence[str] | None = None) -> list[Block]:
    """Every section's blocks, in the spec's order. A section that has only its heading is left out."""
    blocks: list[Block] = []
    wanted = data.spec.report.sections or default_sections()
    for name in wanted if only is None else [name for name in wanted if name in only]:
        section = catalog.module(catalog.SECTIONS, name).render(data)
        if any(not isinstance(block, Heading) for block in section):
            blocks += section
    return blocks


def default_sections() -> list[str]:
    """All sections there are, in their usual order."""
    found = catalog.names(catalog.SECTIONS)
    last = ORDER[-1]
    extra = [name for name in found if name not in ORDER]
    return [name for name in ORDER[:-1] if name in found] + extra + ([last] if last in found else [])


def _origin(source: SourceSpec | None) -> str:
    if source is None:
        return ""
    lab = f"the lab's domain {source.lab}" if source.lab else ""
    return f" Rows from {lab or source.path or (source.hub and source.hub.id) or 'a query'}."


def facts(data: ReportData) -> list[str]:
    """What stands under the title: the model, where the rows come from, when it ran."""
    lines = [f"Model {data.spec.model}.{_origin(data.spec.source)}"]
    if data.runs:
        run = data.runs[0]
        ended = "" if run["status"] == "running" else f", {run['status']}"  # a run makes its report before it ends
        lines.append(f"Last run {table.moment(run['started_at'])}{ended}. Spec {table.short(run['spec_digest'])}.")
    return lines

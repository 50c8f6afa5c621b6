"""From the store to a report: Markdown for a repository, one HTML file for people.

A section is a file under reports/sections with `render(data) -> list[Block]`. Nothing is computed here or there that
the store's rows do not give again: a report made twice of the same store is the same, byte for byte.
"""

from pathlib import Path

from refinery import catalog
from refinery.spec import Spec
from refinery.store import Store
from reports import html, markdown, table
from reports.blocks import Block, Heading
from reports.data import ReportData
from reports.gather import gather

ORDER = ("summary", "forgetting", "funnel", "diagnostics", "training", "tuning", "examples", "provenance")
"""The usual order; sections that it does not name stand before provenance."""


def build(store: Store, spec: Spec, out_dir: Path) -> dict[str, Path]:
    """Write report.md and report.html into `out_dir`: {"markdown": path, "html": path}. UserError without any step."""
    return write(gather(store, spec), out_dir)


def write(data: ReportData, out_dir: Path) -> dict[str, Path]:
    """`build` for what is gathered already."""
    blocks = render(data)
    title, lines = f"Report of {data.spec.name}", facts(data)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = {"markdown": out_dir / "report.md", "html": out_dir / "report.html"}
    paths["markdown"].write_text(markdown.render(title, lines, blocks), "utf-8")
    paths["html"].write_text(html.render(title, lines, blocks), "utf-8")
    return paths


def render(data: ReportData) -> list[Block]:
    """Every section's blocks, in the spec's order. A section that has only its heading is left out."""
    blocks: list[Block] = []
    for name in data.spec.report.sections or default_sections():
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


def facts(data: ReportData) -> list[str]:
    """What stands under the title: the model, where the rows come from, when it ran."""
    source = data.spec.source
    origin = (
        (source.lab and f"the lab's domain {source.lab}") or source.path or (source.hub and source.hub.id) or "a query"
    )
    lines = [f"Model {data.spec.model}. Rows from {origin}."]
    if data.runs:
        run = data.runs[0]
        ended = "" if run["status"] == "running" else f", {run['status']}"  # a run makes its report before it ends
        lines.append(f"Last run {table.moment(run['started_at'])}{ended}. Spec {table.short(run['spec_digest'])}.")
    return lines

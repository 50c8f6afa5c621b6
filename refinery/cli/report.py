"""`refinery report`: what one or several specs' stores hold, as a page, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refinery.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from refinery.spec import Spec
    from refinery.store import Store
    from reports.data import ReportData

SHORT = {"md": "markdown", "tex": "latex"}


def report(
    specs: Annotated[list[Path], typer.Argument(help="Specs, run folders or .duckdb stores.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write into; that of the store where it is left out.")
    ] = None,
    format_: Annotated[
        list[str], typer.Option("--format", help="html, markdown, latex, csv or json; all of them. Repeatable.")
    ] = [],  # noqa: B006
    paper: Annotated[
        str, typer.Option("--paper", help="Only a paper's tables with these runs in them: raft or sdft.")
    ] = "",
    diagnose: Annotated[
        bool, typer.Option("--diagnose/--no-diagnose", help="First measure what refining did, where that is missing.")
    ] = False,
    set_: Annotated[list[str], typer.Option("--set", help="Override one key of every spec. Repeatable.")] = [],  # noqa: B006
) -> None:
    """Write the report of what stands. Asks no model and trains nothing; works while a run goes on."""
    formats = _formats(format_)
    if not specs:
        raise UserError("name at least one spec: refinery report SPEC [SPEC ...]")
    found, folder = _gathered(specs, set_, diagnose)
    if paper:
        return _paper(paper, found, out, formats)
    from reports.report import write_several

    for kind, path in write_several(found, out or folder, formats).items():
        typer.echo(f"{kind}: {path}")
    return None


def _formats(asked: list[str]) -> list[str]:
    from reports.report import FORMATS

    wanted = [SHORT.get(each, each) for each in asked] or list(FORMATS)
    for each in wanted:
        if each not in FORMATS:
            raise UserError(f'no format "{each}"{did_you_mean(each, FORMATS)}; there are: {", ".join(FORMATS)}')
    return list(dict.fromkeys(wanted))


def _gathered(specs: list[Path], overrides: list[str], measure: bool) -> tuple[list[ReportData], Path]:
    """Every point of every spec that has run, and the folder beside the first store; several specs get a folder of
    their own there."""
    from refinery.cli.run_specs import spec_of
    from refinery.store import Store
    from reports.gather import gather

    found, missing = [], []
    loaded = [spec_of(path, overrides) for path in specs]
    for spec in loaded:
        store = Store(spec.store_path, read_only=not measure)
        for point in spec.points:
            if measure:
                _measure(point.spec, store)
            try:
                found.append(gather(store, point.spec))
            except UserError as error:
                if not point.keys and len(specs) == 1:
                    raise
                missing.append(str(error))
    if not found:
        raise UserError("\n".join(missing))
    for line in missing:
        typer.echo(f"left out: {line}", err=True)
    folder = loaded[0].store_path.parent
    names = "-".join(dict.fromkeys(spec.name for spec in loaded))
    return found, folder if len(specs) == 1 else folder.parent / f"report-{names}"[:100]


def _measure(spec: Spec, store: Store) -> None:
    from rich.console import Console

    from refinery.cli.progress import Progress
    from refinery.cli.run import _diagnose

    with Progress(Console(stderr=True), "report") as progress:
        _diagnose(spec, store, progress)


def _paper(paper: str, found: list[ReportData], out: Path | None, formats: list[str]) -> None:
    """To stdout as Markdown, or in the formats asked for into the folder `out`."""
    from reports import markdown, papers
    from reports.report import write_blocks

    blocks, title = papers.tables(paper, found), f"The tables of {paper.upper()} with our runs"
    if out is None:
        typer.echo(markdown.render(title, [], blocks), nl=False)
        return
    for kind, path in write_blocks(title, [], blocks, [], out, formats).items():
        typer.echo(f"{kind}: {path}")

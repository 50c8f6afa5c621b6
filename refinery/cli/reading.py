"""The verbs that look: before a run at what it would do, after it at what it did. Nothing heavy is imported here."""

from pathlib import Path
from typing import Annotated

import typer

from refinery.errors import UserError

reading = typer.Typer(rich_markup_mode=None)

SpecPath = Annotated[Path, typer.Argument(help="The YAML spec.", show_default=False)]
SpecOrStore = Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.", show_default=False)]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override one key: --set train.seeds=[0,1]. May be given again.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone on stdout.")]


@reading.command()
def plan(spec: SpecPath, set_: Overrides = [], json: Json = False) -> None:  # noqa: B006
    """Show the graph: what stands, what would run and why, how many requests that is and what they may cost."""
    from refinery.cli.plan import show_plan
    from refinery.spec import load_spec

    show_plan(load_spec(spec, set_), json)


@reading.command()
def preview(
    spec: SpecPath,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows of the train split.")] = 5,
    row: Annotated[str, typer.Option("--row", help="This row alone, by id (a prefix will do).")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Any rows instead of the first, chosen by this.")] = None,
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Send a few rows through the whole graph and show what each step made of them. Keeps the answers alone."""
    from refinery.cli.preview import show_preview
    from refinery.preview import Choice
    from refinery.spec import load_spec

    try:
        show_preview(load_spec(spec, set_), spec, Choice(rows, row, seed), json)
    except KeyboardInterrupt:
        typer.echo("interrupted: the answers given so far are kept", err=True)
        raise typer.Exit(130) from None


@reading.command()
def diff(
    old: Annotated[Path, typer.Argument(help="A YAML spec; alone, it is compared with the last run in its store.")],
    new: Annotated[Path | None, typer.Argument(help="The YAML spec that it became.", show_default=False)] = None,
    set_: Annotated[
        list[str], typer.Option("--set", help="Override one key of the new spec (of the only one). May be given again.")
    ] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Show what differs between two specs, and which steps that makes run again. Asks no model."""
    from refinery.cli.diff import show_diff

    show_diff(old, new, json, set_)


@reading.command()
def doctor(spec: SpecPath, set_: Overrides = [], json: Json = False) -> None:  # noqa: B006
    """Check what a run needs: servers, keys, templates, context, encoders, libraries, disk (exit code 2: no)."""
    from refinery.cli.doctor import show_checkup

    if not show_checkup(spec, set_, json):
        raise typer.Exit(2)


@reading.command()
def status(spec: SpecOrStore, set_: Overrides = [], json: Json = False) -> None:  # noqa: B006
    """Show whether a run goes on, what each step made so far, checkpoints and scores."""
    from refinery.cli.status import status as show_status

    show_status(spec, json, set_)


@reading.command()
def runs(
    path: Annotated[Path, typer.Argument(help="A folder of runs, a spec, or a .duckdb store.")] = Path("runs"),
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """List the runs there were, newest first."""
    from refinery.cli.status import runs as show_runs

    show_runs(path, json, set_)


@reading.command()
def show(
    spec: SpecOrStore,
    step: Annotated[str, typer.Argument(help="A step: its rows are shown.")] = "",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 3,
    action: Annotated[
        str, typer.Option("--action", help="Only rows that were kept, changed, fell_back, dropped or created.")
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Only rows with this reason.")] = "",
    dropped: Annotated[bool, typer.Option("--dropped", help="Only rows that were dropped.")] = False,
    search: Annotated[str, typer.Option("--search", help="Only rows that hold this text.")] = "",
    row: Annotated[str, typer.Option("--row", help="One row's whole history, by id (a prefix will do).")] = "",
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Show the funnel of the last run, rows by step, action, reason or text, or all that became of one row."""
    from refinery.cli.show import show as show_it
    from refinery.looking import Wanted

    if dropped and action not in ("", "dropped"):
        raise UserError(f"--dropped and --action {action} ask for different rows")
    wanted = Wanted("dropped" if dropped else action, reason, search)
    show_it((spec, set_), step, row, wanted, rows, json)

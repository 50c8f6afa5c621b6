"""The command line: thin verbs over the packages. Heavy imports happen inside the commands, so that help is instant."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from refinery.errors import UserError

app = typer.Typer(
    name="refinery",
    help="Refine fine-tuning data, train on it, and prove what the model gained and what it forgot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecPath = Annotated[Path, typer.Argument(help="The YAML spec.", show_default=False)]
Overrides = Annotated[
    list[str], typer.Option("--set", help="Override one key: --set train.seeds=[0,1]. May be given again.")
]
STAGES = ("refine", "train", "evaluate", "report")


@app.command()
def init(
    template: Annotated[str, typer.Argument(help="Which starter: lab, quickstart or raft_qwen.")] = "lab",
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a runnable spec, and the schema with which editors complete it, into a folder."""
    from refinery.errors import did_you_mean

    folder = Path(__file__).parent.parent / "starters"
    starters = sorted(path.stem for path in folder.glob("*.yaml"))
    if template not in starters:
        raise UserError(f'no starter "{template}"{did_you_mean(template, starters)}; there are: {", ".join(starters)}')
    to.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{template}.yaml"
    data = [path for path in folder.glob("*.jsonl") if path.name in spec.read_text("utf-8")]
    for source in (spec, *data, folder / "refinery.schema.json"):
        target = to / source.name
        text = source.read_text("utf-8").replace("specs/", "")
        if target.exists() and not force and target.read_text("utf-8") != text:
            raise UserError(f"{target} exists and differs (use --force to overwrite it)")
        target.write_text(text, "utf-8")
    typer.echo(f"wrote {to / f'{template}.yaml'}\nnext: refinery run {to / f'{template}.yaml'}")


@app.command()
def validate(spec: SpecPath, set_: Overrides = []) -> None:  # noqa: B006
    """Check a spec: every mistake at once, with file, line and column."""
    from refinery.spec import load_spec

    loaded = load_spec(spec, set_)
    methods = len(loaded.train.methods) if loaded.train else 0
    typer.echo(f"{spec}: valid ({len(loaded.graph)} steps, {methods} methods)")


@app.command()
def plan(spec: SpecPath, set_: Overrides = []) -> None:  # noqa: B006
    """Show the graph: what stands, what would run and why, and how many requests that is."""
    from refinery.cli.plan import show_plan
    from refinery.spec import load_spec

    show_plan(load_spec(spec, set_))


@app.command()
def run(
    spec: SpecPath,
    stage: Annotated[
        list[str], typer.Option("--stage", help="Run only this stage: refine, train, evaluate or report. Repeatable.")
    ] = [],  # noqa: B006
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Refine, train, evaluate and report. What stands is skipped, so the same command continues after any stop."""
    from refinery.cli.run import run_stages
    from refinery.errors import did_you_mean
    from refinery.spec import load_spec

    for name in stage:
        if name not in STAGES:
            raise UserError(f'no stage "{name}"{did_you_mean(name, STAGES)}; there are: {", ".join(STAGES)}')
    try:
        run_stages(load_spec(spec, set_), spec, tuple(s for s in STAGES if not stage or s in stage))
    except KeyboardInterrupt:
        typer.echo("\ninterrupted: everything finished so far is stored; the same command continues", err=True)
        raise typer.Exit(130) from None


@app.command()
def show(
    spec: Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.")],
    step: Annotated[str, typer.Argument(help="A step: its rows are shown.")] = "",
    rows: Annotated[int, typer.Option("--rows", "-n", help="How many rows.")] = 3,
    action: Annotated[
        str, typer.Option("--action", help="Only rows that were kept, changed, fell_back or dropped.")
    ] = "",
    row: Annotated[str, typer.Option("--row", help="One row's whole lineage, by id (a prefix will do).")] = "",
) -> None:
    """Show the funnel of the last run, a step's rows, or what every step did to one row."""
    from refinery.cli.show import show_funnel, show_lineage, show_rows, store_of

    store = store_of(spec)
    if row:
        show_lineage(store, row)
    elif step:
        show_rows(store, step, rows, action)
    else:
        show_funnel(store)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    import json

    from refinery.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Entry point. A `UserError` is one line and exit code 2; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)

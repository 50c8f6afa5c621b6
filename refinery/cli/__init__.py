"""The command line: thin verbs over the packages. Heavy imports happen inside the commands, so that help is instant."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refinery.cli.comparing import FailIf, FailUnless, comparing, gates_before_run
from refinery.cli.diagnose import diagnose
from refinery.cli.evaluating import evaluate
from refinery.cli.export import export
from refinery.cli.label import label
from refinery.cli.reading import Json, Overrides, SpecPath, reading
from refinery.cli.report import report
from refinery.errors import Bugs, UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="refinery",
    help="Refine fine-tuning data, train on it, and prove what the model gained and what it forgot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

STAGES = ("refine", "train", "evaluate", "report")


@app.command()
def init(
    template: Annotated[str, typer.Argument(help="Which ready spec; --list shows what there is.")] = "lab",
    list_: Annotated[bool, typer.Option("--list", help="List the ready specs and what they do.")] = False,
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write a runnable spec, and the schema with which editors complete it, into a folder."""
    folder = Path(__file__).parent.parent / "starters"
    starters = sorted(path.stem for path in folder.glob("*.yaml"))
    if list_:
        from refinery.cli.printing import console

        return _list_starters(console(), folder, starters)
    if template not in starters:
        raise UserError(f'no starter "{template}"{_meant(template, starters)}; there are: {", ".join(starters)}')
    to.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{template}.yaml"
    data = [path for path in folder.glob("*.jsonl") if path.name in spec.read_text("utf-8")]
    for source in (spec, *data, folder / "refinery.schema.json"):
        target = to / source.name
        text = source.read_text("utf-8").replace("specs/", "")
        if target.exists() and not force and target.read_text("utf-8") != text:
            raise UserError(f"{target} exists and differs (use --force to overwrite it)")
        target.write_text(text, "utf-8")
    there = "" if to.resolve() == Path.cwd() else f"cd {shlex.quote(str(to))} && "
    typer.echo(f"wrote {to / f'{template}.yaml'}\nnext: {there}refinery run {template}.yaml")


def _meant(template: str, starters: list[str]) -> str:
    """A starter whose name is close, or one word of it."""
    from refinery.errors import did_you_mean

    words = {word: name for name in reversed(starters) for word in name.split("_")}
    close = difflib.get_close_matches(template, words, n=1)
    return did_you_mean(template, starters) or (f' (did you mean "{words[close[0]]}"?)' if close else "")


def _list_starters(out: Console, folder: Path, starters: list[str]) -> None:
    """A line for each: the first sentence of the comment at its top."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for name in starters:
        lines = (folder / f"{name}.yaml").read_text("utf-8").splitlines()[2:]
        comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
        text = " ".join(" ".join(line.removeprefix("#") for line in comment).split())
        grid.add_row(name, re.split(r"(?<=\.) (?=[A-Z])", text)[0])
    out.print(grid)


@app.command()
def validate(spec: SpecPath, set_: Overrides = []) -> None:  # noqa: B006
    """Check a spec: every mistake at once, with file, line and column; then what its operations have to say."""
    from refinery.advice import step_notes
    from refinery.spec import load_spec

    loaded = load_spec(spec, set_)
    methods = len(loaded.train.methods) if loaded.train else 0
    points = f", {len(loaded.points)} points of a matrix" if loaded.matrix else ""
    typer.echo(f"{spec}: valid ({len(loaded.graph)} steps, {methods} methods{points})")
    for name, step in loaded.graph.items():
        for note in step_notes(loaded, name):
            typer.echo(f"note: {name} ({step.op}): {note}")


@app.command()
def run(
    spec: SpecPath,
    stage: Annotated[
        list[str], typer.Option("--stage", help="Run only this stage: refine, train, evaluate or report. Repeatable.")
    ] = [],  # noqa: B006
    set_: Overrides = [],  # noqa: B006
    fail_if: FailIf = [],  # noqa: B006
    fail_unless: FailUnless = [],  # noqa: B006
) -> None:
    """Refine, train, evaluate and report. What stands is skipped, so the same command continues after any stop."""
    from refinery.cli.run import going_on, run_stages
    from refinery.errors import did_you_mean
    from refinery.spec import load_spec

    for name in stage:
        if name not in STAGES:
            raise UserError(f'no stage "{name}"{did_you_mean(name, STAGES)}; there are: {", ".join(STAGES)}')
    loaded = load_spec(spec, set_)
    gates = gates_before_run(loaded, fail_if, fail_unless)
    try:
        run_stages(loaded, spec, tuple(s for s in STAGES if not stage or s in stage), set_)
    except KeyboardInterrupt:
        typer.echo(f"\n{going_on(spec)}", err=True)
        raise typer.Exit(130) from None
    if not gates():
        raise typer.Exit(1)


@app.command()
def train(
    spec: SpecPath,
    plan: Annotated[bool, typer.Option("--plan", help="Only show the trainings and what they would take.")] = False,
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Train every method and seed on refined rows. What stands is skipped, what failed is tried again."""
    from refinery.spec import load_spec

    loaded = load_spec(spec, set_)
    if plan:
        from refinery.cli.train_plan import show_train_plan

        return show_train_plan(loaded, json)
    from refinery.cli.run import going_on, run_stages

    try:
        run_stages(loaded, spec, ("train",), set_)
    except KeyboardInterrupt:
        typer.echo(f"\n{going_on(spec)}", err=True)
        raise typer.Exit(130) from None


@app.command()
def retry(
    spec: SpecPath,
    reason: Annotated[
        list[str],
        typer.Option("--reason", help="Also rows that failed for this reason. Repeatable."),
    ] = [],  # noqa: B006
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Ask again for the rows that failed for a reason that may pass, then redo what later steps made of them."""
    from refinery.cli.retry import retry_rows
    from refinery.cli.run import going_on
    from refinery.spec import load_spec

    try:
        for point in load_spec(spec, set_).points:
            retry_rows(point.spec, spec, reason, set_)
    except KeyboardInterrupt:
        typer.echo(f"\n{going_on(spec)}", err=True)
        raise typer.Exit(130) from None


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The reference for people instead.")] = False,
) -> None:
    """Print the JSON Schema of a spec, for editors."""
    import json

    from refinery.schema import json_schema

    if markdown:
        from refinery.reference import markdown as reference

        return typer.echo(reference(), nl=False)
    typer.echo(json.dumps(json_schema(), indent=2))


app.registered_commands += reading.registered_commands + comparing.registered_commands
app.command()(diagnose)
app.command()(label)
app.command()(export)
app.command("eval")(evaluate)
app.command()(report)


def main() -> None:
    """Entry point. A `UserError` is one line and exit code 2; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except Bugs as error:
        typer.echo(f"{error}", err=True)
        sys.exit(1)

"""`refinery preview`: a few rows, each step's text under the one before it, and nothing stored but the answers."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refinery.cli.interrupt import prompt_exit
from refinery.cli.printing import console, print_json, score_words, tokens
from refinery.cli.progress import Progress
from refinery.looking import Shown
from refinery.preview import Choice, preview
from refinery.spec import Spec


def show_preview(spec: Spec, path: Path, choice: Choice, as_json: bool) -> None:
    with (
        prompt_exit("interrupted: the answers given so far are kept", lambda: None),
        Progress(Console(stderr=True), "preview", lines=False) as progress,
    ):
        found = preview(spec, choice, progress.step)
    if as_json:
        usage = {"asked": found.asked, "from_the_store": found.cached, "failed": found.failed, "tokens": found.tokens}
        rows = [{"id": way[0].id, "steps": way} for way in found.rows]
        return print_json({"rows": rows, **usage, "notes": found.notes})
    out = console()
    for way in found.rows:
        _print_way(out, way)
    for note in found.notes:
        out.print(note, style="dim", markup=False)
    asked = f"{found.asked:,} requests ({tokens(found.tokens)} tokens), {found.cached:,} more from the store"
    asked += f", {found.failed:,} that gave nothing usable" if found.failed else ""
    out.print(f"{asked}; answers are kept: `refinery run {path}` asks for none of them again", style="dim")


def _print_way(out: Console, way: list[Shown]) -> None:
    """One row: the question on top, then a line of steps down the left and their texts beside them."""
    first = way[0]
    origin = f" (made from {', '.join(parent[:8] for parent in first.parents)})" if first.parents else ""
    out.rule(Text(f"row {first.id}{origin}"), align="left", style="dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text("question", style="dim"), Text(first.question or ""))
    for row in way:
        if row.op == "source":
            grid.add_row(Text(row.step, style="bold"), Text(row.response or ""))
            continue
        verdict = Text.assemble((row.action.replace("_", " "), _STYLES.get(row.action, "")), f": {row.reason}")
        if scores := score_words(row.scores, 240):
            verdict.append(f"  {scores}", style="dim")
        if row.detail:
            verdict.append(f"  {row.detail}", style="dim")
        grid.add_row(Text(row.step, style="bold"), verdict)
        if row.response is not None:
            same = "(the same text)" if row.response == row.before else None
            same = "(the reference)" if same is None and row.response == row.reference else same
            grid.add_row("", Text(same, style="dim") if same else Text(row.response))
    out.print(grid)
    out.print()


_STYLES = {"changed": "green", "created": "green", "fell_back": "yellow", "dropped": "red"}

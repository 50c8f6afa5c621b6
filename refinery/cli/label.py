"""`refinery label`: ask people, or judge models, blind, which of two steps' answers they prefer.

People judge on a page: served on this machine alone, each answer saved as it comes, or written as one file to be sent
to somebody and read back. Both turn every pair round for a second look.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refinery.cli.reading import Overrides
from refinery.errors import UserError

if TYPE_CHECKING:
    from refinery.cli.diagnose import Work
    from refinery.diagnostics._judging import Item, Sheet
    from refinery.store import Store


def label(
    spec: Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.", show_default=False)],
    step: Annotated[str, typer.Argument(help="The step whose answers are judged.", show_default=False)],
    against: Annotated[
        str, typer.Option("--against", help="Compared with this step, or with the raw answers.")
    ] = "raw",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 100,
    rater: Annotated[str, typer.Option("--rater", help="Who judges: a name of your choice.")] = "me",
    judge: Annotated[list[str], typer.Option("--judge", help="Ask this model of the spec instead. Repeatable.")] = [],  # noqa: B006
    once: Annotated[
        bool, typer.Option("--once", help="Show each row once, not again with the answers swapped.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Write one HTML file to judge anywhere.")] = None,
    read: Annotated[Path | None, typer.Option("--read", help="Read the answers.json that such a file gave.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which rows, and in which order.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Judge blind which of two steps' answers are better; `refinery diagnose` then tells who preferred what."""
    import webbrowser

    from refinery.cli.diagnose import opened
    from refinery.cli.label_server import Server, page
    from refinery.diagnostics._judging import items

    work = opened(spec, set_)
    sheet, questions = _sheet(work, step, against, rows, seed)
    asked = items(list(sheet.pairs.values()), questions, seed, both=not once)
    if judge:
        return _ask(work, judge, sheet, asked)
    if read:
        return _read(work.store, sheet, read, rater)
    if to:
        to.write_text(page(sheet, asked, {}), "utf-8")
        typer.echo(
            f"wrote {to}: judge there, download answers.json, then run the same command with --read answers.json"
        )
        return None
    server = Server(work.store, sheet, asked, rater, port)
    typer.echo(f"judge {len(sheet.pairs)} rows at {server.address}\nanswers are saved as they come; Ctrl-C ends")
    if browser:
        webbrowser.open(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo(f"\n{len(server.answers())} of {len(asked)} judged; the same command goes on")
    finally:
        server.server_close()


def _sheet(work: Work, step: str, against: str, rows: int, seed: int) -> tuple[Sheet, dict[str, str]]:
    """The rows to judge, and their questions by id."""
    from refinery.diagnostics._asked import prompts_of
    from refinery.diagnostics._judging import Sheet, differing
    from refinery.diagnostics._pairs import read_pairs

    refined, raw = work.fingerprint(step), work.fingerprint(against)
    if not refined:
        raise UserError("name a refined step: the raw answers are what it is compared with")
    found = differing(read_pairs(work.store, refined, raw), rows, seed)
    if not found:
        raise UserError(f"no row of {step} differs from {against}: there is nothing to prefer")
    questions = {}
    for example_id, prompt in prompts_of(work.store, refined, [pair.id for pair in found]).items():
        turns = [turn for turn in prompt if turn["role"] != "system"]
        questions[example_id] = (
            turns[0]["content"] if len(turns) == 1 else "\n\n".join(f"{t['role']}: {t['content']}" for t in turns)
        )
    return Sheet(refined, raw, seed, {pair.id: pair for pair in found}), questions


def _read(store: Store, sheet: Sheet, path: Path, rater: str) -> None:
    try:
        found = json.loads(path.read_text("utf-8"))
        answers = found["answers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the answers of a judged page ({error})") from error
    if found.get("sheet") != sheet.name:
        raise UserError(
            f"{path}: these answers are to other rows or texts; use the --rows, --seed and --against that wrote it"
        )
    store.add_preferences([sheet.row(answer, rater) for answer in answers])
    typer.echo(f"read {len(answers)} judgements of {rater}")


def _ask(work: Work, judges: Sequence[str], sheet: Sheet, asked: Sequence[Item]) -> None:
    """Each judge in every order; a model of the writer's own family likes its own, so name another."""
    from refinery import event_loop
    from refinery.context import Context
    from refinery.diagnostics._judging import judge
    from refinery.errors import did_you_mean
    from refinery.journal import Journal
    from refinery.services import Services

    if work.spec is None:
        raise UserError("--judge needs the spec, which names the models; this is a store")
    spec = work.spec
    for name in judges:
        if name not in spec.models:
            raise UserError(f'no model "{name}" in the spec{did_you_mean(name, spec.models)}')

    async def run(journal: Journal) -> None:
        services = Services(spec.models, work.store, journal)
        try:
            for name in judges:
                identity = (await services.model(name)).identity
                rows, failures = await judge(Context("label", spec.seed, services), name, identity, sheet, asked)
                work.store.add_preferences(rows)
                failed = "".join(f", {n} gave none ({reason})" for reason, n in failures.items())
                typer.echo(f"{name}: {len(rows)} of {len(asked)} judgements{failed}")
        finally:
            await services.close()

    with work.store.run_lock(), Journal(work.store) as journal:
        event_loop.run(run(journal))

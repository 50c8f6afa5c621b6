"""`refinery show`: the funnel, the rows of a step or a search, and one row's whole way, read from the store alone."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from refinery import looking
from refinery.cli.printing import add, console, fields, number, opened, print_json, score_words, step_names, table
from refinery.errors import UserError
from refinery.looking import Funnel, Shown, Wanted


def show(place: tuple[Path, Sequence[str]], step: str, row: str, wanted: Wanted, limit: int, as_json: bool) -> None:
    """Whichever of the views the arguments ask for; `place` is a spec or store, and what overrides the spec."""
    store, spec = opened(*place)
    steps = looking.latest(store, step_names(spec))
    if not steps:
        raise UserError(f"{store.path} holds no step yet: `refinery run` makes them")
    if row:
        ways = looking.history(store, steps, row)
        made = looking.made_from(store, steps, ways[-1].id)
        if as_json:
            return print_json({"id": ways[-1].id, "history": ways, "made_from_it": made})
        return _print_history(ways, made)
    if step or wanted.action or wanted.reason or wanted.search:
        if step:
            total, found = looking.rows(store, steps, step, wanted, limit)
        else:
            total, found = looking.fates(store, steps, wanted, limit)
        if as_json:
            return print_json({"step": step or None, "total": total, "rows": found})
        return _print_rows(found, total)
    funnel = looking.funnel(store, steps)
    if as_json:
        return print_json({"store": str(store.path), "steps": [{**_plain(each), "rows": each.rows} for each in funnel]})
    print_funnel(console(), funnel)


def _plain(step: Funnel) -> dict[str, object]:
    return {
        name: getattr(step, name) for name in ("name", "op", "fingerprint", "upstream", "status", "actions", "reasons")
    }


def print_funnel(out: Console, funnel: list[Funnel]) -> None:
    """How many rows of each step were kept, changed, made, fell back or were dropped; then why."""
    numbers = ("rows", "kept", "changed", "fell back", "dropped")
    made = any(step.actions["created"] for step in funnel)
    found = table("step", *numbers, *(["made"] if made else []), right=(*numbers, "made"))
    for step in funnel:
        shown = ("kept", "changed", "fell_back", "dropped", *(["created"] if made else []))
        add(found, step.name, number(step.rows) or "0", *(number(step.actions[action]) for action in shown))
    out.print(found)
    reasons = table("step", "what", "reason", "rows", "", right=("rows",))
    for step in funnel:
        for part in step.reasons:
            if part["reason"] != "ok":
                again = "asked again by the next run" if part["transient"] else ""
                add(reasons, step.name, part["action"].replace("_", " "), part["reason"], number(part["rows"]), again)
    if reasons.row_count:
        out.print()
        out.print(reasons)


def _print_rows(found: list[Shown], total: int) -> None:
    out = console()
    for row in found:
        print_row(out, row)
    out.print(f"{len(found):,} of {total:,} rows" if total else "no rows", style="dim")


def _print_history(ways: list[Shown], made: list[str]) -> None:
    out = console()
    previous = ""
    for row in ways:
        if row.id != previous:
            origin = f", made from {', '.join(row.parents)}" if row.parents else ""
            out.print(Text(f"row {row.id}{origin}", style="bold"), soft_wrap=True)
            out.print(fields([("question", row.question), ("reference", row.reference)]))
            previous = row.id
        print_row(out, row, history=True)
    if made:
        more = f" and {len(made) - 10} more" if len(made) > 10 else ""
        out.print(Text(f"made from it: {', '.join(made[:10])}{more}"))


def print_row(out: Console, row: Shown, *, history: bool = False) -> None:
    """One row at one step; in a history the question stands above, and a text that stayed is not said again."""
    again = " (asked again by the next run)" if row.transient else ""
    head = Text.assemble(("" if history else f"{row.id}  "), (row.step, "bold"), f"  {row.action.replace('_', ' ')}: ")
    out.print(head + Text(f"{row.reason}{again}"))
    stayed = history and row.response is not None and row.response == row.before
    pairs: list[tuple[str, str | None]] = [] if history else [("question", row.question), ("reference", row.reference)]
    if row.response is None and row.before is not None and row.before != row.reference:
        pairs.append(("came in", row.before))
    elif not history and row.before is not None and row.before not in (row.response, row.reference):
        pairs.append(("before", row.before))
    if row.response is not None and not stayed and (history or row.response != row.reference):
        pairs.append(("response", row.response if row.response != row.reference else "(the reference)"))
    pairs += [("scores", score_words(row.scores)), ("detail", row.detail or None)]
    if grid := [pair for pair in pairs if pair[1] is not None]:
        out.print(fields(grid))
    if not history:
        out.print()

"""`refinery plan`: the graph, what stands, what would run and why, and what that may cost, before anything is spent."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.text import Text

from refinery.cli.printing import add, console, number, print_json, table, tokens
from refinery.estimates import Estimate, estimate
from refinery.planning import StepPlan, plan, stop_words
from refinery.spec import SOURCE, Spec
from refinery.store import Store


def show_plan(spec: Spec, as_json: bool = False) -> None:
    """A line a step in running order, then what training and evaluation would make. Asks no model.

    A store that does not exist is not made: the plan of a first run leaves nothing behind.
    """
    with TemporaryDirectory() as empty:
        path = spec.store_path if spec.store_path.exists() else Path(empty) / "empty.duckdb"
        store = Store(path)
        steps = plan(spec, store)
        costs = estimate(spec, store, steps)
    if as_json:
        return print_json(_plain(spec, steps, costs))
    out = console()
    _steps(out, steps, costs)
    _why(out, steps)
    if spec.train:
        parts = f"{len(spec.train.methods)} methods, {len(spec.train.seeds)} seeds"
        out.print(f"train: at most {_trainings(spec)} runs ({parts})")
    if spec.evaluate:
        out.print(f"evaluate: {', '.join([*spec.evaluate.domain, *spec.evaluate.general])}")


def _plain(spec: Spec, steps: Sequence[StepPlan], costs: Mapping[str, Estimate]) -> dict[str, Any]:
    listed = []
    for step in steps:
        found = costs.get(step.name)
        listed.append({**asdict(step), "estimate": {**asdict(found), "tokens": found.tokens} if found else None})
    total = {
        "requests": sum(step.requests for step in steps),
        "at_least": sum(step.at_least for step in steps),
        "answered": sum(step.answered for step in steps),
        "tokens": _sum([each.tokens for each in costs.values()]),
        "cost": _sum([each.cost for each in costs.values()]),
    }
    training = {"runs_at_most": _trainings(spec)} if spec.train else None
    return {"steps": listed, "total": total, "train": training}


def _sum(values: Sequence[float | None]) -> float | None:
    """None where any is unknown, 0 of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _steps(out: Console, steps: Sequence[StepPlan], costs: Mapping[str, Estimate]) -> None:
    numbers = ("rows", "requests", "in store", "tokens", "cost")
    priced = any(each.cost is not None for each in costs.values())
    shown = [name for name in numbers if priced or name != "cost"]
    found = table("step", "op", "state", *shown, right=numbers)
    for step in steps:
        cost = costs.get(step.name)
        cells = [number(step.rows), between(step.at_least, step.requests), number(step.answered)]
        cells.append(_most(cost.tokens, step.at_least == step.requests) if cost else "")
        cells += [_money(cost)] if priced else []
        add(found, step.name, step.op if step.op != SOURCE else "", step.status, *cells)
    at_least, most = sum(step.at_least for step in steps), sum(step.requests for step in steps)
    cells = ["", between(at_least, most) or "none", number(sum(step.answered for step in steps))]
    cells.append(_most(_sum([each.tokens for each in costs.values()]), at_least == most) if costs else "")
    if priced:
        low, high = _sum([c.low_cost for c in costs.values()]), _sum([c.cost for c in costs.values()])
        cells.append("unknown" if low is None or high is None else _span(low, high))
    found.add_section()
    add(found, "total", "", "", *cells)
    out.print(found)
    if any(each.requests != each.at_least for each in steps):
        out.print("a range: what is asked hangs on answers that are not given yet", style="dim")
    if any(cost.tokens is None for cost in costs.values()):
        out.print("tokens are unknown until a first answer: `refinery preview` gives some", style="dim")


def _why(out: Console, steps: Sequence[StepPlan]) -> None:
    for step in steps:
        if words := [*step.why, *step.notes]:
            reads = f" (from {', '.join(step.upstream)})" if step.upstream else ""
            out.print(Text.assemble((step.name, "bold"), f"{reads}: {'; '.join(words)}"))
        if step.stops:
            out.print(Text.assemble((step.name, "bold"), ": ", (stop_words(step), "red")))


def between(low: int, high: int) -> str:
    """ "1,200" where it is known, "240 to 1,200" where it is not, "" for none."""
    if low == high:
        return number(high)
    return f"{low:,} to {high:,}"


def _most(value: float | None, exact: bool) -> str:
    return tokens(value) if exact or value is None else f"to {tokens(value)}"


def _money(cost: Estimate | None) -> str:
    if cost is None:
        return ""
    return "unknown" if cost.cost is None or cost.low_cost is None else _span(cost.low_cost, cost.cost)


def _span(low: float, high: float) -> str:
    most = f"${high:,.2f}" if high >= 1 else f"${high:.2g}"
    return most if low == high else f"to {most}"


def _trainings(spec: Spec) -> int:
    assert spec.train is not None
    points = 1
    for values in spec.train.tune.values():
        points *= len(values)
    return len(spec.train.methods) * (len(spec.train.seeds) + (points if spec.train.tune else 0))

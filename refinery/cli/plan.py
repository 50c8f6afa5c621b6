"""`refinery plan`: the graph, what stands, what would run and why, before anything is spent."""

from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from refinery.planning import StepPlan, plan
from refinery.spec import Spec
from refinery.store import Store


def show_plan(spec: Spec) -> None:
    """A line a step in running order, then what training and evaluation would make. Asks no model.

    A store that does not exist is not made: the plan of a first run leaves nothing behind.
    """
    console = Console()
    with TemporaryDirectory() as empty:
        path = spec.store_path if spec.store_path.exists() else Path(empty) / "empty.duckdb"
        steps = plan(spec, Store(path))
    table = Table(box=None, pad_edge=False)
    for column in ("step", "op", "reads", "state", "rows", "requests at most", "why"):
        table.add_column(column, justify="right" if column in ("rows", "requests at most") else "left")
    for step in steps:
        why = "; ".join([*step.why, *step.notes])
        reads = ", ".join(step.upstream)
        table.add_row(step.name, step.op, reads, step.status, _number(step.rows), _requests(step), why)
    console.print(table)
    if spec.train:
        points = 1
        for values in spec.train.tune.values():
            points *= len(values)
        runs = len(spec.train.methods) * (len(spec.train.seeds) + (points if spec.train.tune else 0))
        console.print(f"train: at most {runs} runs ({len(spec.train.methods)} methods, {len(spec.train.seeds)} seeds)")
    if spec.evaluate:
        console.print(f"evaluate: {', '.join([*spec.evaluate.domain, *spec.evaluate.general])}", soft_wrap=True)


def _requests(step: StepPlan) -> str:
    if not step.requests:
        return ""
    return f"{step.requests:,}" + (f" ({step.answered:,} answered)" if step.answered else "")


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"

"""`refinery export`: a finished step's rows as files for other tools."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from refinery import exporting, looking
from refinery.cli.printing import opened, step_names
from refinery.errors import UserError, did_you_mean
from refinery.exporting import SPLITS
from refinery.records import Outcome
from refinery.rows import Row
from refinery.spec import Spec
from refinery.store import Store


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says; empty texts leave it open."""

    format: str = ""
    split: str = ""
    license: str = ""
    push: str = ""
    public: bool = False


def export_step(place: tuple[Path, Sequence[str]], step: str, to: Path, wanted: Wanted) -> None:
    """Write the rows of `step`, and say how many. `place` is a spec or store, and what overrides the spec."""
    kind = _format(wanted.format, to)
    splits = _splits(wanted.split or ("all" if kind == "hf" else "train"))
    if wanted.push and kind != "hf":
        raise UserError("export: --push goes with --format hf")
    store, spec = opened(*place)
    row = _step(store, spec, step)
    called = {each["fingerprint"]: each["name"] for each in looking.latest(store, step_names(spec))}
    info = exporting.about(store, row["fingerprint"], {**called, row["fingerprint"]: step})
    info = replace(info, license=wanted.license or None)
    counts = exporting.export(_rows(store, row["fingerprint"]), to, kind, info, splits)
    typer.echo(f"wrote {', '.join(f'{n:,} {name}' for name, n in counts.items())} rows to {to}")
    if wanted.push:
        typer.echo(f"uploaded to {exporting.push(to, wanted.push, private=not wanted.public)}")


def _rows(store: Store, fingerprint: str) -> Iterator[Outcome]:
    return (outcome for _, outcome in store.stream(fingerprint))


def _format(given: str, to: Path) -> exporting.Format:
    """The one that was asked for, else what the name says."""
    kind = given or {".jsonl": "jsonl", ".parquet": "parquet", "": "hf"}.get(to.suffix, "")
    known: dict[str, exporting.Format] = {"jsonl": "jsonl", "parquet": "parquet", "hf": "hf"}
    if kind not in known:
        unknown = f'no format "{given}"{did_you_mean(given, known)}' if given else f"what should {to} be"
        raise UserError(f"export: {unknown}; --format is one of {', '.join(known)}")
    return known[kind]


def _splits(given: str) -> tuple[str, ...]:
    if given != "all" and given not in SPLITS:
        raise UserError(
            f'export: no split "{given}"{did_you_mean(given, SPLITS)}; there are {", ".join(SPLITS)} and all'
        )
    return SPLITS if given == "all" else (given,)


def _step(store: Store, spec: Spec | None, name: str) -> Row:
    """The newest step of that name. UserError where it is not finished, or, with a spec, not what the spec says now."""
    steps = {row["name"]: row for row in looking.latest(store, step_names(spec))}
    if spec is not None and name not in step_names(spec):
        raise UserError(f'export: the spec has no step "{name}"{did_you_mean(name, step_names(spec))}')
    if name not in steps:
        known = did_you_mean(name, steps) or (f" (there are: {', '.join(steps)})" if steps else "")
        raise UserError(f'export: no step "{name}" in {store.path.name} yet{known}; refinery run makes it')
    waiting, done = [name], set()
    while waiting:
        current = waiting.pop()
        if current in done:
            continue
        done.add(current)
        row = steps.get(current)
        if row is None or row["status"] != "complete" or (spec is not None and not _as_written(spec, steps, row)):
            raise UserError(f"export: step {current} is not as the spec has it now; refinery run brings it up to date")
        waiting += spec.graph[current].upstream if spec is not None and current in spec.graph else []
    return steps[name]


def _as_written(spec: Spec, steps: dict[str, Row], row: Row) -> bool:
    """Whether a stored step has the spec's parameters and reads what the spec says. (Data or a model that changed under
    the same name is what `refinery plan` finds.)"""
    name = row["name"]
    if name not in spec.graph:
        return bool(row["params"] == spec.all_sources[name].model_dump(mode="json"))
    step = spec.graph[name]
    reads = [steps[upstream]["fingerprint"] if upstream in steps else None for upstream in step.upstream]
    return bool(
        row["op"] == step.op and row["params"] == step.params.model_dump(mode="json") and row["upstream"] == reads
    )

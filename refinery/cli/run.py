"""The main flow, top to bottom: refine, train, evaluate, report. Each stage skips what already stands."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from refinery import catalog, looking
from refinery.cli.interrupt import prompt_exit
from refinery.cli.printing import seconds
from refinery.cli.progress import Progress, describe
from refinery.cli.rewriters import train_rewriters
from refinery.errors import UserError, together
from refinery.fates import fates
from refinery.graph import StepResult, run_graph, step_fingerprints
from refinery.records import digest
from refinery.spec import SOURCE, Spec
from refinery.store import Store
from trainers import processes

if TYPE_CHECKING:
    from reports.data import ReportData

LIBRARIES = ("refinery", "torch", "transformers", "trl", "peft", "lm-eval", "sentence-transformers", "duckdb", "numpy")
OVERRIDE = "# --set "
"""Begins a line under the text of a run's spec in the store, for each override it was run with."""


def run_stages(spec: Spec, spec_path: Path, stages: tuple[str, ...], overrides: Sequence[str] = ()) -> None:
    """Run the named stages under the store's lock; a second run on the same store is refused in one line."""
    console = Console(stderr=True)
    if processes.count() > 1 and stages != ("train",):
        raise UserError("several processes train and do nothing else: refinery train; run the other stages in one")
    if not processes.first():
        train(spec, Store(spec.store_path, read_only=True), "", Progress(Console(quiet=True), "train", lines=False))
        return
    store = Store(spec.store_path)
    with store.run_lock():
        run_id = store.start_run(spec.name, spec_text(spec_path, overrides), digest(spec.public()), versions())
        failed: dict[str, list[str]] = {}
        with prompt_exit(going_on(spec_path), lambda: store.finish_run(run_id, "interrupted")), store.finishing(run_id):
            for stage in stages:
                started = time.monotonic()
                if stage == "report" and stage == stages[-1]:
                    store.finish_run(run_id, "complete")  # as the report will tell
                with Progress(console, stage) as progress:
                    failed[stage] = STAGE_FUNCTIONS[stage](spec, store, run_id, progress)
                if getattr(spec, stage, True) is not None:  # without train: there was nothing to be done
                    console.print(f"[bold]{stage}[/] done in {seconds(time.monotonic() - started)}", highlight=False)
            for line in data_lines(spec, store) if "refine" in stages else ():
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            if any(failed.values()):
                head, *lines = _failures(spec, failed)
                raise together(head, lines)


def _failures(spec: Spec, failed: Mapping[str, list[str]]) -> list[str]:
    """By stage what failed in it, under how many that are."""
    if spec.matrix:
        failed = {"": [line for lines in failed.values() for line in lines]}
    lines = []
    for stage, found in failed.items():
        what = {"": "parts", "train": "trainings", "evaluate": "checkpoints"}.get(stage)
        lines += [f"{len(found)} {what} failed, the others stand:"] * bool(found and what) + found
    return lines


def going_on(spec_path: Path) -> str:
    return f"interrupted: what was finished is stored; `refinery run {spec_path}` goes on from there"


def spec_text(path: Path, overrides: Sequence[str]) -> str:
    """The spec as it is run: the file, and its overrides as comments under it. A key never stands in either, as only
    ${NAME} may be given for one; an override of one is left out all the same."""
    lines = [f"{OVERRIDE}{override}" for override in overrides if "api_key" not in override]
    return "\n".join([path.read_text("utf-8").rstrip("\n"), *lines, ""])


def overrides_in(text: str) -> list[str]:
    """Those that a run's spec stands with in the store."""
    return [line.removeprefix(OVERRIDE) for line in text.splitlines() if line.startswith(OVERRIDE)]


def versions() -> dict[str, str]:
    """Installed versions of what shapes results, for provenance."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def refine(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """A line for each point of the matrix that failed; what several points share is done once."""
    failed, told = [], set()
    for point in spec.points:
        try:
            train_rewriters(point.spec, store, run_id, progress)
            results = run_graph(point.spec, store, run_id=run_id, progress=progress.step)
        except UserError as error:
            if not point.keys:
                raise
            failed.append(f"refine {point.label}: {error}")
            progress.note(f"failed: {failed[-1]}")
            continue
        for line in [*(f"{result.name}: {describe(result)}" for result in results.values()), *losses(results.values())]:
            if line not in told:
                told.add(line)
                progress.note(line)
    return failed


def losses(results: Iterable[StepResult]) -> list[str]:
    """For each step that dropped rows or gave the reference back: what share, and why. Then how many to ask again."""
    lines = []
    waiting = 0
    for result in results:
        waiting += result.transient
        lost = {
            (action, reason): n
            for (action, reason), n in result.counts.items()
            if action in ("fell_back", "dropped") and not _chooses(result.op)
        }
        if lost:
            share = sum(lost.values()) / result.rows
            lines.append(f"not refined at {result.name}: {share:.1%} of {result.rows:,} rows ({_reasons(lost)})")
    if waiting:
        lines.append(f"{waiting:,} rows failed for a reason that may pass: `refinery retry` asks them again")
    return lines


def data_lines(spec: Spec, store: Store) -> list[str]:
    """What became of the data: a line for each step that is trained on, at each point of a matrix."""
    if not spec.matrix:
        steps = looking.latest(store, [*spec.all_sources, *spec.graph])
        return [f"{each.step}: {each.words()}" for each in fates(store, spec, steps)]
    lines = []
    for point in spec.points:
        try:
            known = step_fingerprints(point.spec, store)
        except UserError:  # this point failed, which has been said
            continue
        steps = [{**row, "name": name} for name, found in known.items() if (row := store.step(found))]
        lines += [f"{point.label}: {each.step}: {each.words()}" for each in fates(store, point.spec, steps)]
    return lines


def _chooses(op: str) -> bool:
    """Whether rows that the step leaves out are what it is for."""
    return op == SOURCE or hasattr(catalog.module(catalog.OPS, op), "apply_all")


def _reasons(lost: Mapping[tuple[str, str], int]) -> str:
    by_reason: dict[str, int] = {}
    for (_, reason), n in lost.items():
        by_reason[reason] = by_reason.get(reason, 0) + n
    return ", ".join(f"{reason} {n:,}" for reason, n in sorted(by_reason.items(), key=lambda pair: -pair[1]))


def _diagnose(spec: Spec, store: Store, progress: Progress) -> None:
    """Measure what refining did, for the report; what stands is not measured again."""
    from refinery.cli.diagnose import Work

    found = {name: store.step(fingerprint) for name, fingerprint in step_fingerprints(spec, store).items()}
    steps = {name: {**row, "name": name} for name, row in found.items() if row}
    work = Work(store, spec, steps)
    if not steps.keys() & spec.graph.keys():
        return
    pairs = work.pairs(None)
    for number, (raw, refined) in enumerate(pairs):
        progress.update("diagnostics", number, len(pairs), f"{raw} and {refined}")
        work.compare(raw, refined, "", 0, 0)
    progress.update("diagnostics", len(pairs), len(pairs))


def train(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """A line for each training that failed."""
    if spec.train is None:
        progress.note("no train: in the spec, nothing to train")
        return []
    from refinery.cli.training import train_all

    return train_all(spec, store, run_id, progress)


def evaluate(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """A line for each checkpoint from elsewhere that could not be scored, and each point of the matrix."""
    if spec.evaluate is None:
        progress.note("no evaluate: in the spec, nothing to evaluate")
        return []
    from refinery.cli.scoring import evaluate_final

    failed = []
    for point in spec.points:
        try:
            failed += evaluate_final(point, store, run_id, progress)
        except UserError as error:
            if not point.keys:
                raise
            failed.append(f"evaluate {point.label}: {error}")
    return list(dict.fromkeys(failed))


def report(spec: Spec, store: Store, run_id: str, progress: Progress) -> list[str]:
    """One report; of a matrix one for each point, in a folder of its own, and a table over all of them. A line where
    there are scores and none could be compared."""
    from reports.gather import gather
    from reports.report import write

    failed, folder = [], Path(spec.store_path).parent
    for point in spec.points:
        try:
            _diagnose(point.spec, store, progress)
            data = gather(store, point.spec)
        except UserError as error:
            if not point.keys:
                raise
            failed.append(f"report {point.label}: {error}")
            continue
        paths = write(data, folder / "points" / point.folder if point.keys else folder)
        if not point.keys:
            failed += _show(data)
        for kind, path in paths.items():
            Console().print(f"{kind} report: {path}", highlight=False, soft_wrap=True)
    if spec.matrix:
        from refinery.cli.matrix_table import show_matrix

        show_matrix(spec, store, Console())
    return failed


def _show(data: ReportData) -> list[str]:
    """The table and what qualifies it. A line where weights from elsewhere are scored and nothing can be compared."""
    from reports import uncompared
    from reports.terminal import terminal_table

    out, notes = Console(), list(data.notes)
    if data.comparison is not None:
        out.print(terminal_table(data.comparison))
        notes += data.comparison.notes
    for note in dict.fromkeys(notes):
        out.print(f"note: {note}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    if data.comparison is not None or data.base is None or not data.checkpoints or data.spec.train is not None:
        return []
    cure = uncompared.way_out(data.store, uncompared.settings(data.store, data.base, data.checkpoints))
    return [f"nothing could be compared, as the notes say{': ' if cure else ''}{cure}"]


STAGE_FUNCTIONS: dict[str, Callable[[Spec, Store, str, Any], list[str]]] = {
    "refine": refine,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}

"""The main flow, top to bottom: refine, train, evaluate, report. Each stage skips what already stands."""

import importlib.metadata
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from refinery.cli.progress import Progress, describe
from refinery.errors import UserError
from refinery.graph import run_graph
from refinery.records import digest
from refinery.spec import Spec
from refinery.store import Store

LIBRARIES = ("refinery", "torch", "transformers", "trl", "peft", "lm-eval", "sentence-transformers", "duckdb", "numpy")


def run_stages(spec: Spec, spec_path: Path, stages: tuple[str, ...]) -> None:
    """Run the named stages under the store's lock; a second run on the same store is refused in one line."""
    console = Console(stderr=True)
    store = Store(spec.store_path)
    with store.run_lock():
        run_id = store.start_run(spec.name, spec_path.read_text("utf-8"), digest(spec.public()), versions())
        status = "failed"
        try:
            for stage in stages:
                started = time.monotonic()
                with Progress(console, stage) as progress:
                    STAGE_FUNCTIONS[stage](spec, store, run_id, progress)
                console.print(f"[bold]{stage}[/] done in {time.monotonic() - started:.0f} s", highlight=False)
            status = "complete"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            store.finish_run(run_id, status)


def versions() -> dict[str, str]:
    """Installed versions of what shapes results, for provenance."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def refine(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    results = run_graph(spec, store, run_id=run_id, progress=progress.step)
    for result in results.values():
        progress.note(f"{result.name}: {describe(result)}")
    _diagnose(spec, store, [results[name].fingerprint for name in spec.graph], progress)


def _diagnose(spec: Spec, store: Store, steps: list[str], progress: Progress) -> None:
    from refinery import diagnostics
    from refinery.encoder import Encoder

    try:
        encoder = diagnostics.Remembering(Encoder())
    except UserError as error:
        encoder = None
        progress.note(f"diagnostics without embeddings: {error}")
    for number, fingerprint in enumerate(steps, 1):
        diagnostics.run(store, fingerprint, encoder=encoder)
        progress.update("diagnostics", number, len(steps))


def train(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    if spec.train is None:
        return progress.note("no train: in the spec, nothing to train")
    from refinery.cli.training import Training

    Training(spec, store, run_id, progress).run()


def evaluate(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    if spec.evaluate is None:
        return progress.note("no evaluate: in the spec, nothing to evaluate")
    from refinery.cli.training import evaluate_final

    evaluate_final(spec, store, run_id, progress)


def report(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    from reports.gather import gather
    from reports.report import write
    from reports.terminal import terminal_table

    data = gather(store, spec)
    paths = write(data, Path(spec.store_path).parent)
    if data.comparison is not None:
        Console().print(terminal_table(data.comparison))
    for kind, path in paths.items():
        Console().print(f"{kind} report: {path}", highlight=False, soft_wrap=True)


STAGE_FUNCTIONS: dict[str, Callable[[Spec, Store, str, Any], None]] = {
    "refine": refine,
    "train": train,
    "evaluate": evaluate,
    "report": report,
}

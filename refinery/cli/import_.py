"""`refinery import`: evaluations made elsewhere, into a store."""

from collections.abc import Sequence
from pathlib import Path

from evals.comparable import UNKNOWN
from evals.importing import Imported, read, write
from refinery.cli.printing import add, console, print_json, table
from refinery.errors import UserError
from refinery.runs import store_in
from refinery.spec import load_spec
from refinery.store import Store


def import_results(path: Path, target: tuple[Path, Sequence[str]], name: str, seed: int | None, as_json: bool) -> None:
    """`target` is a spec or store, and what overrides the spec."""
    into, overrides = target
    if into.is_dir():
        into = store_in(into)
    found = read(path)
    if into.suffix == ".duckdb" and overrides:
        raise UserError(f"--set overrides a key of a spec, and {into} is a store")
    store = Store(into if into.suffix == ".duckdb" else load_spec(into, overrides).store_path)
    written = write(store, found, name, seed)
    if as_json:
        return print_json({"store": str(store.path), "models": written})
    out = console()
    for model in written:
        out.print(
            f"{model.name} ({model.model}): {len(model.scores)} scores, {model.n_samples:,} items", soft_wrap=True
        )
        listed = table("benchmark", "metric", "score", "items", "unknown", right=("score", "items"))
        for score in model.scores:
            unknown = [key for key, value in score.settings.items() if value == UNKNOWN]
            add(listed, score.benchmark, score.metric, f"{score.value:.3f}", f"{score.n:,}", ", ".join(unknown))
        out.print(listed)
        for note in model.notes:
            out.print(note, style="yellow")
    if any(UNKNOWN in score.settings.values() for model in written for score in model.scores):
        out.print(EXPLAINED, style="dim")
    if words := following(store, written):
        out.print(f"next: refinery compare {into} {words}", soft_wrap=True)


EXPLAINED = """unknown: settings that the tool did not write down. Of the task and its prompts
they do no harm where both turn out to have asked the same prompts; generation
(what a checkpoint's own settings change in its answers) is refused until
--accept generation, which is yours to say where you know it to be alike."""


def following(store: Store, written: Sequence[Imported]) -> str:
    """What to compare next: the base with the first model that has items of the base's benchmarks, or two models. Empty
    where no comparison could be paired."""
    paired = [model for model in written if model.n_samples]
    base = [row["fingerprint"] for row in store.checkpoints() if row["role"] == "base" and row["status"] == "complete"]
    asked = {score.benchmark for score in store.scores(checkpoint=base[-1])} if base else set()
    for model in paired:
        if shared := [score for score in model.scores if score.benchmark in asked]:
            unsure = all(score.settings.get("generation") == UNKNOWN for score in shared)
            return f"{model.name} --accept generation" if unsure else model.name
    return " ".join(model.name for model in paired[:2]) if len(paired) > 1 else ""

"""`refinery import`: evaluations made elsewhere, into a store."""

from collections.abc import Sequence
from pathlib import Path

from evals.comparable import UNKNOWN
from evals.importing import read, write
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
    first = written[0].name
    out.print(f"next: refinery compare {into} {first}", soft_wrap=True)

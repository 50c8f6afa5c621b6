"""A few rows through the whole graph, to look at before a run. Only the request cache is kept.

The graph runs on a store of its own, which is thrown away; its request cache is the real store's. The steps have the
fingerprints and the rows the ids that they have in a real run, so each request is the one that the run would make, and
the run finds it answered.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refinery import catalog, looking
from refinery.errors import UserError
from refinery.graph import StepProgress, StepResult, run_graph
from refinery.looking import Shown
from refinery.records import Outcome
from refinery.rows import GENERATION_KEYS, LIKELIHOOD_KEYS, Part, Row
from refinery.spec import SOURCE, Spec
from refinery.store import Store
from refinery.tableops import share_order

CACHES = {"generations": GENERATION_KEYS, "likelihoods": LIKELIHOOD_KEYS}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows: the one whose id starts with `row`, else `n` of the train split, the first or, by `seed`, any."""

    n: int = 5
    row: str = ""
    seed: int | None = None


class _Picked:
    """The chosen rows of one source, gathered while all of them pass."""

    def __init__(self, choice: Choice, *, by_id: bool):
        self.choice, self.by_id = choice, by_id and bool(choice.row)
        self._rows: list[tuple[int, Outcome]] = []

    def add(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        if self.by_id:
            self._rows += [pair for pair in outcomes if pair[1].example_id.startswith(self.choice.row)]
            return
        train = [pair for pair in outcomes if pair[1].example is not None and pair[1].example.split == "train"]
        self._rows = sorted([*self._rows, *train], key=self._rank)[: self.choice.n]

    def _rank(self, pair: tuple[int, Outcome]) -> Any:
        return pair[0] if self.choice.seed is None else share_order(self.choice.seed, pair[1].example_id)

    def rows(self) -> list[tuple[int, Outcome]]:
        """In the source's order. UserError where the row that was asked for is not there once, or is not refined."""
        if self.by_id:
            if len(self._rows) != 1:
                count = len(self._rows) or "no"
                raise UserError(f'{count} rows of the source have an id that starts with "{self.choice.row}"')
            outcome = self._rows[0][1]
            if outcome.example is None or outcome.example.split != "train":
                raise UserError(f"row {outcome.example_id} is not in the train split, which alone is refined")
        return sorted(self._rows, key=lambda pair: pair[0])


class _Sampled(Store):
    """A store for some rows of each source, whose request cache is another store's."""

    def __init__(self, path: Path, real: Store, choice: Choice):
        super().__init__(path)
        self.real, self.choice = real, choice
        self._picked: dict[str, _Picked] = {}

    def start_step(self, fingerprint: str, run_id: str, name: str, op: str, *rest: Any) -> None:
        if op == SOURCE:
            self._picked[fingerprint] = _Picked(self.choice, by_id=name == SOURCE)
        super().start_step(fingerprint, run_id, name, op, *rest)

    def add_outcomes(self, fingerprint: str, outcomes: Sequence[tuple[int, Outcome]], *, new: bool = False) -> None:
        if fingerprint in self._picked:
            self._picked[fingerprint].add(outcomes)
        else:
            super().add_outcomes(fingerprint, outcomes, new=new)

    def finish_step(self, fingerprint: str) -> None:
        if fingerprint in self._picked:
            super().add_outcomes(fingerprint, self._picked.pop(fingerprint).rows())
        super().finish_step(fingerprint)

    def replace_all(self, parts: Sequence[Part]) -> None:
        self.real.replace_all([(table, rows, CACHES[table]) for table, rows, _ in parts if table in CACHES])
        super().replace_all([part for part in parts if part[0] not in CACHES])

    def generations(self, digests: Sequence[str]) -> dict[str, list[Row]]:
        return self.real.generations(digests)

    def likelihoods(self, digests: Sequence[str]) -> dict[str, Row]:
        return self.real.likelihoods(digests)

    def known(self, table: str) -> np.ndarray:
        return self.real.known(table)

    def count(self, table: str) -> int:
        return self.real.count(table) if table in CACHES else super().count(table)


@dataclass(frozen=True, slots=True)
class Preview:
    rows: list[list[Shown]]
    """The way of each row of the source through every step, then those of rows of other sources that a step took or
    left, and of rows that were made."""
    asked: int
    cached: int
    failed: int
    """Requests without an answer, which are not kept."""
    tokens: int
    notes: list[str]


def preview(spec: Spec, choice: Choice, progress: Callable[[StepProgress], None] | None = None) -> Preview:
    """Raises UserError as a run does, and where no row is as `choice` wants it."""
    if not spec.graph:
        raise UserError("the spec has no graph: there is nothing to look at before training")
    real = Store(spec.store_path)
    with tempfile.TemporaryDirectory(prefix="refinery-preview-") as folder:
        store = _Sampled(Path(folder) / "preview.duckdb", real, choice)
        elsewhere = spec.model_copy(update={"store": str(store.path), "graph": _few(spec, choice.n)})
        elsewhere._home = spec.store_path.parent
        results = run_graph(elsewhere, store, progress=progress, writes=False)
        rows = _rows(spec, store)
    usage = [result.usage for result in results.values()]
    return Preview(
        rows,
        asked=sum(each.sent for each in usage),
        cached=sum(each.cached for each in usage),
        failed=sum(each.failed for each in usage),
        tokens=sum(each.prompt_tokens + each.completion_tokens for each in usage),
        notes=_notes(spec, results, choice.n),
    )


def _few(spec: Spec, n: int) -> dict[str, Any]:
    """The graph, making no more rows than are looked at, and content with as few as there are."""
    found: dict[str, Any] = {}
    for name, step in spec.graph.items():
        params: Any = step.params
        change: dict[str, Any] = {"n": min(n, params.n)} if step.op == "synthesize" else {}
        if step.op == "mix" and params.short == "refuse":
            change = {"short": "take_all"}
        params = params.model_copy(update=change)
        found[name] = step.model_copy(update={"params": params}) if change else step
    return found


def _rows(spec: Spec, store: Store) -> list[list[Shown]]:
    steps = looking.latest(store)
    order = [step["fingerprint"] for step in steps]
    sql = """SELECT example_id, min(list_position(?::VARCHAR[], step)) AS first, min(position) AS place FROM outcomes
             WHERE list_contains(?::VARCHAR[], step) GROUP BY example_id ORDER BY first, place"""
    ids = [row["example_id"] for row in store.query(sql, [order, order])]
    ways = [looking.way(store, steps, example_id) for example_id in ids]
    return [way for way in ways if any(row.op != SOURCE or row.step == SOURCE for row in way)]


def _notes(spec: Spec, results: Mapping[str, StepResult], n: int) -> list[str]:
    """What a few rows cannot show."""
    whole, notes = [], []
    for name, step in spec.graph.items():
        module: Any = catalog.module(catalog.OPS, step.op)
        needs_all = getattr(module, "needs_all", None)
        if step.op == "synthesize" and (wanted := getattr(step.params, "n", 0)) > n:
            notes.append(f"{name} makes {wanted:,} rows in a run, and was asked for {n}")
        if hasattr(module, "apply_all") or (needs_all and needs_all(step.params)):
            whole.append(name)
    if not whole:
        return notes
    verb = "decides" if len(whole) == 1 else "decide"
    count = results[SOURCE].rows
    seen = "this one" if count == 1 else "these"
    return [*notes, f"{', '.join(whole)} {verb} over all rows at once, and saw only {seen}"]

"""Read what each stage of a spec left of every benchmark, item by item, so that changes between stages are paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evals.panels import BASE, Panel, load
from refinery.spec import Spec
from refinery.store import Row, Store
from reports.data import Staged

if TYPE_CHECKING:
    from evals.stages import Matrix
    from evals.stats import Mean


def stages(store: Store, spec: Spec, base: Row | None) -> list[Staged]:
    """One for each method of a spec with stages, where the base and any stage were scored."""
    if base is None or spec.train is None or not spec.train.stages:
        return []
    from evals.stages import matrices  # needs scipy, which a run that only refines does without

    return [_staged(store, spec, base, matrix) for matrix in matrices(spec, store) if _scored(matrix)]


def _scored(matrix: Matrix) -> bool:
    return any(value is not None for row in matrix.values[1:] for value in row)


def _staged(store: Store, spec: Spec, base: Row, matrix: Matrix) -> Staged:
    assert spec.evaluate is not None
    named = [BASE, *(f"{matrix.method}@{name}" for name in matrix.rows[1:-1]), matrix.method]
    known = [row for row in store.checkpoints() if row["role"] in ("final", "stage") and row["status"] == "complete"]
    arms = {name: [row["fingerprint"] for row in known if row["name"] == name] for name in named[1:]}
    loaded = load(
        store,
        base=base["fingerprint"],
        methods={name: found for name, found in arms.items() if found},
        domain=spec.evaluate.domain,
        general=spec.evaluate.general,
    )
    seeds = {name: [row["seed"] for row in known if row["name"] == name] for name in arms}
    loaded = replace(loaded, found=[replace(panel, seeds=seeds) for panel in loaded.found])
    panels = {panel.benchmark: panel for panel in loaded.found}
    scores = [[_score(panels[b], arm) if b in panels else None for b in matrix.columns] for arm in named]
    own = {b: named[i + 1] for i, b in enumerate(spec.evaluate.domain[: len(named) - 1])}
    last = named[-1]
    learnt = [_change(panels, b, last, own[b]) if b in own and own[b] != last else None for b in matrix.columns]
    general = [panel for panel in loaded.found if panel.kind == "general"]
    return Staged(matrix, scores, learnt, _paired([(panel, last, BASE) for panel in general]))


def _change(panels: Mapping[str, Panel], benchmark: str, one: str, other: str) -> Mean | None:
    return _paired([(panels[benchmark], one, other)]) if benchmark in panels else None


def _paired(changes: Sequence[tuple[Panel, str, str]]) -> Mean | None:
    """The mean over panels of one arm less another, on the seeds that both have; None where either was not measured."""
    from evals import stats
    from evals.paired import block, rows

    if not changes or any(arm not in panel.values for panel, *arms in changes for arm in arms):
        return None
    blocks = []
    for panel, *arms in changes:
        a, b = rows(panel, arms)
        if not len(a):
            return None
        blocks.append(block(panel, a - b, 1 / len(changes)))
    return stats.crossed(blocks)


def _score(panel: Panel, arm: str) -> Mean | None:
    """One arm's mean score with its interval; None where it was not measured."""
    from evals import stats
    from evals.paired import block

    return stats.crossed([block(panel, panel.values[arm])]) if arm in panel.values else None

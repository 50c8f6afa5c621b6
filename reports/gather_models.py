"""Read what a report shows of trained models from the store: weights, scores, what was forgotten, tuning."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.comparable import judge
from evals.panels import BASE, Panel, load
from refinery.records import Score
from refinery.rewriters import located
from refinery.spec import Spec
from refinery.store import ELSEWHERE, Row, Store
from reports.data import VALIDATION, ItemShown, Trial, is_primary

if TYPE_CHECKING:
    from evals.forgetting import Comparison

ITEMS_SHOWN = 3


def checkpoints(store: Store, spec: Spec, notes: list[str]) -> tuple[Row | None, dict[str, list[Row]]]:
    """The base, and for every method of the spec its final checkpoint of each seed."""
    complete = [row for row in store.checkpoints() if row["status"] == "complete"]
    if spec.point.keys:  # of a matrix: other points have methods and seeds of the same names
        own = {cell["checkpoint"] for cell in store.cells(spec.point.id)}
        complete = [r for r in complete if r["role"] == "base" or r["method"] == ELSEWHERE or r["fingerprint"] in own]
    found: dict[str, list[Row]] = {}
    lacking: dict[str, list[str]] = {}
    for name in spec.compared:
        by_seed = {row["seed"]: row for row in complete if row["role"] == "final" and row["name"] == name}
        if name in spec.checkpoints:
            wanted = list(range(len(spec.checkpoints[name])))
        else:
            wanted = spec.train.seeds if spec.train else []
        rows = [by_seed[seed] for seed in wanted if seed in by_seed]
        if missing := [str(seed) for seed in wanted if seed not in by_seed]:
            lacking.setdefault(", ".join(missing), []).append(name)
        if rows:
            found[name] = rows
    notes += [f"There is no finished training of {', '.join(n)} with seed {which}." for which, n in lacking.items()]
    bases = {row["fingerprint"]: row for row in complete if row["role"] == "base"}
    used = next((row["base"] for rows in found.values() for row in rows if row["base"] in bases), None)
    return bases.get(used) if used else next(iter(reversed(bases.values())), None), found


def rewriters(store: Store, spec: Spec, steps: Mapping[str, str]) -> dict[str, tuple[Row, dict[str, dict[int, float]]]]:
    """Of the spec's rewriters, those that are trained: checkpoint and metrics. `steps`: their fingerprints."""
    found = {}
    for model in located(spec, steps).values() if spec.rewriters else ():
        row = store.checkpoint(Path(model.model).name)
        if row is not None and row["role"] == "rewriter":
            found[row["name"]] = (row, metrics(store, row["fingerprint"]))
    return found


def metrics(store: Store, checkpoint: str) -> dict[str, dict[int, float]]:
    """What its training logged: name to optimizer step to value."""
    found: dict[str, dict[int, float]] = {}
    for row in store.training_metrics(checkpoint):
        found.setdefault(row["name"], {})[row["step"]] = row["value"]
    return found


def seed_of(row: Row) -> Hashable:
    """What trainings of two methods are paired by: of weights from elsewhere their place in the list, which is no seed
    of a training here."""
    return (ELSEWHERE, row["seed"]) if row["method"] == ELSEWHERE else row["seed"]


def comparison(
    store: Store, spec: Spec, base: Row | None, finals: Mapping[str, Sequence[Row]], notes: list[str]
) -> tuple[list[Panel], Comparison | None]:
    """Each method with all its seeds; two of them are paired on those that both have."""
    if base is None or not finals or spec.evaluate is None:
        return [], None
    methods = {name: [row["fingerprint"] for row in rows] for name, rows in finals.items()}
    loaded = load(
        store, base=base["fingerprint"], methods=methods, domain=spec.evaluate.domain, general=spec.evaluate.general
    )
    if not any(set(panel.values) - {BASE} for panel in loaded.found):
        notes += [note if note.endswith(".") else f"{note}." for note in loaded.notes]
        return [], None
    from evals.forgetting import compare_panels  # needs scipy, which a run that only refines does without

    seeds = {name: list(map(seed_of, rows)) for name, rows in finals.items()}
    loaded = replace(loaded, found=[replace(panel, seeds=seeds) for panel in loaded.found])
    baseline = spec.report.baseline or next(iter(methods))
    return loaded.found, compare_panels(loaded, baseline=baseline, margin=spec.report.margin)


def measured(store: Store, checkpoint: str, panel: Panel) -> str:
    """The fingerprint of the evaluation that a checkpoint's row of the panel is from: the base's, or, of a score that
    is only like it, the last one's."""
    known = [score.fingerprint for score in store.scores(checkpoint, panel.benchmark) if is_primary(score)]
    like = panel.like.fingerprint if panel.like else ""
    return like if like in known else known[-1] if known else ""


def items(
    store: Store,
    comparison: Comparison,
    panels: Sequence[Panel],
    base: Row | None,
    finals: Mapping[str, Sequence[Row]],
) -> list[ItemShown]:
    """Of the general benchmark on which the baseline lost most: items that it forgot, first by the digest of their id.
    Beside its answers stand those of the method that lost least."""
    baseline = comparison.baseline
    general = [p for p in panels if p.kind == "general" and baseline in p.values]
    if not general or base is None:
        return []
    worst = min(general, key=lambda p: float(p.values[baseline].mean() - p.values[BASE].mean()))
    means = {name: method.general_mean for name, method in comparison.methods.items() if name != baseline}
    known = {name: mean.score.value for name, mean in means.items() if mean}
    shown = {BASE: base["fingerprint"], baseline: finals[baseline][0]["fingerprint"]}
    if known:
        best = max(known, key=known.__getitem__)
        shown[best] = finals[best][0]["fingerprint"]
    marks = {name: measured(store, checkpoint, worst) for name, checkpoint in shown.items()}
    sql = """SELECT b.item, b.prompt, b.target FROM samples b JOIN samples m USING (benchmark, metric, item)
             WHERE b.checkpoint = ? AND m.checkpoint = ? AND b.fingerprint = ? AND m.fingerprint = ? AND benchmark = ?
               AND b.value >= 1 AND m.value <= 0 AND b.prompt <> '' ORDER BY md5(item), item LIMIT ?"""
    compared = [shown[BASE], shown[baseline], marks[BASE], marks[baseline], worst.benchmark]
    rows = store.query(sql, [*compared, ITEMS_SHOWN])
    answers = {
        name: _answers(store, checkpoint, worst.benchmark, marks[name], rows) for name, checkpoint in shown.items()
    }
    return [
        ItemShown(
            worst.benchmark, baseline, row["prompt"], row["target"], {n: a[row["item"]] for n, a in answers.items()}
        )
        for row in rows
    ]


def _answers(store: Store, checkpoint: str, benchmark: str, marks: str, rows: Sequence[Row]) -> dict[str, str]:
    """Item to answer, for the items of `rows`, from the evaluation with the fingerprint `marks`."""
    sql = """SELECT item, response FROM samples WHERE checkpoint = ? AND benchmark = ? AND fingerprint = ?
             AND prompt <> '' AND list_contains(?::VARCHAR[], item)"""
    found = store.query(sql, [checkpoint, benchmark, marks, [row["item"] for row in rows]])
    return {row["item"]: row["response"] for row in found}


def trials(store: Store, spec: Spec, finals: Mapping[str, Sequence[Row]]) -> list[Trial]:
    """Grid points with a score on the validation split: of every tuned method those that differ from its final
    checkpoint of that seed in nothing but the tuned parameters."""
    tuned = spec.train.tune if spec.train else {}
    found = []
    like: dict[str, Score] = {}
    for row in store.checkpoints() if tuned else []:
        final = next((each for each in finals.get(row["name"], []) if each["seed"] == row["seed"]), None)
        if final is None or row["role"] not in ("tuning", "final") or _without(row, tuned) != _without(final, tuned):
            continue
        scores = _alike(store.scores(checkpoint=row["fingerprint"]), like)
        if VALIDATION in scores:
            params = {key: row["params"].get(key) for key in tuned}
            found.append(Trial(row["name"], params, row["role"] == "final", scores))
    names = list(finals)
    return sorted(found, key=lambda trial: (names.index(trial.method), _place(trial.params, tuned)))


def _alike(scores: Sequence[Score], like: dict[str, Score]) -> dict[str, Score]:
    """Benchmark to its primary score, only where it was measured as the first one was, which `like` holds."""
    kept = [s for s in reversed(scores) if is_primary(s) and not judge(s, like.setdefault(s.benchmark, s)).refused]
    return {score.benchmark: score for score in kept}


def _place(params: Mapping[str, Any], tuned: Mapping[str, Sequence[Any]]) -> list[int]:
    """Where a point stands in the grid, as the spec writes it."""
    return [list(values).index(params[key]) if params[key] in values else len(values) for key, values in tuned.items()]


def _without(row: Row, tuned: Mapping[str, Any]) -> list[Any]:
    """What made a checkpoint, but for the tuned parameters."""
    params = {key: value for key, value in row["params"].items() if key not in tuned}
    return [row["method"], row["data_fingerprint"], row["base"], params]

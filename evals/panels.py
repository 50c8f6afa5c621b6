"""From the store to arrays: the scores of several checkpoints on the same items, and only where they are comparable."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from evals.comparable import alike, counting, judge
from refinery.records import Score
from refinery.store import Store

BASE = "base"
"""The name under which the base model's values stand in a panel; no method may have it."""

Kind = Literal["domain", "general"]

FEWEST_CLUSTERS = 8
"""Groups of items fewer than these are taken for parts of the benchmark, chosen rather than sampled."""


UNGRADED = "ungraded"
"""The metric that is 1 where a judge gave no grade, so that the item has none of the others (benchmarks/_judged.py)."""

MOST_UNGRADED = 0.1
"""Share of the items up to which those without a grade are left out on all sides: of more, those that are left would be
others than the benchmark's."""


@lru_cache(maxsize=64)
def clusters(items: tuple[str, ...]) -> list[str] | None:
    """The group of each item, where items come in groups that share a context: what stands before the last "/" of its
    id (a subject of mmlu, a document that several questions are about). None where they do not."""
    labels = [item.rpartition("/")[0] or item for item in items]
    return labels if FEWEST_CLUSTERS <= len(set(labels)) < len(items) else None


@dataclass(frozen=True, slots=True)
class Panel:
    """Per-item scores of the base and of every method on one benchmark."""

    benchmark: str
    kind: Kind
    items: tuple[str, ...]
    values: dict[str, np.ndarray]
    """Method name, or BASE, to (seeds, items). The base is one greedy run, so it has one row."""
    runs: str = ""
    """Which trainings: panels of one store share them, panels of several stores do not."""
    chance: float | None = None
    """The score of guessing; None where it is not known."""
    like: Score | None = None
    """The base's score: what all were measured like; None for arrays that come from no store."""
    seeds: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    """Method to the seed of each of its rows; of a method that is not here they are 0, 1, 2 and so on."""

    def seeds_of(self, name: str) -> list[Hashable]:
        return list(self.seeds.get(name, range(len(self.values[name]))))

    def shared(self, names: Sequence[str]) -> list[list[int]]:
        """Of each of these methods the rows of the seeds that all of them have, in one order of seeds."""
        own = [self.seeds_of(name) for name in names]
        return [[seeds.index(s) for s in own[0] if all(s in each for each in own)] for seeds in own]


@dataclass(frozen=True, slots=True)
class Panels:
    found: list[Panel]
    notes: list[str]
    """What had to be left out, and why."""


def load(
    store: Store, *, base: str, methods: Mapping[str, Sequence[str]], domain: Sequence[str], general: Sequence[str]
) -> Panels:
    """Each benchmark's primary metric, item by item.

    `base` and the lists in `methods` are checkpoint fingerprints, the lists in the same order of seeds. The settings of
    the base's evaluation that counts (evals/comparable.py) decide: a method any of whose checkpoints was measured under
    others, or on other items, is left out of that benchmark with a note that names the difference.
    """
    notes: list[str] = []
    found = [_panel(store, name, "domain", {BASE: [base], **methods}, notes) for name in domain]
    found += [_panel(store, name, "general", {BASE: [base], **methods}, notes) for name in general]
    return Panels([panel for panel in found if panel is not None], notes)


def _panel(
    store: Store, benchmark: str, kind: Kind, arms: Mapping[str, Sequence[str]], notes: list[str]
) -> Panel | None:
    wanted = {checkpoint for checkpoints in arms.values() for checkpoint in checkpoints}
    scores: dict[str, list[Score]] = {}
    for score in store.scores(benchmark=benchmark):
        if score.checkpoint in wanted and score.metric == score.settings.get("primary_metric", score.metric):
            scores.setdefault(score.checkpoint, []).append(score)
    base = arms[BASE][0]
    like, said = counting(scores.get(base, []), [each for checkpoint, each in scores.items() if checkpoint != base])
    if like is None or not like.higher_is_better:
        why = "the base has no score on it" if like is None else f"of {like.metric} less is better, which no ratio says"
        notes.append(f"{benchmark} left out: {why}")
        return None
    notes += [f"{benchmark}: {said}"] if said else []
    measured = {checkpoint: alike(each, like) for checkpoint, each in scores.items()}
    values, items = _values(store, measured), _items(store, like)
    arrays = {}
    for arm, checkpoints in arms.items():
        unlike = [why for c in checkpoints if (why := _unlike(c, measured.get(c), values, like))]
        if unlike or not checkpoints:
            notes.append(f"{arm}: {benchmark} left out: {unlike[0] if unlike else 'no checkpoint'}")
        else:
            arrays[arm] = np.stack([values[c].values for c in checkpoints])
    items = _graded(benchmark, arrays, items, notes)
    chance = like.settings.get("chance")
    return Panel(benchmark, kind, items, arrays, chance=chance, like=like) if BASE in arrays else None


def _graded(benchmark: str, arrays: dict[str, np.ndarray], items: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    """The items that have a grade in every arm; others are taken out of `arrays`, and arms of too few grades too."""

    def without(arms: Sequence[str]) -> int:
        return int(np.any([np.isnan(arrays[arm]).any(0) for arm in arms], axis=0).sum()) if arms else 0

    while without(list(arrays)) > MOST_UNGRADED * len(items):
        many = without([BASE]) > MOST_UNGRADED * len(items) or len(arrays) == 1
        worst = BASE if many else max((arm for arm in arrays if arm != BASE), key=lambda arm: without([arm]))
        why = f"the judge gave no grade on {without([worst])} of {len(items)} items"
        notes.append(f"{benchmark} left out: of the base {why}" if many else f"{worst}: {benchmark} left out: {why}")
        if many:
            arrays.clear()
        else:
            del arrays[worst]
    if left := without(list(arrays)):
        notes.append(
            f"{benchmark}: {left} of {len(items)} items left out: the judge gave no grade to one model or another"
        )
        known = ~np.any([np.isnan(values).any(0) for values in arrays.values()], axis=0)
        arrays |= {arm: values[:, known] for arm, values in arrays.items()}
        return tuple(item for item, keep in zip(items, known, strict=True) if keep)
    return items


class _Answered(NamedTuple):
    """One checkpoint's values, in the order of the items' ids; NaN where a judge gave no grade."""

    asked: str
    """Digest of the ids: equal where the items are."""
    values: np.ndarray


def _values(store: Store, measured: Mapping[str, Score]) -> dict[str, _Answered]:
    """Of each checkpoint. The engine puts them in order: half a million items would be as many Python objects."""
    sql = """SELECT checkpoint, md5(string_agg(item, chr(10) ORDER BY item)) AS asked,
                    list(CASE metric WHEN $2 THEN value END ORDER BY item) AS found
             FROM samples
             WHERE benchmark = $1 AND (metric = $2 OR metric = $5 AND value >= 1) AND fingerprint = $3
               AND list_contains($4::VARCHAR[], checkpoint)
             GROUP BY checkpoint"""
    found: dict[str, _Answered] = {}
    together: dict[tuple[str, str, str], list[str]] = {}
    for checkpoint, score in measured.items():
        together.setdefault((score.benchmark, score.metric, score.fingerprint), []).append(checkpoint)
    for key, checkpoints in together.items():
        for row in store.query(sql, [*key, checkpoints, UNGRADED]):
            found[row["checkpoint"]] = _Answered(row["asked"], np.array(row["found"], dtype=float))
    return found


def _items(store: Store, like: Score) -> tuple[str, ...]:
    """The ids of the items of one score, in order, those without a grade among them."""
    sql = """SELECT item FROM samples WHERE checkpoint = ? AND benchmark = ? AND fingerprint = ?
               AND (metric = ? OR metric = ? AND value >= 1) ORDER BY item"""
    rows = store.query(sql, [like.checkpoint, like.benchmark, like.fingerprint, like.metric, UNGRADED])
    return tuple(row["item"] for row in rows)


def _unlike(checkpoint: str, score: Score | None, values: Mapping[str, _Answered], like: Score) -> str:
    """Why this checkpoint cannot be compared with the base's score `like`; "" where it can."""
    if score is None:
        return f"checkpoint {checkpoint[:12]} has no score on it"
    asked = values[like.checkpoint].asked if like.checkpoint in values else None
    same = asked is not None and checkpoint in values and values[checkpoint].asked == asked
    if refused := judge(score, like, same).words:
        return f"checkpoint {checkpoint[:12]} was measured under other settings ({refused})"
    if asked is None:
        return "no scores of single items were kept"
    return "" if same else f"checkpoint {checkpoint[:12]} was asked other items than the base"

"""Two arms, each one or several checkpoints of any store, on every benchmark that both were asked: paired, or refused.

Differences are second minus first, as fractions. Seeds are paired where both arms have them; an arm of one run without
a seed (the base, a model evaluated elsewhere) stands beside every run of the other.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evals import stats
from evals.comparable import Verdict, alike, counting, grouped, judge
from evals.movement import PREFIX
from evals.panels import MOST_UNGRADED, UNGRADED, clusters
from evals.stats import Block, Changes, Mean
from refinery.errors import UserError
from refinery.records import Score
from refinery.store import Store

MEANS = {"domain": "domain_mean", "general": "general_mean"}
"""Kind of benchmark to what its mean is called; every benchmark of a kind counts equally."""


MOVED_BY = "forward_kl"
"""Of evals/movement.py's measures, the one compared: nats a token, and lower is nearer to the base."""


def is_movement(benchmark: str) -> bool:
    return benchmark.startswith(f"{PREFIX}/")


@dataclass(frozen=True)
class Run:
    """One checkpoint."""

    store: Store
    checkpoint: str
    seed: int | None = None
    """None: no training of the spec (the base, an import)."""


@dataclass(frozen=True)
class Arm:
    name: str
    runs: list[Run]


@dataclass(frozen=True)
class Line:
    """One benchmark, or the mean of several."""

    name: str
    kind: str
    """domain, general, movement or other; mean for a mean."""
    metric: str
    first: float
    second: float
    difference: Mean
    n: int
    """Items."""
    n_clusters: int
    runs: int
    """Pairs of runs."""
    detectable: float
    """The smallest true difference that this comparison finds in four cases of five: of a benchmark at the level that
    the family leaves it, of a mean at 5%."""
    p_holm: float = math.nan
    """Adjusted over the family; NaN for means, which are no part of it."""
    changes: tuple[Changes, ...] = ()
    """Lost and gained, a pair of runs each; empty for means."""
    sign_flip: float = math.nan
    cohens_h: float = math.nan
    """NaN for graded scores."""
    cohens_d: float = math.nan
    higher_is_better: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def null(self) -> bool:
        """No difference was found: p, adjusted where it is part of a family, is above 0.05."""
        p = self.difference.p if math.isnan(self.p_holm) else self.p_holm
        return not p <= 0.05


@dataclass(frozen=True)
class Compared:
    first: str
    second: str
    lines: list[Line]
    means: dict[str, Line]
    """domain_mean and general_mean, where there are such benchmarks and all of them could be compared."""
    refused: dict[str, str] = field(default_factory=dict)
    """Benchmark to why it is not compared."""
    notes: list[str] = field(default_factory=list)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def find(self, what: str) -> Line:
        """A line by name. UserError where it was refused or is not there."""
        for line in [*self.lines, *self.means.values()]:
            if line.name == what:
                return line
        kind = next((kind for kind, name in MEANS.items() if name == what), None)
        reasons = {n: why for n, why in self.refused.items() if n == what or (kind and self.kinds.get(n) == kind)}
        if reasons:
            raise UserError(f"{what} of {self.first} and {self.second}: " + "; ".join(grouped(reasons.items())))
        known = ", ".join([line.name for line in self.lines] + list(self.means))
        raise UserError(f"{what}: nothing of that name is compared; there are: {known or 'none'}")


@dataclass(frozen=True)
class _Paired:
    first: np.ndarray
    """(seeds, items)."""
    second: np.ndarray
    items: tuple[str, ...]
    like: Score
    warnings: tuple[str, ...]


def compare(
    first: Arm, second: Arm, kinds: Mapping[str, str], *, accept: Collection[str] = (), seed: int = 0
) -> Compared:
    """`kinds`: benchmark to domain or general, in the order of the table; others that both arms have come after.
    There is no mean of a kind of which a benchmark is not scored.
    `accept`: settings that may differ. p_holm is over this comparison's benchmarks; see `adjust` for several."""
    shared, notes = _pair_runs(first, second)
    found = {run: _scores(run) for pair in shared for run in pair}
    scored = {name for scores in found.values() for name in scores}
    paired: dict[str, _Paired] = {}
    unscored = f"neither {first.name} nor {second.name} has a score on it"
    refused = {name: unscored for name in kinds if name not in scored}
    for name in [*(name for name in kinds if name in scored), *sorted(scored - set(kinds))]:
        try:
            paired[name] = _paired(name, first, second, shared, found, accept)
        except UserError as error:
            refused[name] = str(error)
    lines = [_line(name, kinds.get(name, _other(name)), each, seed) for name, each in paired.items()]
    means = {}
    for kind, called in MEANS.items():
        wanted = [name for name in kinds if kinds[name] == kind]
        falling = [name for name in wanted if name in paired and not paired[name].like.higher_is_better]
        if falling:
            notes.append(f"no {called}: of {falling[0]} less is better")
        elif wanted and all(name in paired for name in wanted):
            means[called] = _mean(called, [paired[name] for name in wanted], seed)
        elif paired:
            missing = [name for name in wanted if name not in paired]
            notes += [f"no {called}: not compared on {_listed(missing)}"] * bool(missing)
    (adjusted,) = adjust([Compared(first.name, second.name, lines, means, refused, notes, kinds)])
    return adjusted


def _other(name: str) -> str:
    return "movement" if is_movement(name) else "other"


def adjust(family: Sequence[Compared]) -> list[Compared]:
    """Holm over every benchmark of every comparison in the family. `detectable` is of Bonferroni's level, at which Holm
    finds no less."""
    p_values = stats.holm([line.difference.p for each in family for line in each.lines])
    at = iter(p_values)

    def adjusted(line: Line) -> Line:
        least = stats.detectable_by(line.difference, confidence=1 - 0.05 / len(p_values))
        return replace(line, p_holm=next(at), detectable=least)

    return [replace(each, lines=list(map(adjusted, each.lines))) for each in family]


def _pair_runs(first: Arm, second: Arm) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Pairs of runs, and what to say about them."""
    for arm in (first, second):
        if not arm.runs:
            raise UserError(f"{arm.name} has no finished checkpoint")
    seeded = [[run for run in arm.runs if run.seed is not None] for arm in (first, second)]
    if all(seeded):
        by_seed = [{run.seed: run for run in runs} for runs in seeded]
        seeds = sorted(set(by_seed[0]) & set(by_seed[1]), key=str)
        if seeds:
            alone = sorted((set(by_seed[0]) ^ set(by_seed[1])), key=str)
            notes = [f"compared on the seeds that both have: {_listed(seeds)}"] if alone else []
            return [(by_seed[0][s], by_seed[1][s]) for s in seeds], notes
        n = min(map(len, seeded))
        notes = ["no seed is common to both: runs are paired in order"]
        return list(zip(seeded[0][:n], seeded[1][:n], strict=True)), notes
    n = max(len(first.runs), len(second.runs))
    longer = [arm.runs if len(arm.runs) == n else arm.runs[-1:] * n for arm in (first, second)]
    return list(zip(*longer, strict=True)), []


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _scores(run: Run) -> dict[str, list[Score]]:
    """Benchmark to its primary metric, once for each settings it was measured under, oldest first. Of how far a model
    moved, which has many measures, the one that forgetting goes with; the weights have no items to pair."""
    found: dict[str, list[Score]] = {}
    for score in run.store.scores(checkpoint=run.checkpoint):
        main = MOVED_BY if is_movement(score.benchmark) else score.settings.get("primary_metric", score.metric)
        if score.metric == main:
            found.setdefault(score.benchmark, []).append(score)
    return found


def _paired(
    name: str,
    first: Arm,
    second: Arm,
    shared: Sequence[tuple[Run, Run]],
    found: Mapping[Run, Mapping[str, list[Score]]],
    accept: Collection[str],
) -> _Paired:
    """UserError says why they cannot be compared."""
    runs = list(dict.fromkeys([run for run, _ in shared] + [run for _, run in shared]))
    for arm, side in ((first, 0), (second, 1)):
        if any(name not in found[pair[side]] for pair in shared):
            raise UserError(f"{arm.name} has no score on it")
    others = [found[run][name] for run in dict.fromkeys(run for _, run in shared)]
    like, older = counting(found[shared[0][0]][name], others)
    assert like is not None
    reference = _items(shared[0][0], like)
    rows: dict[Run, dict[str, float]] = {}
    said = [older] if older else []
    for run in runs:
        score = alike(found[run][name], like)
        items = reference if run is shared[0][0] else _items(run, score)
        called = first.name if any(run is pair[0] for pair in shared) else second.name
        if not (items and reference):
            raise UserError(f"{called if reference else first.name} kept no scores of single items")
        verdict = _verdict(score, like, items, reference).without(accept)
        if verdict.refused:
            raise UserError(f"not comparable: {called} has {verdict.words} ({first.name})")
        if set(items) != set(reference):
            raise UserError(f"{called} was asked other items: {_apart(items, reference)}")
        said += [words for words in verdict.warnings.values() if words not in said]
        rows[run] = {item: value for item, (value, _) in items.items()}
    order = tuple(item for item in sorted(reference) if not any(math.isnan(values[item]) for values in rows.values()))
    if left := len(reference) - len(order):
        words = f"on {left} of {len(reference)} items the judge gave no grade in one run or another"
        if left > MOST_UNGRADED * len(reference):
            raise UserError(words)
        said.append(f"{words}, which are left out")
    sides = [np.array([[rows[pair[side]][item] for item in order] for pair in shared]) for side in (0, 1)]
    return _Paired(sides[0], sides[1], order, like, tuple(said))


def _items(run: Run, score: Score) -> dict[str, tuple[float, str]]:
    """Item to its value, NaN where a judge gave no grade, and target."""
    sql = """SELECT item, CASE metric WHEN $3 THEN value ELSE 'nan' END AS value, target FROM samples
             WHERE checkpoint = $1 AND benchmark = $2 AND (metric = $3 OR metric = $5 AND value >= 1)
               AND fingerprint = $4"""
    rows = run.store.query(sql, [score.checkpoint, score.benchmark, score.metric, score.fingerprint, UNGRADED])
    return {row["item"]: (row["value"], row["target"]) for row in rows}


def _verdict(
    score: Score, like: Score, items: Mapping[str, tuple[float, str]], reference: Mapping[str, tuple[float, str]]
) -> Verdict:
    targets = [{i: target for i, (value, target) in each.items() if value == value} for each in (items, reference)]
    both = targets[0].keys() & targets[1].keys()
    same = items.keys() == reference.keys() and all(targets[0][i] == targets[1][i] for i in both)
    return judge(score, like, same)


def _apart(items: Mapping[str, object], reference: Mapping[str, object]) -> str:
    both = len(set(items) & set(reference))
    return f"{both} of {len(reference)} prompts are the same, {len(set(items) - set(reference))} are others"


def _block(paired: _Paired, weight: float = 1.0) -> Block:
    values, labels = paired.second - paired.first, clusters(paired.items)
    return Block(values, items=paired.like.benchmark, weight=weight, clusters=labels)


def _line(name: str, kind: str, paired: _Paired, seed: int) -> Line:
    first, second, labels = paired.first, paired.second, clusters(paired.items)
    found = stats.crossed([_block(paired)], seed=seed)
    better = 1 if paired.like.higher_is_better else -1
    binary = bool(np.isin([first, second], (0.0, 1.0)).all())
    return Line(
        name=name,
        kind=kind,
        metric=paired.like.metric,
        first=float(first.mean()),
        second=float(second.mean()),
        difference=found,
        n=first.shape[1],
        n_clusters=len(set(labels)) if labels else first.shape[1],
        runs=len(first),
        detectable=stats.detectable_by(found),
        changes=tuple(stats.changes(better * a, better * b) for a, b in zip(first, second, strict=True)),
        sign_flip=stats.sign_flip(second - first, labels, seed=seed),
        cohens_h=stats.cohens_h(float(first.mean()), float(second.mean())) if binary else math.nan,
        cohens_d=stats.cohens_d((second - first).mean(0)),
        higher_is_better=paired.like.higher_is_better,
        warnings=paired.warnings,
    )


def _mean(name: str, paired: Sequence[_Paired], seed: int) -> Line:
    found = stats.crossed([_block(each, 1 / len(paired)) for each in paired], seed=seed)
    return Line(
        name=name,
        kind="mean",
        metric="mean",
        first=float(np.mean([each.first.mean() for each in paired])),
        second=float(np.mean([each.second.mean() for each in paired])),
        difference=found,
        n=sum(len(each.items) for each in paired),
        n_clusters=sum(_block(each).drawn().shape[1] for each in paired),
        runs=len(paired[0].first),
        detectable=stats.detectable_by(found),
    )

"""How the base and each method answered: the form of written answers, and how sure they were of ranked choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from refinery.records import Score
from refinery.store import Row
from reports import table
from reports.blocks import Block, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData

WORDS = {"read": "Answer found", "cut": "Cut at the limit", "empty": "Empty", "refused": "Refused"}
CHOICES = {"ece": "ECE", "brier": "Brier", "confidence": "Confidence"}
SHARES = (*WORDS, "confidence")

_SPANS = "Brackets hold the 95% interval of a single run; of several trainings it is the mean, lowest and highest."
_FOUND = (
    " Answer found: the benchmark’s rule found something to judge, right or wrong. A score that falls with it was lost "
    "to the form of the answers, not, or not only, to what is known."
)
_WORDS = f"Shares of the answers. {_SPANS}"
_CHOICES = (
    "ECE: expected calibration error of the choice that was taken, 15 bins; Brier: squared error over all choices, 0 "
    f"to 2; both of the likelihoods’ softmax over the choices, and less is better. {_SPANS} A few items give some ECE "
    "even to a model that is perfectly calibrated."
)


@dataclass(frozen=True)
class _Shown:
    """One run's value with its interval, or the mean of several with the lowest and the highest."""

    value: float
    low: float
    high: float
    several: bool = False


def render(data: ReportData) -> list[Block]:
    if data.base is None or data.spec.evaluate is None:
        return []
    arms = {"base": [data.base]} | {name: data.checkpoints[name] for name in sorted(data.checkpoints, key=data.series)}
    benchmarks = [*data.spec.evaluate.domain, *data.spec.evaluate.general]
    blocks: list[Block] = []
    for title, metrics, note in (
        ("The form of written answers", WORDS, _WORDS),
        ("Sureness of choices", CHOICES, _CHOICES),
    ):
        rows = [row for name in benchmarks for row in _rows(data, name, arms, metrics)]
        if rows:
            known = [metric for metric in metrics if any(metric in found for _, _, found in rows)]
            columns = [Column("Benchmark and model"), Column("Score", "right")]
            columns += [Column(metrics[metric], "right") for metric in known]
            cells = [[who, score, *(_cell(metric, found) for metric in known)] for who, score, found in rows]
            note += _FOUND if "read" in known else ""
            blocks += [Heading(title, 3), Table(columns, cells, note=note)]
    if not blocks:
        return []
    lead = "Beside what was scored, how it was answered: a broken form and a false sureness cost points of their own."
    return [Heading("How they answered"), Paragraph(lead), *blocks]


def _rows(
    data: ReportData, benchmark: str, arms: Mapping[str, Sequence[Row]], metrics: Mapping[str, str]
) -> list[tuple[Text, Text, dict[str, _Shown]]]:
    """(name, score, what is known) of the base and of each method that was measured as the base was."""
    from evals.answers import PREFIX  # needs scipy, which a run that only refines does without

    found: list[tuple[Text, Text, dict[str, _Shown]]] = []
    like = next((p.like.fingerprint for p in data.panels if p.benchmark == benchmark and p.like), "")
    for name, runs in arms.items():
        scores = [data.store.scores(run["fingerprint"], f"{PREFIX}/{benchmark}") for run in runs]
        like = like or next((score.fingerprint for each in scores for score in reversed(each)), "")
        alike = [{s.metric: s for s in each if s.fingerprint == like} for each in scores]
        shown = {m: s for m in metrics if (s := _over([each[m] for each in alike if m in each], len(runs)))}
        if shown:
            found.append(([Mono(benchmark), " ", Mono(name)], _score(data, name, benchmark), shown))
    return found


def _over(scores: Sequence[Score], runs: int) -> _Shown | None:
    """One training's value and interval; of several their mean and span. None where one of them lacks it."""
    if not scores or len(scores) < runs:
        return None
    if len(scores) == 1:
        return _Shown(scores[0].value, scores[0].low, scores[0].high)
    values = [score.value for score in scores]
    return _Shown(float(np.mean(values)), min(values), max(values), True)


def _score(data: ReportData, name: str, benchmark: str) -> Text:
    """What it scored, as the other sections say it."""
    methods = data.comparison.methods if data.comparison else {}
    for each in methods.values():
        effect = {**each.domain, **each.general}.get(benchmark)
        if effect is not None and name in ("base", each.name):
            return table.score_interval(effect.base if name == "base" else effect.score)
    return table.ABSENT


def _cell(metric: str, found: Mapping[str, _Shown]) -> Text:
    if metric not in found:
        return "unknown"
    shown = found[metric]
    if metric in SHARES and not shown.several:
        return table.score_interval(shown)
    share = metric in SHARES
    mean, low, high = (
        table.percent(each) if share else table.fixed(each, 3) for each in (shown.value, shown.low, shown.high)
    )
    if not shown.several:
        return f"{mean} [{low}, {high}]"
    return mean if low == high else f"{mean} ({low.removesuffix('%')} to {high.removesuffix('%')})"

"""The verdict in three sentences with their evidence, the comparison behind it, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports import table
from reports.blocks import Block, Bullets, Details, Heading, Paragraph, See, Span, Strong, Text
from reports.data import ReportData
from reports.terminal import comparison_table, in_order

if TYPE_CHECKING:
    from evals.forgetting import Comparison, Effect
    from evals.paired import Estimate

LAB = (
    "These figures come from the lab, a small made-up world with a model of about a million parameters. They show that "
    "the mechanics work and how effects order themselves, never what a 7B model would score."
)


@dataclass(frozen=True)
class Measured:
    """A method that has both means, so that a verdict can be given."""

    name: str
    domain: Effect
    general: Effect
    matches_best: bool


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = [Heading("Summary")]
    comparison = data.comparison
    if comparison is None:
        return [*blocks, *_without_comparison(data), *_cautions(data)]
    measured = in_plane(comparison)
    blocks += verdict(comparison, measured)
    blocks += _cautions(data)
    return [*blocks, comparison_table(comparison)]


def in_plane(comparison: Comparison) -> list[Measured]:
    methods = [comparison.methods[name] for name in in_order(comparison)]
    return [
        Measured(method.name, method.domain_mean, method.general_mean, method.matches_best_domain)
        for method in methods
        if method.domain_mean and method.general_mean
    ]


def _without_comparison(data: ReportData) -> list[Block]:
    """What can be said of the rows, and why nothing is said of models."""
    from reports.sections.funnel import outcome

    why = "nothing was trained" if not data.checkpoints else "no score of a method can be compared with one of the base"
    if data.spec.train is not None and not data.checkpoints:
        why = "no training is finished yet"
    blocks: list[Block] = [outcome(data, data.final)] if data.final else []
    return [*blocks, Paragraph(f"There is no comparison of models: {why}.")]


def _cautions(data: ReportData) -> list[Block]:
    """What would mislead if it were missed."""
    found = [LAB] if data.lab else []
    found += data.notes
    if data.comparison:
        found += _few({name: data.comparison.methods[name].n_seeds for name in in_order(data.comparison)})
        found += [note if note.endswith(".") else f"{note}." for note in data.comparison.notes]
    return [Paragraph(text, "warning") for text in found]


def _few(trainings: Mapping[str, int]) -> list[str]:
    """What so few trainings of a method cannot show, from how many each has."""
    alone = [name for name, n in trainings.items() if n == 1]
    two = [name for name, n in trainings.items() if n == 2]
    found = []
    if alone:
        whose = "One training per method" if len(alone) == len(trainings) else f"One training of {', '.join(alone)}"
        found.append(f"{whose}: the intervals speak of test items alone, not of another seed.")
    if two:
        whose = "per method" if len(two) == len(trainings) else f"of {', '.join(two)}"
        found.append(f"2 trainings {whose} say little about the spread between seeds.")
    return found


# ---- the verdict


def verdict(comparison: Comparison, measured: list[Measured]) -> list[Block]:
    """What was learnt, what was forgotten and how sure that is, a sentence each; then one sentence a method."""
    if not measured:
        return []
    each = Bullets([_sentence(comparison, method) for method in measured])
    matching = [method for method in measured if method.matches_best]
    if len(measured) < 2 or not matching:
        return [each]
    best = next(method for method in matching if method.name == comparison.best_general)
    baseline = next((method for method in measured if method.name == comparison.baseline), None)
    sentences = [
        _learnt(comparison, best, len(matching), any(method.domain.vs_base.low > 0 for method in measured)),
        _forgotten(comparison, best, baseline, len(matching)),
        _sure(comparison, best),
    ]
    return [Bullets(sentences, "lead"), Details("Each method in a sentence", [each], open=len(measured) <= 4)]


def _learnt(comparison: Comparison, best: Measured, matching: int, gained: bool) -> Text:
    """The method that lost least among those that provably match the best domain mean."""
    margin = table.margin_points(comparison.margin)
    if not gained:
        return ["No method shows a gain on the domain: ", Strong(best.name), f" {_gains(best.domain)} (",
                See("Gain against loss"), ")."]  # fmt: skip
    if matching == 1:
        rest = f", and no other method is provably within {margin} points of its domain accuracy"
    else:
        rest = f", one of the {matching} methods that are provably within {margin} points of the best domain accuracy"
    return [Strong(best.name), f" {_gains(best.domain)}{rest} (", See("Gain against loss"), ")."]


def _forgotten(comparison: Comparison, best: Measured, baseline: Measured | None, matching: int) -> Text:
    changes = [method.vs_best_general for method in comparison.methods.values() if method.name != best.name]
    close = sum(change.high >= 0 for change in changes if change)
    which = " forgets least of those: it " if matching > 1 else " "
    if close:
        others = "one other" if close == 1 else f"{close} others"
        which = f" has the highest general mean of those, and {others} cannot be told from it: it "
    text: list[Span] = [Strong(best.name), f"{which}{_keeps(best.general)}"]
    if baseline and baseline.name != best.name:
        text += ["; ", Strong(baseline.name), f", the baseline, {_keeps(baseline.general)}", *_difference(best)]
    return [*text, " (", See("Forgetting per benchmark"), ")."]


def _sure(comparison: Comparison, best: Measured) -> Text:
    """How much data stands behind it, and where the best method looks worst."""
    general, domain = best.general.vs_base, best.domain.vs_base
    alike = len({method.n_seeds for method in comparison.methods.values()}) == 1
    whose = "a method" if alike else f"of {best.name}"
    text = (
        f"This rests on {table.counted(general.n_seeds, 'training')} {whose}, {table.count(domain.n_items)} domain "
        f"and {table.count(general.n_items)} general items, "
    )
    if general.low == general.high:
        text += "of which none changed: an interval without width that says little of other items"
    else:
        text += f"by which its general change is known to {table.half_width(general)} points"
    own = comparison.methods[best.name].general
    if len(own) > 1:
        name = min(own, key=lambda benchmark: own[benchmark].vs_base.value)
        text += f"; the worst of its {len(own)} general benchmarks is {name} ({_points(own[name].vs_base)} points)"
    return [f"{text} (", See("How sure this is"), ")."]


def _points(change: Estimate) -> str:
    return table.points_interval(change)


def _difference(best: Measured) -> list[Span]:
    """Method against baseline in general skill, as the interval allows it to be said."""
    change = best.general.vs_baseline
    if not change.estimable:
        return []
    if change.low > 0 or change.high < 0:
        kept = f" keeps {table.amount(change)} points {'more' if change.value > 0 else 'less'} of it"
        return [", so that ", Strong(best.name), kept]
    return [f"; their general skill cannot be told apart ({table.points_interval(change)} points)"]


def _gains(effect: Effect) -> str:
    change = effect.vs_base
    if change.low > 0:
        return f"gains {table.amount(change)} points on the domain"
    if change.high < 0:
        return f"loses {table.amount(change)} points on the domain"
    return f"shows no gain on the domain ({table.points_interval(change)} points)"


def _keeps(effect: Effect) -> str:
    change = effect.vs_base
    if change.low > 0:
        return f"gains {table.amount(change)} points of general skill"
    if change.high < 0:
        return f"loses {table.amount(change)} points of general skill"
    verb = "keeps general skill" if effect.within_margin else "shows no sure loss of general skill"
    return f"{verb} ({table.points_interval(change)} points)"


def _sentence(comparison: Comparison, method: Measured) -> Text:
    """Domain, general skill, and the verdict that the interval allows."""
    domain, general = method.domain, method.general
    margin = table.margin_points(comparison.margin)
    text: list[Span] = [
        Strong(method.name),
        f": domain {table.score_interval(domain.score)}, {table.points_interval(domain.vs_base)} points against the "
        f"base; general {table.score_interval(general.score)}, {table.points_interval(general.vs_base)} points. ",
        _class(general.vs_base, general.within_margin, margin),
    ]
    if method.name != comparison.baseline:
        text.append(_recovery(general.damage_recovered, comparison.baseline))
    return text


def _class(change: Estimate, within: bool, margin: str) -> str:
    """What the interval of a general change allows to be said."""
    if change.low > 0:
        return "General skill rose."
    if within and change.high >= 0:
        return f"General skill is kept: a loss of {margin} points is ruled out."
    if within:
        return f"It forgets a little, provably less than the margin of {margin} points."
    if change.high < -float(margin) / 100:
        return f"It forgets, provably more than the margin of {margin} points."
    if change.high < 0:
        return "It forgets."
    return f"Undecided: neither no loss nor one of {margin} points is ruled out."


def _recovery(share: Estimate, baseline: str) -> str:
    if not share.estimable:
        reason = share.note.removeprefix(f"{table.NOT_ESTIMABLE}: ")
        return f" The share of {baseline}’s damage that it recovers is {table.NOT_ESTIMABLE}: {reason}."
    return f" It recovers {table.ratio_interval(share)} of what {baseline} lost."

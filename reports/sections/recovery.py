"""How much of the baseline's damage each method did not do, and the other ratios that papers call improvement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from reports import plots_diagnostics, table
from reports.blocks import Block, Bullets, Column, Figure, Heading, Mono, Paragraph, Span, Table, Text
from reports.data import ReportData
from reports.terminal import in_order

if TYPE_CHECKING:
    from evals.forgetting import Comparison, Effect, MethodResult
    from evals.paired import Estimate


def render(data: ReportData) -> list[Block]:
    comparison = data.comparison
    if comparison is None or not (set(comparison.methods) - {comparison.baseline}):
        return []
    methods = [comparison.methods[name] for name in in_order(comparison)]
    blocks: list[Block] = [Heading("Recovery")]
    blocks += [_figure(comparison, methods)] if comparison.baseline in comparison.methods else []
    return [*blocks, *_ratios(methods, comparison.baseline)]


def _figure(comparison: Comparison, methods: list[MethodResult]) -> Figure | Table:
    """Damage recovered, over all general benchmarks and on each; the table alone where no mean is estimable."""
    others = [method for method in methods if method.name != comparison.baseline]
    rows: list[list[Text]] = []
    estimates: dict[str, Estimate] = {}
    for method in others:
        mean = method.general_mean
        if mean and mean.damage_recovered.estimable:
            found = mean.damage_recovered
            estimates[method.name] = found
        cells: list[Text] = [Mono(method.name), _share(mean)]
        rows.append([*cells, *(_share(method.general.get(name)) for name in _benchmarks(methods))])
    lines = [
        plots_diagnostics.Line(name, refined=dot)
        for name, dot in zip(estimates, _dots([*estimates.values()]), strict=True)
    ]
    title = f"Share of {comparison.baseline}’s damage that a method did not do"
    words = (
        f"Damage recovered, (M − S) / (B − S), on the general mean: 0 is as bad as {comparison.baseline}, 1 as good as "
        "the base."
    )
    if any(line.refined and line.refined.goes_on for line in lines):
        words += " An arrow: the interval goes on, to where the table says."
    drawn = (
        plots_diagnostics.dots("recovery", title, words, lines, "share of the damage recovered", 1) if lines else None
    )
    columns = [Column("Method"), Column("General mean", "right"), *(Column(b, "right") for b in _benchmarks(methods))]
    note = (
        f"{table.NOT_ESTIMABLE.capitalize()}: {comparison.baseline} did no damage there that can be told from chance, "
        "so that a share of it would be noise."
    )
    data = Table(columns, rows, note=note, name="recovery")
    return Figure(title, words, drawn, data, words) if lines else replace(data, caption=title)


def _dots(found: Sequence[Estimate]) -> list[plots_diagnostics.Dot]:
    """No interval reaches further than a picture can show, which holds every mark itself with room beside it."""
    first = min([-2.0, *(each.value - 0.5 for each in found)])
    last = max([3.0, *(each.value + 0.5 for each in found)])
    return [
        plots_diagnostics.Dot(
            each.value,
            max(each.low, first),
            min(each.high, last),
            "<" * int(each.low < first) + ">" * int(each.high > last),
        )
        for each in found
    ]


def _share(effect: Effect | None) -> str:
    if effect is None:
        return table.ABSENT
    found = effect.damage_recovered
    return table.ratio_interval(found) if found.estimable else table.NOT_ESTIMABLE


def _benchmarks(methods: list[MethodResult]) -> list[str]:
    return list(dict.fromkeys(name for method in methods for name in method.general))


# ---- ratios


_FOUR = (
    "With base B, baseline S and method M: retention is M / B; damage recovered is (M − S) / (B − S); relative gain is "
    "the mean over benchmarks of (M − S) / S; pooled gain is the same as a ratio of sums. Papers call several of these "
    "“improvement”. Intervals of ratios are Fieller’s."
)


def _ratios(methods: list[MethodResult], baseline: str) -> list[Block]:
    """A table for each mean, and every reason why a ratio is not estimable."""
    blocks: list[Block] = [Paragraph(_FOUR, "note")]
    why: dict[str, list[str]] = {}
    for kind, caption in (("general", "General mean"), ("domain", "Domain mean")):
        named = {
            "Retention": "retention",
            "Damage recovered": "damage_recovered",
            f"Against {baseline}, points": "vs_baseline",
            "Relative gain": "relative_gain",
            "Pooled gain": "pooled_gain",
        }
        if kind == "domain":
            del named["Damage recovered"]
        rows: list[list[Text]] = []
        for method in methods:
            if effect := getattr(method, f"{kind}_mean"):
                cells = [_ratio(method, effect, field, baseline) for field in named.values()]
                rows.append([Mono(method.name), *cells])
                for title, field in named.items():
                    estimate = getattr(effect, field)
                    if not estimate.estimable and (field == "retention" or method.name != baseline):
                        reason = f"{title}, {caption.lower()}: {estimate.note or table.NOT_ESTIMABLE}"
                        why.setdefault(reason, []).append(method.name)
        columns = [Column("Method"), *(Column(title, "right") for title in named)]
        blocks.append(Table(columns, rows, caption))
    items: list[Text] = [[f"{reason} (", *_listed(names), ")."] for reason, names in why.items()]
    return [*blocks, *([Bullets(items)] if items else [])]


def _ratio(method: MethodResult, effect: Effect, field: str, baseline: str) -> str:
    estimate = getattr(effect, field)
    if method.name == baseline and field != "retention":
        return "the baseline"
    if not estimate.estimable:
        return table.NOT_ESTIMABLE
    return table.points_interval(estimate) if field == "vs_baseline" else table.ratio_interval(estimate)


def _listed(names: list[str]) -> list[Span]:
    return [span for number, name in enumerate(names) for span in ((", ", Mono(name)) if number else (Mono(name),))]

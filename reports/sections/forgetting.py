"""Benchmark by benchmark: what each method changed against the base, and how sure that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports import plots, table
from reports.blocks import Block, Column, Details, Figure, Heading, Mono, Paragraph, Span, Strong, Table, Text
from reports.data import ReportData
from reports.sections.pareto import span
from reports.terminal import in_order

if TYPE_CHECKING:
    from evals.forgetting import Effect, MethodResult


def render(data: ReportData) -> list[Block]:
    comparison = data.comparison
    if comparison is None:
        return []
    methods = [comparison.methods[name] for name in in_order(comparison)]
    blocks: list[Block] = [Heading("Forgetting per benchmark"), _figure(data, methods, comparison.margin)]
    blocks += [Heading("How sure this is", 3), *_certainty(methods)]
    return blocks


# ---- changes


def _figure(data: ReportData, methods: list[MethodResult], margin: float) -> Figure:
    rows = []
    for kind, words in (("domain", "domain: should rise"), ("general", "general: should stay")):
        for benchmark in _benchmarks(methods, kind):
            effects = [(data.series(m.name), getattr(m, kind).get(benchmark)) for m in methods]
            rows.append(plots.Dots(benchmark, [(i, span(e.vs_base)) for i, e in effects if e], words))
    series = {method.name: data.series(method.name) for method in methods}
    title = "Change against the base, per benchmark"
    description = "A row for each benchmark, a mark for each method: the change of its score against the base."
    caption = (
        "Marks are means over seeds, lines 95% intervals over seeds and items. In the shaded band the change is less "
        f"than the margin of {table.margin_points(margin)} points: a general score is kept where its whole line lies "
        "right of the band’s left edge."
    )
    chart = plots.dots("forgetting", title, description, rows, series, 100 * margin)
    return Figure(title, description, chart, _changes(methods), caption)


def _benchmarks(methods: list[MethodResult], kind: str) -> list[str]:
    return list(dict.fromkeys(name for method in methods for name in getattr(method, kind)))


def _changes(methods: list[MethodResult]) -> Table:
    titles = ["Benchmark and model", "Score", "Change, points", "Lost / gained items", "Holm p", "Kept", "n"]
    columns = [Column(title, "left" if number == 0 else "right") for number, title in enumerate(titles)]
    rows: list[list[Text]] = []
    for kind in ("domain", "general"):
        benchmarks = _benchmarks(methods, kind)
        for benchmark in benchmarks:
            effects = {m.name: effect for m in methods if (effect := getattr(m, kind).get(benchmark))}
            rows += _block(Mono(benchmark), effects, kind == "general")
        means = {m.name: effect for m in methods if (effect := getattr(m, f"{kind}_mean"))}
        if len(benchmarks) > 1 and means:
            rows += _block(Strong(f"{kind} mean"), means, kind == "general")
    return Table(columns, rows, note=_NOTE)


def _block(title: Span, effects: dict[str, Effect], general: bool) -> list[list[Text]]:
    """The base, then each method, on one benchmark."""
    base = next(iter(effects.values())).base
    first: list[Text] = [[title, " base"], table.score_interval(base), "", "", "", "", table.count(base.n_items)]
    return [first, *(_change([title, " ", Mono(name)], effect, general) for name, effect in effects.items())]


_NOTE = (
    "Lost / gained: items that the base had right and a run did not, and the other way round, run by run. Holm p: of "
    "no change, adjusted over all methods and general benchmarks. Kept: the interval excludes a loss of the margin or "
    "more. n: items, and trainings behind the score."
)


def _change(name: Text, effect: Effect, general: bool) -> list[Text]:
    change = effect.vs_base
    return [
        name,
        table.score_interval(effect.score),
        table.points_interval(change),
        "; ".join(_runs(effect)[0]),
        table.p_value(effect.p_holm) if table.known(effect.p_holm) else "",
        ("yes" if effect.within_margin else "not shown") if general else "",
        f"{table.count(change.n_items)} × {change.n_seeds}",
    ]


# ---- how sure


def _certainty(methods: list[MethodResult]) -> list[Block]:
    """How wide the intervals are, so that "no loss shown" is not read as "no loss"."""
    rows: list[list[Text]] = []
    for method in methods:
        effect, best = method.general_mean, method.vs_best_domain
        if effect is None:
            continue
        against = table.ABSENT if best is None else "the best" if best.note else table.points_interval(best)
        rows.append(
            [
                Mono(method.name),
                table.half_width(effect.vs_base),
                table.p_value(effect.vs_base.p),
                table.points(effect.vs_base.detectable).lstrip("+") if effect.vs_base.p > 0.05 else "",
                against,
                "yes" if method.matches_best_domain else "not shown",
            ]
        )
    columns = [Column("Method"), Column("General change known to, points", "right"), Column("p of no change", "right")]
    columns += [Column("Would find, points", "right")]
    columns += [Column("Domain against the best, points", "right"), Column("Matches the best", "right")]
    note = (
        "Would find: where no change was found, the smallest true one that would be, at 5% in four cases of five. "
        "Matches the best: the interval excludes a domain mean lower than the best by the margin or more."
    )
    blocks: list[Block] = [Table(columns, rows, note=note), *_centred(methods)]
    return [*blocks, Details("Exact tests of single trainings (McNemar)", [_mcnemar(methods)])]


def _centred(methods: list[MethodResult]) -> list[Block]:
    """The general change on the scale from guessing to perfect, where a benchmark can be guessed."""
    known = [(method.name, method.general_centred.vs_base) for method in methods if method.general_centred]
    if not known:
        return []
    text: list[Span] = ["The general change with every benchmark centred on chance (0 guessing, 100 perfect), points: "]
    for number, (name, change) in enumerate(known):
        text += ["; " if number else "", Mono(name), f" {table.points_interval(change)}"]
    return [Paragraph([*text, "."])]


def _mcnemar(methods: list[MethodResult]) -> Table:
    rows: list[list[Text]] = [
        [[Mono(benchmark), " ", Mono(method.name)], *("; ".join(each) for each in _runs(effect))]
        for method in methods
        for benchmark, effect in {**method.domain, **method.general}.items()
    ]
    columns = [Column("Benchmark and method"), Column("Lost / gained items", "right"), Column("p", "right")]
    return Table(columns, rows, note="Each training against the base, on the same items; one entry a seed.")


def _runs(effect: Effect) -> tuple[list[str], list[str]]:
    """Discordant items and exact p, run by run."""
    pairs = [f"{lost} / {gained}" for lost, gained in zip(effect.lost, effect.gained, strict=True)]
    return pairs, [table.p_value(p) for p in effect.mcnemar]

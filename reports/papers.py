"""The papers' tables with our runs in them: what they print, what we measured, and blanks where we have no run.

A method of ours stands in a paper's row where it is that method on that kind of data; a benchmark of ours stands in a
paper's column where it is that benchmark. Models and domains that the paper does not have get rows of their own, so
that nothing is filled in by likeness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from evals.panels import BASE, Panel, Panels, clusters
from refinery.errors import UserError, did_you_mean
from reports import across, headline, table
from reports.arms import arm, row_of
from reports.blocks import Block, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData, called
from reports.headline import four_versions, shown
from reports.published import PAPERS, RAFT_1, RAFT_HEADLINE, Published

if TYPE_CHECKING:
    from evals.forgetting import Comparison, Effect
    from evals.paired import Estimate
    from evals.stats import Mean

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "IFEval": ("ifeval",),
    "MS-Bench": ("dialogue_judged",),
    "HellaSwag": ("hellaswag",),
    "HumanEval": ("humaneval",),
    "MMLU": ("mmlu",),
    "TruthfulQA": ("truthfulqa_mc1",),
    "Winogrande": ("winogrande",),
    "Strict": ("knowledge_direct",),
    "OOD": ("knowledge_indirect",),
}
"""A paper's column to our benchmarks that are the same thing; dialogue_judged only in kind: no one knows how the paper
sampled MS-Bench, which has no test split of its own."""

DOMAIN = ("D-Acc", "New task", "Accuracy")
"""Columns that are the mean of the spec's domain benchmarks."""

PRIOR = "Prior mean"
"""The mean of the paper's own six: filled where exactly those are the spec's general benchmarks."""


def tables(paper: str, reports: Sequence[ReportData]) -> list[Block]:
    """Every table of the paper, each with ours in it."""
    if paper not in PAPERS:
        raise UserError(f'no paper "{paper}"{did_you_mean(paper, PAPERS)}; there are: {", ".join(PAPERS)}')
    blocks: list[Block] = [Heading(f"The tables of {paper.upper()}"), Paragraph(_HOW, "note")]
    for published in PAPERS[paper]:
        together = published is RAFT_1
        blocks += [Heading(published.title, 3), _table(published, _runs(published, reports, together))]
    return [*blocks, *(_headline(_runs(RAFT_1, reports, True)) if paper == "raft" else [])]


_HOW = (
    "Paper: as printed there, without intervals. Ours: measured by the specs given, with 95% intervals over seeds and "
    "items. A blank is a figure that the paper does not print or a run that we do not have. Models, data, judges and "
    "benchmark versions differ from the paper's unless the row says otherwise."
)


OURS = ", ours"
OWN = "our general mean"
"""The last column: the mean of the spec's general benchmarks, whichever they are."""


# ---- our runs


class Run(NamedTuple):
    """One row's worth of ours."""

    model: str
    what: str
    """What else names the row."""
    comparison: Comparison
    """With the paper's names for methods."""
    names: dict[str, str]
    """The paper's names to ours."""
    lenient: dict[str, Mean]
    """Of direct knowledge, by the second metric; by the paper's names."""


def _runs(published: Published, reports: Sequence[ReportData], together: bool) -> list[Run]:
    """One a model where specs are pooled (Table 1 of RAFT is a mean over domains), else one a spec."""
    measured = [data for data in reports if data.comparison is not None and data.spec.train is not None]
    groups: dict[str, list[ReportData]] = {}
    for data in measured:
        groups.setdefault(data.spec.model if together else data.label, []).append(data)
    wanted = {row for _, row in published.rows}
    runs = []
    for group in groups.values():
        kept, names = _renamed(published, group, wanted)
        arms = list(names)
        if not arms:
            continue
        from evals.forgetting import pool

        baseline = next((each for each in arms if each.endswith("SFT")), arms[0])
        comparison = pool(kept, baseline=baseline, margin=group[0].spec.report.margin)
        what = f"{len(group)} specs" if len(group) > 1 else called(group[0], reports)
        lenient = _lenient(group[0], names) if len(group) == 1 and "Lenient" in published.columns else {}
        runs.append(Run(group[0].spec.model, what, comparison, names, lenient))
    return runs


def _renamed(
    published: Published, group: Sequence[ReportData], wanted: set[str]
) -> tuple[dict[str, Panels], dict[str, str]]:
    """Panels with the paper's names for methods. Of several methods of ours that are one row, the first one's."""
    panels, _ = across.comparable(group)
    kept: dict[str, Panels] = {}
    names: dict[str, str] = {}
    for data in group:
        own: dict[str, str] = {}
        for name in data.trained:
            named = arm(data, name)
            row = row_of(published, named) if named else ""
            if row in wanted and row not in own:
                own[row] = name
        names |= {row: name for row, name in own.items() if row not in names}
        kept[data.label] = Panels([_only(panel, own) for panel in panels[data.label]], [])
    return kept, names


def _lenient(data: ReportData, names: Mapping[str, str]) -> dict[str, Mean]:
    """Mean of the metric `lenient` over the items of direct knowledge, seeds and items resampled."""
    import numpy as np

    from evals import stats

    sql = """SELECT checkpoint, item, value FROM samples WHERE benchmark = 'knowledge_direct' AND metric = 'lenient'
             AND fingerprint = ? AND list_contains(?::VARCHAR[], checkpoint) ORDER BY checkpoint, item"""
    like = next((p.like.fingerprint for p in data.panels if p.benchmark == "knowledge_direct" and p.like), "")
    found: dict[str, Mean] = {}
    for row, name in names.items():
        own: dict[str, dict[str, float]] = {}
        for sample in data.store.query(sql, [like, [each["fingerprint"] for each in data.checkpoints[name]]]):
            own.setdefault(sample["checkpoint"], {})[sample["item"]] = sample["value"]
        if own and len({tuple(each) for each in own.values()}) == 1:
            values = np.array([list(each.values()) for each in own.values()])
            groups = clusters(tuple(next(iter(own.values()))))
            found[row] = stats.crossed([stats.Block(values, clusters=groups)])
    return found


def _only(panel: Panel, own: Mapping[str, str]) -> Panel:
    arms = {row: panel.values[name] for row, name in own.items() if name in panel.values}
    seeds = {row: panel.seeds_of(name) for row, name in own.items() if name in panel.values}
    return replace(panel, values={BASE: panel.values[BASE], **arms}, seeds=seeds)


# ---- the table


def _table(published: Published, runs: Sequence[Run]) -> Table:
    columns = [Column("Model or task"), Column("Method")]
    for name in published.columns:
        columns += [Column(f"{name}, paper", "right"), Column(f"{name}{OURS}", "right")]
    own = published.general and bool(runs)
    columns += [Column("Our general mean", "right")] if own else []
    rows: list[list[Text]] = []
    used = set()

    def add(group: Text, row: Text, figures: Mapping[str, float | None], ours: Mapping[str, str]) -> None:
        pairs = (
            (table.published(figures.get(name), published.places), ours.get(name, "")) for name in published.columns
        )
        rows.append([group, row, *(cell for pair in pairs for cell in pair), *([ours.get(OWN, "")] if own else [])])

    for (group, row), figures in published.rows.items():
        fitting = [run for run in runs if _same_model(run.model, group)]
        used |= {id(run) for run in fitting}
        add(group, row, figures, _ours(published, fitting[0], row) if fitting else {})
    for run in runs:
        for row in ["Base", *run.names] if id(run) not in used else ():
            what: Text = row if row == "Base" else [row, " (", Mono(run.names[row]), ")"]
            add(f"ours: {run.model}, {run.what}", what, {}, _ours(published, run, row))
    empty = [i for i, column in enumerate(columns) if column.title.endswith(OURS) and not any(row[i] for row in rows)]
    shown = [i for i in range(len(columns)) if i not in empty]
    blank = [columns[i].title.removesuffix(OURS) for i in empty]
    note = " ".join(filter(None, (f"{published.cite}.", published.note, _lacking(published, runs, blank))))
    return Table(
        [columns[i] for i in shown], [[row[i] for i in shown] for row in rows], note=note, name=_name(published)
    )


def _lacking(published: Published, runs: Sequence[Run], blank: Sequence[str]) -> str:
    """What the table has no run for, and what its last column is."""
    if not runs:
        return "None of the specs given has a run for it."
    words = f"No run of ours has {', '.join(blank)}. " if blank else ""
    if not published.general:
        return words.strip()
    names = dict.fromkeys(b for run in runs for method in run.comparison.methods.values() for b in method.general)
    return f"{words}Our general mean is over {', '.join(names)}, which is no figure of the paper's."


def _name(published: Published) -> str:
    return published.title.partition(":")[0].replace(", ", "-").replace(" ", "-").lower()


def _same_model(ours: str, group: str) -> bool:
    """Whether our model is the paper's: its name begins with the paper's name for it, suffixes of tuning apart."""
    name = ours.rpartition("/")[2].lower()
    wanted = group.partition(",")[0].lower()
    return name == wanted or name.removesuffix("-instruct") == wanted


def _ours(published: Published, run: Run, row: str) -> dict[str, str]:
    """Column to our figure; what was not measured is missing."""
    found = {}
    mean = _score(run.comparison, row, lambda method: getattr(method, "general_mean"))  # noqa: B009
    if mean is not None:
        found[OWN] = table.score_interval(mean)
    if row in run.lenient:
        found["Lenient"] = table.score_interval(run.lenient[row])
    for name in published.columns:
        score = _score(run.comparison, row, _find(name, published))
        if score is not None and score.estimable:
            found[name] = table.score_interval(score)
    return found


def _find(column: str, published: Published) -> Callable[[object], Effect | None]:
    """How to get a column's effect from a method's result."""

    def get(method: object) -> Effect | None:
        general, domain = getattr(method, "general"), getattr(method, "domain")  # noqa: B009
        if column in DOMAIN:
            return getattr(method, "domain_mean")  # noqa: B009
        if column == PRIOR:
            wanted = [BENCHMARKS[name] for name in published.columns if name in BENCHMARKS]
            same = len(general) == len(wanted) and all(any(b in general for b in names) for names in wanted)
            return getattr(method, "general_mean") if same else None  # noqa: B009
        return next((e for b in BENCHMARKS.get(column, ()) if (e := general.get(b) or domain.get(b))), None)

    return get


def _score(comparison: Comparison, row: str, get: Callable[[object], Effect | None]) -> Estimate | None:
    if row == "Base":
        effects = [effect for method in comparison.methods.values() if (effect := get(method))]
        return effects[0].base if effects else None
    method = comparison.methods.get(row)
    effect = get(method) if method else None
    return effect.score if effect else None


def _headline(runs: Sequence[Run]) -> list[Block]:
    """The abstract's three percentages, the four things that could be meant, and the same four of our runs."""
    rows: list[list[Text]] = []
    for name, printed in RAFT_HEADLINE.items():
        rows.append([f"paper: {name}", *map(table.published, (printed, *four_versions(name).values()))])
    for run in runs:
        method = run.comparison.methods.get("RAFT")
        for name in RAFT_HEADLINE if run.comparison.baseline == "SFT" and method else ():
            effect = _find(name, RAFT_1)(method)
            if effect is not None:
                rows.append([f"ours: {run.model}, {run.what}: {name}", "", *shown(effect)])
    return headline.blocks(rows)

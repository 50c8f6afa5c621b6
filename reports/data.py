"""Everything a report shows, as it was gathered once from the store (reports/gather.py). Sections read nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from refinery.lab import MODELS
from refinery.records import Score
from refinery.spec import Spec
from refinery.store import Row, Store
from reports.blocks import Explorer

if TYPE_CHECKING:  # needs scipy, which a run that only refines does without
    from evals.forgetting import Comparison
    from evals.panels import Panel
    from evals.stages import Matrix
    from evals.stats import Mean
    from refinery.diagnostics._gates import Gate as ScoredGate

VALIDATION = "heldout_validation"
"""The benchmark that settings are chosen on: the spec's own validation split."""


@dataclass(frozen=True)
class Step:
    """One step of the graph, or the source, as it stands in the store."""

    name: str
    op: str
    fingerprint: str
    reads: list[str]
    row: Row
    """Its row of the table `steps`."""
    counts: list[tuple[str, str, int]]
    """(action, reason, rows), most rows first within each action."""
    transient: int
    """Rows that a server failed to answer and that the next run asks again."""

    @property
    def total(self) -> int:
        return sum(n for _, _, n in self.counts)

    def of(self, *actions: str) -> int:
        return sum(n for action, _, n in self.counts if action in actions)


@dataclass(frozen=True)
class Gate:
    """The cosines that a semantic filter decided on."""

    step: str
    threshold: float
    cosines: list[float]
    """The best candidate's, of every row that was not passed through."""


RAW = "raw"
"""What the reference answers are called where two steps are compared."""


@dataclass(frozen=True)
class Compared:
    """Two steps, measured."""

    raw: str
    """A step's name, or RAW."""
    refined: str
    rows: list[Row]
    """Of the table `diagnostics`."""


@dataclass(frozen=True)
class Swept:
    """A threshold, and the rows that a small change of it would decide otherwise (see `examples_near`)."""

    gate: ScoredGate
    below: list[Row]
    above: list[Row]


@dataclass(frozen=True)
class RowShown:
    """One row, from its question to what the methods learn."""

    id: str
    question: str
    answer: str
    rejected: str
    """The text that a step refused, where one did."""
    response: str
    what: str
    """What became of it, in words: "refined", "fell back at close: below_threshold"."""
    scores: dict[str, Any]
    """By step, the scores that decided."""


@dataclass(frozen=True)
class ItemShown:
    """One benchmark item that the base got right and the baseline did not."""

    benchmark: str
    baseline: str
    prompt: str
    target: str
    answers: dict[str, str]
    """What the base, the baseline and the best other method answered; trained ones with their first seed."""


@dataclass(frozen=True)
class Trial:
    """One point of the tuning grid, trained by one method on the first seed."""

    method: str
    params: dict[str, Any]
    """The tuned ones."""
    chosen: bool
    scores: dict[str, Score]
    """By benchmark; VALIDATION is among them."""


@dataclass(frozen=True)
class Staged:
    """One method that learnt in stages."""

    matrix: Matrix
    scores: list[list[Mean | None]]
    """As the matrix's values, with intervals."""
    since_learnt: list[Mean | None]
    """For each benchmark that belongs to an earlier stage: after the last stage less after its own."""
    general: Mean | None
    """The general mean after the last stage less the base's."""


@dataclass(frozen=True)
class ReportData:
    spec: Spec
    store: Store
    runs: list[Row]
    """Newest first."""
    steps: list[Step]
    final: Step | None
    """The step whose rows the methods learn from; the graph's last one where nothing is trained."""
    gates: list[Gate]
    compared: list[Compared]
    """In the order of the steps, against the raw answers first."""
    sweeps: list[Swept]
    rows: list[RowShown]
    base: Row | None
    """The base model's row of the table `checkpoints`."""
    checkpoints: dict[str, list[Row]]
    """Method name to its final checkpoints, in the order of the spec's seeds."""
    metrics: dict[str, dict[str, dict[int, float]]]
    """Checkpoint to metric name to optimizer step to value."""
    panels: list[Panel]
    comparison: Comparison | None
    items: list[ItemShown]
    trials: list[Trial]
    requests: list[Row]
    """Per model: requests answered and tokens."""
    notes: list[str] = field(default_factory=list)
    stages: list[Staged] = field(default_factory=list)
    explorer: Explorer | None = None
    """Items that methods lost or gained."""
    rewriters: dict[str, tuple[Row, dict[str, dict[int, float]]]] = field(default_factory=dict)
    """Name to the checkpoint that the steps ask, and its metrics by name and optimizer step."""

    @property
    def label(self) -> str:
        """What it is called beside others: the spec's name, and which point of its matrix it is."""
        return f"{self.spec.name} {self.spec.point.label}".strip()

    @property
    def trained(self) -> dict[str, list[Row]]:
        """Of the checkpoints those that the spec trains."""
        return {name: rows for name, rows in self.checkpoints.items() if name not in self.spec.checkpoints}

    @property
    def lab(self) -> bool:
        return self.spec.model in MODELS or bool(self.spec.source and self.spec.source.lab)

    def series(self, name: str) -> int:
        """A method's place in every chart's colours and markers."""
        ordered = sorted(self.spec.compared, key=lambda other: other != self.spec.report.baseline)
        return ordered.index(name) if name in ordered else len(ordered)


def called(data: ReportData, reports: Sequence[ReportData]) -> str:
    """Its name among `reports`: the points of one matrix go without the spec's name."""
    alone = len({each.spec.name for each in reports}) == 1
    return data.spec.point.label if alone and data.spec.point.keys else data.label


def is_primary(score: Score) -> bool:
    """Whether it is the metric that stands for its benchmark."""
    return score.metric == score.settings.get("primary_metric", score.metric)

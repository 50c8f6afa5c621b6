"""How training went: losses and the balancing weight over optimizer steps, and what was trained on what."""

from collections.abc import Sequence

from refinery.store import Row
from reports import plots, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData

METRICS = {
    "loss": ("loss", False),
    "sft_loss": ("cross-entropy", False),
    "kl_loss": ("divergence from teacher", False),
    "reward": ("reward", False),
    "zero_variance": ("groups of equal rewards", False),
    "reference_kl": ("divergence from the start", False),
    "lambda": ("λ", True),
    "replay_loss": ("loss on replayed rows", False),
    "penalty": ("penalty", False),
    "coverage": ("coverage of top K", False),
    "entropy": ("entropy of rollouts", False),
    "rollout_length": ("length of rollouts", False),
    "forward_kl": ("KL from the base, its answers", False),
    "reverse_kl": ("KL from the base, own answers", False),
    "grad_norm": ("gradient norm", False),
    "gradient_cosine": ("cosine of the two gradients", False),
}
"""What is drawn, where a method logged it: title, logarithmic."""

REWARDS = {
    "reward": "Reward",
    "zero_variance": "Groups of equal rewards",
    "rollout_length": "Tokens of a rewrite",
    "reference_kl": "Divergence from the start",
}


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = []
    if data.trained:
        figure = _figure(data)
        blocks = [*([figure] if figure else []), _table(data), *_left_out(data)]
    if data.rewriters:
        blocks += [_rewriters(data)]
    return [Heading("Training"), *blocks] if blocks else []


def _rewriters(data: ReportData) -> Table:
    """Each rewriter's rewards at the first and the last fifth of its steps: a reward that has not risen has made no
    difference to what was written."""
    rows: list[list[Text]] = []
    for name, (row, metrics) in data.rewriters.items():
        steps = sorted(metrics.get("reward", {}))
        part = max(1, len(steps) // 5)
        learned_from = data.spec.rewriters[name].data
        cells: list[Text] = [Mono(name), Mono(row["method"]), Mono(learned_from), table.count(len(steps))]
        for metric in REWARDS:
            values = metrics.get(metric, {})
            ends = [[values[step] for step in some if step in values] for some in (steps[:part], steps[-part:])]
            known = all(ends)
            cells.append(" → ".join(table.decimal(sum(some) / len(some)) for some in ends) if known else "not logged")
        rows.append(cells)
    titles = ["Rewriter", "Recipe", "Learned from", "Steps", *REWARDS.values()]
    columns = [Column(title, "left" if number < 3 else "right") for number, title in enumerate(titles)]
    note = "What was trained by reinforcement to write data. Means over the first and the last fifth of the steps."
    return Table(columns, rows, note=note)


def _figure(data: ReportData) -> Figure | None:
    names = sorted(data.trained, key=data.series)
    panels = []
    for metric, (title, log) in METRICS.items():
        found = [curve for name in names if (curve := _curve(data, name, metric)) is not None]
        if found:
            panels.append(plots.Panel(title, found, log and all(min(c.mean) > 0 for c in found)))
    if not panels:
        return None
    title = "Losses over training"
    drawn = ", ".join(panel.title for panel in panels)
    description = f"Curves over optimizer steps, one panel each: {drawn}."
    caption = "Lines are means over seeds of what training logged; bands reach from the lowest to the highest seed."
    if any(metric == "lambda" for metric in _logged(data)):
        caption += " λ is the weight of the divergence in the loss."
    chart = plots.curves("training", title, description, panels, {name: data.series(name) for name in names})
    return Figure(title, description, chart, _last_values(data, names), caption)


def _curve(data: ReportData, name: str, metric: str) -> plots.Curve | None:
    """Mean and range over the seeds, at the steps that all of them logged."""
    runs = [data.metrics[row["fingerprint"]].get(metric, {}) for row in data.trained[name]]
    steps = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if not steps:
        return None
    values = [[run[step] for run in runs] for step in steps]
    several = len(runs) > 1
    return plots.Curve(
        data.series(name),
        steps,
        [sum(at) / len(at) for at in values],
        [min(at) for at in values] if several else [],
        [max(at) for at in values] if several else [],
    )


def _logged(data: ReportData) -> list[str]:
    """The metrics that any training logged, in the order in which they are drawn."""
    runs = [data.metrics[row["fingerprint"]] for rows in data.trained.values() for row in rows]
    return [metric for metric in METRICS if any(metric in run for run in runs)]


def _last_values(data: ReportData, names: Sequence[str]) -> Table:
    """The last value of each metric, per method."""
    shown = _logged(data)
    rows: list[list[Text]] = []
    for name in names:
        cells: list[Text] = []
        for metric in shown:
            curve = _curve(data, name, metric)
            cells.append(table.decimal(curve.mean[-1]) if curve else "not logged")
        rows.append([Mono(name), *cells])
    columns = [Column("Method"), *(Column(f"{METRICS[metric][0]}, last", "right") for metric in shown)]
    return Table(columns, rows)


def _table(data: ReportData) -> Table:
    titles = ["Method", "Recipe", "Learned from", "Seeds", "Rows", "Learning rate", "Steps", "Time of one training"]
    columns = [Column(title, "left" if number < 3 else "right") for number, title in enumerate(titles)]
    methods, default = (data.spec.train.methods, data.spec.train.data) if data.spec.train else ({}, "")
    rows: list[list[Text]] = []
    for name in sorted(data.trained, key=data.series):
        runs = data.trained[name]
        rates = sorted({table.plain_number(row["params"].get("learning_rate")) for row in runs})
        cells = [table.numbers([row["seed"] for row in runs]), _noted(runs, "rows_trained"), " ".join(rates)]
        cells += [_noted(runs, "steps"), table.duration(max(map(_seconds, runs)))]
        rows.append([Mono(name), Mono(methods[name].method), Mono(methods[name].data or default), *cells])
    return Table(columns, rows)


def _noted(runs: Sequence[Row], key: str) -> str:
    """A count of the manifests, which all seeds share."""
    return " ".join(sorted({table.count((row["manifest"] or {}).get(key)) for row in runs}))


def _seconds(row: Row) -> float:
    """As the manifest has it: the time between start and end also counts what stood still."""
    return float((row["manifest"] or {}).get("seconds") or (row["finished_at"] - row["started_at"]).total_seconds())


def _left_out(data: ReportData) -> list[Block]:
    """Rows that a training could not use, by reason: they are missing from what it learned."""
    alike: dict[str, list[str]] = {}
    for name, runs in data.checkpoints.items():
        dropped = (runs[0]["manifest"] or {}).get("rows_dropped") or {}
        if any(dropped.values()):
            listed = ", ".join(f"{table.count(n)} {reason}" for reason, n in dropped.items() if n)
            alike.setdefault(listed, []).append(name)
    return [Paragraph(f"{', '.join(names)} left out rows: {each}.", "warning") for each, names in alike.items()]

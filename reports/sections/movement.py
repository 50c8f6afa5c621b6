"""How far the methods moved from the base, in divergence, answers and weights (evals/movement.py)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refinery.store import Row
from reports import table
from reports.blocks import Block, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData

METRICS = {
    "forward_kl": "KL from base, its answers",
    "reverse_kl": "KL from base, own answers",
    "base_nll": "NLL of base's answers",
    "entropy": "Entropy",
    "words": "Words",
    "refused": "Refused",
}
NOTE = (
    "Divergences, likelihoods and entropies are nats a token, all words counted, along answers to {n} items "
    "({seeds}); brackets hold 95% intervals. Forward KL is along what the base said, reverse along what the trained "
    "model said."
)


def render(data: ReportData) -> list[Block]:
    if not data.checkpoints:
        return []
    from evals.movement import PREFIX  # needs scipy, which a run that only refines does without

    blocks: list[Block] = []
    for kind, title in (("domain", "On the domain's prompts"), ("general", "On general prompts")):
        rows, seen = [], []
        for name in sorted(data.checkpoints, key=data.series):
            if measured := _measured(data, data.checkpoints[name], f"{PREFIX}/{kind}"):
                rows.append([Mono(name), *(_cell(measured.get(metric), metric) for metric in METRICS)])
                seen.append(next(iter(measured.values())).shape)
        if rows:
            columns = [Column("Method"), *(Column(title, "right") for title in METRICS.values())]
            items = " or ".join(dict.fromkeys(str(n) for _, n in seen))
            seeds = " or ".join(dict.fromkeys(f"{n} seed{'s' * (n > 1)}" for n, _ in seen))
            blocks += [Heading(title, 3), Table(columns, rows, note=NOTE.format(n=items, seeds=seeds))]
    if weights := _weights(data):
        blocks += [Heading("Of the weights", 3), weights]
    return [Heading("How far they moved"), *blocks, Paragraph(_READ, "note")] if blocks else []


_READ = (
    "Over methods and rates, forward KL on the new task has been found to go with forgetting better than the change of "
    "weights does (arXiv 2509.04259); whether it does here is in the forecasts."
)


def _measured(data: ReportData, runs: Sequence[Row], benchmark: str) -> dict[str, np.ndarray]:
    """Metric to (seeds, items), where all seeds were measured alike on the items that all of them have."""
    sql = """SELECT metric, item, checkpoint, value FROM samples
             WHERE benchmark = ? AND list_contains(?::VARCHAR[], checkpoint) AND fingerprint =
                 (SELECT fingerprint FROM scores WHERE benchmark = ? AND checkpoint = ? ORDER BY rowid DESC LIMIT 1)"""
    names = [row["fingerprint"] for row in runs]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in data.store.query(sql, [benchmark, names, benchmark, names[0]]):
        found.setdefault(row["metric"], {}).setdefault(row["checkpoint"], {})[row["item"]] = row["value"]
    arrays = {}
    for metric, by_run in found.items():
        if len(by_run) == len(names):
            items = sorted(set.intersection(*(set(each) for each in by_run.values())))
            arrays[metric] = np.array([[by_run[name][item] for item in items] for name in names])
    return arrays


def _cell(values: Any, metric: str) -> Text:
    if values is None or not values.size:
        return "unknown"
    from evals import stats

    mean = stats.crossed([stats.Block(values)]) if len(values) > 1 else stats.t_mean(values[0])
    if metric == "refused":
        return table.score_interval(mean)
    return table.decimal_interval(mean.value, max(0.0, mean.low), mean.high)


def _weights(data: ReportData) -> Table | None:
    from evals.movement import PREFIX

    rows: list[list[Text]] = []
    for name in sorted(data.checkpoints, key=data.series):
        found = [
            score
            for row in data.checkpoints[name]
            for score in data.store.scores(row["fingerprint"], f"{PREFIX}/weights")[-1:]
        ]
        if found:
            layers = found[0].settings["layers"]
            most = max(layers, key=lambda layer: layers[layer])
            values = [score.value for score in found]
            span = table.percent(float(np.mean(values)), 2)
            span += f" ({table.percent(min(values), 2)} to {table.percent(max(values), 2)})" if len(values) > 1 else ""
            rows.append([Mono(name), span, Mono(most), table.percent(layers[most], 2)])
    columns = [Column("Method"), Column("|θ − θ0| / |θ0|", "right"), Column("Moved most"), Column("By", "right")]
    return (
        Table(columns, rows, note="Mean over seeds, and their span; the layer that moved most of the first seed.")
        if rows
        else None
    )

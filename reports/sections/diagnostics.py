"""How the refined answers differ from the raw ones: meaning, length and wording."""

from collections.abc import Mapping
from typing import Any

from reports import plots_data, table
from reports.blocks import Block, Column, Details, Figure, Heading, Mono, Paragraph, Table
from reports.data import Gate, ReportData

REFINED = "@refined"
"""Suffix of a measure over the rows that did not fall back."""

MEANINGS = {
    "cosine_mean": "cosine of raw and refined answer, mean",
    "cosine_p05": "cosine, 5th percentile",
    "cosine_median": "cosine, median",
    "cosine_p95": "cosine, 95th percentile",
    "centroid_shift": "cosine distance of the two mean vectors",
    "mmd2": "squared maximum mean discrepancy of the embeddings",
    "frechet": "Fréchet distance of the embeddings",
    "words_ratio": "words, refined over raw",
    "tokens_ratio": "tokens, refined over raw",
    "characters_ratio": "characters, refined over raw",
    "words_raw_mean": "words of a raw answer, mean",
    "words_refined_mean": "words of a refined answer, mean",
    "tokens_raw_mean": "tokens of a raw answer, mean",
    "tokens_refined_mean": "tokens of a refined answer, mean",
    "words_ks": "Kolmogorov–Smirnov distance of the lengths in words",
    "tokens_ks": "Kolmogorov–Smirnov distance of the lengths in tokens",
    "identical": "share of answers left as they were",
    "rouge_l": "ROUGE-L of raw and refined answer",
    "overlap_1": "shared words (F1)",
    "overlap_4": "shared 4-grams (F1)",
    "copied_4": "share of refined 4-grams that the raw answer holds",
    "distinct_2_raw": "different 2-grams over all, raw",
    "distinct_2_refined": "different 2-grams over all, refined",
    "unigram_js": "Jensen–Shannon divergence of the words, bits",
}
"""The measures of the first table, in this order; the others stand in the second one under their own names."""


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = [Heading("Raw against refined")]
    blocks += [_cosines(gate) for gate in data.gates]
    final = data.final.name if data.final else ""
    if final not in data.diagnostics:
        return [*blocks, Paragraph("No diagnostics have been computed for the step that the methods learn from.")]
    rows = {row["name"]: row for row in data.diagnostics[final]}
    lengths = _lengths(rows)
    blocks += [lengths] if lengths else []
    blocks.append(
        Paragraph(
            [
                "Measures of ",
                Mono(final),
                " against the raw answers. Rows that fell back equal their raw answer by "
                "construction and hide what rewriting did, so each measure is also taken without them.",
            ]
        )
    )
    blocks.append(_measures(rows, [name for name in MEANINGS if name in rows], MEANINGS))
    rest = [name for name in rows if name.removesuffix(REFINED) not in MEANINGS and not name.endswith(REFINED)]
    if rest:
        blocks.append(Details("All other measures", [_measures(rows, rest, {})]))
    return blocks


def _cosines(gate: Gate) -> Figure:
    import numpy as np

    low = min(0.0 if min(gate.cosines) >= 0 else -1.0, gate.threshold)
    first = np.floor(max(low, min(*gate.cosines, gate.threshold) - 0.02) * 40) / 40
    edges = np.round(np.arange(first, 1.0 + 1e-9, 0.025), 6)
    edges = np.unique(np.append(edges, [gate.threshold, 1.0]))  # the threshold is an edge: no bin is on both sides
    counts = np.histogram(np.clip(gate.cosines, edges[0], 1.0), edges)[0].tolist()
    passed = sum(cosine >= gate.threshold for cosine in gate.cosines)
    n = len(gate.cosines)
    title = f"Cosines at the gate {gate.step}"
    words = f"{table.part(passed, n)} of {table.count(n)} rows reach the threshold of {gate.threshold:g}."
    chart = plots_data.cosines(f"cosines-{gate.step}", title, words, counts, edges.tolist(), gate.threshold)
    columns = [Column("Cosine from"), Column("to"), Column("Rows", "right")]
    bins = [
        [table.edge(a), table.edge(b), table.count(c)] for a, b, c in zip(edges, edges[1:], counts, strict=False) if c
    ]
    quantiles = dict(zip(("5th", "50th", "95th"), np.quantile(gate.cosines, [0.05, 0.5, 0.95]), strict=True))
    spread = ", ".join(f"{name} percentile {table.decimal(value)}" for name, value in quantiles.items())
    caption = f"{words} {spread}. A cosine does not see a flipped number or a negation."
    return Figure(title, words, chart, Table(columns, bins), caption)


def _lengths(rows: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    unit = next((u for u in ("tokens", "words", "characters") if f"{u}_ratio" in rows), None)
    if unit is None:
        return None
    row = rows.get(f"{unit}_ratio{REFINED}") or rows[f"{unit}_ratio"]
    if row["n"] == 0:
        row = rows[f"{unit}_ratio"]
    raw, refined = row["detail"]["histogram"]["raw"], row["detail"]["histogram"]["refined"]
    edges, only = raw["edges"], row["detail"].get("subset") == "refined"
    first = max(
        0, next((i for i, both in enumerate(zip(raw["counts"], refined["counts"], strict=True)) if any(both)), 0) - 1
    )
    ratio = table.decimal_interval(row["value"], row["low"], row["high"])
    rows_said = f"{table.count(row['n'])} rows" + (" that did not fall back" if only else "")
    words = f"A refined answer has {ratio} times the {unit} of its raw answer ({rows_said})."
    title = "Length of raw and refined answers"
    chart = plots_data.lengths(
        "lengths", title, words, raw["counts"][first:], refined["counts"][first:], edges[first:], unit
    )
    columns = [Column(f"{unit.capitalize()} from"), Column("to"), Column("Raw", "right"), Column("Refined", "right")]
    bins = [
        [table.edge(a), table.edge(b), table.count(x), table.count(y)]
        for a, b, x, y in zip(edges, edges[1:], raw["counts"], refined["counts"], strict=False)
        if x or y
    ]
    return Figure(title, words, chart, Table(columns, bins), f"{words} The last bin also holds what is longer.")


def _measures(rows: Mapping[str, Mapping[str, Any]], names: list[str], meanings: Mapping[str, str]) -> Table:
    columns = [
        Column("Measure"),
        Column("All rows", "right"),
        Column("Without those that fell back", "right"),
        Column("n", "right"),
    ]
    body = []
    for name in names:
        row, only = rows[name], rows.get(name + REFINED)
        n = table.count(row["n"]) + (f" / {table.count(only['n'])}" if only else "")
        body.append([meanings.get(name) or Mono(name), _value(row), _value(only) if only else table.ABSENT, n])
    note = "Brackets hold 95% intervals over rows, where the measure has one."
    for name in names:
        for key, which in ((name, ""), (name + REFINED, " (without those that fell back)")):
            if key in rows and rows[key]["value"] is None:
                why = rows[key]["detail"].get("note", "no rows")
                note += f" {meanings.get(name, name).capitalize()}{which}: {table.NOT_ESTIMABLE}, {why}."
    return Table(columns, body, note=note)


def _value(row: Mapping[str, Any]) -> str:
    """The measure with its interval or its p value; where it has none of its own, the value alone."""
    if row["value"] is None:
        return table.NOT_ESTIMABLE
    if row["low"] is not None:
        return table.decimal_interval(row["value"], row["low"], row["high"])
    p = row["detail"].get("p")
    return table.decimal(row["value"]) + (f" ({table.p_said(p)})" if p is not None else "")

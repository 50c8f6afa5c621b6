"""How the refined answers differ from the raw ones: meaning, wording, length, style, naturalness, truth."""

from collections.abc import Mapping
from typing import Any

from refinery.catalog import module, names
from refinery.diagnostics import PACKAGE, REFINED_ONLY, meaning
from reports import diagnostic_figures, plots_data, table
from reports.blocks import Block, Column, Details, Figure, Heading, Mono, Paragraph, Side, Strong, Table, Text
from reports.data import RAW, Compared, Gate, ReportData, Swept
from reports.text import shorten

TITLES = {
    "embedding": "Meaning",
    "ngram": "Wording",
    "diversity": "Variety",
    "length": "Length",
    "style": "Style",
    "separability": "Told apart by a classifier",
    "likelihood": "Likelihood under the base model",
    "quality": "Right or wrong",
    "preference": "Preference",
}


def render(data: ReportData) -> list[Block]:
    if data.spec.source is None:
        return []
    blocks: list[Block] = [Heading("Raw against refined")]
    blocks += [_cosines(gate) for gate in data.gates]
    for number, swept in enumerate(data.sweeps):
        blocks += _sweep(number, swept)
    final = data.final.name if data.final else ""
    main = next((each for each in data.compared if (each.raw, each.refined) == (RAW, final)), None)
    if main is None:
        blocks.append(Paragraph("No diagnostics have been computed for the step that the methods learn from."))
    else:
        opening: Text = ["Measures of ", Mono(final), " against the raw answers."]
        blocks += [Paragraph(opening), *_compared("diagnostics", main)]
    for number, other in enumerate(data.compared):
        if other is not main and any(row["family"] == "style" for row in other.rows):
            title: Text = [Strong(f"{other.raw} → {other.refined}"), ": the same measures of these two"]
            blocks.append(Details(title, _compared(f"diagnostics-{number}", other)))
    return blocks


def _compared(prefix: str, pair: Compared) -> list[Block]:
    rows = {row["name"]: row for row in pair.rows}
    fell_back = any(
        row["n"] != rows[name + REFINED_ONLY]["n"] for name, row in rows.items() if name + REFINED_ONLY in rows
    )
    blocks: list[Block] = []
    if fell_back:
        blocks.append(
            Paragraph(
                "Rows that fell back equal their raw answer by construction and hide what rewriting did, so each "
                "measure is also taken without them, and the pictures leave them out."
            )
        )
    blocks += diagnostic_figures.figures(prefix, rows, fell_back)
    rest: dict[str, Any] = {}
    for family in [name for name in TITLES if name in names(PACKAGE)]:
        own = {name: row for name, row in rows.items() if row["family"] == family}
        listed = list(module(PACKAGE, family).MEANINGS)
        absent = [
            name for name in own if family == "style" and name.endswith("_change") and _on_neither_side(own, name)
        ]
        first = [
            name for name in own if name not in absent and not name.endswith(REFINED_ONLY) and meaning(family, name)
        ]
        if first:
            first.sort(key=lambda name: (listed.index(name.split(":")[0]), name))
            blocks.append(_measures(own, first, TITLES[family]))
        if absent:
            known = [(meaning(family, name) or (name, ""))[0] for name in absent]
            words = "; ".join(each.removeprefix("answers with ").removesuffix(", change") for each in known)
            blocks.append(Paragraph(f"On neither side: {words}.", "note"))
        rest |= {name: row for name, row in own.items() if name.removesuffix(REFINED_ONLY) not in (*first, *absent)}
    others = [name for name in rest if not name.endswith(REFINED_ONLY)]
    if others:
        blocks.append(Details("All other measures", [_measures(rest, others, "")]))
    note = "Brackets hold 95% intervals over rows, where a measure has one; else p says how likely chance alone is."
    return [*blocks, Paragraph(note, "note")]


def _sweep(number: int, swept: Swept) -> list[Block]:
    gate = swept.gate
    blocks: list[Block] = []
    for side, rows in (("below", swept.below), ("above", swept.above)):
        for row in rows:
            verdict = {True: "agrees with the reference", False: "does not agree with it", None: ""}[row["agrees"]]
            blocks.append(
                Side(
                    [
                        ("question", shorten(row["question"])[0], ""),
                        ("reference", shorten(row["reference"])[0], ""),
                        (
                            "candidate",
                            shorten(row["candidate"])[0],
                            f"{gate.score} {table.decimal(row['score'])}, {side}. {verdict}",
                        ),
                    ]
                )
            )
    shown = [Details("The rows nearest to the threshold, on each side", blocks)] if blocks else []
    return [diagnostic_figures.sweep(f"sweep-{number}", gate), *shown]


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


def _on_neither_side(rows: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    base = name.removesuffix("_change")
    return not any(rows[f"{base}_{side}"]["value"] for side in ("raw", "refined"))


def _measures(rows: Mapping[str, Mapping[str, Any]], shown: list[str], caption: str) -> Table:
    apart = any(name + REFINED_ONLY in rows and rows[name + REFINED_ONLY]["n"] != rows[name]["n"] for name in shown)
    columns = [Column("Measure"), Column("All rows", "right")]
    columns += [Column("Without those that fell back", "right")] if apart else []
    columns += [Column("n", "right"), Column("How to read it")]
    body, notes = [], []
    for name in shown:
        row, only = rows[name], rows.get(name + REFINED_ONLY) if apart else None
        label, how = meaning(row["family"], name) or (Mono(name), "")
        if ":" in name and isinstance(label, str):
            label = f"{label}: {name.split(':', 1)[1]}"
        n = table.count(row["n"]) + (f" / {table.count(only['n'])}" if only else "")
        body.append([label, _value(row), *([_value(only) if only else table.ABSENT] if apart else []), n, how])
        for each, which in ((row, ""), (only, " (without those that fell back)")):
            if each is not None and each["value"] is None:
                named = label if isinstance(label, str) else name
                why = each["detail"].get("note", "no rows")
                notes.append(f"{named[:1].upper()}{named[1:]}{which}: {table.NOT_ESTIMABLE}, {why}.")
    if not any(cells[-1] for cells in body):
        columns, body = columns[:-1], [cells[:-1] for cells in body]
    return Table(columns, body, caption=caption, note=" ".join(notes))


def _value(row: Mapping[str, Any]) -> str:
    """The measure with its interval or its p value; where it has none of its own, the value alone."""
    if row["value"] is None:
        return table.NOT_ESTIMABLE
    if row["low"] is not None:
        return table.decimal_interval(row["value"], row["low"], row["high"])
    p = row["detail"].get("p")
    return table.decimal(row["value"]) + (f" ({table.p_said(p)})" if p is not None else "")

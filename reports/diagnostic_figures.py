"""Pictures of one comparison of two steps, each drawn from the stored rows of one family of measures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refinery.diagnostics import REFINED_ONLY, meaning
from refinery.diagnostics._gates import Gate
from reports import plots_data, plots_diagnostics, table
from reports.blocks import Column, Figure, Table
from reports.plots_diagnostics import Dot, Line

Rows = Mapping[str, Mapping[str, Any]]
"""Name of a measure to its row of the table `diagnostics`."""


def figures(prefix: str, rows: Rows, fell_back: bool) -> list[Figure]:
    """Every picture that the rows allow; `prefix` makes their names unique on the page. Where rows fell back, pictures
    are of the rest: rows that fell back are equal on both sides by construction."""
    only = {name: rows.get(name + REFINED_ONLY, row) for name, row in rows.items() if not name.endswith(REFINED_ONLY)}
    shown = {name: rows[name] if row["value"] is None else row for name, row in only.items()}
    whose = "rows that did not fall back" if fell_back else "rows"
    made = (_cosines, _map, lengths, _wording, _variety, _style, _separability, _likelihood, _quality, _preference)
    return [figure for make in made for figure in make(prefix, shown, whose)]


def _cosines(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    row = rows.get("cosine_mean")
    if row is None or "histogram" not in row["detail"] or not row["n"]:
        return
    edges, counts = _trimmed(row["detail"]["histogram"]["edges"], row["detail"]["histogram"]["counts"])
    title = "How close each refined answer stays to its raw answer"
    words = f"Cosines of {table.count(row['n'])} pairs of {whose}; their mean is {_interval(row)}."
    axis = "cosine of raw and refined answer"
    drawn = plots_diagnostics.histograms(f"{prefix}-cosine", title, words, {"refined": counts}, edges, axis)
    yield Figure(title, words, drawn, _bins(edges, {"Rows": counts}, "Cosine"), words)


def _map(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    row = rows.get("map")
    if row is None or not row["detail"].get("points"):
        return
    title = "Map of the two sets"
    words = (
        f"{table.count(row['n'])} pairs of {whose} on the two axes along which all their embeddings differ most; the "
        f"axes hold {table.percent(row['value'])} of the differences. Two clouds that lie apart mean that refining "
        "moved the whole set; lines join the two answers to one question."
    )
    places = row["detail"]["points"]
    drawn = plots_diagnostics.points(f"{prefix}-map", title, words, places)
    columns = [Column("Pair"), *(Column(t, "right") for t in ("Raw, first", "second", "Refined, first", "second"))]
    body = [[str(i + 1), *(table.decimal(x) for x in place)] for i, place in enumerate(places[:10])]
    note = f"The first 10 of {len(places)} pairs; the store has all." if len(places) > 10 else ""
    yield Figure(title, words, drawn, Table(columns, body, note=note), words)


def lengths(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    """Both histograms of lengths, in the finest unit there is."""
    unit = next((u for u in ("tokens", "words", "characters") if f"{u}_ratio" in rows), None)
    if unit is None or not rows[f"{unit}_ratio"]["n"]:
        return
    row = rows[f"{unit}_ratio"]
    raw, refined = row["detail"]["histogram"]["raw"], row["detail"]["histogram"]["refined"]
    edges, x, y = _trimmed(raw["edges"], raw["counts"], refined["counts"])
    words = (
        f"A refined answer has {_interval(row)} times the {unit} of its raw answer ({table.count(row['n'])} {whose})."
    )
    title = "Length of raw and refined answers"
    drawn = plots_data.lengths(f"{prefix}-lengths", title, words, x, y, edges, unit)
    data = _bins(edges, {"Raw": x, "Refined": y}, unit.capitalize())
    yield Figure(title, words, drawn, data, f"{words} The last bin also holds what is longer.")


def _wording(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    names = ["identical", "rouge_l", "overlap_1", "overlap_2", "overlap_3", "overlap_4", "copied_4"]
    lines = [Line(_label("ngram", name), refined=_dot(rows[name])) for name in names if _known(rows, name)]
    words = f"How much of the raw wording the refined answers keep, over {whose}: 0 nothing, 1 all of it."
    yield from _dots(f"{prefix}-wording", "Wording that was kept", words, lines, "share")


def _variety(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    lines = [
        Line(words, *(_dot(rows[f"{name}_{side}"]) for side in ("raw", "refined")))
        for name, words in (("openings", "the commonest first three words"), ("endings", "the commonest last three"))
        if _known(rows, f"{name}_raw", f"{name}_refined")
    ]
    tops = [
        f"“{row['detail']['top'][0][0]}”"
        for name in ("openings_refined", "endings_refined")
        if (row := rows.get(name)) and row["detail"].get("top")
    ]
    words = f"Answers that begin or end with the commonest three words of their side, over {whose}."
    words += f" The commonest of the refined answers: {' and '.join(tops)}." if tops else ""
    yield from _dots(f"{prefix}-variety", "Openings and endings that repeat", words, lines, "share of answers")


def _style(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    names = [name.removesuffix("_change") for name, row in rows.items() if row.get("family") == "style"
             and name.endswith("_change")]  # fmt: skip
    seen = [name for name in names if any(rows[f"{name}_{side}"]["value"] for side in ("raw", "refined"))]
    seen.sort(key=lambda name: -abs(rows[f"{name}_change"]["value"] or 0))
    lines = [
        Line(
            _label("style", f"{name}_change").removeprefix("answers with ").removesuffix(", change"),
            _dot(rows[f"{name}_raw"]),
            _dot(rows[f"{name}_refined"]),
        )
        for name in seen
    ]
    words = f"Share of answers that hold each mark of style, over {whose}; the largest change stands first."
    yield from _dots(f"{prefix}-style", "Marks of style", words, lines, "share of answers")


def _separability(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    names = [name for name in ("raw_refined", "own_raw", "own_refined") if _known(rows, name)]
    lines = [Line(_label("separability", name), refined=_dot(rows[name])) for name in names]
    words = f"How well a classifier tells two sets of answers apart by their words, over {whose}: 0.5 is chance."
    if names and (telling := rows[names[0]]["detail"].get("words")):
        raw, refined = (", ".join(f"“{w}”" for w in side[:5]) for side in telling)
        words += f" It goes by {raw} for raw answers and by {refined} for refined ones." if raw and refined else ""
    yield from _dots(f"{prefix}-separability", "Can they be told apart?", words, lines, "area under the curve", 0.5)


def _likelihood(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    if not _known(rows, "nll_raw", "nll_refined"):
        return
    raw, refined = (rows[f"nll_{side}"]["detail"]["histogram"] for side in ("raw", "refined"))
    edges, x, y = _trimmed(raw["edges"], raw["counts"], refined["counts"])
    change = rows["nll_change"]
    title = "How natural the answers are to the base model"
    words = (
        f"Mean surprise a token, in nats, over {table.count(change['n'])} {whose}; it changed by "
        f"{_interval(change)}. Lower is closer to what the model would say by itself."
    )
    sides = {"raw": x, "refined": y}
    drawn = plots_diagnostics.histograms(f"{prefix}-nll", title, words, sides, edges, "nats a token of the answer")
    yield Figure(title, words, drawn, _bins(edges, {"Raw": x, "Refined": y}, "Nats"), words)


def _quality(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    lines = []
    if _known(rows, "answer_raw", "answer_refined"):
        lines.append(Line("agrees with the reference", _dot(rows["answer_raw"]), _dot(rows["answer_refined"])))
    names = ["numbers_kept", "numbers_made_up", "names_kept", "names_made_up", "fell_back"]
    names += sorted(name for name in rows if name.split(":")[0] in ("false_accepts", "false_rejects"))
    lines += [Line(_label("quality", name), refined=_dot(rows[name])) for name in names if _known(rows, name)]
    words = f"What refining kept and what it broke, over {whose}, and what the gates let through or refused wrongly."
    yield from _dots(f"{prefix}-quality", "Right or wrong", words, lines, "share")


def _preference(prefix: str, rows: Rows, whose: str) -> Iterator[Figure]:
    names = [name for name in ("human_wins", "model_wins") if _known(rows, name)]
    lines = [Line(_label("preference", name), refined=_dot(rows[name])) for name in names]
    for name in names:
        detail = rows[name]["detail"]
        who = f"{', '.join(detail['raters'])}: {detail['refined']} for refined, {detail['raw']} for raw, "
        words = f"Judged blind by {who}{detail['tie']} ties. "
        words += "This is what people preferred." if name == "human_wins" else "This is what models preferred."
        yield from _dots(f"{prefix}-{name}", f"Preference of {'people' if name == 'human_wins' else 'judge models'}",
                         words, [lines[names.index(name)]], "share preferring refined", 0.5)  # fmt: skip


def sweep(prefix: str, gate: Gate) -> Figure:
    """How many rows another threshold would let through."""
    total, points = len(gate.values), gate.sweep()
    title = f"Rows that pass {gate.step} as {gate.param} moves"
    words = f"{table.part(gate.passed(gate.threshold), total)} of {table.count(total)} rows pass at {gate.threshold:g}."
    curve = [(at, 100 * passed / total) for at, passed in points]
    drawn = plots_diagnostics.sweep(f"{prefix}-sweep", title, words, curve, gate.threshold, gate.param)
    columns = [Column("Threshold"), Column("Rows that pass", "right")]
    told = [(at, n) for i, (at, n) in enumerate(points) if i % 4 == 0 or at == gate.threshold]
    data = Table(columns, [[table.edge(at), table.part(n, total)] for at, n in told])
    return Figure(title, words, drawn, data, words)


# ---- parts


def _dots(
    name: str, title: str, words: str, lines: Sequence[Line], axis: str, reference: float | None = None
) -> Iterator[Figure]:
    if not lines:
        return
    sides = [side for side in ("raw", "refined") if any(getattr(line, side) for line in lines)]
    columns = [
        Column("Measure"),
        *(Column(side.capitalize() if len(sides) > 1 else "Value", "right") for side in sides),
    ]
    body = [
        [line.label, *(table.decimal_interval(d.value, d.low, d.high) if (d := getattr(line, side)) else ""
                       for side in sides)]
        for line in lines
    ]  # fmt: skip
    drawn = plots_diagnostics.dots(name, title, words, lines, axis, reference)
    yield Figure(title, words, drawn, Table(columns, body), words)


def _known(rows: Rows, *names: str) -> bool:
    return all(name in rows and rows[name]["value"] is not None for name in names)


def _dot(row: Mapping[str, Any]) -> Dot:
    value, low, high = (math.nan if row[key] is None else row[key] for key in ("value", "low", "high"))
    return Dot(value, low, high)


def _label(family: str, name: str) -> str:
    known = meaning(family, name)
    return (known[0] if known else name) + (f": {name.split(':', 1)[1]}" if ":" in name else "")


def _interval(row: Mapping[str, Any]) -> str:
    return table.decimal_interval(row["value"], row["low"], row["high"])


def _trimmed(edges: Sequence[float], *sides: Sequence[int]) -> tuple[Any, ...]:
    """Without the empty bins in front, but one."""
    first = next((i for i in range(len(sides[0])) if any(side[i] for side in sides)), 0)
    first = max(0, first - 1)
    return (list(edges[first:]), *(list(side[first:]) for side in sides))


def _bins(edges: Sequence[float], sides: Mapping[str, Sequence[int]], what: str) -> Table:
    columns = [Column(f"{what} from"), Column("to"), *(Column(side, "right") for side in sides)]
    body = [
        [table.edge(a), table.edge(b), *(table.count(n) for n in counts)]
        for a, b, *counts in zip(edges, edges[1:], *sides.values(), strict=False)
        if any(counts)
    ]
    return Table(columns, body)

"""What `refinery diagnose --full` prints: every measure with its interval, rows and how to read it, in 80 columns."""

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from refinery.cli.diagnose import Compared, Swept
from refinery.cli.printing import console
from refinery.diagnostics import REFINED_ONLY, meaning
from reports import table

WIDTH = 80
NUMBER = 15
COUNT = 7
"""Columns of a value and of its n; what is left of the line is the measure's name."""
TITLES = {
    "embedding": "Meaning",
    "ngram": "Wording",
    "diversity": "Variety",
    "length": "Length",
    "style": "Style (change of shares)",
    "separability": "Can a classifier tell them apart?",
    "likelihood": "Likelihood under the base model",
    "quality": "Right or wrong",
    "preference": "Preference",
}


def show(found: Sequence[Compared]) -> None:
    out = console()
    for number, compared in enumerate(found):
        _show_one(out, compared, first=number == 0)
    out.print(
        "Values with ± half of their 95% interval, or with p. The report has pictures of\n"
        "them (refinery run SPEC --stage report), --json has all with exact intervals.",
        style="dim",
        markup=False,
    )


def _show_one(out: Console, found: Compared, first: bool) -> None:
    head = f"{found.raw} → {found.refined}"
    facts = f"{table.counted(found.pairs, 'pair')}, {found.fell_back:,} fell back"
    if found.left_out:
        facts += f", {found.left_out:,} rows of {found.refined} are not in {found.raw}"
    if found.mixed_in:
        facts += f", {found.mixed_in:,} rows of other sources are left out"
    out.print(Text(head, style="bold"), Text(facts, style="dim"))
    by_family: dict[str, dict[str, Any]] = {}
    for row in found.rows:
        by_family.setdefault(row["family"], {})[row["name"]] = row
    for family in [*TITLES, *sorted(set(by_family) - set(TITLES))]:
        if family in by_family:
            _family(out, family, by_family[family], found.fell_back > 0, first)
    for note in found.notes:
        out.print(Text(textwrap.fill(f"note: {note}", WIDTH), style="dim"))
    out.print()


def _family(out: Console, family: str, rows: dict[str, Any], apart: bool, read: bool) -> None:
    shown = [name for name in rows if not name.endswith(REFINED_ONLY) and meaning(family, name)]
    known = _order(family, shown)
    empty = [name for name in known if family == "style" and _nothing(rows, name)]
    out.print()
    title = TITLES.get(family, family)
    heads = f"{'all rows':>{NUMBER}}{'n':>{COUNT}}"
    heads += f"{'refined rows':>{NUMBER}}{'n':>{COUNT}}" if apart else ""
    out.print(Text(f"{title:<{WIDTH - len(heads)}}", style="bold"), Text(heads, style="dim"), sep="")
    for name in known:
        if name in empty:
            continue
        label, how = meaning(family, name) or (name, "")
        if ":" in name:
            label = f"{label}: {name.split(':', 1)[1]}"
        only = rows.get(name + REFINED_ONLY) if apart else None
        lines = textwrap.wrap(label, WIDTH - len(heads) - 2)
        values = "".join(f"{_value(row):>{NUMBER}}{row['n']:>{COUNT},}" for row in (rows[name], only) if row)
        out.print(Text(f"{lines[0]:<{WIDTH - len(heads)}}{values}"))
        for line in lines[1:]:
            out.print(Text(f"  {line}"))
        why = how if rows[name]["value"] is not None else rows[name]["detail"].get("note", how)
        if (read or rows[name]["value"] is None) and not (family == "style"):
            out.print(Text(textwrap.fill(why, WIDTH, initial_indent="    ", subsequent_indent="    "), style="dim"))
    if family == "style" and read:
        out.print(Text("    Above 0: the model will learn to do it more.", style="dim"))
    if empty:
        names = ", ".join(name.removesuffix("_change") for name in empty)
        out.print(Text(textwrap.fill(f"On neither side: {names}.", WIDTH, initial_indent="    ",
                                     subsequent_indent="    "), style="dim"))  # fmt: skip


def _order(family: str, names: Sequence[str]) -> list[str]:
    """As the family lists its meanings; what it took of each gate after that."""
    from refinery.catalog import module
    from refinery.diagnostics import PACKAGE

    listed = list(module(PACKAGE, family).MEANINGS)
    return sorted(names, key=lambda name: (listed.index(name.split(":")[0]), name))


def _nothing(rows: dict[str, Any], name: str) -> bool:
    base = name.removesuffix("_change")
    return not any(rows[f"{base}_{side}"]["value"] for side in ("raw", "refined"))


def _value(row: Any) -> str:
    """ "0.832 ±0.021", "0.0123 p<0.001"."""
    if row["value"] is None:
        return "-"
    if row["low"] is not None:
        half = (row["high"] - row["low"]) / 2
        places = 3 if half < 0.1 else 2 if half < 1 else 1 if half < 10 else 0
        return f"{table.fixed(row['value'], places)} ±{table.fixed(half, places)}"
    p = row["detail"].get("p")
    said = f" {table.p_said(p).replace(' ', '')}" if p is not None else ""
    short = [f"{row['value']:.{digits}e}".replace("e-0", "e-").replace("e+0", "e") for digits in (1, 0)]
    texts = [table.decimal(row["value"]), table.decimal(row["value"], 2), *short]
    return next((text for text in texts if len(text + said) < NUMBER), texts[-1]) + said


def show_sweep(found: Sequence[Swept]) -> None:
    """Rows that pass at each threshold as a bar, and the rows that a small change would decide otherwise."""
    out = console()
    for swept in found:
        gate, total = swept.gate, len(swept.gate.values)
        said = f"{table.part(gate.passed(gate.threshold), total)} of {total:,} rows pass" if total else "no rows"
        out.print(Text(f"{gate.step}: {gate.param} {gate.threshold:g}", style="bold"), Text(said, style="dim"))
        points = gate.sweep()
        step = max(1, len(points) // 14)
        for number, (at, count) in enumerate(points):
            if number % step and at != gate.threshold:
                continue
            bar = "█" * round(40 * count / total)
            mark = "◀" if at == gate.threshold else ""
            out.print(Text(f"{at:>9.4g} {count:>9,} {100 * count / total:>5.1f}%  {bar}{mark}"))
        for side, rows in (("just below", swept.below), ("just above", swept.above)):
            for row in rows:
                out.print()
                agrees = {True: "agrees with the reference", False: "does not agree", None: ""}[row["agrees"]]
                head = f"{side}  {gate.score} {row['score']:.4g}  {row['id'][:12]}  {agrees}"
                out.print(Text(head.rstrip(), style="bold"))
                for label in ("question", "reference", "candidate"):
                    text = textwrap.shorten(row[label], 300, placeholder=" …")
                    out.print(Text(textwrap.fill(text, WIDTH, initial_indent=f"  {label:<11}",
                                                 subsequent_indent=" " * 13)))  # fmt: skip
        out.print()

"""What `refinery diagnose` prints by itself: the measures a person needs first, what looks bad before the rest.

A measure looks bad where its whole 95% interval lies on the wrong side of a bound, and good where it lies on the other;
in between it is open. The bounds are conventions, wide enough that what they call bad is worth reading rows for.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from refinery.cli.diagnose import RAW_NAME, Compared
from refinery.cli.printing import console
from refinery.diagnostics import REFINED_ONLY, meaning
from refinery.rows import Row
from reports import table

WIDTH = 80
VALUE, COUNT = 24, 8
MOST = 13
"""Measures shown; each takes two lines."""

State = Literal["bad", "open", "good"]


@dataclass(frozen=True, slots=True)
class Look:
    """One measure, and the bounds beyond which it looks bad."""

    family: str
    name: str
    bad: str
    """A sentence for where it does."""
    good: str
    below: float | None = None
    above: float | None = None
    than: str = ""
    """A measure of the family that `above` is added to."""

    def state(self, row: Row, others: Mapping[str, Row]) -> State:
        """A measure without an interval is taken at its value."""
        low = row["value"] if row["low"] is None else row["low"]
        high = row["value"] if row["high"] is None else row["high"]
        above = self.above
        if above is not None and self.than:
            other = others.get(self.than, {}).get("value")
            above = None if other is None else above + other
        if (self.below is not None and high < self.below) or (above is not None and low > above):
            return "bad"
        fine = (self.below is None or low >= self.below) and (above is None or high <= above)
        return "good" if fine else "open"


LOOKS = (
    Look(
        "quality",
        "answer_change",
        "Refining broke right answers: add a check_answer.",
        "It broke no more right answers than it mended.",
        below=0,
    ),
    Look(
        "quality",
        "answer_refined",
        "Wrong answers are taught: add a check_answer.",
        "What is taught is right.",
        below=0.9,
    ),
    Look(
        "quality",
        "false_accepts",
        "The gate lets wrong ones through: raise it.",
        "Few of those let through are wrong.",
        above=0.1,
    ),
    Look(
        "quality",
        "false_rejects",
        "The gate refuses right ones: lower it.",
        "Few of those refused were right.",
        above=0.3,
    ),
    Look("quality", "fell_back", "Many rows gave up and keep the raw answer.", "Few rows gave up.", above=0.3),
    Look("quality", "numbers_kept", "Numbers were dropped or changed.", "Nearly all numbers are kept.", below=0.9),
    Look(
        "quality", "numbers_made_up", "Many numbers are not in the raw answer.", "Few numbers are made up.", above=0.2
    ),
    Look("quality", "names_made_up", "Many names are not in the raw answer.", "Few names are made up.", above=0.2),
    Look("embedding", "cosine_mean", "The meaning moved far.", "The meaning stays near.", below=0.7),
    Look("ngram", "identical", "Most answers are as they were.", "Most answers were rewritten.", above=0.5),
    Look(
        "length",
        "words_ratio",
        "Refined answers are of another size.",
        "Refined answers are of much the same size.",
        below=0.6,
        above=1.6,
    ),
    Look(
        "diversity",
        "openings_refined",
        "Answers begin alike: a template.",
        "Answers begin no more alike than raw ones.",
        above=0.1,
        than="openings_raw",
    ),
    Look(
        "diversity",
        "compression_change",
        "Answers repeat each other more.",
        "Answers repeat each other no more than before.",
        above=0,
    ),
    Look(
        "style",
        "refusals_change",
        "There are more apologies and refusals.",
        "There are no more apologies or refusals.",
        above=0,
    ),
    Look(
        "style",
        "courtesy_change",
        "More answers open with a courtesy.",
        "No more answers open with a courtesy.",
        above=0,
    ),
    Look(
        "likelihood",
        "nll_change",
        "Refined answers are further from what the model would say.",
        "Refined answers are more natural to the model.",
        above=0,
    ),
    Look(
        "embedding",
        "own_cosine_change",
        "Refining moved away from the model's own answers.",
        "Refining moved towards the model's own answers.",
        below=0,
    ),
    Look("preference", "human_wins", "People prefer the raw answers.", "People prefer the refined.", below=0.5),
    Look("preference", "model_wins", "Judges prefer the raw answers.", "Judges prefer the refined.", below=0.5),
)


def headline_pair(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Of the comparisons that are made by themselves, the raw answers with what is trained on."""
    return next((pair for pair in reversed(pairs) if pair[0] == RAW_NAME), pairs[-1])


def show_headline(found: Compared, others: Sequence[tuple[str, str]]) -> None:
    """`others`: comparisons that --full shows besides."""
    out = console()
    facts = f"{table.counted(found.pairs, 'pair')}, {found.fell_back:,} fell back"
    facts += f", {found.mixed_in:,} rows mixed in left out" if found.mixed_in else ""
    out.print(Text(f"{found.raw} → {found.refined}", style="bold"), Text(facts, style="dim"))
    seen = sorted(_seen(found), key=lambda one: ("bad", "open", "good").index(one[2]))
    ahead = False
    for look, row, state in seen[:MOST]:
        if state == "bad" and not ahead:
            out.print(Text("\nLook at these first", style="bold red"))
            ahead = True
        elif state != "bad" and (ahead or row is seen[0][1]):
            out.print(Text("\nThe rest" if ahead else "\nNothing looks bad here", style="bold"))
            ahead = False
        _line(out, look, row, state)
    if not seen:
        out.print("no rows to measure" if not found.pairs else "nothing could be measured")
    _foot(out, found, others)


def _seen(found: Compared) -> Iterator[tuple[Look, Row, State]]:
    """Over the rows that did not fall back, where any did; a measure of every gate for each."""
    by_family: dict[str, dict[str, Any]] = {}
    for row in found.rows:
        by_family.setdefault(row["family"], {})[row["name"]] = row
    for look in LOOKS:
        rows = by_family.get(look.family, {})
        for name in sorted(rows):
            if name.endswith(REFINED_ONLY) or name.split(":")[0] != look.name:
                continue
            only = rows.get(name + REFINED_ONLY) if found.fell_back and look.name != "identical" else None
            row = only or rows[name]
            if row["value"] is not None and not (look.family == "style" and row["value"] == 0):
                yield look, row, look.state(row, rows)


def _line(out: Console, look: Look, row: Row, state: State) -> None:
    label, how = meaning(look.family, row["name"]) or (row["name"], "")
    gate = row["name"].removesuffix(REFINED_ONLY).partition(":")[2]
    label = f"{label}: {gate}" if gate else label
    head = "! " if state == "bad" else "  "
    room = WIDTH - VALUE - COUNT - len(head)
    label = label if len(label) < room else label[: room - 2] + "…"
    ends = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["low"] is not None else ""
    values = f"{_number(row['value']) + ends:>{VALUE}}{'n ' + format(row['n'], ','):>{COUNT}}"
    out.print(Text(f"{head}{label:<{room}}{values}", style="red" if state == "bad" else ""))
    said = {"bad": look.bad, "good": look.good, "open": how}[state]
    out.print(Text("    " + textwrap.shorten(said, WIDTH - 4, placeholder="…"), style="dim"))


def _number(value: float) -> str:
    return table.fixed(value, 2 if abs(value) < 100 else 0)


def _foot(out: Console, found: Compared, others: Sequence[tuple[str, str]]) -> None:
    out.print()
    for note in found.notes:
        lines = textwrap.wrap(f"note: {note}", WIDTH, max_lines=2, placeholder=" …")
        out.print(Text("\n".join(lines), style="dim"))
    rest = f", and {', '.join(f'{raw} → {refined}' for raw, refined in others)}" if others else ""
    said = "Intervals are 95%; bad is an interval wholly beyond a convention's bound."
    said += f" --full shows all measures{rest}; --json has them exactly."
    out.print(Text(textwrap.fill(said, WIDTH), style="dim"))

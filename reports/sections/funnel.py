"""What became of every row: the refinement funnel, step by step."""

from refinery.spec import SOURCE
from reports import plots_data, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Span, Strong, Table, Text
from reports.data import ReportData, Step
from reports.plots_data import WORDS
from reports.svg import KINDS

EARLIER = "fell_back_earlier"


def render(data: ReportData) -> list[Block]:
    if data.spec.source is None:
        return []
    steps = [step for step in data.steps if step.op != "source"]
    blocks: list[Block] = [Heading("Refinement funnel")]
    if not steps:
        return [*blocks, Paragraph("The spec has no refinement steps: the methods learn from the raw answers.")]
    if data.final is not None:
        blocks.append(outcome(data, data.final))
    blocks.append(_figure(steps))
    waiting = [step for step in steps if step.transient]
    for step in waiting:
        rows = f"{table.counted(step.transient, 'row')} of {step.name}"
        blocks.append(Paragraph(f"{rows} got no answer from the server; the next run asks again.", "warning"))
    return blocks


def outcome(data: ReportData, final: Step) -> Paragraph:
    """In a sentence: how many rows come out refined, and how many with the reference answer; rows that are not of the
    main source, and rows made on the way, are counted apart."""
    source = next((step for step in data.steps if step.name == SOURCE), None)
    sql = """SELECT count(*) FILTER (own AND fell_back) AS fell_back,
                    count(*) FILTER (own AND NOT fell_back AND NOT as_given) AS refined,
                    count(*) FILTER (own AND NOT fell_back AND as_given) AS same,
                    count(*) FILTER (made) AS made, count(*) FILTER (NOT made AND NOT own) AS mixed
             FROM (SELECT o.fell_back, o.as_given, len(e.parents) > 0 AS made,
                          NOT made AND (? OR o.example_id IN (SELECT example_id FROM outcomes WHERE step = ?)) AS own
                   FROM outcomes o JOIN examples e USING (body) WHERE o.step = ? AND o.split = 'train')"""
    row = data.store.query(sql, [source is None, source.fingerprint if source else "", final.fingerprint])[0]
    arrive = "reach the methods" if data.spec.train else "leave the graph"
    kept = row["fell_back"] + row["refined"] + row["same"]
    if row["made"]:
        return _with_made_rows(kept + row["made"] + row["mixed"], row["made"], row["mixed"], arrive)
    entered = _entered(data, source) or kept
    text: list[Span] = [
        f"Of {table.count(entered)} training rows, ",
        Strong(f"{table.part(row['refined'], entered)} {arrive} refined"),
        f", {table.part(row['fell_back'], entered)} with the reference answer put back",
    ]
    if row["same"]:
        text.append(f", {table.part(row['same'], entered)} with a text equal to the reference")
    if entered - kept:
        text.append(f", and {table.part(entered - kept, entered)} were dropped")
    if row["mixed"]:
        text.append(f"; {table.counted(row['mixed'], 'row')} of other sources came in beside them")
    return Paragraph([*text, f". {_ADDS_UP}"])


_ADDS_UP = "Every row has exactly one outcome at every step, so each step of the table adds up."


def _entered(data: ReportData, source: Step | None) -> int:
    """Rows of the main source that are for training."""
    if source is None:
        return next((step.total for step in data.steps if step.reads == [SOURCE]), 0)
    sql = "SELECT count(*) AS n FROM outcomes WHERE step = ? AND split = 'train'"
    return int(data.store.query(sql, [source.fingerprint])[0]["n"])


def _with_made_rows(total: int, made: int, mixed: int, arrive: str) -> Paragraph:
    beside = f", {table.part(mixed, total)} of other sources" if mixed else ""
    text: list[Span] = [
        f"{table.count(total)} rows {arrive}, ",
        Strong(f"{table.part(made, total)} of them made by the graph"),
    ]
    return Paragraph([*text, f"{beside}. {_ADDS_UP}"])


def _figure(steps: list[Step]) -> Figure:
    title = "What each step did with its rows"
    description = "A stacked bar for each step: rows kept, changed, fallen back to the reference answer and dropped."
    bars = [plots_data.Bar(step.name, _parts(step)) for step in steps]
    return Figure(title, description, plots_data.funnel("funnel", title, description, bars), _table(steps), _CAPTION)


_CAPTION = (
    "Changed: the step wrote another text. Kept: it let the text stand, or the row had fallen back before "
    f"({EARLIER}). Fell back: the reference answer was put back. Dropped: the row was taken out."
)


def _parts(step: Step) -> list[tuple[str, str, int]]:
    return sorted(step.counts, key=lambda part: (KINDS.index(part[0]), part[1] == EARLIER, -part[2], part[1]))


def _table(steps: list[Step]) -> Table:
    columns = [Column("Step"), Column("Operation"), Column("Outcome"), Column("Reason"), Column("Rows", "right")]
    rows: list[list[Text]] = []
    for step in steps:
        for number, (action, reason, n) in enumerate(_parts(step)):
            name: list[Text] = [Mono(step.name), Mono(step.op)] if number == 0 else ["", ""]
            rows.append([*name, WORDS[action], Mono(reason), table.part(n, step.total)])
        rows.append(["", "", Strong("all"), "", Strong(table.count(step.total))])
    return Table(columns, rows)

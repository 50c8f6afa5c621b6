"""Whether the teachers had anything to teach, as measured before the trainings (trainers/gate.py)."""

from refinery.store import Row
from reports.blocks import Block, Column, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData

FAMILY = "gate"


def render(data: ReportData) -> list[Block]:
    rows: list[list[Text]] = []
    weak: list[str] = []
    least = data.spec.train.gate.min_lift if data.spec.train and data.spec.train.gate else None
    for name, checkpoints in data.checkpoints.items():
        found = _measured(data, checkpoints[0])
        if not found:
            continue
        lift = found["lift"]
        shares = [_share(found.get(key)) for key in ("teacher_accuracy", "student_accuracy")]
        cells = [*shares, _points(lift), str(lift["n"]), _share(found.get("copied")), _nats(found.get("kl"))]
        rows.append([Mono(name), *cells])
        if least is not None and lift["value"] is not None and lift["value"] < least:
            weak.append(name)
    if not rows:
        return []
    titles = ["Method", "Right with context", "Right without", "Lift, points", "Rows", "Copies", "KL, nats a token"]
    columns = [Column(title, "left" if number == 0 else "right") for number, title in enumerate(titles)]
    caption = (
        "Before training: greedy answers of the model to train rows, with and without what its teacher is shown, "
        "judged as select says; answers that repeat what was shown; and how far the context moves the next word along "
        "the model's own answers. 95% intervals."
    )
    blocks: list[Block] = [Heading("What the teachers knew"), Table(columns, rows, caption)]
    if weak:
        text = (
            f"The context lifts the teacher of {', '.join(weak)} by less than {100 * (least or 0):g} points: there was "
        )
        blocks.append(Paragraph(text + "little to learn from it, whatever the method.", "warning"))
    return blocks


def _measured(data: ReportData, checkpoint: Row) -> dict[str, Row]:
    """By name, what was measured of the teacher of a training; nothing where nothing was."""
    sql = "SELECT * EXCLUDE (step) FROM diagnostics WHERE step = ? AND family = ?"
    found: dict[str, dict[str, Row]] = {}
    for row in data.store.query(sql, [checkpoint["data_fingerprint"], FAMILY]):
        found.setdefault(row["against"], {})[row["name"]] = row
    params = checkpoint["params"]
    for measures in found.values():
        about = measures["lift"]["detail"] if "lift" in measures else {}
        same = (about.get("teacher_prompt"), about.get("shuffled")) == (
            params.get("teacher_prompt"),
            params.get("teacher_shuffle"),
        )
        if same and about.get("base") == checkpoint["base"] and params.get("teacher_prompt") is not None:
            return measures
    return {}


def _share(row: Row | None) -> str:
    if row is None or row["value"] is None:
        return "unknown"
    return f"{100 * row['value']:.0f}% [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def _points(row: Row) -> str:
    if row["value"] is None:
        return "unknown"
    return f"{100 * row['value']:+.0f} [{100 * row['low']:+.0f}, {100 * row['high']:+.0f}]"


def _nats(row: Row | None) -> str:
    return "unknown" if row is None or row["value"] is None else f"{row['value']:.3g}"

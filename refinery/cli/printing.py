"""What the reading verbs print: tables that fit 80 columns, and JSON alone on stdout under --json."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refinery.errors import UserError
from refinery.rows import as_json
from refinery.spec import Spec, load_spec
from refinery.store import Store


def print_json(value: Any) -> None:
    """Indented JSON of plain data and dataclasses; NaN and infinities become null, times become ISO text."""
    sys.stdout.write(json.dumps(json.loads(as_json(_plain(value))), indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() + "Z" if isinstance(value, datetime) else value


def console() -> Console:
    return Console(highlight=False)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns in `right` hold numbers and never break."""
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    numbers = set(right)
    for column in columns:
        found.add_column(column, justify="right" if column in numbers else "left", no_wrap=column in numbers)
    return found


def add(found: Table, *cells: object) -> None:
    """A row of plain text: nothing in it is read as markup."""
    found.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))


def fields(pairs: Sequence[tuple[str, str | None]], indent: int = 2) -> Table:
    """Named texts under one another; those that are None are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            grid.add_row(Text(" " * indent + name), Text(value if value.strip() else "(empty)"))
    return grid


def number(value: int | float | None) -> str:
    """ "" for what is unknown or nothing."""
    return f"{value:,}" if value else ""


def counted_rows(n: int) -> str:
    """ "no rows", "1 row", "1,319 rows"."""
    return f"{n:,} row{'' if n == 1 else 's'}" if n else "no rows"


def tokens(value: float | None) -> str:
    """1.2M, 34k, 870; "unknown" for None."""
    if value is None:
        return "unknown"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """2 h 5 min, 3 min 20 s, 12 s, 0.4 s."""
    whole = round(value)
    if value < 3:
        return f"{value:.1f} s"
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def moment(value: datetime | None) -> str:
    """A time of the store (UTC) to the minute."""
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M UTC")


def since(started: datetime, finished: datetime | None) -> str:
    end = finished or datetime.now(UTC).replace(tzinfo=None)
    return seconds((end - started).total_seconds())


def score_words(scores: dict[str, Any], wide: int = 400) -> str | None:
    """Scores on one line, long ones cut: "cosine 0.83, winner 0"."""
    words = []
    for name, value in scores.items():
        if value in ({}, []):
            continue
        if isinstance(value, float):
            value = f"{value:.4g}"
        elif isinstance(value, list | dict):
            value = json.dumps(_rounded(value), ensure_ascii=False)
        words.append(f"{name} {'none' if value is None else value}")
    text = ", ".join(words)
    return (text if len(text) <= wide else text[: wide - 4] + " ...") or None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def opened(path: Path, overrides: Sequence[str] = ()) -> tuple[Store, Spec | None]:
    """The store of a spec, or a .duckdb file itself, to read. Reading works while a run goes on."""
    if path.suffix == ".duckdb":
        if overrides:
            raise UserError(f"--set overrides a key of a spec, and {path} is a store")
        return Store(path, read_only=True), None
    spec = load_spec(path, overrides, files=False)
    return Store(spec.store_path, read_only=True), spec


def step_names(spec: Spec | None) -> list[str]:
    """What the spec calls the steps that its store may hold: sources first. Empty without a spec: whatever is there."""
    return [*spec.all_sources, *spec.graph] if spec is not None else []

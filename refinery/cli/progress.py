"""Live progress on stderr: bars in a terminal, a line every few seconds in a log."""

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from refinery.graph import StepProgress, StepResult

LINE_SECONDS = 10.0


class Progress:
    """One stage's progress. Methods may be called as often as the work likes; drawing is throttled."""

    def __init__(self, console: Console, stage: str):
        self.console, self.stage = console, stage
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = RichProgress(*columns, TextColumn("{task.fields[note]}"), console=console)
        self._tasks: dict[str, Any] = {}
        self._last_line = 0.0

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._bars.stop()

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        """`name` has finished `done` of `total`."""
        if self.console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total, note=note)
            self._bars.update(self._tasks[name], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if done >= total or now - self._last_line > LINE_SECONDS:
            self._last_line = now
            self.console.print(f"{self.stage}: {name} {done}/{total} {note}".rstrip(), highlight=False, markup=False)

    def step(self, step: StepProgress) -> None:
        """A graph step under way, as run_graph calls it."""
        note = f"{step.usage.sent} asked, {step.usage.cached} from the store"
        self.update(step.name, step.done, step.total, note)

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, markup=False)


def describe(result: StepResult) -> str:
    """One finished step in words: rows by action and reason."""
    parts = [
        f"{n} {action}" + ("" if reason == "ok" else f" ({reason})") for (action, reason), n in result.counts.items()
    ]
    state = "stands" if not result.ran else f"{result.ran} of {result.rows} rows run"
    return f"{result.rows} rows: {', '.join(parts)}; {state}"

"""Live progress on stderr: one display in a terminal, a line every few seconds in a log."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from refinery.cli.printing import seconds, tokens
from refinery.graph import StepProgress, StepResult
from refinery.spec import SOURCE

LINE_SECONDS = 5.0
"""Between two lines of a log."""
WINDOW_SECONDS = 20.0
"""The last seconds over which rates are taken."""


@dataclass(slots=True)
class _Task:
    """One thing under way; rates are over the last WINDOW_SECONDS, or over all of a task that is younger."""

    name: str
    total: int = 0
    done: int = 0
    notes: list[str] = field(default_factory=list)
    unit: str = ""
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def note(self, done: int, total: int, spent: int = 0) -> None:
        now = time.monotonic()
        self.done, self.total = done, total
        self.ended = (self.ended or now) if done >= total else None
        if not self.samples or now - self.samples[-1][0] > 0.2 or done >= total:
            self.samples.append((now, done, spent))
        while len(self.samples) > 2 and now - self.samples[1][0] > WINDOW_SECONDS:
            self.samples.popleft()

    def rates(self) -> tuple[float, float]:
        """(rows, tokens) a second; 0 before anything is known."""
        if len(self.samples) < 2:
            return 0.0, 0.0
        (start, rows, spent), (last, *now) = self.samples[0], self.samples[-1]
        passed = (self.ended or time.monotonic()) - start
        passed = max(passed, last - start)
        return ((now[0] - rows) / passed, (now[1] - spent) / passed) if passed > 0 else (0.0, 0.0)

    def pace(self) -> str:
        """ "38 rows/s, 1 min 40 s left"."""
        rows, _ = self.rates()
        words = [f"{_rate(rows)} {self.unit}/s"] if rows and self.unit else []
        if self.ended is not None:
            words.append(f"took {seconds(self.ended - self.started)}")
        elif rows:
            words.append(f"{seconds((self.total - self.done) / rows)} left")
        return ", ".join(words)


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


class Progress:
    """One stage's progress. Methods may be called as often as the work likes; drawing is throttled.

    Without a terminal there are lines instead, or with `lines` false nothing.
    """

    def __init__(self, console: Console, stage: str, *, lines: bool = True):
        self.console, self.stage, self.lines = console, stage, lines
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.Lock()
        self._last_line = time.monotonic()
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def update(self, name: str, done: int, total: int, note: str = "") -> None:
        """`name` has finished `done` of `total`."""
        self._note(name, done, total, [note] if note else [])

    def step(self, step: StepProgress) -> None:
        """A graph step under way, as run_graph calls it."""
        usage = step.usage
        spent = usage.prompt_tokens + usage.completion_tokens
        self._note(step.name, step.done, step.total, [_fates(step.counts), _usage(step)], spent, unit="rows")

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _note(self, name: str, done: int, total: int, notes: list[str], spent: int = 0, unit: str = "") -> None:
        with self._lock:
            task = self._tasks.setdefault(name, _Task(name, unit=unit))
            was_done = task.ended is not None
            task.note(done, total, spent)
            task.notes = [note for note in notes if note]
            if spent and task.notes and (speed := task.rates()[1]):
                task.notes[-1] += f", {tokens(speed)} tokens/s"
        if self.console.is_terminal or not self.lines:
            return
        now = time.monotonic()
        if (done >= total and not was_done) or now - self._last_line > LINE_SECONDS:
            self._last_line = now
            count = f"{done:,}/{total:,}" if total else f"no {unit}" if unit else "nothing to do"
            words = ", ".join([f"{self.stage}: {name} {count}", *filter(None, [task.pace()]), *task.notes])
            self.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _draw(self) -> RenderableType:
        """A line for each thing that is done, and for what is under way also what it does."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            grid.add_column(no_wrap=True)
        grid.add_column(overflow="ellipsis", no_wrap=True)
        below: list[Text] = []
        with self._lock:
            for task in list(self._tasks.values())[-12:]:
                bar = ProgressBar(total=max(task.total, 1), completed=task.done, width=16)
                grid.add_row(Text(task.name), bar, Text(f"{task.done:,}/{task.total:,}"), Text(task.pace()))
                if task.ended is None:
                    below = [Text(f"  {note}", style="dim", overflow="ellipsis", no_wrap=True) for note in task.notes]
        whole = Table.grid()
        whole.add_row(grid)
        for line in below:
            whole.add_row(line)
        return whole


def _fates(counts: Counter[tuple[str, str]]) -> str:
    """ "3 kept, 40 changed, 2 dropped"."""
    by_action: Counter[str] = Counter()
    for (action, _), n in counts.items():
        by_action[action] += n
    return ", ".join(f"{n:,} {action.replace('_', ' ')}" for action, n in by_action.items() if n)


def _usage(step: StepProgress) -> str:
    """ "120 asked, 30 from the store, 2 gave nothing usable, 64 in flight, 3 tried again, $0.12"."""
    usage = step.usage
    words = []
    if usage.sent or usage.cached or usage.failed:
        words = [f"{usage.sent:,} asked", *([f"{usage.cached:,} from the store"] if usage.cached else [])]
    for name, word in (("failed", "gave nothing usable"), ("in_flight", "in flight"), ("retries", "tried again")):
        if n := getattr(usage, name, 0):
            words.append(f"{n:,} {word}")
    if cost := getattr(usage, "cost", None):
        words.append(f"${cost:,.2f}")
    return ", ".join(words)


def describe(result: StepResult) -> str:
    """One finished step in words: rows by action and reason."""
    parts = [
        f"{n:,} {action.replace('_', ' ')}" + ("" if reason == "ok" else f" ({reason})")
        for (action, reason), n in result.counts.items()
    ]
    ran = "read" if result.op == SOURCE else f"{result.ran:,} of {result.rows:,} rows run"
    state = ran if result.ran else "stands"
    return f"{result.rows:,} rows: {', '.join(parts)}; {state}" if parts else "no rows"

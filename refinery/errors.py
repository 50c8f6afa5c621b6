"""Two kinds of failure a person meets, kept apart.

A `UserError` is something the user can fix: one clear line, exit code 2, no traceback. A `RowError` is a row that
could not be processed: it is caught where rows are run and stored as that row's outcome, never raised further.
Everything else is a bug and keeps its traceback.
"""

import difflib
import traceback
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake the user can fix. The message is one line that names the place, what is wrong and the cure."""


class Bug(str):
    """A line on a part that failed by a bug while the others went on. It keeps the words of the traceback and not the
    exception, which would hold the part's model in memory."""

    traceback: str

    @classmethod
    def of(cls, label: str, error: Exception) -> "Bug":
        line = cls(f"{label}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        line.traceback = "".join(traceback.format_exception(error))
        return line


class Bugs(Exception):
    """Parts of a run failed, one at least by a bug: their tracebacks and lines, exit code 1."""


def together(head: str, lines: Sequence[str]) -> Exception:
    """One error for the parts that failed."""
    text = "\n".join([head, *lines])
    traces = [line.traceback for line in lines if isinstance(line, Bug)]
    return Bugs("\n".join([*traces, text])) if traces else UserError(text)


class RowError(Exception):
    """One row failed. `reason` is a fixed snake_case word that is stored and counted; `detail` is for people.

    `transient` rows (a server that was overloaded) are tried again when the same command is run again; the others
    (a prompt longer than the context) would fail in the same way and stand as they are.
    """

    def __init__(self, reason: str, detail: str = "", *, transient: bool = False):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail, self.transient = reason, detail, transient


def one_line(error: BaseException, most: int = 300) -> str:
    """A library's message without its line breaks: the first line alone often ends in a colon."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' where a known word is close, else ''."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""

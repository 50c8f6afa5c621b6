"""Two kinds of failure a person meets, kept apart.

A `UserError` is something the user can fix: one clear line, exit code 2, no traceback. A `RowError` is a row that
could not be processed: it is caught where rows are run and stored as that row's outcome, never raised further.
Everything else is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can fix. The message is one line that names the place, what is wrong and the cure."""


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

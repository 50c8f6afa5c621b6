"""Are two mathematical answers equal? Asked of the math-verify library, in a process that can be stopped.

What it takes as equal, and some may not: decimals that agree to six places (0.333333 and 1/3), a percentage with its
fraction and with its bare number (60% with 0.6 and with 60), x = 5 with 5, a set in any order, 2ab with 2 (letters
that may be a unit are dropped).
"""

from importlib.util import find_spec

from refinery.checks import timed
from refinery.errors import UserError


def same(candidate: str, reference: str) -> tuple[bool | None, dict[str, float | None], str]:
    """(whether the last expression of each is the same, no scores, why that is unknown: timed_out or crashed)."""
    _installed()
    return timed.ask("math", candidate, reference)


def read(text: str) -> str | None:
    """The expression found, in sympy's notation; None where there is none, or none could be read in time."""
    _installed()
    return timed.ask("read", text)[0]


def _installed() -> None:
    if find_spec("math_verify") is None:
        raise UserError('check math needs math-verify: pip install "refinery[checks]"')

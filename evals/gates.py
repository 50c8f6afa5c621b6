"""Gates for continuous integration: "general_mean < -2pp" and the like, decided by intervals.

    [METHOD:]WHAT < NUMBERpp        or >

WHAT is general_mean, domain_mean or a benchmark; the number is a difference in percentage points, new minus old. With
the 95% interval [low, high] of that difference, "WHAT < x" is

    met         where high < x: the whole interval lies below
    not met     where low >= x
    undecided   where the interval spans x

("WHAT > x" is the same turned round: met where low > x, not met where high <= x.) --fail-if fails where its condition
is met, and passes where it is undecided: it stops what is proven to be bad. --fail-unless fails where its condition is
not met or undecided: it lets through what is proven to be good. Intervals are not widened for the number of gates.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, Protocol

from refinery.errors import UserError

FORM = re.compile(
    r"\s*(?:(?P<method>[A-Za-z0-9][\w.=,\[\]-]*):)?(?P<what>[A-Za-z0-9][\w./-]*)\s*(?P<sign>[<>])"
    r"\s*(?P<number>[+-]?\d+(?:\.\d+)?)pp\s*"
)

State = Literal["met", "not met", "undecided"]


class Interval(Protocol):
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Gate:
    text: str
    method: str
    """Empty: whichever is compared."""
    what: str
    sign: str
    threshold: float
    """A fraction."""
    must: bool
    """The condition must be met (--fail-unless), not must not."""

    def state(self, difference: Interval) -> State:
        """UserError where the difference has no interval."""
        low, high = difference.low, difference.high
        if math.isnan(low) or math.isnan(high):
            raise UserError(f'gate "{self.text}": this difference has no interval, so nothing can be decided')
        if self.sign == ">":
            return "met" if low > self.threshold else "not met" if high <= self.threshold else "undecided"
        return "met" if high < self.threshold else "not met" if low >= self.threshold else "undecided"

    def fails(self, state: State) -> bool:
        return state != "met" if self.must else state == "met"


def parse(text: str, must: bool = False) -> Gate:
    """UserError where it is not of the form above."""
    found = FORM.fullmatch(text)
    if not found:
        raise UserError(f'gate "{text}": write [METHOD:]WHAT < NUMBERpp (or >), as in "general_mean < -2pp"')
    number = float(found["number"]) / 100
    return Gate(text.strip(), found["method"] or "", found["what"], found["sign"], number, must)

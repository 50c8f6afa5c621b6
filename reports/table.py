"""The only place where a number becomes text.

Shares and changes are kept as fractions everywhere else; here 0.642 becomes "64.2%" and a change of -0.068 becomes
"−6.8" points. An interval stands in brackets behind its value, with as many decimals as its width can bear. What is not
known is said in words, never shown as a number or left blank.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

MINUS = "−"
NOT_ESTIMABLE = "not estimable"
ABSENT = "not measured"


class Interval(Protocol):
    """Anything with a value and a 95% interval, as fractions; NaN or None where there is none."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def number(value: float | int | None) -> float:
    """None is NaN: a number that nobody knows."""
    return math.nan if value is None else float(value)


def known(*values: float | None) -> bool:
    return not any(math.isnan(number(value)) for value in values)


def decimals(low: float, high: float) -> int:
    """Decimals that a value in percent or points can bear, from the width of its interval in the same unit."""
    half = abs(high - low) / 2
    if math.isnan(half):
        return 1
    return 0 if half >= 10 else 2 if 1e-9 < half < 0.1 else 1  # what is smaller is noise of the arithmetic


def fixed(number: float, places: int, sign: bool = False) -> str:
    """`number` with so many decimals, a true minus sign, and a plus sign on request; never "−0.0"."""
    if math.isinf(number):
        return "∞" if number > 0 else f"{MINUS}∞"
    text = f"{abs(number):,.{places}f}"
    zero = not text.strip("0.,")
    return ("" if zero else MINUS if number < 0 else "+" if sign else "") + text


def percent(value: float | None, places: int = 1) -> str:
    """0.642 as "64.2%"."""
    return f"{fixed(100 * number(value), places)}%" if known(value) else ABSENT


def score_interval(score: Interval) -> str:
    """A score from 0 to 1 with its interval: "64.2% [61.0, 67.4]". Ends beyond 0 and 100% are cut."""
    return _with_interval(score, sign=False, unit="%", bounds=(0.0, 100.0))


def ratio_interval(ratio: Interval) -> str:
    """A ratio with its interval: "104% [90, 118]"."""
    return _with_interval(ratio, sign=False, unit="%")


def points_interval(change: Interval) -> str:
    """A change in percentage points with its interval: "−6.8 [−9.1, −4.5]". Ends beyond ±100 are cut."""
    return _with_interval(change, sign=True, unit="", bounds=(-100.0, 100.0))


def _with_interval(
    estimate: Interval, sign: bool, unit: str, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> str:
    value, low, high = (100 * number(part) for part in (estimate.value, estimate.low, estimate.high))
    if not known(value):
        return NOT_ESTIMABLE
    places = decimals(low, high)
    text = fixed(value, places, sign) + unit
    if not known(low, high):
        return f"{text} (no interval)"
    low, high = max(low, bounds[0]), min(high, bounds[1])
    return f"{text} [{fixed(low, places, sign)}, {fixed(high, places, sign)}]"


def amount(change: Interval) -> str:
    """The size of a change whose sign is said in words: a loss of "6.8 [4.5, 9.1]" points."""
    value, low, high = (100 * number(part) for part in (change.value, change.low, change.high))
    if not known(value):
        return NOT_ESTIMABLE
    if not known(low, high):
        return f"{fixed(abs(value), 1)} (no interval)"
    places = decimals(low, high)
    ends = (-high, min(-low, 100.0)) if value < 0 else (low, min(high, 100.0))
    return f"{fixed(abs(value), places)} [{fixed(ends[0], places)}, {fixed(ends[1], places)}]"


def half_width(change: Interval) -> str:
    """How precisely a change is known, in points: "± 1.9"."""
    half = 50 * (number(change.high) - number(change.low))
    return f"± {fixed(half, 1)}" if known(half) else "no interval"


def points(value: float | None, places: int = 1) -> str:
    """A change of -0.068 as "−6.8"."""
    return fixed(100 * number(value), places, sign=True) if known(value) else ABSENT


def margin_points(margin: float) -> str:
    """A margin of 0.05 as "5"."""
    return f"{100 * margin:g}"


def p_value(p: float | None) -> str:
    """0.0004 as "< 0.001", 0.0123 as "0.012", 0.34 as "0.34"."""
    p = number(p)
    if not known(p):
        return ABSENT
    if p < 0.001:
        return "< 0.001"
    if p > 0.99:
        return "> 0.99"
    return f"{p:.3f}" if p < 0.095 else f"{p:.2f}"


def p_said(p: float | None) -> str:
    """In a sentence: "p < 0.001", "p = 0.012"."""
    text = p_value(p)
    return f"p {text}" if text[0] in "<>" else f"p = {text}"


def count(n: int | float | None) -> str:
    """1319 as "1,319"."""
    return f"{int(number(n)):,}" if known(n) else ABSENT


def counted(n: int, noun: str) -> str:
    """A count with its noun: "1 row", "1,319 rows"."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def part(n: int, total: int) -> str:
    """A part of a count: "641 (64%)"; below 1% and above 99% with a decimal, so that few is not none."""
    if not total:
        return count(n)
    share = 100 * n / total
    places = 1 if 0 < share < 1 or 99 < share < 100 else 0
    return f"{n:,} ({fixed(share, places)}%)"


def decimal(value: float | None, digits: int = 3) -> str:
    """A number of no fixed unit, to so many significant digits: 0.00123 as "0.00123", 12345 as "12,345"."""
    value = number(value)
    if not known(value):
        return ABSENT
    if value == 0 or math.isinf(value):
        return fixed(value, 0)
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return fixed(value, max(0, digits - 1 - size))


def decimal_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A number of no fixed unit with its interval; decimals by the interval's width."""
    value, low, high = number(value), number(low), number(high)
    if not known(value):
        return NOT_ESTIMABLE
    if not known(low, high) or high == low:
        return decimal(value) + ("" if known(low, high) else " (no interval)")
    half = (high - low) / 2
    size = math.floor(math.log10(half))
    places = min(6, max(0, -size + (half < 2 * 10**size)))
    return f"{fixed(value, places)} [{fixed(low, places)}, {fixed(high, places)}]"


def plain_number(value: object) -> str:
    """A parameter as a person would write it: 0.0003 as "0.0003", 1e-06 as "1e-6", True as "true"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return re.sub(r"e([+-])0*", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def mark(value: float | None) -> str:
    """What an item's score says: "right", "wrong", or how much of it was right."""
    value = number(value)
    if not known(value):
        return ABSENT
    return "right" if value >= 1 else "wrong" if value <= 0 else decimal(value)


def numbers(values: Sequence[float]) -> str:
    """Whole numbers in a row: "0, 1, 2"."""
    return ", ".join(plain_number(value) for value in values)


def duration(seconds: float) -> str:
    """A time that something took: "0.3 s", "42 s", "12 min", "3.4 h"."""
    if 0 < seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tokens(n: int | float | None) -> str:
    """Of tokens, to three digits: "870", "34.1k", "1.2M"."""
    n = number(n)
    if not known(n):
        return ABSENT
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{decimal(n / size)}{letter}"
    return count(n)


def memory(size: float | None) -> str:
    """Of bytes: "316 MB", "3.0 GB"."""
    size = number(size)
    if not known(size):
        return ABSENT
    return f"{decimal(size / 1e9, 2)} GB" if size >= 1e9 else f"{decimal(size / 1e6)} MB"


def energy(joules: float | None) -> str:
    """Of a machine: "840 Wh", "1.2 kWh"."""
    joules = number(joules)
    if not known(joules):
        return ABSENT
    hours = joules / 3600
    return f"{decimal(hours / 1000)} kWh" if hours >= 1000 else f"{decimal(hours)} Wh"


def dollars(value: float | None) -> str:
    """A price in USD; small ones with their digits."""
    value = number(value)
    if not known(value):
        return "no price given"
    return f"${fixed(value, 2)}" if value >= 0.1 or value == 0 else f"${decimal(value, 2)}"


def published(value: float | None, places: int = 1) -> str:
    """A figure as a paper prints it, which is a percentage or a count: "64.2"; nothing where the paper has none."""
    return fixed(number(value), 0 if number(value) >= 1000 else places) if known(value) else ""


def edge(value: float) -> str:
    """The end of a histogram's bin: "3", "0.975"."""
    return f"{value:.4g}".replace("-", MINUS)


def moment(time: datetime | None) -> str:
    """A UTC time to the minute."""
    return f"{time:%Y-%m-%d %H:%M} UTC" if time else "not finished"


def short(digest: str | None) -> str:
    """A digest as people compare it."""
    return (digest or "")[:12]

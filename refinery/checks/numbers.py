"""Numbers in running text, exact."""

import re
from bisect import bisect_left
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

Number = tuple[Fraction, bool]
"""(value, whether a percent sign follows): 60% is neither 60 nor 0.6."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
NUMBER = re.compile(
    rf"""
    (?<![A-Za-z0-9_])(?<![0-9]\.)                       # not inside a word (H2O) or a version (3.14.15)
    (?P<sign>(?<![\w)\]])[-+](?!\ ))?\ ?[$£€¥]?        # no sign: the minus of 3-4, a range, and of "- 4"
    (?:
      \\d?frac\{{(?P<over>-?[0-9]+)\}}\{{(?P<under>[0-9]+)\}}
    | (?<![0-9]/)(?:(?P<whole>[0-9]+)\ )?(?P<top>[0-9]+)\ ?/\ ?(?P<bottom>[0-9]+)(?!/?[0-9])(?!\.[0-9])
    | (?P<plain>{_DIGITS}(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)
      (?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![\w])
       | \ ?(?:×|x|\*|\\times|\\cdot)\ ?10\^\{{?(?P<power>-?[0-9]{{1,3}})\}}?)?
    )
    (?P<percent>\s?\\?%|\s?per\ ?cent\b)?
    """,
    re.VERBOSE,
)


def last_number(text: str) -> Number | None:
    """(value, whether a percent sign follows) of the last number in `text`, exact, or None.

    Reads 1,234.50, .5, -3, $5, 3/4, 1 1/2, \\frac{3}{4}, 2e-5 and 1.5 × 10^3. A comma groups thousands only. Words
    ("seven"), intervals and dates are not understood: of 12/05/2024 the last number is 2024. A sign touches its number
    or the currency before it: "10 - 4" and the bullet "- 4" hold 4.
    """
    matches = list(NUMBER.finditer(text.replace("−", "-")))
    return _number(matches[-1]) if matches else None


def places(text: str, wanted: Number) -> list[tuple[int, int]]:
    """(start, end) of each number in `text` that is `wanted`, however it is written: 1,200 and 1200 are one."""
    found = [match for match in NUMBER.finditer(text.replace("−", "-")) if _number(match) == wanted]
    return [(match.end() - len(match[0].lstrip()), match.end()) for match in found]


_LIST_MARK = re.compile(r"^[ \t]*[0-9]{1,3}[.)](?=\s)", re.MULTILINE)


def all_numbers(text: str) -> set[Number]:
    """Every number as `last_number` reads it; the marks of a numbered list ("2. ") are layout and left out."""
    plain = _LIST_MARK.sub("", text.replace("−", "-"))
    return {number for match in NUMBER.finditer(plain) if (number := _number(match))}


def near(found: Number, wanted: Number, tolerance: float) -> bool:
    """Equal, or no further apart than `tolerance` times the wanted value; a percentage is near percentages alone."""
    return found[1] == wanted[1] and abs(found[0] - wanted[0]) <= Fraction(tolerance) * abs(wanted[0])


def shares(candidate: str, reference: str, tolerance: float) -> tuple[float | None, float | None]:
    """(recall, precision) of the different numbers of `candidate` against those of `reference`; None for x/0."""
    found, wanted = all_numbers(candidate), all_numbers(reference)
    return _share(wanted, found, tolerance), _share(found, wanted, tolerance)


def _share(wanted: Iterable[Number], found: Iterable[Number], tolerance: float) -> float | None:
    """Share of `wanted` that are near one of `found`."""
    values = {percent: sorted(v for v, p in found if p == percent) for percent in (False, True)}
    hits = []
    for value, percent in wanted:
        slack = Fraction(tolerance) * abs(value)
        at = bisect_left(values[percent], value - slack)
        hits.append(at < len(values[percent]) and values[percent][at] <= value + slack)
    return sum(hits) / len(hits) if hits else None


def _number(match: re.Match[str]) -> Number | None:
    value = _fraction(match)
    return None if value is None else (-value if match["sign"] == "-" else value, match["percent"] is not None)


def _fraction(match: re.Match[str]) -> Fraction | None:
    """Exact value of one match of `NUMBER` without its sign; None for a division by zero."""
    top, bottom = match["over"] or match["top"], match["under"] or match["bottom"]
    if top is None:
        value = Fraction(Decimal(match["plain"].replace(",", "")))
        return value * Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    if Decimal(bottom) == 0:
        return None
    return Fraction(Decimal(match["whole"] or 0)) + Fraction(Decimal(top)) / Fraction(Decimal(bottom))

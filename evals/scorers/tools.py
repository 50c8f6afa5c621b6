"""Function calls compared by what they are, never by their text: refinery/checks/calls.py reads every usual notation.

The regular expressions that published scorers use lose nested JSON and merge the arguments of several calls; of 68 gold
answers of one of them it failed 2 and hid the errors of 11.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from refinery.checks import calls
from refinery.checks.calls import Call

NOTHING = (("text", ""), ("constant", "None"), ("list", ()), ("map", ()))
"""Values that say no more than leaving the argument out: "", null, [] and {}."""


def same(text: str, gold: str) -> bool:
    """The same calls in the same order: names, arguments and values equal, repeated ones included; the order of the
    arguments does not matter. A text without a call equals nothing."""
    found, wanted = calls.read(text), calls.read(gold)
    return found is not None and found == wanted


def similar(text: str, gold: str) -> bool:
    """The same calls in any order, arguments with an empty value counting as left out."""
    found, wanted = calls.read(text), calls.read(gold)
    return found is not None and wanted is not None and _loosely(found) == _loosely(wanted)


def named(text: str, gold: str) -> bool:
    """The same functions in the same order, whatever their arguments."""
    found, wanted = calls.read(text), calls.read(gold)
    return found is not None and wanted is not None and [name for name, _ in found] == [name for name, _ in wanted]


def parses(_: Mapping[str, Any], text: str) -> bool:
    """Whether a text holds a call at all."""
    return calls.read(text) is not None


def _loosely(found: tuple[Call, ...]) -> Counter[Call]:
    return Counter((name, tuple(pair for pair in arguments if pair[1] not in NOTHING)) for name, arguments in found)

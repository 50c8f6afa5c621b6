"""Does a written answer agree with a reference? Rules on text, used by gates, judges and validation selection.

Every rule reads one comparable value out of each text (`value_of`) and compares the two. A text in which a rule finds
nothing (no number, no box, no single letter) agrees with nothing, an empty reference included: not knowing is never
taken for agreement. What each rule cannot see is written beside it.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from refinery.checks import calls, formats, maths, names, numbers, texts
from refinery.checks.numbers import last_number
from refinery.checks.texts import choice_letter, last_box, words

__all__ = [
    "KINDS",
    "READINGS",
    "Check",
    "Finding",
    "Kind",
    "agrees",
    "choice_letter",
    "compare",
    "last_box",
    "last_number",
    "reference_value",
    "value_of",
    "words",
]

Kind = Literal[
    "last_word", "exact", "contains", "number", "boxed", "choice", "math", "tool_call", "numbers", "entities"
]
"""The rules that need nothing but the two texts."""
KINDS: tuple[str, ...] = get_args(Kind)

READINGS = {"number": 2, "numbers": 2, "choice": 2, "boxed": 2, "math": 2, "tool_call": 2}
"""The version of how a rule reads, 1 where it is not named: scores by two versions are not to be compared."""

WITH_OPTIONS = ("regex", "json_schema")
"""The rules that need a pattern or a schema besides."""

SLOW = ("math", "json_schema", "regex")
"""Rules that may take up to their time limit; call `compare` in a thread for them."""


@dataclass(frozen=True, slots=True)
class Check:
    """A rule with its options; each option belongs to the kinds named beside it."""

    kind: str
    pattern: str = ""
    """regex. Its group `answer`, else its first group, else the whole match is compared."""
    schema: dict[str, Any] | None = None
    """json_schema."""
    choices: str = texts.LETTERS
    """choice. The letters there are to choose from."""
    tolerance: float = 0.0
    """number, numbers. Largest difference, as a share of the number that is looked for."""
    min_recall: float = 1.0
    """numbers, entities. Share of what the reference holds that the candidate must hold."""
    min_precision: float = 0.0
    """numbers, entities. Share of what the candidate holds that the reference must hold."""

    @classmethod
    def of_params(cls, params: Mapping[str, Any]) -> "Check | None":
        """From check_answer's parameters, as a step or the store has them; None for judge, which is no rule on text."""
        if params["kind"] not in (*KINDS, *WITH_OPTIONS):
            return None
        names = {field.name: field.name for field in fields(cls)} | {"schema": "json_schema"}
        given = {name: params.get(param) for name, param in names.items()}
        return cls(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Finding:
    """`agrees` is None where the rule could not tell; `unknown` then says why (timed_out, crashed)."""

    agrees: bool | None
    scores: dict[str, float | None] = field(default_factory=dict)
    """recall and precision, for numbers and entities; None where there is nothing to divide by."""
    unknown: str = ""


def agrees(kind: str, candidate: str, reference: str) -> bool:
    """True where `candidate` gives the answer that `reference` gives, under the rule `kind` (one of `KINDS`).

    A comparison that ran out of time is no agreement. Raises ValueError for a kind that does not exist.
    """
    return compare(Check(kind), candidate, reference).agrees is True


def compare(check: Check, candidate: str, reference: str) -> Finding:
    """The finding of one rule on one candidate.

    All rules are symmetric but these: `contains` looks for the whole reference inside the candidate, `boxed` and
    `regex` take a reference without a box or match as the bare value, `math` reads an assignment x = 5 in the candidate
    as 5, `numbers` and `entities` measure recall and precision, and `json_schema` does not look at the reference.
    """
    match check.kind:
        case "math":
            return Finding(*maths.same(candidate, reference))
        case "json_schema":
            return Finding(*formats.follows(candidate, check.schema or {}))
        case "numbers":
            return _shares(check, *numbers.shares(candidate, reference, check.tolerance), bool(reference.strip()))
        case "entities":
            return _shares(check, *names.shares(candidate, reference), bool(reference.strip()))
    try:
        found, wanted = value_of(check, candidate), reference_value(check, reference)
    except TimeoutError:
        return Finding(None, unknown="timed_out")
    if found is None or wanted is None:
        return Finding(False)
    if check.kind == "contains":
        return Finding(texts.is_within(wanted, found))  # type: ignore[arg-type]
    if check.kind == "number":
        return Finding(numbers.near(found, wanted, check.tolerance))  # type: ignore[arg-type]
    return Finding(found == wanted)


def _shares(check: Check, recall: float | None, precision: float | None, readable: bool) -> Finding:
    """With nothing to find in the reference nothing is missing, with nothing in the candidate nothing is made up."""
    enough = (recall is None or recall >= check.min_recall) and (precision is None or precision >= check.min_precision)
    return Finding(readable and enough, {"recall": recall, "precision": precision})


def reference_value(check: Check | str, reference: str) -> Hashable | None:
    """What `value_of` a candidate must equal (hold, for `contains`); None where nothing can agree with `reference`."""
    check = Check(check) if isinstance(check, str) else check
    if check.kind == "boxed" and "\\boxed" not in reference:
        return texts.box_value(reference)
    value = value_of(check, reference)
    return value_of("exact", reference) if check.kind == "regex" and value is None else value


def value_of(check: Check | str, text: str) -> Hashable | None:
    """The value that a rule compares, or None where `text` holds none.

    last_word    the last word, casefolded, without the punctuation around it: "It is **Paris**." gives "paris"
    exact        the text with runs of white space made one space; case and punctuation count
    contains     the words as a sequence; whole words only, but "it is not Paris" does contain "Paris"
    number       (value, is_percent) of the last number; `60%` is neither 60 nor 0.6, units and currency are ignored
    boxed        the content of the last \\boxed{...}, as a number where it is one; an unclosed last box gives None
    choice       one letter A to E (`choices`); several different letters, or "B or C" after "answer", give None
    math         the last expression, as math-verify prints it; what counts as equal is decided by `compare`
    tool_call    the function calls, in order (refinery/checks/calls.py)
    numbers      all numbers; the empty set is a value too, None only where the text is blank
    entities     all proper names and quoted texts (refinery/checks/names.py); the empty set is a value too
    regex        the last match of the pattern, with runs of white space made one space; raises TimeoutError
    json_schema  the text, which is not compared with anything

    Raises ValueError for a kind that does not exist.
    """
    check = Check(check) if isinstance(check, str) else check
    match check.kind:
        case "last_word":
            return next(iter(reversed(words(text))), None)
        case "exact":
            return texts.exact(text)
        case "contains":
            return tuple(words(text)) or None
        case "number":
            return last_number(text)
        case "boxed":
            content = last_box(text)
            return None if content is None else texts.box_value(content)
        case "choice":
            return choice_letter(text, check.choices)
        case "math":
            return maths.read(text)
        case "tool_call":
            return calls.read(text)
        case "numbers":
            return frozenset(numbers.all_numbers(text)) if text.strip() else None
        case "entities":
            return names.read(text) if text.strip() else None
        case "regex":
            return formats.last_match(check.pattern, text)
        case "json_schema":
            return text
    raise ValueError(f"unknown check {check.kind!r}; known: {', '.join((*KINDS, *WITH_OPTIONS))}")

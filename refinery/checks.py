"""Does a written answer agree with a reference? Plain-text rules, used by gates, judges and validation selection.

Every rule reads one comparable value out of each text (`value_of`) and compares the two. A text in which a rule finds
nothing (no number, no box, no single letter) agrees with nothing, an empty reference included: not knowing is never
taken for agreement. What each rule cannot see is written beside it.
"""

import re
import unicodedata
from collections.abc import Hashable
from decimal import Decimal
from fractions import Fraction
from typing import Literal, get_args

Kind = Literal["last_word", "exact", "contains", "number", "boxed", "choice"]
KINDS: tuple[str, ...] = get_args(Kind)


def agrees(kind: str, candidate: str, reference: str) -> bool:
    """True where `candidate` gives the answer that `reference` gives, under the rule `kind` (one of `KINDS`).

    All rules are symmetric but two: `contains` looks for the whole reference inside the candidate, and `boxed` takes a
    reference without a box as the bare content of one. Raises ValueError for a kind that does not exist.
    """
    found, wanted = value_of(kind, candidate), reference_value(kind, reference)
    if found is None or wanted is None:
        return False
    if kind == "contains":
        return _is_within(wanted, found)  # type: ignore[arg-type]
    return found == wanted


def reference_value(kind: str, reference: str) -> Hashable | None:
    """What `value_of` a candidate must equal (hold, for `contains`); None where nothing can agree with `reference`."""
    if kind == "boxed" and "\\boxed" not in reference:
        return _box_value(reference)
    return value_of(kind, reference)


def value_of(kind: str, text: str) -> Hashable | None:
    """The value that rule `kind` compares, or None where `text` holds none.

    last_word  the last word, casefolded, without the punctuation around it: "It is **Paris**." gives "paris"
    exact      the text with runs of white space made one space; case and punctuation count
    contains   the words as a sequence; whole words only, but "it is not Paris" does contain "Paris"
    number     (value, is_percent) of the last number; `60%` is neither 60 nor 0.6, units and currency are ignored
    boxed      the content of the last \\boxed{...}, as a number where it is one; an unclosed last box gives None
    choice     one letter A to E; several different letters without "answer" before one of them give None
    """
    match kind:
        case "last_word":
            return next(iter(reversed(words(text))), None)
        case "exact":
            return " ".join(unicodedata.normalize("NFC", text).split()) or None
        case "contains":
            return tuple(words(text)) or None
        case "number":
            return last_number(text)
        case "boxed":
            content = last_box(text)
            return None if content is None else _box_value(content)
        case "choice":
            return choice_letter(text)
    raise ValueError(f"unknown check {kind!r}; known: {', '.join(KINDS)}")


# --- words


def words(text: str) -> list[str]:
    """Casefolded words split at white space and long dashes, bare of punctuation and symbols at both ends.

    A minus sign before a digit and a percent sign after one belong to the word: -5 is not 5, and 60% is not 60.
    """
    pieces = re.split(r"[\s—–]+", unicodedata.normalize("NFKC", text).replace("−", "-").casefold())
    return [bare for piece in pieces if (bare := _bare(piece))]


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and _is_mark(word[start]):
        start += 1
    while end > start and _is_mark(word[end - 1]):
        end -= 1
    if start < end and word[start].isdigit() and word[:start].endswith("-"):
        start -= 1
    if start < end and word[end - 1].isdigit() and word[end:].startswith("%"):
        end += 1
    return word[start:end]


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"


def _is_within(wanted: tuple[str, ...], found: tuple[str, ...]) -> bool:
    size = len(wanted)
    return any(found[i : i + size] == wanted for i in range(len(found) - size + 1))


# --- numbers

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"""
    (?<![A-Za-z0-9_])(?<![0-9]\.)                       # not inside a word (H2O) or a version (3.14.15)
    (?P<sign>(?<![\w)\]])[-+])?\ ?[$£€¥]?               # 3-4 is a range: its minus is no sign
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


def last_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, whether a percent sign follows) of the last number in `text`, exact, or None.

    Reads 1,234.50, .5, -3, $5, 3/4, 1 1/2, \\frac{3}{4}, 2e-5 and 1.5 × 10^3. A comma groups thousands only. Words
    ("seven"), intervals and dates are not understood: of 12/05/2024 the last number is 2024.
    """
    matches = list(_NUMBER.finditer(text.replace("−", "-")))
    if not matches:
        return None
    last = matches[-1]
    value = _fraction(last)
    return None if value is None else (-value if last["sign"] == "-" else value, last["percent"] is not None)


def _fraction(match: re.Match[str]) -> Fraction | None:
    """Exact value of one match of `_NUMBER` without its sign; None for a division by zero."""
    top, bottom = match["over"] or match["top"], match["under"] or match["bottom"]
    if top is None:
        value = Fraction(Decimal(match["plain"].replace(",", "")))
        return value * Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    if Decimal(bottom) == 0:
        return None
    return Fraction(Decimal(match["whole"] or 0)) + Fraction(Decimal(top)) / Fraction(Decimal(bottom))


# --- boxes


def last_box(text: str) -> str | None:
    """The content of the last \\boxed{...} with balanced braces; None without one, or where the last never closes."""
    opens = list(re.finditer(r"\\boxed\s*\{", text))
    if not opens:
        return None
    start, depth, i = opens[-1].end(), 1, opens[-1].end()
    while i < len(text):
        if text[i] == "\\":  # \{ and \\ are not braces
            i += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
        i += 1
    return None


def _box_value(content: str) -> Hashable | None:
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:)|\$", "", content).replace("\\dfrac", "\\frac")
    text = re.sub(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = "".join(text.split()).rstrip(".")
    number = _NUMBER.fullmatch(text.replace("−", "-"))
    return (last_number(text) if number else text) or None


# --- letters

_ARTICLE = r"(?!\s+(?!because|since|as\b)[a-z])"  # an "A" before a small word is the article, not the option
_LETTER = rf"[(\[{{*]*(?P<letter>A(?![\w'’]){_ARTICLE}|[B-E](?![\w'’]))"
_ANSWERED = re.compile(rf"(?i:\banswer\b(?:\s+is)?\s*:?)[\s*]*{_LETTER}|\\boxed\{{([A-E])\}}")
_LEADING = re.compile(r"\s*[(\[*]*(?P<letter>[A-E])[)\].:*]")
_STANDALONE = re.compile(rf"(?<![\w'’])(?<!not )(A(?![\w'’]){_ARTICLE}|[B-E](?![\w'’]))")


def choice_letter(text: str) -> str | None:
    """The one option A to E that `text` settles on, or None.

    In this order: the text is a letter ("b", "(B)"); the last "answer is B", "answer: B" or \\boxed{B}; a leading "B)"
    or "B."; a letter that is the only one standing alone, where an "A" before a small word is taken for the article.
    """
    alone = text.strip().strip("()[]{}*.:$ ")
    if len(alone) == 1 and alone.upper() in "ABCDE":
        return alone.upper()
    answered = [match["letter"] or match[2] for match in _ANSWERED.finditer(text)]
    if answered:
        return answered[-1]
    if leading := _LEADING.match(text):
        return leading["letter"]
    letters = set(_STANDALONE.findall(text))
    return letters.pop() if len(letters) == 1 else None

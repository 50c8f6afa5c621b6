"""Rules on the surface of a text: its words, its last \\boxed{...}, the option letter it settles on."""

import re
import unicodedata
from collections.abc import Hashable
from functools import lru_cache

from refinery.checks.numbers import NUMBER, last_number

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


def exact(text: str) -> str | None:
    """The text in NFC with runs of white space made one space; None where nothing is left."""
    return " ".join(unicodedata.normalize("NFC", text).split()) or None


def is_within(wanted: tuple[str, ...], found: tuple[str, ...]) -> bool:
    """Do the words `wanted` stand in a row in `found`?"""
    size = len(wanted)
    return any(found[i : i + size] == wanted for i in range(len(found) - size + 1))


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


def box_value(content: str) -> Hashable | None:
    """The content without layout, as (value, is_percent) where it is one number; 1\\frac{1}{2} and 1 1/2 are 3/2."""
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:)|\$", "", content).replace("\\dfrac", "\\frac")
    text = re.sub(r"\\(?:text|mathrm|mathbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\frac\s*([0-9])\s*([0-9])", r"\\frac{\1}{\2}", text)
    text = " ".join(text.split()).rstrip(". ").replace("−", "-")
    joined = re.sub(r"(?<![0-9]) | (?![0-9])", "", text)  # 3 4 is not 34
    mixed = re.sub(r"^([-+]?[0-9]+)\\frac\{([0-9]+)\}\{([0-9]+)\}", r"\1 \2/\3", joined)
    for each in (text, mixed):
        if NUMBER.fullmatch(each) and not re.search(r"[.,] ", text):
            return last_number(each)
    return joined or None


# --- letters

LETTERS = "ABCDE"
_GO_ON = r"(?:because|since|as|or|and)\b"
_NOT_WRONG = r"(?![)\].:*]*\s+is\s+(?:wrong|incorrect|false|not)\b)"


@lru_cache(maxsize=64)
def _letter_rules(letters: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """(after "answer", at the start, standing alone, another one beside it) for these letters.

    "A" and "I" before a small word are the article and the pronoun, not options.
    """
    words = "".join(letter for letter in letters if letter in "AI")
    plain = "".join(letter for letter in letters if letter not in words)
    either = [rf"[{plain}](?![\w'’])"] if plain else []
    either += [rf"[{words}](?![\w'’])(?!\s+(?!{_GO_ON})[a-z])"] if words else []
    letter = f"(?:{'|'.join(either)})"
    tagged = rf"\\boxed\{{([{letters}])\}}|<answer>\s*\(?([{letters}])\)?\s*</answer>"
    answered = rf"(?i:\banswer\b(?:\s{{1,20}}is)?)[\s*]{{0,20}}:?[\s*(\[{{]{{0,20}}(?P<letter>{letter})|{tagged}"
    leading = rf"\s*[(\[*]*(?P<letter>[{letters}])[)\].:*]{_NOT_WRONG}"
    standalone = rf"(?<![\w'’])(?<!not )(?<!nor )({letter}){_NOT_WRONG}"
    beside = rf"[)\]}}*.:\s]*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+)?[(\[{{*]*[{letters}](?![\w'’])"
    return re.compile(answered), re.compile(leading), re.compile(standalone), re.compile(beside)


def letter_places(text: str, letter: str, letters: str = LETTERS) -> list[tuple[int, int]]:
    """(start, end) of each place where `letter` stands alone in `text`; the article in "A remedy" does not."""
    return [match.span(1) for match in _letter_rules(letters)[2].finditer(text) if match[1] == letter]


def choice_letter(text: str, letters: str = LETTERS) -> str | None:
    """The one option among `letters` that `text` settles on, or None.

    In this order: the text is a letter ("b", "(B)"); the last "answer is B", "answer: B", \\boxed{B} or
    <answer>B</answer>; a leading "B)" or "B."; a letter that is the only one standing alone. The last two leave out
    what "is wrong". Where a second letter stands beside the one found ("the answer is B or C"), nothing was settled.
    Where several letters lead lines or sentences, the options are gone through: then counts what comes after the last
    of them, if it names one letter, else the only one that "is right".
    """
    alone = text.strip().strip("()[]{}*.:$ ")
    if len(alone) == 1 and alone.upper() in letters:
        return alone.upper()
    answered, leading, standalone, beside = _letter_rules(letters)
    found = [*answered.finditer(text)][-1:]
    leads = [] if found else [*_list_rules(letters)[0].finditer(text)]
    if len({match["letter"] for match in leads}) > 1:
        return _conclusion(text, leads[-1].end(), letters)
    found = found or [match for match in [leading.match(text)] if match]
    if found:
        (last,) = found
        settled = last["letter"] or next(group for group in last.groups() if group)
        return None if beside.match(text, last.end()) else settled
    different = set(standalone.findall(text))
    return different.pop() if len(different) == 1 else None


@lru_cache(maxsize=64)
def _list_rules(letters: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(a letter that leads a line or a sentence, one that is said to be right)."""
    lead = rf"(?:^|(?<=[.!?])\s)[ \t]{{0,20}}[-•(\[*]*(?P<letter>[{letters}])[)\].:*]"
    right = (
        rf"(?<![\w'’])(?<!\bor )(?<!\bnor )(?<!\band )([{letters}])[)\].:*]*\s+is\s+(?:the\s+)?(?:right|correct)"
        r"(?:\s+(?:one|answer|option|choice))?(?=[*\s]*(?:[.!;]|$|(?:because|since)\b))"
    )
    return re.compile(lead, re.MULTILINE), re.compile(right, re.MULTILINE)


def _conclusion(text: str, after: int, letters: str) -> str | None:
    """What a text that goes through the options settles on; the last of them begins before `after`."""
    end = re.compile(r"\n|[.!?](?=\s|$)").search(text, after)
    named = set(_letter_rules(letters)[2].findall(text, end.end())) if end else set()
    named = named or set(_list_rules(letters)[1].findall(text))
    return named.pop() if len(named) == 1 else None

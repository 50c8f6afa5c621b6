"""How the answers are written: mark-up, lists, code, worked steps, hedges, who speaks. English words, any mark-up."""

import re

import numpy as np

from refinery.diagnostics._numbers import Meanings, Row, side_rows
from refinery.diagnostics._pairs import Pairs

VERSION = 2
NEEDS, USES, LIBRARIES = (), (), ()

LIMIT = 10_000
"""Pairs read at most: a share is then known to within one point."""

MARKERS = {
    "headings": re.compile(r"^#{1,6} [^\n]*?[^\W\d_]", re.MULTILINE),  # words: "#### 42" ends a solution
    "bold": re.compile(r"\*\*(?=\S)[^*\n]+(?<=\S)\*\*"),
    "bullets": re.compile(r"^[ \t]*[-*•] +\S", re.MULTILINE),
    "numbered": re.compile(r"^[ \t]*\d{1,2}[.)] +\S", re.MULTILINE),
    "code": re.compile(r"```|`[^`\n]+`"),
    "tables": re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.MULTILINE),
    "steps": re.compile(r"\bstep \d|\b(?:first|second|third)(?:ly)?,|\b(?:next|then|finally|therefore|thus),", re.I),
    "hedges": re.compile(
        r"\b(?:might|may|perhaps|possibly|probably|seems?|likely|could be|i think|i believe|generally|typically)\b",
        re.I,
    ),
    "first_person": re.compile(r"\b(?:I|I['’](?:m|ve|d|ll)|[Mm]e|[Mm]y|[Ww]e|[Oo]ur)\b"),
    "courtesy": re.compile(r"\A\W*(?:sure|certainly|of course|absolutely|great|here(?: is|['’]s| are))\b", re.I),
    "refusals": re.compile(r"\b(?:i(?:['’]m| am) sorry|i can(?:no|['’])t|as an ai|i(?:['’]m| am) unable)\b", re.I),
    "questions": re.compile(r"\?(?=\s|$)"),
    "exclamations": re.compile(r"!(?=\s|$)"),
}

_WORDS = {
    "headings": "Markdown headings",
    "bold": "bold text",
    "bullets": "bulleted lists",
    "numbered": "numbered lists",
    "code": "code",
    "tables": "tables",
    "steps": "words of worked steps (first, then, therefore)",
    "hedges": "hedges (might, perhaps, typically)",
    "first_person": "the first person",
    "courtesy": "a courteous opening (Sure, Here is)",
    "refusals": "apologies and refusals",
    "questions": "questions",
    "exclamations": "exclamation marks",
}

MEANINGS: Meanings = {
    f"{name}_change": (f"answers with {words}, change", "Above 0: the model will learn to do it more.")
    for name, words in _WORDS.items()
}


def measure(pairs: Pairs, *, seed: int = 0) -> list[Row]:
    """Rows of the family "style": for each of MARKERS the share of raw and of refined answers that hold it
    (<name>_raw, <name>_refined, Wilson intervals) and the mean paired difference (<name>_change, t interval)."""
    chosen = pairs.sample(LIMIT, seed)
    rows: list[Row] = []
    for name, pattern in MARKERS.items():
        raw = np.array([bool(pattern.search(pair.raw)) for pair in chosen], dtype=bool)
        refined = np.array([bool(pattern.search(pair.refined)) for pair in chosen], dtype=bool)
        rows += side_rows("style", name, raw, refined)
    return rows

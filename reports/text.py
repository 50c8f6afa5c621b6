"""Text from strangers, made fit to show: nothing here or in the renderers lets it act as markup."""

import re
import unicodedata

LIMIT = 4000
"""Characters of one row text that a report shows; the store has the rest."""

_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """`text` without characters that HTML forbids or that reorder what surrounds them; each leaves a visible mark."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _REORDERING.sub("\u241b", _UNSHOWABLE.sub("\ufffd", text))


def shorten(text: str, limit: int = LIMIT) -> tuple[str, int]:
    """The first `limit` characters and how many were left out. Never cuts between a letter and its combining marks."""
    if len(text) <= limit:
        return text, 0
    end = limit
    while end > limit - 20 and (
        unicodedata.combining(text[end]) or text[end] in "\u200d\ufe0f" or text[end - 1] == "\u200d"
    ):
        end -= 1
    return text[:end], len(text) - end


def slug(text: str) -> str:
    """An id for a heading: lower-case ASCII letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"

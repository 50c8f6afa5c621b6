"""Which option an answer names. `tagged` wants the form that was asked for, `settled` takes any clear one."""

import re

from refinery.checks import choice_letter

_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


def tagged(text: str, letters: str = "ABCD") -> str | None:
    """The letter in the last <answer>...</answer>, which holds nothing else; None for any other answer. An opening tag
    that stands in the prose opens nothing where another one follows before the end.

    "(B)", "B." and "B: text" in the tag are no letters: the prompt says so.
    """
    found = _TAG.findall(text)
    content = found[-1].strip() if found else ""
    return content if len(content) == 1 and content in letters else None


def settled(text: str, letters: str = "ABCD") -> str | None:
    """The one option that the text settles on, in whatever form (refinery/checks)."""
    return tagged(text, letters) or choice_letter(text, letters)

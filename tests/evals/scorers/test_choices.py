"""The form that was asked for, and any clear form."""

import time

import pytest

from evals.scorers.choices import settled, tagged

CASES = [
    ("<reasoning>A or B</reasoning>\n<answer>\nB\n</answer>", "B", "B"),
    ("<answer>A</answer> No: <answer> C </answer>", "C", "C"),
    ("I put it in <answer> tags. <answer>B</answer>", "B", "B"),
    ("<answer>A</answer> I put it in <answer> tags.", "A", "A"),
    ("<answer><answer>C</answer></answer>", "C", "C"),
    ("<answer>(B)</answer>", None, "B"),
    ("<answer>B.</answer>", None, "B"),
    ("<answer>b</answer>", None, None),
    ("<answer>B or C</answer>", None, None),
    ("<answer>E</answer>", None, None),
    ("<answer></answer>", None, None),
    ("<answer>B", None, "B"),
    ("The answer is B.", None, "B"),
    ("B) because of the ring", None, "B"),
    ("It is B or C.", None, None),
    ("", None, None),
    ("A molecule of water.", None, None),
]


@pytest.mark.parametrize(("text", "strict", "lenient"), CASES)
def test_letters(text: str, strict: str | None, lenient: str | None) -> None:
    assert tagged(text) == strict
    if lenient is not None or strict is None:
        assert settled(text) == lenient, text


def test_many_tags_end() -> None:
    begun = time.monotonic()
    assert tagged("<answer>" * 30_000 + "B") is None and tagged("<answer>" + "x" * 300_000) is None
    assert time.monotonic() - begun < 5

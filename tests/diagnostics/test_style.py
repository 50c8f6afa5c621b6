"""Marks of style on texts whose marks are known."""

import numpy as np
import pytest
from scipy import stats

from refinery.diagnostics import style
from refinery.diagnostics._pairs import paired

HOLDS = {
    "headings": (
        ["# Title\ntext", "a\n### b", "## 1. Überblick", "## 2024 in words"],
        ["#hashtag", "issue # 3", "so 9 * 2 = 18\n#### 18", "#### -1,200.50", "#### $5\nText", "# 50%", "#"],
    ),
    "bold": (["a **b** c"], ["2 ** 3 ** 4\n", "a * b"]),
    "bullets": (["- one", "x\n  * two", "• three"], ["a - b", "-5 is less", "**bold**"]),
    "numbered": (["1. one", "a\n 2) two"], ["1.5 is more", "in 2024. Then"]),
    "code": (["```\nx\n```", "call `f`"], ["it's 5 o'clock", "`"]),
    "tables": (["|a|b|\n|-|-|"], ["a | b", "|x| is positive"]),
    "steps": (["Step 1: go", "First, do this", "so, therefore, yes"], ["the first man", "stepping 1"]),
    "hedges": (["It might rain", "Perhaps.", "I think so"], ["The mighty", "maybelline"]),
    "first_person": (["I do", "that's what we do", "I’m here", "help me"], ["It is", "the meadow", "USA"]),
    "courtesy": (["Sure! Yes", "  Certainly, it", "Here's how", "**Of course**"], ["I am sure", "There is"]),
    "refusals": (["I'm sorry, but", "As an AI model", "I cannot do it"], ["sorry sight", "we cannot"]),
    "questions": (["Why? Because"], ["a?b", "none"]),
    "exclamations": (["Great! Go", "Go!"], ["a != b", "!important"]),
}


@pytest.mark.parametrize("name", style.MARKERS)
def test_markers(name):
    holds, lacks = HOLDS[name]
    assert [t for t in holds if not style.MARKERS[name].search(t)] == []
    assert [t for t in lacks if style.MARKERS[name].search(t)] == []


def test_shares_and_the_paired_change():
    raw = ["- a list"] * 30 + ["plain"] * 70
    refined = ["plain"] * 10 + ["- a list"] * 60 + ["plain"] * 30
    rows = {r["name"]: r for r in style.measure(paired(raw, refined))}
    assert set(rows) == {f"{m}_{s}" for m in style.MARKERS for s in ("raw", "refined", "change")}
    assert (rows["bullets_raw"]["value"], rows["bullets_refined"]["value"]) == (0.3, 0.6)
    difference = np.array(["- " in b for b in refined], float) - np.array(["- " in a for a in raw], float)
    low, high = stats.t.interval(0.95, 99, difference.mean(), stats.sem(difference))
    change = rows["bullets_change"]
    assert (change["value"], change["low"], change["high"]) == pytest.approx((0.3, low, high), rel=1e-4)
    assert rows["tables_change"]["value"] == 0
    assert {row["value"] for row in style.measure(paired([], []))} == {None}

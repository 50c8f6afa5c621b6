"""Real reference answers (tests/data/SOURCES.md): each agrees with itself and its key, and not with a mangled one."""

import json
import re
from pathlib import Path

import pytest

from refinery.checks import Check, agrees, compare

ROWS = [json.loads(line) for line in (Path(__file__).parent.parent / "data" / "gold_answers.jsonl").open()]
KINDS = {
    "gsm8k": ("number", "math", "numbers"),
    "openfunctions": ("tool_call",),
    "toolalpaca": ("tool_call",),
    "sciknoweval": ("choice",),
    "mmlu": ("choice",),
}
CASES = [pytest.param(kind, row, id=f"{row['source']}-{i}-{kind}") for i, row in enumerate(ROWS)
         for kind in KINDS[row["source"]]]  # fmt: skip


def mangled(row):
    """The text with another answer."""
    match row["source"]:
        case "gsm8k":
            return row["text"].rpartition("####")[0] + f"#### {int(row['key']) + 1}"
        case "openfunctions":
            return re.sub(r"=", "_2=", row["text"], count=1)
        case "toolalpaca":
            return row["text"].rpartition("Action:")[0] + "Action: other\nAction Input: {}"
    return row["text"].replace(f"({row['key']})", "(E)").replace(f"\n{row['key']}\n", "\nE\n")


@pytest.mark.parametrize(("kind", "row"), CASES)
def test_gold_agrees_with_itself_and_its_key(kind, row):
    assert agrees(kind, row["text"], row["text"])
    assert agrees(kind, row["text"], row["key"])


@pytest.mark.parametrize(("kind", "row"), [case for case in CASES if case.values[0] != "numbers"])
def test_mangled_gold_does_not(kind, row):
    assert mangled(row) != row["text"]
    assert not agrees(kind, mangled(row), row["key"])


@pytest.mark.parametrize("row", [row for row in ROWS if row["source"] == "gsm8k"], ids=lambda row: row["key"])
def test_a_pattern_reads_the_key(row):
    check = Check("regex", pattern=r"####\s*(?P<answer>\S+)")
    assert compare(check, row["text"], row["key"]).agrees is True
    assert compare(check, mangled(row), row["key"]).agrees is False

"""Judge models: asked in both orders, parsed strictly, stored as a model's preference."""

import asyncio

import pytest

from refinery.context import Context
from refinery.diagnostics._judging import Sheet, items, judge
from refinery.diagnostics._pairs import paired
from refinery.diagnostics.preference import Labels, measure
from refinery.models.base import Reply

PAIRS = paired([f"short {i}" for i in range(6)], [f"a longer answer {i}" for i in range(6)])


class Judge:
    """Answers by `choose(text of A, text of B)`."""

    identity = "judge-1"

    def __init__(self, choose):
        self.choose = choose

    async def model(self, name):
        return self

    async def generate(self, messages, sampling, sample=0):
        prompt = messages[-1]["content"]
        a = prompt.split("Answer A:\n")[1].split("\n\nAnswer B:")[0]
        b = prompt.split("Answer B:\n")[1].split("\n\nReply with")[0]
        return Reply(self.choose(a, b), "stop", 10, 1)


def judged(choose):
    sheet = Sheet("step", "", 0, {pair.id: pair for pair in PAIRS})
    asked = items(list(PAIRS), {pair.id: "Why?" for pair in PAIRS}, 0)
    rows, failures = asyncio.run(judge(Context("label", 0, Judge(choose)), "big", "judge-1", sheet, asked))
    return {r["name"]: r for r in measure(PAIRS, labels=Labels(rows))}, rows, failures


def test_a_judge_that_likes_length():
    found, rows, failures = judged(lambda a, b: "A" if len(a) > len(b) else "B.")
    assert found["model_wins"]["value"] == 1 and found["model_wins"]["n"] == 6
    assert found["model_consistency"]["value"] == 1 and not failures
    assert {(r["kind"], r["rater"], r["model"]) for r in rows} == {("model", "big", "judge-1")} and len(rows) == 12


def test_a_judge_that_likes_the_first_place_gives_ties():
    found, _, _ = judged(lambda a, b: "**A**")
    assert found["model_consistency"]["value"] == 0 and found["model_ties"]["value"] == 1
    assert found["model_wins"]["value"] is None


@pytest.mark.parametrize("reply", ["I prefer A because it is longer", "", "C", "A or B"])
def test_what_cannot_be_read_is_no_judgement(reply):
    found, rows, failures = judged(lambda a, b: reply)
    assert rows == [] and failures == {"unparsable": 12} and found == {}


@pytest.mark.parametrize("reply", ["tie", "Tie.", " TIE "])
def test_ties(reply):
    found, _, _ = judged(lambda a, b: reply)
    assert found["model_ties"]["value"] == 1 and found["model_consistency"]["value"] == 1

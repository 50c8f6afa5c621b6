import asyncio
from types import SimpleNamespace

import pytest

from refinery import judges
from refinery.models.base import Likelihood
from refinery.records import Example


@pytest.mark.parametrize(
    ("text", "score"),
    [("0.85", 0.85), (" 1\n", 1.0), ("0", 0.0), (".5", 0.5), ("1.0", 1.0), ("Score: 0.7", 0.7), ("**0.9**", 0.9),
     ("0.6.", 0.6), ("**Score:** 0.4", None), ("<think>maybe 0.2</think>\n0.3", 0.3), ("`0.25`", 0.25)],
)  # fmt: skip
def test_parse(text, score):
    assert judges.parse(text) == score


@pytest.mark.parametrize(
    "text",
    [
        "",
        "good",
        "8/10",
        "85%",
        "1.2",
        "-0.1",
        "0,8",
        "I give it 0.8",
        "0.8 0.9",
        "nan",
        "1e-1",
        "10",
        "01",
        "0.8 out of 1",
    ],
)
def test_unreadable_grades_are_none(text):
    assert judges.parse(text) is None


def test_the_same_model_twice_gets_two_labels():
    twice = [judges.ModelJudge(model="a"), "likelihood", judges.ModelJudge(model="a", prompt="{{ candidate }}")]
    assert judges.labels(twice) == ["model:a", "program:likelihood", "model:a#2"]


def test_programs():
    async def loglikelihood(model, messages, continuation):
        return Likelihood([-0.5, -1.5])

    example = Example("1", [{"role": "user", "content": "q"}], "It is Paris", "")
    rule = judges.Rule("last_word", "Paris", "self")
    every = ["answer_agreement", "likelihood", "answer_and_likelihood"]

    def judge(text):
        ctx = SimpleNamespace(loglikelihood=loglikelihood)
        return list(asyncio.run(judges.judge_all(every, example, text, rule, ctx)).scores.values())

    assert judge("Oh, Paris") == [1.0, pytest.approx(0.36787944), pytest.approx(0.36787944)]
    assert judge("Lyon") == [0.0, pytest.approx(0.36787944), 0.0]

import asyncio

import pytest

from refinery.errors import RowError, UserError
from refinery.models.counting import TokenCounter
from refinery.ops import length_filter
from refinery.spec_models import ModelSpec
from tests.tiny import tiny_model

REASONS = [
    ("too_short", {"min": 3}, "two words", "it has three words"),
    ("too_long", {"max": 3}, "it has four words", "just three words"),
    ("ratio_low", {"min_ratio": 0.5}, "one", "two words"),
    ("ratio_high", {"max_ratio": 2}, "a b c d e f g", "a b c d e f"),
    ("too_short", {"unit": "characters", "min": 5}, "four", "fiver"),
    ("too_long", {"unit": "characters", "max": 5}, "sixers", "cinq\u00e9"),
    ("too_long", {"unit": "tokens", "model": "self", "max": 3}, "x" * 8, "x" * 7),  # the fake counts half characters
]


@pytest.mark.parametrize(("reason", "params", "bad", "good"), REASONS)
def test_each_reason(fake, row, run, reason, params, bad, good):
    outcome = run(length_filter, row(response=bad, candidates=(bad, good)), fake(), **params)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", good)
    assert outcome.scores["reasons"] == [reason, None]
    refused = run(length_filter, row(response=bad), fake(), **params)
    assert (refused.action, refused.reason, refused.example.response) == ("fell_back", reason, "It is Paris.")


def test_scores(fake, row, run):
    example = row(answer="a b c d", response="a b", candidates=("a b", "a b c d e f"))
    outcome = run(length_filter, example, fake(), min_ratio=0.1, max=5)
    assert outcome.scores == {"unit": "words", "lengths": [2, 6], "ratios": [0.5, 1.5], "reasons": [None, "too_long"],
                              "winner": 0}  # fmt: skip
    assert "ratios" not in run(length_filter, example, fake(), max=5).scores


def test_bounds_themselves_pass(fake, row, run):
    assert run(length_filter, row(response="a b c"), fake(), min=3, max=3, min_ratio=1, max_ratio=1).reason == "ok"


def test_no_ratio_to_an_empty_reference(fake, row, run):
    with pytest.raises(RowError, match="empty_reference"):
        run(length_filter, row(answer=" ", response="a"), fake(), max_ratio=2)


def test_tokens_are_those_of_the_models_own_tokenizer(fake, row, run):
    from transformers import AutoTokenizer

    folder = tiny_model()
    counter = TokenCounter(ModelSpec(model=str(folder)), "self")

    class Real(fake):
        async def count_tokens(self, model, texts):
            return await asyncio.to_thread(counter.count, texts)

    texts = ("the clinic opens at nine", "Ärzte \ud800!", "")
    outcome = run(length_filter, row(response=texts[0], candidates=texts), Real(), unit="tokens", model="self", min=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [len(tokenizer.tokenize(text.encode("utf-8", "replace").decode())) for text in texts]
    assert outcome.scores["lengths"] == expected and expected[0] > 3 and expected[2] == 0


def test_a_tokenizer_that_is_nowhere():
    counter = TokenCounter(ModelSpec(backend="openai", model="./nowhere", base_url="http://localhost:1/v1"), "judge")
    with pytest.raises(UserError, match=r"models.judge: the tokenizer of ./nowhere cannot be read .*; count words"):
        counter.count(["a"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no bound is given"),
        ({"unit": "tokens", "max": 3}, 'unit: tokens needs "model"'),
        ({"model": "self", "max": 3}, '"model" goes with unit: tokens'),
        ({"min": 5, "max": 3}, "min 5 is above max 3"),
        ({"min_ratio": 2, "max_ratio": 1}, "min_ratio 2 is above max_ratio 1"),
    ],
)
def test_bounds_that_make_no_sense(params, message):
    with pytest.raises(ValueError, match=message):
        length_filter.Params(**params)

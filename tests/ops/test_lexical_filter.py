import random
import time

import pytest
from rouge_score import rouge_scorer

from refinery.diagnostics import ngram
from refinery.errors import RowError
from refinery.ops import lexical_filter

LONG = "one two three four five six seven eight nine ten"

REASONS = [
    (
        "banned_phrase",
        {"banned": ["as the known answer says"]},
        "Well, as the  KNOWN\nanswer says: Paris.",
        "Paris, as known.",
    ),
    ("banned_start", {"banned_starts": ["Your turn"]}, "your  turn: Paris", "It is your turn"),
    ("banned_pattern", {"banned_patterns": [r"(?i)step\s*\d"]}, "Step 1: Paris", "Steps: Paris"),
    ("refusal", {"refusals": True}, "I’m sorry, but I can’t help with that.", "Paris. I can't say more."),
    ("missing_phrase", {"required": ["Paris", "France"]}, "It is Paris.", "It is Paris, FRANCE."),
    ("missing_pattern", {"required_patterns": [r"####\s*\d+"]}, "so 12", "so\n#### 12"),
    ("rouge_low", {"min_rouge_l": 0.5}, "something else altogether", "It is in Paris."),
    ("rouge_high", {"max_rouge_l": 0.9}, "it is paris", "The capital is Paris."),
    ("copied", {"max_copied": 0.5, "against": LONG}, LONG + " eleven", "ten nine eight seven six five four three"),
    ("repetitive", {"max_repetition": 0.3}, "no no no no no no no no no", LONG),
]


@pytest.mark.parametrize(("reason", "params", "bad", "good"), REASONS, ids=[case[0] for case in REASONS])
def test_each_reason(fake, row, run, reason, params, bad, good):
    example = row(response=bad, candidates=(bad, good))
    outcome = run(lexical_filter, example, fake(), **params)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", good)
    assert outcome.scores["reasons"] == [reason, None] and outcome.scores["winner"] == 1
    refused = run(lexical_filter, row(response=bad), fake(), **params, fallback="drop")
    assert (refused.action, refused.reason, refused.scores["winner"]) == ("dropped", reason, None)


def test_what_was_found_is_kept(fake, row, run):
    outcome = run(lexical_filter, row(response="a b c"), fake(), banned=["x y", "B C"])
    assert (outcome.reason, outcome.scores["found"]) == ("banned_phrase", ["B C"])


def test_what_the_question_or_reference_holds_is_no_leak(fake, row, run):
    example = row(answer="Write 'your response' here.", response="Your response goes there.")
    assert run(lexical_filter, example, fake(), banned=["your response"]).reason == "ok"
    assert run(lexical_filter, example, fake(), banned=["your response"], unless_given=False).reason == "banned_phrase"
    sorry = row(answer="I'm sorry, but I can't help with that.", response="I cannot help you with this.")
    assert run(lexical_filter, sorry, fake(), refusals=True).reason == "ok"
    assert run(lexical_filter, sorry, fake(), refusals=True, unless_given=False).reason == "refusal"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot assist with that request.",
        "Sorry, I can't do that.",
        "As an AI language model, I do not have feelings.",
        "I am unable to help you with this.",
        "Unfortunately, I can't provide medical advice.",
    ],
)
def test_refusals(text):
    assert lexical_filter.refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to show you Paris!",
        "She said she was sorry and left.",
        "You cannot divide by zero.",
        "Paris. " * 40 + "I'm sorry, but I cannot assist.",
        "I cannot overstate how large it is.",
        "",
    ],
)
def test_no_refusals(text):
    assert not lexical_filter.refuses(text)


def test_rouge_l_as_the_reference_library_has_it(fake, row, run):
    draw = random.Random(0)
    pairs = [[" ".join(draw.choices("the a cat dog sat ran on mat log".split(), k=draw.randint(1, 40))) for _ in "ab"]
             for _ in range(40)]  # fmt: skip
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for answer, response in pairs:
        scores = run(lexical_filter, row(answer=answer, response=response), fake(), min_rouge_l=0).scores
        assert scores["rouge_l"] == [pytest.approx(scorer.score(answer, response)["rougeL"].fmeasure, abs=1e-6)]


def test_repetition_by_hand():
    assert lexical_filter.repetition("a b c d a b c d".split()) == pytest.approx(1 - 4 / 5)
    assert lexical_filter.repetition("a b c d e".split()) == 0
    assert lexical_filter.repetition("a b c".split()) is None


def test_a_text_too_short_to_tell_passes(fake, row, run):
    outcome = run(lexical_filter, row(response="no no no"), fake(), max_repetition=0.1, max_copied=0.1)
    assert outcome.reason == "ok" and outcome.scores["rep_4"] == [None] and outcome.scores["copied_4"] == [None]


def test_long_texts_stay_fast(fake, row, run):
    draw = random.Random(0)
    texts = [" ".join(draw.choices([f"w{i}" for i in range(3000)], k=20_000)) for _ in "ab"]
    begun = time.monotonic()
    run(
        lexical_filter, row(answer=texts[0], response=texts[1]), fake(), min_rouge_l=0.1, max_copied=1, max_repetition=1
    )
    assert time.monotonic() - begun < 10
    assert ngram.common_subsequence("abcde", "xbxdx") == 2


def test_a_pattern_that_never_ends_fails_its_row(fake, row, run):
    with pytest.raises(RowError, match="pattern_timed_out"):
        run(lexical_filter, row(response="a" * 5000 + "b"), fake(), banned_patterns=["(a|aa)+$"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no rule is given: name at least one of banned"),
        ({"banned_patterns": ["(a"]}, "does not work: missing \\)"),
        ({"banned": [" "]}, "banned holds an empty phrase"),
        ({"min_rouge_l": 0.9, "max_rouge_l": 0.5}, "min_rouge_l 0.9 is above max_rouge_l 0.5"),
    ],
)
def test_rules_that_make_no_sense(params, message):
    with pytest.raises(ValueError, match=message):
        lexical_filter.Params(**params)

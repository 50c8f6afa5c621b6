"""Fusion without rounds: concatenation, picking and templates."""

import math

import pytest

from refinery.errors import RowError
from refinery.ops import fuse

CANDIDATES = ("Lyon, I think", "Paris, of course", "Paris")


def chance(**values):
    """Likelihoods by the first word of the text."""
    return lambda model, messages, text: math.log(values[text.split()[0].strip(",")])


def test_concatenate_takes_the_reasoning_and_the_gold_answer(fake, row, run):
    example = row(answer="7 + 5 = 12\n#### 12", response="Seven apples and five more.\nThat is 13.\n", meta={"key": 12})
    ctx = fake()
    outcome = run(fuse, example, ctx, rule="concatenate", of="{{ key }}")
    assert (outcome.action, outcome.example.response) == ("changed", "Seven apples and five more.\n\n12")
    assert outcome.scores == {"cut": "line", "cut_characters": 12}
    assert ctx.requests == ctx.scored == []


@pytest.mark.parametrize(
    ("response", "cut", "reasoning"),
    [
        ("One.\nTwo.\n\nThree.", "line", "One.\nTwo."),
        ("It costs 3.5 euros. Is it? So 7.", "sentence", "It costs 3.5 euros. Is it?"),
        ("First.\nSo 7", "sentence", "First."),
        ("All of it. ", "nothing", "All of it."),
        ("Only one line. Two sentences.", "line", None),
        ("Only one sentence.", "sentence", None),
    ],
)
def test_what_is_cut(fake, row, run, response, cut, reasoning):
    example = row(response=response)
    outcome = run(fuse, example, fake(), rule="concatenate", cut=cut, text="{{ reasoning }}|{{ final }}")
    if reasoning is None:
        assert (outcome.action, outcome.reason) == ("fell_back", "no_reasoning")
    else:
        assert outcome.example.response == f"{reasoning}|It is Paris."


def test_template_asks_nothing(fake, row, run):
    example = row(response="Lutetia", candidates=("Lutetia", "Paname"), meta={"tone": "dry"})
    text = "{{ rewrite }}: {{ answer }} ({{ tone }}; {{ candidates[1] }})"
    outcome = run(fuse, example, fake(), rule="template", text=text)
    assert outcome.example.response == "Lutetia: It is Paris. (dry; Paname)"
    assert (outcome.example.candidates, outcome.scores) == ((), {})
    with pytest.raises(RowError, match="empty_response"):
        run(fuse, example, fake(), rule="template", text="{% if false %}x{% endif %}")


def test_pick_by_likelihood(fake, row, run):
    ctx = fake(likelihoods=chance(Lyon=0.4, Paris=0.3, It=0.5))
    example = row(response=CANDIDATES[0], candidates=CANDIDATES)
    outcome = run(fuse, example, ctx, rule="pick", judge_model="small")
    assert (outcome.action, outcome.example.response) == ("kept", "Lyon, I think")
    assert outcome.scores["picks"] == [pytest.approx(v) for v in (0.4, 0.3, 0.3)]
    assert (outcome.scores["chosen"], outcome.scores["by"]) == (0, "likelihood")
    assert {model for model, *_ in ctx.scored} == {"small"} and ctx.requests == []
    assert len(ctx.scored) == fuse.requests(fuse.Params(rule="pick", most=3))


def test_pick_may_take_the_reference(fake, row, run):
    ctx = fake(likelihoods=chance(Lyon=0.4, Paris=0.3, It=0.4))
    params = {"rule": "pick", "among": "reference_and_candidates", "most": 2}
    outcome = run(fuse, row(response=CANDIDATES[0], candidates=CANDIDATES), ctx, **params)
    assert (outcome.reason, outcome.example.response) == ("picked_reference", "It is Paris.")
    assert not outcome.example.fell_back
    assert [text for *_, text in ctx.scored] == ["It is Paris.", *CANDIDATES[:2]]
    assert len(ctx.scored) == fuse.requests(fuse.Params(**params)) == 3


def test_pick_by_similarity_to_a_column(fake, row, run):
    vectors = {"own words": (1, 0), "It is Paris.": (0, 1), "a": (0.6, 0.8), "b": (0.8, 0.6)}
    example = row(response="a", candidates=("a", "b"), meta={"own": "own words"})
    params = {"rule": "pick", "by": "similarity", "against": "{{ own }}", "among": "reference_and_candidates"}
    outcome = run(fuse, example, fake(vectors=vectors), **params)
    assert (outcome.example.response, outcome.scores["picks"]) == ("b", [0.0, 0.6, 0.8])
    assert fuse.requests(fuse.Params(**params)) == 0
    with pytest.raises(RowError, match="empty_reference"):
        run(fuse, row(meta={"own": " "}), fake(), **params)


def test_pick_by_judges_and_what_is_unknown(fake, row, run):
    grades = {"Lyon, I think": "0.1", "Paris, of course": "fine", "Paris": "0.7"}

    def answer(model, messages, sample):
        return next(grade for text, grade in grades.items() if f"grade:\n{text}\n" in messages[0]["content"])

    example = row(response=CANDIDATES[0], candidates=CANDIDATES)
    ctx = fake(answer)
    params = {"rule": "pick", "by": "judge", "judges": [{"model": "a"}], "most": 3}
    outcome = run(fuse, example, ctx, **params)
    assert (outcome.example.response, outcome.scores["picks"]) == ("Paris", [0.1, None, 0.7])
    assert outcome.scores["unknown"] == {"model:a on 1": "unparsable"}
    assert len(ctx.requests) == fuse.requests(fuse.Params(**params)) == 3
    low = run(fuse, example, fake(answer), **params, min_score=0.8)
    assert (low.action, low.reason, low.example.candidates) == ("kept", "below_min_score", CANDIDATES)
    none = run(fuse, example, fake(lambda *_: "?"), **params)
    assert (none.action, none.reason) == ("fell_back", "no_judge_score")


def test_a_text_that_cannot_be_scored_is_unknown(fake, row, run):
    def score(model, messages, text):
        return RowError("prompt_too_long") if text == "Paris" else -1.0

    outcome = run(fuse, row(response="Paris", candidates=("Paris", "Lyon")), fake(likelihoods=score), rule="pick")
    assert outcome.scores["picks"] == [None, pytest.approx(math.exp(-1))]
    assert outcome.example.response == "Lyon"


@pytest.mark.parametrize(
    ("params", "asked", "scoring"),
    [
        ({"rule": "concatenate"}, 0, []),
        ({"rule": "template", "text": "x"}, 0, []),
        ({"rule": "pick", "by": "similarity"}, 0, []),
        ({"rule": "pick"}, 8, ["self"]),
        ({"rule": "pick", "judge_model": "small"}, 8, ["small"]),
        ({"rule": "pick", "by": "judge"}, 8, ["self"]),
        ({"rule": "pick", "by": "judge", "judges": [{"model": "a"}, {"model": "b"}]}, 16, []),
        ({"rule": "pick", "by": "judge", "judges": ["answer_agreement"]}, 0, []),
        ({"rule": "rounds"}, 6, ["self"]),
    ],
    ids=str,
)
def test_what_each_rule_asks(params, asked, scoring):
    assert fuse.requests(fuse.Params(**params)) == asked
    assert fuse.scored_by(fuse.Params(**params)) == scoring


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rule": "template"}, 'needs "text"'),
        ({"text": "x"}, "text goes with rule: concatenate or template, not with rounds"),
        ({"rule": "template", "text": "x", "rounds": 2}, "rounds goes with rule: rounds, not with template"),
        ({"rule": "concatenate", "by": "judge"}, "by goes with rule: pick"),
        ({"rule": "pick", "by": "similarity", "among": "reference_and_candidates"}, "closest to itself"),
    ],
)
def test_mistakes(params, message):
    with pytest.raises(ValueError, match=message):
        fuse.Params(**params)

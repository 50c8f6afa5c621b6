import json

import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import judge

RUBRIC = {"truth": "is it true", "form": "is it short"}
TEXTS = ("It might be Lyon", "It could be Paris", "Surely Paris")


def grades(**replies):
    """Replies by judge, each a list in the order of TEXTS, which the prompt holds."""

    def answer(model, messages, sample):
        (text,) = [n for n, text in enumerate(TEXTS) if text in messages[-1]["content"]]
        return replies[model][text]

    return answer


def scored(truth, form):
    return json.dumps({"truth": truth, "form": form})


def test_each_text_by_each_judge_and_criterion(fake, row, run):
    ctx = fake(grades(a=[scored(1, 4), scored(3, 4), scored(5, 4)], b=[scored(1, 2), scored(5, 2), scored(5, 4)]))
    example = row(response=TEXTS[0], candidates=TEXTS)
    outcome = run(judge, example, ctx, judges=["a", "b"], rubric=RUBRIC, min_score=3)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", TEXTS[2])
    assert outcome.example.candidates == (TEXTS[2], TEXTS[1])
    texts = outcome.scores["texts"]
    assert [entry["mean"] for entry in texts] == [2.0, 3.5, 4.5]
    assert texts[1]["criteria"] == {"truth": 4.0, "form": 3.0}
    assert texts[1]["judges"] == {"model:a": {"truth": 3.0, "form": 4.0}, "model:b": {"truth": 5.0, "form": 2.0}}
    assert {k: outcome.scores[k] for k in ("mean", "winner", "scale", "min_score")} == {
        "mean": 4.5, "winner": 2, "scale": [1, 5], "min_score": 3.0,
    }  # fmt: skip
    assert len(ctx.requests) == judge.requests(judge.Params(judges=["a", "b"], most=3)) == 6


def test_the_response_alone_and_what_the_judge_is_shown(fake, row, run):
    ctx = fake(lambda *_: scored(5, 3))
    outcome = run(judge, row(response="Surely Paris"), ctx, judges=["a"], rubric=RUBRIC, system="Be strict.")
    system, user = ctx.requests[0]["messages"]
    assert system["content"] == "Be strict."
    for shown in ("Capital of France?", "It is Paris.", "Surely Paris", "- truth: is it true", "from 1 ", "to 5 "):
        assert shown in user["content"]
    assert (outcome.action, outcome.example.response, outcome.example.candidates) == ("kept", "Surely Paris", ())
    assert (outcome.scores["mean"], ctx.requests[0]["temperature"], ctx.requests[0]["schema"]) == (4.0, 0.0, None)


def test_an_open_criterion_is_unknown_and_not_averaged_away(fake, row, run):
    ctx = fake(grades(a=[scored(5, "good")] * 3, b=["5", Reply(scored(5, 5), "length", 1, 1), scored(2, 4)]))
    example = row(response=TEXTS[0], candidates=TEXTS)
    outcome = run(judge, example, ctx, judges=["a", "b"], rubric=RUBRIC)
    first, second, third = outcome.scores["texts"]
    assert first["criteria"] == {"truth": 5.0, "form": None} and first["mean"] is None
    assert first["unknown"] == {"model:a": "unparsable", "model:b": "unparsable"}
    assert second["unknown"] == {"model:a": "unparsable", "model:b": "cut_off"}
    assert third["criteria"] == {"truth": 3.5, "form": 4.0} and third["mean"] == 3.75
    assert outcome.example.candidates == (TEXTS[2], TEXTS[0], TEXTS[1])


@pytest.mark.parametrize(
    ("reply", "params", "action", "reason"),
    [
        (scored(2, 2), {"min_score": 2}, "kept", "ok"),
        (scored(1, 2), {"min_score": 2}, "fell_back", "below_min_score"),
        (scored(1, 2), {"min_score": 2, "fallback": "drop"}, "dropped", "below_min_score"),
        (scored(1, 2), {}, "kept", "ok"),
        ("Quite good!", {"min_score": 1}, "fell_back", "no_judge_score"),
        ("Quite good!", {"min_score": 1, "on_error": "drop"}, "dropped", "no_judge_score"),
        ("Quite good!", {}, "kept", "no_judge_score"),
        (scored(0, 5), {"min_score": 1}, "fell_back", "no_judge_score"),
        (scored(6, 5), {"min_score": 1}, "fell_back", "no_judge_score"),
        (RowError("prompt_too_long"), {"min_score": 1}, "fell_back", "no_judge_score"),
    ],
)
def test_reasons(fake, row, run, reply, params, action, reason):
    outcome = run(judge, row(response="Paris!"), fake(lambda *_: reply), judges=["a"], rubric=RUBRIC, **params)
    assert (outcome.action, outcome.reason) == (action, reason)
    assert "texts" in outcome.scores


def test_a_transient_failure_of_one_judge_is_the_rows(fake, row, run):
    busy = RowError("server_error", transient=True)
    ctx = fake(lambda model, *_: busy if model == "b" else scored(5, 5))
    with pytest.raises(RowError) as error:
        run(judge, row(), ctx, judges=["a", "b"], rubric=RUBRIC)
    assert error.value.transient


def test_a_constrained_judge_is_sent_a_schema_of_the_rubric(fake, row, run):
    import jsonschema

    ctx = fake(lambda *_: scored(5, 3))
    run(judge, row(), ctx, judges=["a"], rubric=RUBRIC, constrained=True)
    check = jsonschema.Draft202012Validator(ctx.requests[0]["schema"])
    assert check.is_valid({"truth": 1, "form": 5})
    for wrong in ({"truth": 1}, {"truth": 0, "form": 5}, {"truth": 1, "form": 6}, {"truth": 1, "form": 1, "x": 1}):
        assert not check.is_valid(wrong)


def test_only_the_first_candidates_are_looked_at(fake, row, run):
    ctx = fake(lambda *_: scored(3, 3))
    outcome = run(judge, row(response="a", candidates=("a", "b", "c")), ctx, judges=["a"], rubric=RUBRIC, most=2)
    assert (len(ctx.requests), outcome.example.candidates) == (2, ("a", "b"))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scale": (5, 1)}, "from 5 to 1"),
        ({"min_score": 0.8}, "off the scale from 1 to 5"),
        ({"judges": ["a", "a"]}, 'the judge "a" is there twice'),
        ({"rubric": {"Truth": "x", "truth ": "y"}}, 'the criterion "truth" is there twice'),
    ],
)
def test_mistakes(params, message):
    with pytest.raises(ValueError, match=message):
        judge.Params(**params)

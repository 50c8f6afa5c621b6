import math

import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import fuse

ROUNDS = ["Hm, Lyon", "Surely Paris", "Yes, Paris"]


def by_round(*texts):
    return lambda model, messages, sample: texts[sample]


def flat(value):
    return lambda model, messages, continuation: math.log(value)


def test_the_best_round_wins_by_the_product_of_agreement_and_likelihood(fake, row, run):
    likelihood = {"Surely Paris": 0.3, "Yes, Paris": 0.5}
    ctx = fake(by_round(*ROUNDS), lambda model, messages, text: math.log(likelihood[text]))
    outcome = run(fuse, row(response="Paris!"), ctx)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", "Yes, Paris")
    rounds = outcome.scores["rounds"]
    assert [entry["mean"] for entry in rounds] == [0.0, pytest.approx(0.3), pytest.approx(0.5)]
    assert set(rounds[1]["judges"]) == {"program:answer_and_likelihood"}
    assert (outcome.scores["chosen"], outcome.scores["stop_at"]) == (2, 0.8)
    assert [r["sample"] for r in ctx.requests] == [0, 1, 2]
    assert {(r["temperature"], r["max_tokens"]) for r in ctx.requests} == {(0.7, 1024)}
    question = [{"role": "user", "content": "Capital of France?"}]
    assert ctx.scored == [("self", question, "Surely Paris"), ("self", question, "Yes, Paris")]


def test_a_good_round_stops_the_search_and_equals_keep_the_first(fake, row, run):
    ctx = fake(by_round(*ROUNDS), flat(0.8))
    outcome = run(fuse, row(), ctx, judges=["likelihood"], judge_model="small", stop_at=0.8)
    assert (outcome.scores["chosen"], len(ctx.requests), ctx.scored[0][0]) == (0, 1, "small")
    outcome = run(fuse, row(), fake(by_round(*ROUNDS), flat(0.5)), judges=["likelihood"])
    assert (outcome.scores["chosen"], outcome.example.response) == (0, "Hm, Lyon")


def test_prompt_sees_question_answer_and_rewrite(fake, row, run):
    ctx = fake(by_round(*ROUNDS), flat(1))
    run(fuse, row(response="Paris!"), ctx, prompt="{{ question }}|{{ answer }}|{{ rewrite }}|{{ response }}")
    assert ctx.requests[0]["messages"][0]["content"] == "Capital of France?|It is Paris.|Paris!|Paris!"


def graded(*grades):
    """Fusions from "self"; the grade of each round's text from the model that judges."""
    replies = dict(zip(ROUNDS, grades, strict=True))

    def answer(model, messages, sample):
        if model == "self":
            return ROUNDS[sample]
        (text,) = [text for text in ROUNDS if text in messages[0]["content"]]
        grade = replies[text]
        return grade[model] if isinstance(grade, dict) else grade

    return answer


def test_models_judge_and_the_mean_of_several_decides(fake, row, run):
    grades = [{"a": "0.2", "b": "0.9"}, {"a": "0.7", "b": "Score: 0.6"}, {"a": "1", "b": "0"}]
    outcome = run(fuse, row(), fake(graded(*grades)), judges=[{"model": "a"}, {"model": "b"}])
    assert outcome.scores["chosen"] == 1
    assert outcome.scores["rounds"][1] == {"judges": {"model:a": 0.7, "model:b": 0.6}, "mean": pytest.approx(0.65)}


def test_an_unreadable_grade_is_unknown_and_never_zero(fake, row, run):
    grades = ["It is quite good", "0.1", "9/10"]
    outcome = run(fuse, row(), fake(graded(*grades)), judges=[{"model": "a"}])
    assert outcome.scores["chosen"] == 1
    rounds = outcome.scores["rounds"]
    assert [entry["mean"] for entry in rounds] == [None, 0.1, None]
    assert rounds[0] == {"judges": {"model:a": None}, "mean": None, "unknown": {"model:a": "unparsable"}}


def test_the_mean_is_over_known_scores(fake, row, run):
    grades = [{"a": "0.6", "b": "hm"}] * 3
    outcome = run(fuse, row(), fake(graded(*grades)), judges=[{"model": "a"}, {"model": "b"}])
    assert outcome.scores["mean"] == 0.6


def test_no_known_score_on_any_round_falls_back(fake, row, run):
    outcome = run(fuse, row(response="Paris!"), fake(graded("?", "?", "?")), judges=[{"model": "a"}])
    assert (outcome.action, outcome.reason, outcome.example.response) == ("fell_back", "no_judge_score", "It is Paris.")
    dropped = run(fuse, row(), fake(graded("?", "?", "?")), judges=[{"model": "a"}], on_error="drop")
    assert dropped.action == "dropped"


def test_below_min_score_the_response_stays(fake, row, run):
    outcome = run(fuse, row(response="Paris!", candidates=("Paris!",)), fake(graded("0.2", "0.3", "0.1")),
                  judges=[{"model": "a"}], min_score=0.5)  # fmt: skip
    assert (outcome.action, outcome.reason, outcome.example.response) == ("kept", "below_min_score", "Paris!")
    assert (outcome.scores["mean"], outcome.scores["chosen"], outcome.scores["min_score"]) == (0.3, None, 0.5)


def test_failed_rounds_are_noted_and_cannot_win(fake, row, run):
    ctx = fake(by_round("", Reply("Par", "length", 1, 1), "Paris"), flat(0.1))
    outcome = run(fuse, row(), ctx)
    assert [entry.get("failed") for entry in outcome.scores["rounds"]] == ["empty_response", "cut_off", None]
    assert outcome.scores["chosen"] == 2


def test_where_every_round_fails_the_first_failure_is_the_rows(fake, row, run):
    with pytest.raises(RowError, match="prompt_too_long"):
        run(fuse, row(), fake(lambda *_: RowError("prompt_too_long")))


@pytest.mark.parametrize("judges", [["likelihood"], [{"model": "a"}]])
def test_a_transient_failure_is_the_rows(fake, row, run, judges):
    busy = RowError("server_error", transient=True)
    ctx = fake(lambda model, *_: busy if model == "a" else "Paris", lambda *_: busy)
    with pytest.raises(RowError) as error:
        run(fuse, row(), ctx, judges=judges)
    assert error.value.transient


def test_a_judge_that_cannot_take_the_prompt_is_unknown(fake, row, run):
    ctx = fake(lambda model, *_: RowError("prompt_too_long") if model == "a" else "Paris", flat(0.5))
    outcome = run(fuse, row(), ctx, judges=[{"model": "a"}, "likelihood"], rounds=1)
    assert outcome.scores["rounds"][0]["unknown"] == {"model:a": "prompt_too_long"}
    assert outcome.scores["mean"] == pytest.approx(0.5)


def test_zero_is_taken_unless_something_forbids_it():
    assert "min_score" in fuse.unchecked(fuse.Params())[0]
    assert "min_score" in fuse.unchecked(fuse.Params(rule="pick", by="judge"))[0]
    for params in ({"min_score": 0.5}, {"rule": "pick"}, {"rule": "concatenate"}):
        assert fuse.unchecked(fuse.Params(**params)) == []


def test_requests_and_notes():
    assert fuse.scored_by(fuse.Params()) == ["self"]
    assert fuse.scored_by(fuse.Params(judges=["answer_agreement", {"model": "a"}])) == []
    assert fuse.requests(fuse.Params()) == 6
    assert fuse.requests(fuse.Params(judges=["answer_agreement"], rounds=2)) == 2
    assert fuse.requests(fuse.Params(judges=["likelihood", {"model": "a"}])) == 9
    assert fuse.notes(fuse.Params(judges=[{"model": "a"}, {"model": "b"}])) == []
    assert "programs alone" in fuse.notes(fuse.Params())[0]
    assert "one model judge (a)" in fuse.notes(fuse.Params(judges=[{"model": "a"}, {"model": "a"}]))[0]


@pytest.mark.parametrize("params", [{}, {"rule": "pick", "by": "judge"}])
@pytest.mark.parametrize("judge", ["answer_agreement", "answer_and_likelihood"])
def test_a_reference_without_what_the_check_reads_is_told_before_anything_is_asked(fake, row, run, params, judge):
    with pytest.raises(RowError, match="unreadable_reference"):
        run(fuse, row(), fake(lambda *_: pytest.fail("asked")), check="number", judges=[judge], **params)

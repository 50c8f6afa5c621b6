import json

import pytest

from refinery import checks
from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import check_answer


def test_candidates_that_disagree_go(fake, row, run):
    example = row(response="Lyon", candidates=("Lyon", "So, Paris!", "I say paris"))
    outcome = run(check_answer, example, fake())
    assert (outcome.action, outcome.example.response) == ("changed", "So, Paris!")
    assert outcome.example.candidates == ("So, Paris!", "I say paris")
    assert outcome.scores == {"agrees": [False, True, True], "winner": 1, "kind": "last_word"}


def test_the_response_stands_in_where_there_are_no_candidates(fake, row, run):
    outcome = run(check_answer, row(response="Lyon"), fake())
    assert (outcome.action, outcome.reason, outcome.example.response) == ("fell_back", "disagrees", "It is Paris.")
    assert run(check_answer, row(response="Lyon"), fake(), fallback="drop").action == "dropped"


def test_of_names_the_reference(fake, row, run):
    example = row(response="She pays $1,200.", meta={"key": 1200})
    assert run(check_answer, example, fake(), kind="number", of="{{ key }}").action == "kept"


def test_a_bare_reference_for_a_boxed_answer(fake, row, run):
    example = row(response="So \\boxed{0.5}", answer="1/2")
    assert run(check_answer, example, fake(), kind="boxed").reason == "ok"


def test_an_unreadable_reference_is_told_from_disagreement(fake, row, run):
    with pytest.raises(RowError, match="unreadable_reference: no number in 'It is Paris"):
        run(check_answer, row(response="7"), fake(), kind="number")


PER_KIND = [
    ("last_word", {}, "It is Paris.", "Lyon", "Paris"),
    ("exact", {}, "a b", "a c", "a  b"),
    ("contains", {}, "so it is 3 cm", "it is 4 cm", "3 cm"),
    ("number", {"tolerance": 0.01}, "it is 3.14", "it is 3.2", "3.1416"),
    ("boxed", {}, "\\boxed{\\frac{1}{2}}", "\\boxed{2}", "0.5"),
    ("choice", {"choices": "ABCDEFGH"}, "The answer is (G).", "F or G", "G"),
    ("math", {}, "\\boxed{x(x+1)}", "\\boxed{x(x-1)}", "x^2 + x"),
    ("tool_call", {}, "f(b=2, a=1)", "f(a=2, b=1)", '{"name": "f", "arguments": {"a": 1, "b": 2}}'),
    ("numbers", {"min_recall": 0.6}, "1 and 2", "1", "1, 2 and 3"),
    ("entities", {"min_precision": 0.5}, "He met Marie Curie.", "He met Max Planck.", "It was Marie Curie in 1911."),
    ("regex", {"pattern": r"#### (?P<answer>\d+)"}, "so #### 42", "so #### 43", "#### 42"),
    ("json_schema", {"json_schema": {"required": ["a"]}}, '{"a": 1}', '{"b": 1}', "whatever"),
]


@pytest.mark.parametrize(("kind", "params", "right", "wrong", "answer"), PER_KIND, ids=[case[0] for case in PER_KIND])
def test_every_kind_keeps_the_right_candidate(fake, row, run, kind, params, right, wrong, answer):
    outcome = run(
        check_answer, row(answer=answer, response=wrong, candidates=(wrong, right)), fake(), kind=kind, **params
    )
    assert (outcome.reason, outcome.example.response, outcome.scores["agrees"]) == ("ok", right, [False, True])
    refused = run(check_answer, row(answer=answer, response=wrong), fake(), kind=kind, **params)
    assert (refused.action, refused.reason) == ("fell_back", "disagrees")


def test_no_kind_is_left_out():
    assert {case[0] for case in PER_KIND} == {*checks.KINDS, *checks.WITH_OPTIONS}


def test_recall_and_precision_are_kept(fake, row, run):
    example = row(answer="1, 2, 3 and 4", candidates=("1 and 9", "none"), response="1 and 9")
    outcome = run(check_answer, example, fake(), kind="numbers")
    assert outcome.scores["recall"] == [0.25, 0.0] and outcome.scores["precision"] == [0.5, None]


def test_a_comparison_out_of_time_is_unknown(fake, row, run):
    example = row(answer="x", response="a" * 5000 + "b", candidates=("a" * 5000 + "b",))
    outcome = run(check_answer, example, fake(), kind="regex", pattern="(a|aa)+$")
    assert (outcome.action, outcome.reason) == ("fell_back", "unknown_verdict") and outcome.failed
    assert outcome.scores["agrees"] == [None] and outcome.scores["unknown"] == {"0": "timed_out"}


# --- judge


def by_text(**verdicts):
    return lambda model, messages, sample: next(v for k, v in verdicts.items() if f"\n{k}\n" in messages[0]["content"])


def test_a_judge_sees_question_reference_and_candidate(fake, row, run):
    ctx = fake(by_text(Lyon="NO", Paris="Yes."))
    outcome = run(check_answer, row(response="Lyon", candidates=("Lyon", "Paris")), ctx, kind="judge", model="j")
    assert (outcome.example.response, outcome.scores["agrees"]) == ("Paris", [False, True])
    assert outcome.scores == {"agrees": [False, True], "winner": 1, "kind": "judge"}
    (message,) = ctx.requests[0]["messages"]
    assert all(part in message["content"] for part in ("Capital of France?", "It is Paris.", "Lyon"))
    assert (ctx.requests[0]["model"], ctx.requests[0]["max_tokens"]) == ("j", 256)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("I think yes", "unparsable"),
        ("YES and NO", "unparsable"),
        (Reply("YES", "length", 1, 1), "cut_off"),
        (RowError("prompt_too_long"), "prompt_too_long"),
    ],
)
def test_an_unparsable_verdict_is_unknown_and_does_not_pass(fake, row, run, reply, why):
    outcome = run(check_answer, row(), fake(lambda *_: reply), kind="judge", model="j")
    assert (outcome.action, outcome.reason) == ("fell_back", "unknown_verdict") and outcome.failed
    assert (outcome.scores["agrees"], outcome.scores["unknown"]) == ([None], {"0": why})


def test_a_transient_failure_is_the_rows(fake, row, run):
    with pytest.raises(RowError) as error:
        run(check_answer, row(), fake(lambda *_: RowError("timeout", transient=True)), kind="judge", model="j")
    assert error.value.transient


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("YES", True),
        ("no.", False),
        ("**No**", False),
        ("Verdict: yes", True),
        ("<think>No, wait</think>\nYES", True),
        ("yes, it does", None),
        ("", None),
        ("maybe", None),
    ],
)
def test_verdicts_are_read_strictly(text, verdict):
    assert check_answer.parse(text) is verdict


# --- parameters


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kind": "number", "pattern": "a"}, '"pattern" goes with kind: regex, and this is kind: number'),
        ({"kind": "exact", "tolerance": 0.1}, '"tolerance" goes with kind: number or numbers'),
        ({"model": "j"}, '"model" goes with kind: judge, and this is kind: last_word'),
        ({"kind": "regex"}, 'kind: regex needs "pattern"'),
        ({"kind": "judge"}, 'kind: judge needs "model"'),
        ({"kind": "json_schema"}, 'kind: json_schema needs "json_schema"'),
        ({"kind": "regex", "pattern": "(a"}, "the pattern '\\(a' does not work: missing \\)"),
        ({"kind": "json_schema", "json_schema": {"type": "objekt"}}, "the schema is wrong at /type"),
        ({"kind": "choice", "choices": "abc"}, "String should match pattern"),
        ({"kind": "numbers", "min_recall": 1.5}, "less than or equal to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        check_answer.Params(**params)


def test_todays_parameters_are_what_a_plain_step_is_made_of():
    """Later additions stay out of the fingerprint."""
    later = {
        name
        for name, info in check_answer.Params.model_fields.items()
        if "later" in json.dumps(info.metadata, default=str)
    }
    assert set(check_answer.Params.model_fields) - later == {"on_error", "kind", "of", "fallback"}


def test_requests_and_notes():
    assert check_answer.requests(check_answer.Params()) == 0
    assert check_answer.requests(check_answer.Params(kind="judge", model="j")) == 1
    assert "once for each candidate" in check_answer.notes(check_answer.Params(kind="judge", model="j"))[0]

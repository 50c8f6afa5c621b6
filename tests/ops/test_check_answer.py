import pytest

from refinery.errors import RowError
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

import math

import pytest

from refinery.errors import RowError
from refinery.ops import semantic_filter


def at(degrees):
    return (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


VECTORS = {"It is Paris.": at(0), "near": at(10), "far": at(50), "nearer": at(-5), "gold": at(50)}


def test_failing_candidates_go_and_the_closest_becomes_the_response(fake, row, run):
    example = row(response="far", candidates=("far", "near", "nearer"))
    outcome = run(semantic_filter, example, fake(vectors=VECTORS))
    assert (outcome.action, outcome.example.response) == ("changed", "nearer")
    assert outcome.example.candidates == ("nearer", "near")
    expected = [round(math.cos(math.radians(d)), 6) for d in (50, 10, 5)]
    assert outcome.scores == {"cosine": expected[2], "cosines": expected, "winner": 2, "min_cosine": 0.8}


def test_below_the_threshold_the_reference_comes_back(fake, row, run):
    outcome = run(semantic_filter, row(response="far"), fake(vectors=VECTORS))
    assert (outcome.action, outcome.reason) == ("fell_back", "below_threshold")
    assert outcome.example.response == "It is Paris." and outcome.example.fell_back
    assert outcome.scores["cosine"] == pytest.approx(0.642788) and outcome.scores["winner"] is None


def test_or_the_row_is_dropped(fake, row, run):
    outcome = run(semantic_filter, row(response="far"), fake(vectors=VECTORS), fallback="drop")
    assert (outcome.action, outcome.example) == ("dropped", None)


def test_the_threshold_itself_passes_and_a_text_equals_itself(fake, row, run):
    third = (1 / 3, 2 / 3, 2 / 3 - 1e-8)  # float32: its square is not 1
    vectors = {"It is Paris.": third}
    outcome = run(semantic_filter, row(), fake(vectors=vectors), min_cosine=1)
    assert (outcome.action, outcome.reason, outcome.scores["cosine"]) == ("kept", "ok", 1.0)


def test_against_names_another_text(fake, row, run):
    example = row(response="far", meta={"gold": "gold"})
    outcome = run(semantic_filter, example, fake(vectors=VECTORS), against="{{ gold }}")
    assert outcome.scores["cosine"] == 1.0


def test_a_zero_vector_is_close_to_nothing(fake, row, run):
    outcome = run(semantic_filter, row(response="far"), fake(vectors={**VECTORS, "far": (0, 0)}), min_cosine=0.1)
    assert (outcome.reason, outcome.scores["cosine"]) == ("below_threshold", 0.0)


def test_nothing_to_compare_with(fake, row, run):
    with pytest.raises(RowError, match="empty_reference"):
        run(semantic_filter, row(meta={"gold": " "}), fake(), against="{{ gold }}")


@pytest.mark.parametrize("value", [1.01, -1.01])
def test_a_cosine_is_between_minus_one_and_one(value):
    with pytest.raises(ValueError):
        semantic_filter.Params(min_cosine=value)

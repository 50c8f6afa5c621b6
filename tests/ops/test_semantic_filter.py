import asyncio
import dataclasses
import math

import numpy as np
import pytest

from refinery.errors import RowError
from refinery.ops import semantic_filter
from refinery.spec_models import StepSpec
from refinery.spec_types import added_later


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


# --- an upper bound, and bounds from the rows


def test_an_upper_bound_takes_out_copies(fake, row, run):
    example = row(response="It is Paris.", candidates=("It is Paris.", "near"))
    outcome = run(semantic_filter, example, fake(vectors=VECTORS), max_cosine=0.99)
    assert (outcome.example.response, outcome.scores["cosine"]) == ("near", pytest.approx(0.984808))
    assert (outcome.scores["max_cosine"], outcome.scores["winner"]) == (0.99, 1)
    refused = run(semantic_filter, row(), fake(vectors=VECTORS), max_cosine=0.99)
    assert (refused.action, refused.reason) == ("fell_back", "above_threshold")


class Rows(list):
    name = "rewritten"


def quantiles(fake, examples, **params):
    """(outcomes, context) of a step that looks at all rows first."""
    ctx, made = fake(vectors=CIRCLE), semantic_filter.Params(**params)

    async def go():
        ctx.prepared = await semantic_filter.prepare([Rows(examples)], made, ctx)
        return [await semantic_filter.apply(example, made, ctx) for example in examples if not example.fell_back]

    return asyncio.run(go()), ctx


CIRCLE = {"It is Paris.": at(0), **{f"t{d}": at(d) for d in range(1, 91)}}


def example(row, name, *texts, **more):
    return dataclasses.replace(row(response=texts[0], candidates=texts, **more), id=name)


def test_bounds_from_quantiles_of_the_rows_best(fake, row):
    angles = [3, 7, 12, 20, 31, 45, 60, 75, 80, 90]
    rows = [example(row, f"r{a}", f"t{min(a + 5, 90)}", f"t{a}") for a in angles]
    outcomes, _ = quantiles(fake, rows, min_quantile=0.3, max_quantile=0.9)
    best = np.round(np.cos(np.radians(angles)), 6)
    low, high = np.quantile(best, [0.3, 0.9])
    assert {o.scores["min_cosine"] for o in outcomes} == {round(low, 6)}
    assert {o.scores["max_cosine"] for o in outcomes} == {round(high, 6)}
    reasons = [o.reason for o in outcomes]
    assert reasons[0] in ("ok", "above_threshold") and reasons.count("below_threshold") == 3
    assert reasons[1:7] == ["ok"] * 6


def test_rows_that_fell_back_or_cannot_be_compared_do_not_count(fake, row):
    gone = dataclasses.replace(example(row, "gone", "t90"), fell_back=True)
    rows = [example(row, "a", "t10"), example(row, "b", "t20"), gone]
    outcomes, ctx = quantiles(fake, rows, min_quantile=0.5)
    assert set(ctx.prepared.cosines) == {"a", "b"}
    assert [o.reason for o in outcomes] == ["ok", "below_threshold"]


def test_no_text_is_embedded_twice(fake, row):
    class Counting(fake):
        seen = 0

        async def embed(self, encoder, texts):
            self.seen += 1
            return await super().embed(encoder, texts)

    _, ctx = quantiles(Counting, [example(row, "a", "t10"), example(row, "b", "t20")], min_quantile=0.5)
    assert ctx.seen == 2


def test_only_quantiles_need_all_rows():
    assert not semantic_filter.needs_all(semantic_filter.Params())
    assert semantic_filter.needs_all(semantic_filter.Params(max_quantile=0.9))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_cosine": 0.5, "min_quantile": 0.1}, "min_cosine and min_quantile set the same bound"),
        ({"max_cosine": 0.9, "max_quantile": 0.9}, "max_cosine and max_quantile set the same bound"),
        ({"min_cosine": 0.9, "max_cosine": 0.5}, "min_cosine 0.9 is above max_cosine 0.5"),
        ({"min_quantile": 0.9, "max_quantile": 0.5}, "min_quantile 0.9 is above max_quantile 0.5"),
        ({"min_cosine": None}, "no bound is left"),
    ],
)
def test_bounds_that_make_no_sense(params, message):
    with pytest.raises(ValueError, match=message):
        semantic_filter.Params(**params)


def test_the_papers_step_has_the_fingerprint_it_always_had():
    """Steps that were run before there were other bounds stand."""
    step = StepSpec.model_validate({"op": "semantic_filter", "from": "source", "params": semantic_filter.Params()})
    left = step.params.model_dump(mode="json", exclude=added_later(step.params))
    assert left == {"on_error": "answer", "min_cosine": 0.8, "encoder": "all-MiniLM-L6-v2", "against": "{{ answer }}",
                    "fallback": "answer"}  # fmt: skip
    assert semantic_filter.VERSION == 1


def test_the_quantile_takes_the_place_of_the_default():
    params = semantic_filter.Params(min_quantile=0.2)
    assert params.min_cosine is None
    assert semantic_filter.Params(**params.model_dump()) == params

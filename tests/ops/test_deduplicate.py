from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from refinery.errors import UserError
from refinery.ops import deduplicate
from tests.ops.tables import Rows, Seeded, apply, example, examples, stay


class Embedding(Seeded):
    """Unit vectors by text: the angle in degrees that stands at the text's end, else one of its own in a further
    dimension."""

    def __init__(self):
        super().__init__(0)
        self.asked = []

    async def embed(self, encoder, texts):
        self.asked += texts
        found = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            *words, last = text.split()
            place = sum(map(ord, "".join(words))) % 30 * 2
            angle = np.deg2rad(float(last)) if last.isdigit() else 0
            found[row, place], found[row, place + 1] = np.cos(angle), np.sin(angle)
        return found


def questions(*texts, prefix="r", **more):
    return [example(f"{prefix}{number}", text, **more) for number, text in enumerate(texts)]


def reasons(outcomes):
    return [outcome.reason for outcome in outcomes]


def test_equal_but_for_case_and_spacing_is_equal():
    rows = questions("What is it?", "  what IS\nit?  ", "What is this?", "What is it?", "ﬁne", "Straße", "STRASSE")
    ctx = Embedding()
    outcomes = apply(deduplicate, Rows("raw", rows), min_cosine=None, ctx=ctx)
    assert reasons(outcomes) == ["ok", "duplicate", "ok", "duplicate", "ok", "ok", "duplicate"]
    assert (outcomes[1].scores["group"], outcomes[1].scores["match"]) == ("r0", "exact")
    assert (outcomes[0].scores["group"], outcomes[0].scores["size"]) == ("r0", 3)
    assert ctx.asked == []


def test_near_rows_go_and_do_not_chain():
    rows = questions("a 0", "a 10", "a 20", "a 30", "b 0")
    outcomes = apply(deduplicate, Rows("raw", rows), min_cosine=float(np.cos(np.deg2rad(12))), ctx=Embedding())
    assert reasons(outcomes) == ["ok", "near_duplicate", "ok", "near_duplicate", "ok"]
    scores = outcomes[1].scores
    assert (scores["match"], scores["group"], scores["nearest"]) == ("near", "r0", "r0")
    assert scores["cosine"] == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)
    # of a row that stays: how near the nearest preferred one was
    assert outcomes[2].scores["nearest"] == "r0"
    assert outcomes[2].scores["cosine"] == pytest.approx(np.cos(np.deg2rad(20)), abs=1e-6)
    assert [outcome.scores["size"] for outcome in outcomes if outcome.example] == [2, 2, 1]


def test_counts_add_up_and_an_exact_twin_of_a_near_duplicate_is_in_its_group():
    rows = questions("a 0", "a 5", "A  5", "b 0")
    outcomes = apply(deduplicate, Rows("raw", rows), ctx=Embedding())
    assert reasons(outcomes) == ["ok", "near_duplicate", "duplicate", "ok"]
    assert [outcome.scores["group"] for outcome in outcomes] == ["r0", "r0", "r0", "r3"]
    assert sum(outcome.scores["size"] for outcome in outcomes if outcome.example) == len(rows)


def test_which_of_a_group_stays():
    rows = [example("x", "a 0", "short", meta={"grade": 2}), example("y", "a 1", "the longest", meta={"grade": 1}),
            example("z", "a 2", "middle", meta={"grade": 3})]  # fmt: skip
    table = Rows("raw", rows)
    assert stay(apply(deduplicate, table, ctx=Embedding())) == ["x"]
    longest = apply(deduplicate, table, of="{{ answer }} 0", min_cosine=None, keep="longest", ctx=Embedding())
    assert len(stay(longest)) == 3
    same = [example("p", "a", "b"), example("q", "A", "b"), example("s", "a  ", "b")]
    assert stay(apply(deduplicate, Rows("raw", same), keep="longest", min_cosine=None)) == ["p"]
    outcomes = apply(deduplicate, table, keep="best", score="{{ grade }}", ctx=Embedding())
    assert stay(outcomes) == ["z"]
    assert {outcome.scores["group"] for outcome in outcomes} == {"z"}


def test_the_longest_near_duplicate_stays():
    rows = questions("a 1", "a 10")
    outcomes = apply(deduplicate, Rows("raw", rows), keep="longest", ctx=Embedding())
    assert stay(outcomes) == ["r1"]


def test_what_is_compared_is_the_templates():
    rows = [example("x", "a 0", "one"), example("y", "a 0", "two")]
    assert stay(apply(deduplicate, Rows("raw", rows), min_cosine=None)) == ["x"]
    both = apply(deduplicate, Rows("raw", rows), of="{{ question }} {{ answer }}", min_cosine=None)
    assert stay(both) == ["x", "y"]


def test_rows_near_a_benchmarks_items_go_and_name_the_item():
    rows = questions("a 0", "b 0", "c 0", "A  0")
    items = [example("i0", "Which is it: a 3"), example("i1", "b  0"), example("i2", "z 0")]
    ctx, params = Embedding(), {"against": "test", "against_of": "{{ question.split(': ')[-1] }}"}
    outcomes = apply(deduplicate, Rows("raw", rows), Rows("test", items), ctx=ctx, **params)
    assert reasons(outcomes)[:4] == ["contaminated", "contaminated", "ok", "contaminated"]
    assert [(o.action, o.reason) for o in outcomes[4:]] == [("dropped", "reference_set")] * 3
    assert (outcomes[0].scores["item"], outcomes[0].scores["item_text"]) == ("i0", "a 3")
    assert outcomes[0].scores["cosine"] == pytest.approx(np.cos(np.deg2rad(3)), abs=1e-6)
    assert (outcomes[1].scores["item"], outcomes[1].scores["match"], outcomes[1].scores["cosine"]) == ("i1", "exact", 1)


def test_without_an_encoder_equal_items_are_found():
    outcomes = apply(deduplicate, Rows("raw", questions("q", "p")), Rows("test", questions("Q", prefix="i")),
                     against="test", min_cosine=None)  # fmt: skip
    assert reasons(outcomes) == ["contaminated", "ok", "reference_set"]


def test_a_row_that_is_itself_a_benchmark_item_goes():
    row = example("same", "q")
    outcomes = apply(deduplicate, Rows("raw", [row]), Rows("test", [row]), against="test", min_cosine=None)
    assert reasons(outcomes) == ["contaminated"]


def test_rows_that_cannot_be_compared():
    rows = [
        example("x", meta={"c": "text"}),
        example("y", meta={"c": None}),
        example("z", meta={"c": " "}),
        example("w"),
    ]
    outcomes = apply(deduplicate, Rows("raw", rows), of="{{ c }}", min_cosine=None)
    assert [(o.action, o.reason) for o in outcomes] == [
        ("kept", "ok"),
        ("kept", "nothing_to_compare"),
        ("kept", "nothing_to_compare"),
        ("dropped", "template_error"),
    ]


def test_ten_more_rows_change_nothing_for_those_before_them():
    rows = questions(*(f"{'abcdefgh'[i % 8]} {i * 37 % 90}" for i in range(200)))
    before = {o.example_id: o.action for o in apply(deduplicate, Rows("raw", rows), ctx=Embedding())}
    more = rows + questions(*(f"k {i * 30}" for i in range(10)), prefix="new")
    after = {o.example_id: o.action for o in apply(deduplicate, Rows("raw", more), ctx=Embedding())}
    assert {row_id: after[row_id] for row_id in before} == before
    assert Counter(before.values())["dropped"] > 50


def test_mistakes():
    with pytest.raises(UserError, match=r'"tests" \(did you mean "test"\?\)'):
        apply(deduplicate, Rows("raw", examples(1)), Rows("test", []), against="tests")
    with pytest.raises(UserError, match="reads test alone"):
        apply(deduplicate, Rows("test", examples(1)), against="test")
    with pytest.raises(UserError, match="set against_of"):
        apply(deduplicate, Rows("raw", [example("x", meta={"c": "t"})]), Rows("test", examples(2, "i")),
              against="test", of="{{ c }}", min_cosine=None)  # fmt: skip
    for params in ({"keep": "best"}, {"score": "{{ x }}"}, {"min_cosine": 0}):
        with pytest.raises(ValidationError):
            deduplicate.Params(**params)

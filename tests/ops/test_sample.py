from collections import Counter

import pytest
from pydantic import ValidationError

from refinery.ops import sample
from tests.ops.tables import Rows, Seeded, apply, example, examples, stay


def test_so_many_rows_stay_in_their_order_and_the_others_say_why():
    rows = examples(100)
    outcomes = apply(sample, Rows("raw", rows), n=30)
    ids = stay(outcomes)
    assert len(ids) == 30
    assert ids == [row.id for row in rows if row.id in ids]
    assert Counter(outcome.reason for outcome in outcomes) == {"ok": 30, "not_sampled": 70}
    last = outcomes[0].scores["last"]
    assert all((outcome.scores["rank"] <= last) == (outcome.action == "kept") for outcome in outcomes)
    assert {(o.scores["taken"], o.scores["of"]) for o in outcomes} == {(30, 100)}


def test_a_share_is_rounded_and_more_than_there_are_is_all():
    assert len(stay(apply(sample, Rows("raw", examples(33)), share=0.1))) == 3
    assert len(stay(apply(sample, Rows("raw", examples(5)), n=50))) == 5
    assert stay(apply(sample, Rows("raw", examples(5)), n=0)) == []
    assert stay(apply(sample, Rows("raw", []), share=0.5)) == []


def test_the_choice_hangs_on_seed_and_draw_and_not_on_position():
    rows = examples(100)
    first = set(stay(apply(sample, Rows("raw", rows), n=30)))
    assert first == set(stay(apply(sample, Rows("raw", rows[::-1]), n=30)))
    assert first != set(stay(apply(sample, Rows("raw", rows), n=30, ctx=Seeded(1))))
    assert first != set(stay(apply(sample, Rows("raw", rows), n=30, draw=1)))


def test_ten_more_rows_change_few_choices():
    rows = examples(1000)
    before = set(stay(apply(sample, Rows("raw", rows), n=200)))
    after = set(stay(apply(sample, Rows("raw", rows + examples(10, "new")), n=200)))
    assert len(before - after) <= 10


def test_a_sample_of_numbers_is_near_their_mean():
    rows = [example(f"x{number}", meta={"value": number}) for number in range(2000)]
    values = [o.example.meta["value"] for o in apply(sample, Rows("raw", rows), n=500) if o.example]
    assert abs(sum(values) / 500 - 999.5) < 4 * 577 / 500**0.5  # four standard errors of a uniform draw


def grouped(**sizes):
    return [example(f"{name}{i}", meta={"topic": name}) for name, size in sizes.items() for i in range(size)]


def test_groups_keep_their_shares_or_give_equal_numbers():
    rows = grouped(a=60, b=30, c=10)

    def topics(**params):
        outcomes = apply(sample, Rows("raw", rows), by="topic", **params)
        return Counter(outcome.example.meta["topic"] for outcome in outcomes if outcome.example)

    assert topics(n=20) == {"a": 12, "b": 6, "c": 2}
    assert topics(n=36, groups="equal") == {"a": 13, "b": 13, "c": 10}
    assert topics(share=1) == {"a": 60, "b": 30, "c": 10}
    outcome = apply(sample, Rows("raw", rows), by="{{ topic }}", n=20)[0]
    assert (outcome.scores["group"], outcome.scores["taken"], outcome.scores["of"]) == ("a", 12, 60)


def test_weights_make_rows_likelier_and_zero_never():
    rows = [example(f"x{i}", meta={"w": [0, 1, 3][i % 3]}) for i in range(3000)]
    outcomes = apply(sample, Rows("raw", rows), n=400, weight="{{ w }}")
    taken = Counter(outcome.scores["weight"] for outcome in outcomes if outcome.example)
    assert taken[0] == 0
    # of few draws out of many, 3 : 1; the 95% interval of a share of 0.75 of 400 is +-0.042, and a draw without
    # replacement pulls it a little towards one half
    assert 0.66 < taken[3] / 400 < 0.80
    assert Counter(outcome.reason for outcome in outcomes)["no_weight"] == 1000


def test_rows_without_a_usable_weight_are_dropped_by_name():
    rows = [example("a", meta={"w": 1}), example("b", meta={"w": "much"}), example("c", meta={"w": -1}), example("d")]
    outcomes = apply(sample, Rows("raw", rows), n=9, weight="{{ w }}")
    assert [outcome.reason for outcome in outcomes] == ["ok", "not_a_number", "negative_weight", "template_error"]


@pytest.mark.parametrize("params", [{}, {"n": 1, "share": 0.5}, {"share": 1.5}, {"n": -1}])
def test_a_size_is_given_exactly_once(params):
    with pytest.raises(ValidationError):
        sample.Params(**params)

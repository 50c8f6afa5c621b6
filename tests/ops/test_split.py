from collections import Counter, defaultdict

import pytest
from pydantic import ValidationError

from refinery.ops import split
from tests.ops.tables import Rows, apply, example, examples


def splits(outcomes):
    return {outcome.example_id: outcome.example.split for outcome in outcomes}


def test_fractions_are_moved_and_the_reasons_add_up():
    outcomes = apply(split, Rows("raw", examples(1000)), validation=0.1, test=0.2)
    assert Counter(splits(outcomes).values()) == {"train": 700, "validation": 100, "test": 200}
    reasons = Counter((outcome.action, outcome.reason) for outcome in outcomes)
    assert reasons == {("kept", "ok"): 700, ("changed", "moved_to_validation"): 100, ("changed", "moved_to_test"): 200}
    assert all(outcome.scores["split"] == outcome.example.split for outcome in outcomes)


def test_rows_of_one_value_stay_together():
    rows = [example(f"r{i}", meta={"article": i // 5}) for i in range(500)]
    found = defaultdict(set)
    for outcome in apply(split, Rows("raw", rows), test=0.3, by="article"):
        found[outcome.example.meta["article"]].add(outcome.example.split)
    assert all(len(each) == 1 for each in found.values())
    assert Counter(each for (each,) in found.values())["test"] == 30


def test_ten_more_rows_move_few_others():
    before = splits(apply(split, Rows("raw", examples(1000)), validation=0.1, test=0.2))
    after = splits(apply(split, Rows("raw", examples(1000) + examples(10, "new")), validation=0.1, test=0.2))
    assert sum(before[row_id] != after[row_id] for row_id in before) <= 10


def test_the_seed_is_the_specs_unless_it_is_given():
    rows = Rows("raw", examples(100))
    assert splits(apply(split, rows, test=0.5)) == splits(apply(split, rows, test=0.5, seed=0))
    assert splits(apply(split, rows, test=0.5)) != splits(apply(split, rows, test=0.5, seed=1))


def test_a_row_whose_template_fails_is_dropped():
    rows = [example("a", meta={"n": "1"}), example("b", meta={"n": None}), example("c")]
    outcomes = apply(split, Rows("raw", rows), test=0.4, by="{{ n }}")
    assert [outcome.reason for outcome in outcomes][2] == "template_error"
    assert outcomes[1].action != "dropped"


@pytest.mark.parametrize("params", [{}, {"validation": 0.5, "test": 0.5}, {"test": 1.2}])
def test_something_moves_and_something_stays(params):
    with pytest.raises(ValidationError):
        split.Params(**params)

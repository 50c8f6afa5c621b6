from collections import Counter

import pandas as pd
import pytest

from refinery.errors import UserError
from refinery.ops import join
from tests.ops.tables import Rows, apply, example


def branch(name, responses, **more):
    return Rows(name, [example(row_id, response=text, **more) for row_id, text in responses.items()])


def test_rows_meet_by_id_and_every_branch_gives_candidates():
    close, loose = branch("close", {"a": "A1", "b": "B1"}), branch("loose", {"a": "A2", "b": "B1"})
    first, second = apply(join, close, loose)
    assert (first.action, first.example.response, first.example.candidates) == ("changed", "A1", ("A1", "A2"))
    assert first.scores == {
        "branches": ["close", "loose"],
        "response_from": "close",
        "candidates_from": ["close", "loose"],
        "fell_back_in": [],
    }
    assert (second.example.candidates, second.scores["candidates_from"]) == (("B1",), ["close"])


def test_take_names_the_branch_and_candidates_are_its_first():
    close = Rows("close", [example("a", response="A1", candidates=("A1", "A9"))])
    (outcome,) = apply(join, close, branch("loose", {"a": "A2"}), take="loose")
    assert (outcome.example.response, outcome.example.candidates) == ("A2", ("A2", "A1", "A9"))
    (outcome,) = apply(join, close, branch("loose", {"a": "A2"}), take="loose", candidates=["close"])
    assert (outcome.example.response, outcome.example.candidates) == ("A2", ("A1", "A9"))
    (outcome,) = apply(join, close, branch("loose", {"a": "A2"}), candidates=[])
    assert outcome.example.candidates == ()


@pytest.mark.parametrize("how", ["inner", "outer"])
def test_inner_and_outer_are_those_of_pandas(how):
    left = {f"r{i}": f"left {i}" for i in range(0, 60, 2)}
    right = {f"r{i}": f"right {i}" for i in range(0, 60, 3)}
    outcomes = apply(join, branch("left", left), branch("right", right), how=how, candidates=[])
    frames = (pd.DataFrame({"id": list(side), name: list(side.values())}) for name, side in
              (("left", left), ("right", right)))  # fmt: skip
    merged = pd.merge(*frames, on="id", how=how)
    wanted = {row.id: row.left if isinstance(row.left, str) else row.right for row in merged.itertuples()}
    assert {o.example_id: o.example.response for o in outcomes if o.example} == wanted
    dropped = Counter(o.reason for o in outcomes if not o.example)
    assert dropped == ({"missing_branch": len(left.keys() ^ right.keys())} if how == "inner" else {})


def test_the_order_is_the_first_branchs_then_the_others(monkeypatch):
    monkeypatch.setattr(join, "PAGE", 2)
    a, b = branch("a", dict.fromkeys("wxyz", "1")), branch("b", dict.fromkeys("vzxu", "2"))
    assert [o.example_id for o in apply(join, a, b, how="outer")] == list("wxyzvu")


def test_a_branch_that_fell_back_offers_nothing_unless_all_did():
    close = Rows("close", [example("a", answer="Ref", response="Ref", fell_back=True), example("b", fell_back=True)])
    loose = Rows("loose", [example("a", answer="Ref", response="A2"), example("b", fell_back=True)])
    first, second = apply(join, close, loose)
    assert (first.example.response, first.example.candidates, first.example.fell_back) == ("A2", ("A2",), False)
    assert (first.scores["response_from"], first.scores["fell_back_in"]) == ("loose", ["close"])
    assert (second.example.fell_back, second.example.candidates, second.action) == (True, (), "kept")


def test_templates_name_the_branches():
    a, b = branch("close", {"x": "one", "y": "solo"}), branch("close-2", {"x": "two"})
    params = {"response": '{{ branches.close.response }}+{{ branches["close-2"].response | default("-") }}'}
    params |= {"columns": {"other": '{{ branches["close-2"].response | default("") }}'}, "how": "outer"}
    first, second = apply(join, a, b, **params)
    assert (first.example.response, first.example.meta) == ("one+two", {"other": "two"})
    assert (second.example.response, second.example.meta) == ("solo+-", {"other": ""})
    bad = apply(join, a, b, how="outer", response='{{ branches["close-2"].response }}')
    assert [(o.action, o.reason) for o in bad] == [("changed", "ok"), ("dropped", "template_error")]


def test_columns_of_all_branches_meet_and_the_taken_ones_win():
    a = branch("a", {"x": "1"}, meta={"k": "a", "only_a": 1})
    b = branch("b", {"x": "2"}, meta={"k": "b", "only_b": 2})
    (outcome,) = apply(join, a, b, take="b")
    assert outcome.example.meta == {"k": "b", "only_a": 1, "only_b": 2}


def test_an_unknown_branch_is_named():
    with pytest.raises(UserError, match=r'"lose" \(did you mean "loose"\?\)'):
        apply(join, branch("close", {"a": "1"}), branch("loose", {"a": "1"}), take="lose")

from collections import Counter

import pytest
from pydantic import ValidationError

from refinery.errors import UserError
from refinery.ops import mix
from tests.ops.tables import Rows, Seeded, apply, example, examples, stay


def came_from(outcomes):
    return Counter(outcome.scores["from"] for outcome in outcomes if outcome.example)


def test_replay_makes_up_its_share_of_the_result():
    outcomes = apply(mix, Rows("domain", examples(80)), Rows("general", examples(100, "g")), share=0.2)
    assert came_from(outcomes) == {"domain": 80, "general": 20}
    assert Counter(outcome.reason for outcome in outcomes) == {"ok": 100, "not_taken": 80}
    drawn = [outcome for outcome in outcomes if outcome.scores["from"] == "general"]
    assert {(o.scores["wanted"], o.scores["reached"]) for o in drawn} == {(0.2, 0.2)}
    largest = max(o.scores["rank"] for o in drawn if o.example)
    assert all((o.scores["rank"] <= largest) == (o.example is not None) for o in drawn)


def test_shares_by_name_and_one_share_over_several():
    tables = (Rows("a", examples(70)), Rows("b", examples(300, "b")), Rows("c", examples(100, "c")))
    assert came_from(apply(mix, *tables, share={"b": 0.2, "c": 0.1})) == {"a": 70, "b": 20, "c": 10}
    assert came_from(apply(mix, *tables, share={"b": 0.3})) == {"a": 70, "b": 30}
    assert came_from(apply(mix, *tables, share=0.5)) == {"a": 70, "b": 53, "c": 17}
    assert came_from(apply(mix, *tables)) == {"a": 70, "b": 300, "c": 100}


def test_words_are_counted_in_prompt_and_response():
    short = [example(f"s{i}", "one two", "three four") for i in range(60)]
    long = [example(f"l{i}", "w " * 10, "w " * 20) for i in range(40)]
    outcomes = apply(mix, Rows("short", short), Rows("long", long), share=0.5, unit="words")
    assert came_from(outcomes) == {"short": 60, "long": 8}  # 240 words, 30 each
    assert {o.scores["size"] for o in outcomes if o.scores["from"] == "long"} == {30.0}


def test_tokens_are_the_models():
    class Counting(Seeded):
        async def count_tokens(self, model, texts):
            assert model == "self"
            return [len(text) for text in texts]

    rows = [example(f"s{i}", "abcd", "efgh") for i in range(10)]
    more = [example(f"l{i}", "x" * 15, "y" * 5) for i in range(10)]
    params = {"share": 0.5, "unit": "tokens", "model": "self", "ctx": Counting()}
    outcomes = apply(mix, Rows("a", rows), Rows("b", more), **params)
    assert came_from(outcomes) == {"a": 10, "b": 4}
    assert outcomes[-1].scores["size"] == 20.0


def test_too_few_rows_stop_the_step_unless_told_otherwise():
    tables = Rows("a", examples(80)), Rows("b", examples(5, "b"))
    with pytest.raises(UserError, match=r"b has 5 rows and 20 are needed.*replacement"):
        apply(mix, *tables, share=0.2)
    taken = apply(mix, *tables, share=0.2, short="take_all")
    assert came_from(taken) == {"a": 80, "b": 5}
    assert taken[-1].scores["reached"] == pytest.approx(5 / 85)


@pytest.mark.parametrize(
    ("rows", "params"),
    [
        ((80, 5), {"share": 0.2}),
        ((80, 19), {"share": 0.2}),
        ((80, 20), {"share": 0.2}),
        ((70, 300, 3), {"share": {"b": 0.2, "c": 0.1}}),
        ((70, 300, 3), {"share": 0.1}),
        ((70, 3, 3), {"share": 0.5}),
        ((80, 5), {"share": 0.2, "short": "take_all"}),
        ((80, 5), {"share": 0.2, "replacement": True}),
        ((80, 5), {}),
        ((0, 0), {"share": 0.2}),
    ],
)
def test_the_shortfall_foretold_is_what_stops_the_step(rows, params):
    tables = [Rows(name, examples(count, name)) for name, count in zip("abc", rows, strict=False)]
    try:
        apply(mix, *tables, **params)
        stops = ""
    except UserError as error:
        stops = str(error)
    assert mix.shortfall([table.name for table in tables], rows, mix.Params(**params)) == stops
    assert bool(stops) == (rows in ((80, 5), (80, 19), (70, 300, 3), (70, 3, 3)) and params in (
        {"share": 0.2}, {"share": {"b": 0.2, "c": 0.1}}, {"share": 0.5}
    ))  # fmt: skip


def test_with_replacement_copies_are_made_rows():
    outcomes = apply(mix, Rows("a", examples(80)), Rows("b", examples(8, "b")), share=0.2, replacement=True)
    assert came_from(outcomes) == {"a": 80, "b": 20}
    made = [outcome for outcome in outcomes if outcome.action == "created"]
    assert len(made) == 12
    assert {outcome.reason for outcome in made} == {"repeated"}
    assert Counter(outcome.example.parents[0] for outcome in made).most_common(1)[0][1] == 2


def test_a_row_that_two_steps_have_is_kept_once_and_made_once():
    first = [example("x", answer="mine"), example("y")]
    second = [example("x", answer="theirs"), example("z")]
    outcomes = apply(mix, Rows("a", first), Rows("b", second))
    assert [(o.action, o.example.answer) for o in outcomes if "x" in (o.example_id, *o.example.parents)] == [
        ("kept", "mine"),
        ("created", "theirs"),
    ]
    assert len(stay(outcomes)) == 4


def test_ten_more_rows_change_few_choices():
    general = examples(1000, "g")
    before = set(stay(apply(mix, Rows("a", examples(400)), Rows("b", general), share=0.2)))
    after = set(stay(apply(mix, Rows("a", examples(400)), Rows("b", general + examples(10, "new")), share=0.2)))
    assert len(before - after) <= 10


def test_mistakes():
    with pytest.raises(UserError, match=r'"genral" \(did you mean "general"\?\)'):
        apply(mix, Rows("a", examples(1)), Rows("general", []), share={"genral": 0.1})
    for params in ({"unit": "tokens"}, {"model": "self"}, {"share": 1.0}, {"share": {"a": 0.6, "b": 0.4}}):
        with pytest.raises(ValidationError):
            mix.Params(**params)

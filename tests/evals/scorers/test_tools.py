"""Calls compared by structure: where regular expressions on text go wrong."""

import json

import pytest

from evals.scorers.tools import named, same, similar


def react(*calls: tuple[str, object]) -> str:
    return "\n".join(f"Action: {name}\nAction Input: {json.dumps(arguments)}" for name, arguments in calls)


NESTED = react(("move", {"to": {"room": 3, "shelf": [1, {"x": 2}]}, "thing": "lamp"}))
TWO = react(("find", {"thing": "lamp"}), ("find", {"thing": "kettle"}))


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (NESTED, NESTED),
        (react(("move", {"thing": "lamp", "to": {"shelf": [1, {"x": 2}], "room": 3.0}})), NESTED),
        ('{"name": "move", "arguments": {"thing": "lamp", "to": {"room": 3, "shelf": [1, {"x": 2}]}}}', NESTED),
        (f"Thought: two things.\n{TWO}\nObservation: done", TWO),
        ('[find(thing="lamp"), find(thing="kettle")]', TWO),
    ],
)
def test_the_same(text: str, gold: str) -> None:
    assert same(text, gold) and similar(text, gold) and named(text, gold)


@pytest.mark.parametrize(
    ("text", "gold", "loosely"),
    [
        (react(("move", {"thing": "lamp", "to": {"room": 3, "shelf": [1, {"x": 9}]}})), NESTED, False),
        (react(("move", {"thing": "lamp", "to": {"room": 3}})), NESTED, False),
        (react(("find", {"thing": "lamp"})), TWO, False),
        (react(("find", {"thing": "kettle"}), ("find", {"thing": "kettle"})), TWO, False),
        (react(("find", {"thing": "kettle"}), ("find", {"thing": "lamp"})), TWO, True),
        (react(("find", {"thing": "lamp", "colour": ""}), ("find", {"thing": "kettle", "size": None})), TWO, True),
        (react(("find", {"thing": "lamp"}), ("find", {"thing": "kettle"}), ("find", {})), TWO, False),
        (react(("look", {"thing": "lamp"}), ("find", {"thing": "kettle"})), TWO, False),
        ("I would look for the lamp and the kettle.", TWO, False),
        ("", TWO, False),
    ],
)
def test_not_the_same(text: str, gold: str, loosely: bool) -> None:
    assert not same(text, gold)
    assert similar(text, gold) == loosely


def test_names_alone() -> None:
    assert named(react(("find", {}), ("find", {"x": 1})), TWO)
    assert not named(react(("find", {})), TWO) and not named("none", TWO)

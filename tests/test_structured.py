import jsonschema
import pytest

from refinery import judges, structured
from refinery.errors import RowError

C = ["accuracy", "style"]


@pytest.mark.parametrize(
    ("text", "accuracy", "style"),
    [
        ('{"accuracy": 4, "style": 5}', 4, 5),
        ('```json\n{"Accuracy": 4, "style": 2.5, "why": "x"}\n```', 4, 2.5),
        ("<think>accuracy: 1</think>\naccuracy: 2\nstyle: 1", 2, 1),
        ("- **Accuracy**: 4/5\n- **Style:** 3.", 4, 3),
        ("1. Accuracy: 3\n2) style = 4", 3, 4),
        ("Here you go.\naccuracy: 4\nstyle: 5\nIt was short.", 4, 5),
        ("accuracy: 4/10\nstyle: 3/5", None, 3),
        ("accuracy: 4 or so\nstyle: good", None, None),
        ("accuracy: 4\naccuracy: 3\nstyle: 2", None, 2),
        ("accuracy: 4\naccuracy: 4\nstyle: 2", 4, 2),
        ('{"accuracy": true, "style": "5"}', None, None),
        ('{"accuracy": 4, "accuracy": 5, "style": 5}', None, None),
        ('{"accuracy": 0, "style": 6}', None, None),
        ("accuracy: -3\nstyle: 1e0", None, None),
        ("The accuracy: 4", None, None),
        ('{"scores": {"accuracy": 4, "style": 5}}', None, None),
        ("4", None, None),
        ("", None, None),
    ],
)
def test_rubric(text, accuracy, style):
    assert judges.parse_rubric(text, C, (1, 5)) == {"accuracy": accuracy, "style": style}


@pytest.mark.parametrize(
    "text", ["", "x", "{", '{"a": 1,}', '{"a": 1} {"a": 1}', "'a'", "NaN", "Infinity", '{"a": 1, "a": 1}', "// c\n1"]
)
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        structured.parse_json(text)
    with pytest.raises(RowError, match="bad_json"):
        structured.conforming(text, {})


def test_deep_nesting_is_a_rows_failure():
    with pytest.raises(RowError, match="bad_json"):
        structured.conforming("[" * 100_000, {})


@pytest.mark.parametrize(
    "schema",
    [{"type": "integer"}, {"enum": [1, "a"]}, {"$ref": "#/$defs/n", "$defs": {"n": {"minimum": 3}}}, {"items": False}],
)
@pytest.mark.parametrize("value", ["1", "4", "2.0", '"a"', "[1]", "[]", "null"])
def test_agrees_with_the_library(schema, value):
    """The library's own verdict, on the value that the standard parser reads."""
    import json

    fits = jsonschema.Draft202012Validator(schema).is_valid(json.loads(value))
    try:
        structured.conforming(value, schema)
    except RowError as error:
        assert error.reason == "schema_mismatch" and not fits
    else:
        assert fits


def test_a_mismatch_names_the_place():
    schema = {"type": "object", "properties": {"a": {"items": {"type": "number"}}}}
    with pytest.raises(RowError, match=r"schema_mismatch: \$\.a\[1\]: 'x' is not of type 'number'"):
        structured.conforming('{"a": [1, "x"]}', schema)


def test_a_reference_that_leads_nowhere_is_a_rows_failure():
    with pytest.raises(RowError, match="schema_mismatch"):
        structured.conforming("1", {"$ref": "#/$defs/none"})

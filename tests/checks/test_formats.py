"""Patterns and schemas that a spec brings: what they accept, how they fail, and that they end."""

import json
import sys
import time

import jsonschema
import pytest

from refinery.checks import Check, agrees, compare, formats, maths, reference_value, timed
from refinery.errors import UserError


def by_pattern(pattern, candidate, reference):
    return compare(Check("regex", pattern=pattern), candidate, reference).agrees


@pytest.mark.parametrize(
    ("pattern", "candidate", "reference", "same"),
    [
        (r"Answer: (?P<answer>\w+)", "Answer: a. Answer: b", "b", True),
        (r"(Final )?Answer: (?P<answer>\w+)", "Final Answer: b", "Answer: b", True),
        (r"= (\d+)", "1 = 1, 2 = 2", "2", True),
        (r"\d+-\d+", "call 12-34", "12-34", True),
        (r"= (\d+)", "= 3", "2", False),
        (r"= (\d+)", "no match", "no match", False),
        (r"= (\d*)", "= ", "2", False),
    ],
)
def test_what_a_pattern_compares(pattern, candidate, reference, same):
    assert by_pattern(pattern, candidate, reference) is same


def test_a_pattern_that_never_ends_is_stopped():
    begun = time.monotonic()
    finding = compare(Check("regex", pattern=r"(a|aa)+$"), "a" * 5000 + "b", "x")
    assert (finding.agrees, finding.unknown) == (None, "timed_out")
    assert time.monotonic() - begun < 20 * formats.LIMIT


def test_a_bad_pattern_is_told():
    assert "does not work" in formats.pattern_mistake("(a")
    assert formats.pattern_mistake("(a)") is None


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "value",
    [{"city": "Paris"}, {"city": "Paris", "n": 0}, {"city": "Paris", "n": 2}, {"n": 2}, {"city": 1}, [], 3, None],
)
def test_a_schema_as_jsonschema_reads_it(value):
    expected = jsonschema.Draft202012Validator(SCHEMA).is_valid(value)
    assert compare(Check("json_schema", schema=SCHEMA), json.dumps(value), "").agrees is expected


@pytest.mark.parametrize(
    "text",
    ["", "{", '```json\n{"city": "a"}\n```', '{"city": "a"} ok', '{"city": "a", "city": "b"}', "[" * 90_000,
     '{"city": "a", "n": NaN}'],
)  # fmt: skip
def test_what_is_not_quite_json(text):
    assert compare(Check("json_schema", schema=SCHEMA), text, "").agrees is False


def test_a_schema_whose_pattern_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(timed, "LIMIT", 1.0)
    check = Check("json_schema", schema={"type": "string", "pattern": "^(a|aa)+$"})
    assert compare(check, json.dumps("a" * 200 + "b"), "").unknown == "timed_out"


def test_mistakes_of_a_schema():
    assert "at /properties/a/type" in formats.schema_mistake({"properties": {"a": {"type": "txt"}}})
    assert "https://x.org" in formats.schema_mistake({"$ref": "https://x.org/schema"})
    assert formats.schema_mistake({"$ref": "#/$defs/a", "$defs": {"a": {}}}) is None


def test_choices_may_be_other_letters():
    assert compare(Check("choice", choices="ABCDEFGHIJ"), "I think the answer is (H).", "H").agrees
    assert compare(Check("choice", choices="ABCDEFGHIJ"), "I believe H", "H").agrees
    assert not compare(Check("choice", choices="AB"), "The answer is C", "C").agrees
    assert not agrees("choice", "The answer is H", "H")


def test_a_reference_without_a_match_is_the_bare_value():
    assert reference_value(Check("regex", pattern=r"= (\d+)"), " 7 ") == "7"
    assert reference_value(Check("regex", pattern=r"= (\d+)"), "  ") is None


def test_a_check_from_the_parameters_of_a_step():
    params = {"on_error": "answer", "kind": "json_schema", "json_schema": {"type": "object"}, "tolerance": None}
    assert Check.of_params(params) == Check("json_schema", schema={"type": "object"})
    assert Check.of_params({"kind": "number"}) == Check("number")
    assert Check.of_params({"kind": "judge", "model": "j"}) is None


@pytest.mark.parametrize(("check", "library"), [(Check("math"), "math_verify"), (Check("regex", pattern="a"), "regex")])
def test_a_missing_library_is_said_in_one_line(check, library, monkeypatch):
    formats.compiled.cache_clear()
    monkeypatch.setattr(maths, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(UserError, match=r'pip install "refinery\[checks\]"'):
        compare(check, "1", "1")

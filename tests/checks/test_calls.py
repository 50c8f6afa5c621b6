"""Function calls in every notation that the sources use, and texts that look like calls and are none."""

import json
import time

import pytest

from evals.scorers import tools
from refinery.checks import agrees, calls

SAME = [
    ('{"name": "f", "arguments": {"a": 1, "b": {"c": [true, null]}}}', 'f(b={"c": [True, None]}, a=1.0)'),
    ('{"name": "f", "arguments": "{\\"a\\": 1}"}', "f(a=1)"),
    ('{"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}', "f()"),
    ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "f(a=1)"),
    ("Sure!\n```python\nf(a=1)\ng.h(b=2)\n```\nf does this.", "f(a=1)\ng.h(b=2)"),
    ("[f(a=1), g.h(b=2)]", "f(a=1)\ng.h(b=2)"),
    ("result = f(a=1)", "f(a=1)"),
    ("f(a=1)  # Correct\nThe correct response is f(a=1).", "f(a=1)"),
    ('Here it is: {"name": "f", "parameters": {"a": 1}} as asked.', "f(a=1)"),
    ("f(a=(1, 2), b={2, 1})", "f(b={1, 2}, a=[1, 2])"),
    ("f(a=-5, b=+2)", '{"name": "f", "arguments": {"a": -5, "b": 2}}'),
    ("f(a=0.1)", '{"name": "f", "arguments": {"a": 1e-1}}'),
    ("f(flag='x', flag='y')", "f(flag='y', flag='x')"),
    ("f(t=<token>, kind=int)", "f(kind=int, t=<token>)"),
    ("f(p=g(1, x=2))", "f(p=g(1, x=2.0))"),
    ("f('a) b', \"it's\")", "f('a) b', \"it's\")"),
    ("Thought: x\nAction: f\nAction Input: {\"a\": 1}\nObservation: {\"b\": 2}", "f(a=1)"),
    ("Action: f(a=1)\nThat is all.", "f(a=1)"),
    ('Action:\n```json\n{"name": "f", "arguments": {"a": 1}}\n```', "f(a=1)"),
    ("Action: f\nAction Input: {\n\"a\": 1\n}\nObservation: done", "f(a=1)"),
    ('I use <tool_call> as asked.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>', "f(a=1)"),
    ('<tool_call>It is {"name": "f", "arguments": {"a": 1}}</tool_call>', "f(a=1)"),
    ("Action: f\nAction Input: {a: ${b}}\nAction: g\nAction Input: {}", json.dumps(
        [{"Action": "f", "Action_Input": "{a:  ${b}}"}, {"Action": "g", "Action_Input": "{}"}])),
]  # fmt: skip

DIFFERENT = [
    ("f(a=1)", "g(a=1)"),
    ("f(a=1)", "f(a=2)"),
    ("f(a=1)", "f(b=1)"),
    ("f(a=1)", "f(a=1, b=2)"),
    ("f(a='1')", "f(a=1)"),
    ("f(a=True)", "f(a=1)"),
    ("f(a=None)", "f(a='None')"),
    ("f(1)", "f(a=1)"),
    ("f(1, 2)", "f(2, 1)"),
    ("f(a=1)\nf(a=1)", "f(a=1)"),
    ("f(a=1)\ng(b=2)", "g(b=2)\nf(a=1)"),
    ("f(flag='x', flag='x')", "f(flag='x')"),
    ('{"name": "f", "arguments": {"a": 1, "a": 2}}', '{"name": "f", "arguments": {"a": 2}}'),
    ("m.f(a=1)", "f(a=1)"),
    ("f(a=[1, 2])", "f(a=[2, 1])"),
    ("f(a=x)", "f(a='x')"),
    ("f(a=1+1)", "f(a=2)"),
]

ONE = '{"name": "f", "arguments": {"a": 1}}'
BESIDE = [
    f"<tool_call>{ONE}</tool_call><tool_call>{{'name': 'delete_all', 'arguments': {{'x':}}</tool_call>",
    f'<tool_call>{ONE}</tool_call>\n<tool_call>{{"name": "delete_all", "argum',
    f"<tool_call>delete_all</tool_call><tool_call>{ONE}</tool_call>",
    f'```json\n{ONE}\n```\n<tool_call>{{"name": "delete_all"}}</tool_call>',
    f'```json\n{ONE}\n```\nAnd then\nAction: delete_all\nAction Input: {{"x": 1}}',
    f"<tool_call>{ONE}</tool_call>\n**Action: delete_all**",
    'Action: f\nAction Input: {"a": 1}\nAction: delete_all',
    'Action: delete_all\nAction: f\nAction Input: {"a": 1}',
    f"It is {ONE}.\nAction: delete_all(x=1)",
    "I call f(a=1) here.\nASSISTANT Action: delete_all",
]


@pytest.mark.parametrize("text", BESIDE)
def test_a_call_that_cannot_be_read_makes_others_unequal(text):
    assert calls.read(text)[0] == calls.read("f(a=1)")[0]
    assert not any(rule(text, "f(a=1)") for rule in (tools.same, tools.similar, tools.named))
    assert tools.same(text, text)


@pytest.mark.parametrize(("text", "same"), SAME)
def test_the_same_calls_in_other_words(text, same):
    assert calls.read(text) is not None
    assert calls.read(text) == calls.read(same)


@pytest.mark.parametrize(("text", "other"), DIFFERENT)
def test_other_calls(text, other):
    assert calls.read(text) is not None and calls.read(other) is not None
    assert not agrees("tool_call", text, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The option(s) and the file(name) are missing.",
        '{"name": "f"}',
        '{"temperature": 3}',
        "f(a=1",
        "f(a=\x00)",
        "1 + 1",
        "[]",
        "Action: f",
    ],
)
def test_no_call(text):
    assert calls.read(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "-" * 50_000 + "1",
        "f(" * 3_000,
        "{" * 30_000,
        "[" * 30_000,
        "a." * 30_000 + "f()",
        "f(x=" * 2_000,
        "<tool_call>" * 30_000,
        "Action: f" + " \n" * 30_000,
        "Action:" + " " * 60_000,
        "```\n" * 20_000,
        "`" * 50_000,
        "<tool_call>{" * 30_000,
    ],
)
def test_hostile_texts_end(text):
    begun = time.monotonic()
    assert calls.read(text) is None
    assert time.monotonic() - begun < 10


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "made"
    assert calls.read(f"f(a=open({str(target)!r}, 'w'))") is not None
    assert not target.exists()


@pytest.mark.parametrize(
    "text",
    ["<tool_call>{" * 30_000, "Action: g\n" * 20_000, "-" * 50_000, "ASSISTANT" + "\n" * 50_000, "f(a=1)\n" * 9_000],
)
def test_hostile_texts_beside_a_call_end(text):
    begun = time.monotonic()
    assert calls.read('Action: f\nAction Input: {"a": 1}\n' + text)
    assert time.monotonic() - begun < 10

"""Function calls written in a text, in whichever of the usual notations, as values that can be compared.

    JSON       {"name": "f", "arguments": {...}}, OpenAI's tool_calls, lists of them, <tool_call>...</tool_call>
    Python     f(a=1, b=["x"]), module.f(...), several one below the other or in a list; parsed, never evaluated
    ReAct      Action: f / Action Input: {...}, as ToolAlpaca writes them (arXiv:2306.05301)

A whole text that is nothing but calls is read as such, else its tags or fenced blocks, else what stands in the prose.
"""

import ast
import functools
import json
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from typing import Any

UNREAD = "#unread"
"""The name of a call that could not be read, beside others that could: it equals no call of a function."""

Call = tuple[str, tuple[tuple[str, Hashable], ...]]
"""(name, (argument, value) pairs sorted by argument). A positional argument is called "#0", "#1", ..."""

Found = tuple[tuple[int, int], Call]
"""A call and where it stands."""

NAMES = ("name", "function", "tool", "tool_name", "Action", "action")
ARGUMENTS = ("arguments", "parameters", "args", "input", "Action_Input", "Action Input", "action_input")
STARTS, SPAN = 500, 4000
"""Places in running prose where a Python call is tried, and characters that one may have."""

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
_TAGGED = re.compile(r"<tool_call>((?:(?!</?tool_call>).)*)(</tool_call>)?", re.DOTALL)
_ACTION_LINE = re.compile(r"^[^\w\n]*(?:ASSISTANT\s+)?Action[ \t]*:[^\w\n]*\w[^\n]*", re.MULTILINE | re.IGNORECASE)
_CALL_LIKE = re.compile(r"[({]")
_ACTION = re.compile(
    r"^[^\w\n]*(?:ASSISTANT\s+)?Action[ \t]*:(?P<name>[^\n]+)\n\s*(?:ASSISTANT\s+)?Action[ _]Input\s*:[ \t]*",
    re.MULTILINE | re.IGNORECASE,
)
_NEXT_TURN = re.compile(r"^\s*(?:ASSISTANT\b|Action\b|Observation\b|Thought\b|Final\b)", re.MULTILINE | re.IGNORECASE)
_CALL = re.compile(r"(?<![\w.])[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*\(")
_PLACEHOLDER = re.compile(r"(?<=[=,(\[:])(\s*)(<[A-Za-z_][\w -]*>)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def read(text: str) -> tuple[Call, ...] | None:
    """The calls of `text` in the order they are written, or None where there is none.

    Arguments may come in any order, a repeated one keeps all its values, 1 equals 1.0 but not "1" or true, a list
    equals a tuple. A value that is no literal (a variable, <placeholder>, a sum) is compared as code, an Action Input
    that is no JSON as text. In running prose a call counts where it has named arguments, literal ones or none, and the
    same call written twice counts once. A positional argument is not matched with a named one. Beside calls that were
    read, one that was begun and cannot be read is a call too, of no function (`UNREAD`).
    """
    if whole := _whole(text):
        return tuple(whole)
    for pattern in (_TAGGED, _FENCED):
        blocks = [(match.span(), calls) for match in pattern.finditer(text) if (calls := _whole(match[1]))]
        if blocks:
            found = tuple(call for _, calls in blocks for call in calls)
            return found + _unread(text, [span for span, _ in blocks])
    for mined, written in ((_actions, text), (_embedded, text), (_in_prose, _PLACEHOLDER.sub(r'\1"\2"', text))):
        if some := list(mined(written)):
            found = tuple(call for _, call in some)
            found = tuple(dict.fromkeys(found)) if mined is _in_prose else found
            return found + _unread(written, [span for span, _ in some])
    return None


def _unread(text: str, spans: list[tuple[int, int]]) -> tuple[Call, ...]:
    """Blocks in call tags and lines `Action: ...` apart from the `spans` that were read, each as a call of its own. A
    tag that is opened and never closed counts where something like a call follows: prose may name the tag."""
    blocks = [each for each in _TAGGED.finditer(text) if each[1].strip() and (each[2] or _CALL_LIKE.search(each[1]))]
    ends = [end for _, end in spans]
    left = []
    for match in (*blocks, *_ACTION_LINE.finditer(text)):
        first = bisect_right(ends, match.start())  # the first span that ends behind its start
        if first == len(spans) or spans[first][0] >= match.end():
            left.append((UNREAD, (("#raw", " ".join(match[0].split())),)))
    return tuple(left)


def _whole(text: str) -> list[Call] | None:
    """The calls of a text that holds nothing else."""
    text = text.strip().strip("`").strip()
    if text[:1] in ("{", "["):
        value = _json(text) or _guarded(lambda: _plain(ast.literal_eval(text)))
        if value is not None and (calls := _from_json(value)):
            return calls
    tree = _guarded(lambda: ast.parse(_PLACEHOLDER.sub(r'\1"\2"', text)))
    return _statements(tree.body) if tree is not None else None


def _guarded(parse: Callable[[], Any]) -> Any:
    """What a parser of Python gives, None where it gives up: code of a model may be anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return parse()
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


# --- JSON


class _Pairs(tuple):
    """A JSON object's (key, value) pairs as written, repeated keys included."""

    def get(self, *names: str) -> Any:
        return next((value for name in names for key, value in self if key == name), None)


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return None


def _plain(value: Any) -> Any:
    """A Python literal, as its JSON would have been read."""
    if isinstance(value, dict):
        return _Pairs((str(key), _plain(item)) for key, item in value.items())
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> list[Call] | None:
    """The calls that a JSON value stands for; None where any part of it is no call."""
    if isinstance(value, list):
        parts = [_from_json(item) for item in value]
        return [call for part in parts for call in part or ()] if parts and all(parts) else None
    if not isinstance(value, _Pairs):
        return None
    if isinstance(several := value.get("tool_calls"), list):
        return _from_json(several)
    if isinstance(inner := value.get("function"), _Pairs):
        return _from_json(inner)
    name, arguments = value.get(*NAMES), value.get(*ARGUMENTS)
    if not isinstance(name, str) or arguments is None:
        return None
    return [(name.strip(), _named(_json(arguments) if isinstance(arguments, str) else arguments, arguments))]


def _named(arguments: Any, written: Any) -> tuple[tuple[str, Hashable], ...]:
    if isinstance(arguments, _Pairs):
        return _ordered((key, _json_value(item)) for key, item in arguments)
    return (("#raw", " ".join(str(written).split())),)


def _ordered(pairs: Any) -> tuple[Any, ...]:
    return tuple(sorted(pairs, key=lambda pair: (pair[0], repr(pair[1]))))


def _json_value(value: Any) -> Hashable:
    if isinstance(value, _Pairs):
        return ("map", _ordered((key, _json_value(item)) for key, item in value))
    if isinstance(value, list):
        return ("list", tuple(_json_value(item) for item in value))
    return _scalar(value)


def _scalar(value: Any) -> Hashable:
    if value is None or isinstance(value, bool):
        return ("constant", str(value))
    if isinstance(value, str):
        return ("text", value)
    try:
        return ("number", Fraction(repr(value)))
    except (ValueError, OverflowError):
        return ("code", repr(value))


def _embedded(text: str) -> Iterator[Found]:
    """JSON calls that stand in prose."""
    decoder, at = json.JSONDecoder(object_pairs_hook=_Pairs), 0
    for _ in range(STARTS):
        start = min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)
        if start < 0:
            return
        try:
            value, at = decoder.raw_decode(text, start)
            yield from (((start, at), call) for call in _from_json(value) or ())
        except (ValueError, RecursionError):
            at = start + 1


# --- Action: ... Action Input: ...


def _actions(text: str) -> Iterator[Found]:
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    for match in _ACTION.finditer(text):
        try:
            arguments, at = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            arguments, at = None, match.end()
        rest = text[match.end() :]
        end = _NEXT_TURN.search(rest)
        call = (match["name"].strip("`'\" "), _named(arguments, rest[: end.start()] if end else rest))
        yield (match.start(), at), call


# --- Python


def _statements(body: list[ast.stmt]) -> list[Call] | None:
    """Every statement is a call, an assignment of one, or a list of them; else None."""
    found: list[Call] = []
    for statement in body:
        value = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
        nodes = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        for node in nodes:
            call = _call(node)
            if call is None:
                return None
            found.append(call)
    return found or None


def _call(node: Any) -> Call | None:
    if not isinstance(node, ast.Call):
        return None
    name = _guarded(lambda: ast.unparse(node.func)) or ""
    if not _DOTTED.fullmatch(name):
        return None
    positional = [(f"#{i}", _value(argument)) for i, argument in enumerate(node.args)]
    return (name, _ordered([*positional, *((word.arg or "**", _value(word.value)) for word in node.keywords)]))


def _value(node: Any) -> Hashable:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None):
            return _scalar(node.value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as number)):
            return _scalar(-number if isinstance(sign, ast.USub) else number)
        case ast.List() | ast.Tuple():
            return ("list", tuple(_value(item) for item in node.elts))
        case ast.Set():
            return ("set", tuple(sorted({_value(item) for item in node.elts}, key=repr)))
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            pairs = zip(node.keys, node.values, strict=True)
            return ("map", _ordered((str(key.value), _value(item)) for key, item in pairs))  # type: ignore[union-attr]
        case ast.Call() if call := _call(node):
            return ("call", call)
    return ("code", _guarded(lambda: ast.unparse(node)) or "?")


def _in_prose(text: str) -> Iterator[Found]:
    at = 0
    for _ in range(STARTS):
        match = _CALL.search(text, at)
        if match is None:
            return
        at = match.end()
        end = _closing(text, match.end())
        source = text[match.start() : end]
        tree = _guarded(functools.partial(ast.parse, source, mode="eval")) if end else None
        node = tree.body if tree is not None else None
        if isinstance(node, ast.Call) and _is_certain(node) and (call := _call(node)):
            at = end
            yield (match.start(), end), call


def _is_certain(node: ast.Call) -> bool:
    """Not "the configuration(s)": a call in prose has named arguments, literal ones or none."""
    return bool(node.keywords) or all(isinstance(argument, ast.Constant) for argument in node.args)


def _closing(text: str, at: int) -> int:
    """The place after the parenthesis that closes one opened before `at`; 0 where none does within SPAN."""
    depth, quote = 1, ""
    limit = min(len(text), at + SPAN)
    while at < limit:
        char = text[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += {"(": 1, ")": -1}.get(char, 0)
            if depth == 0:
                return at + 1
        at += 1
    return 0

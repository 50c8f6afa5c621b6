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
from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from typing import Any

Call = tuple[str, tuple[tuple[str, Hashable], ...]]
"""(name, (argument, value) pairs sorted by argument). A positional argument is called "#0", "#1", ..."""

NAMES = ("name", "function", "tool", "tool_name", "Action", "action")
ARGUMENTS = ("arguments", "parameters", "args", "input", "Action_Input", "Action Input", "action_input")
STARTS, SPAN = 500, 4000
"""Places in running prose where a Python call is tried, and characters that one may have."""

_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)```", re.DOTALL)
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
    same call written twice counts once. A positional argument is not matched with a named one.
    """
    if whole := _whole(text):
        return tuple(whole)
    tagged = [part.partition("</tool_call>")[0] for part in text.split("<tool_call>")[1:]]
    for blocks in (tagged, _FENCED.findall(text)):
        found = [calls for block in blocks if (calls := _whole(block))]
        if found:
            return tuple(call for calls in found for call in calls)
    for mined in (_actions, _embedded, _in_prose):
        if some := list(mined(text)):
            return tuple(dict.fromkeys(some)) if mined is _in_prose else tuple(some)
    return None


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


def _embedded(text: str) -> Iterator[Call]:
    """JSON calls that stand in prose."""
    decoder, at = json.JSONDecoder(object_pairs_hook=_Pairs), 0
    for _ in range(STARTS):
        start = min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)
        if start < 0:
            return
        try:
            value, at = decoder.raw_decode(text, start)
            yield from _from_json(value) or ()
        except (ValueError, RecursionError):
            at = start + 1


# --- Action: ... Action Input: ...


def _actions(text: str) -> Iterator[Call]:
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    for match in _ACTION.finditer(text):
        try:
            arguments = decoder.raw_decode(text, match.end())[0]
        except (ValueError, RecursionError):
            arguments = None
        rest = text[match.end() :]
        end = _NEXT_TURN.search(rest)
        yield (match["name"].strip("`'\" "), _named(arguments, rest[: end.start()] if end else rest))


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


def _in_prose(text: str) -> Iterator[Call]:
    text, at = _PLACEHOLDER.sub(r'\1"\2"', text), 0
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
            yield call


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

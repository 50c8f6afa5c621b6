"""What pydantic says of a spec, in the words and at the places of its YAML."""

import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from refinery.errors import did_you_mean
from refinery.yamlpos import KeyPath

EMPTY = "must not be empty"
SHOWN = 20
"""Names listed where a word is close to none of them."""


def explain(errors: Sequence[ErrorDetails], data: Any, model: type[BaseModel]) -> list[tuple[KeyPath, str, bool]]:
    """(path in the YAML, message, place it at the key?) of each error; later list items first, for removing them.

    What pydantic adds to a path for unions and keys is taken off; the alternatives of one value become one message.
    """
    found: dict[KeyPath, tuple[list[str], bool]] = {}
    for error in errors:
        path = _in_data(error["loc"], data)
        key = error["type"] in ("extra_forbidden", "missing") or "[key]" in error["loc"]
        if error["type"] == "missing":
            path = (*path[: len(error["loc"]) - 1], error["loc"][-1])
        messages, _ = found.setdefault(path, ([], key))
        message = _message(error, path, model)
        if message not in messages:
            messages.append(message)
    rows = [(path, _joined(messages), key) for path, (messages, key) in found.items()]
    return sorted(rows, key=lambda row: [(isinstance(p, int), p if isinstance(p, int) else 0) for p in row[0]])[::-1]


def _in_data(loc: tuple[int | str, ...], data: Any) -> KeyPath:
    path: list[str | int] = []
    for part in loc:
        if isinstance(data, BaseModel) or not has(data, part):
            break
        path.append(part)
        data = data[part]
    return tuple(path)


def _joined(messages: list[str]) -> str:
    """ "expected text, got 5" and "expected a list, got 5" -> "expected text or a list, got 5"."""
    parts = [m.removeprefix("expected ").split(", got ") for m in messages]
    if len(messages) > 1 and all(m.startswith("expected ") and ", got " in m for m in messages):
        return f"expected {' or '.join(p[0] for p in parts)}, got {parts[0][1]}"
    return messages[0]


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping (key: value)",
    "model": "a mapping (key: value)",
}
_BOUND = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _message(error: ErrorDetails, path: KeyPath, model: type[BaseModel]) -> str:
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    shown = "something else" if "api_key" in path else show(value)
    if kind == "missing":
        return f'"{error["loc"][-1]}" is missing'
    if kind == "extra_forbidden":
        known = known_keys(model, path[:-1])
        return f'unknown key "{path[-1]}"{did_you_mean(str(path[-1]), known) or choice(known)}'
    if kind in _BOUND:
        name, words = _BOUND[kind]
        return f"must be {words} {context[name]:g}, got {shown}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", '"')
        return f"expected {choices}, got {shown}{did_you_mean(str(value), choices.split(chr(34))[1::2])}"
    if kind == "string_pattern_mismatch":
        return f'{shown} is not a name: letters, digits, "_", "-" and ".", beginning with a letter or digit'
    if kind in ("too_short", "string_too_short"):
        return EMPTY
    if kind == "finite_number":
        return f"expected a finite number, got {shown}"
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    expected = _EXPECTED.get(kind.split("_")[0])
    if expected is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    number = expected == "text" and isinstance(value, int | float) and "api_key" not in path
    hint = f' (write it in quotes: "{value}")' if number else ""
    return f"expected {expected}, got {shown}{hint}"


def has(data: Any, part: str | int) -> bool:
    """Is `part` a key of the mapping, or an index of the list, `data`?"""
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list) and isinstance(part, int) and part < len(data)


def show(value: Any) -> str:
    """A short form of a value for a message, without what stands under api_key in it."""
    if value is None:
        return "nothing"
    text = json.dumps(_masked(value), ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "***" if "api_key" in key else _masked(item) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value


def choice(known: Sequence[str]) -> str:
    """What there is, for a word that is close to none of it."""
    if not known:
        return " (there are none)"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f" (there are: {', '.join(known[:SHOWN])}{more})"


def known_keys(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that the YAML may have at `path` below `model`."""
    annotation: Any = model
    for part in path:
        options = [annotation, *_flatten(annotation)]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        fields = {f.alias or n: f.annotation for m in models for n, f in m.model_fields.items()}
        if part in fields:
            annotation = fields[str(part)]
        else:  # a key of a dict or an item of a list: its values' type is the last argument
            containers = [o for o in options if get_args(o) and not isinstance(o, type)] or [annotation]
            annotation = get_args(containers[0])[-1] if get_args(containers[0]) else None
    models = [o for o in [annotation, *_flatten(annotation)] if isinstance(o, type) and issubclass(o, BaseModel)]
    return [f.alias or n for m in models for n, f in m.model_fields.items() if n != "params"]


def _flatten(annotation: Any) -> list[Any]:
    return [inner for part in get_args(annotation) for inner in (part, *_flatten(part))]

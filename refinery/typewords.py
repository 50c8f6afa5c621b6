"""Types and defaults of parameters in the words of somebody who writes YAML."""

import json
import re
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from refinery.spec_types import Marker

Link = Callable[[type[BaseModel]], str]
"""What a parameter that is itself a mapping of known keys is called."""

MARKED = {"model": "model's name", "template": "template", "encoder": "encoder's name", "step": "step's name"}
"""Marker to the words for a string that carries it."""
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", SecretStr: "text", Any: "anything"}


def default_words(info: FieldInfo) -> str:
    """As one writes it in YAML; empty for none, "required" where it must be given."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None or (isinstance(value, BaseModel) and value == type(value)()):
        return ""
    return yaml_words(value)


def yaml_words(value: Any) -> str:
    """A value as one writes it; a text by itself without quotes."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value or '""'
        case tuple() | list():
            return f"[{', '.join(map(_item, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_item(each)}" for key, each in value.items()) + "}"
    return str(value)


def _item(value: Any) -> str:
    """Inside a list or mapping: text is quoted unless it is words alone."""
    bare = not isinstance(value, str) or re.fullmatch(r"[\w' -]+", value)
    return yaml_words(value) if bare else json.dumps(value, ensure_ascii=False)


def type_words(annotation: Any, metadata: Iterable[Any], link: Link) -> str:
    """A parameter's type, with its bounds."""
    metadata = list(metadata)
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return type_words(inner, [*metadata, *more], link)
    markers = [m for m in metadata if isinstance(m, Marker) and m.kind in MARKED]
    words = MARKED[markers[0].kind] if markers and annotation is str else _words(annotation, markers, link)
    bounds = _bounds(metadata)
    return f"{words}, {bounds}" if bounds else words


def _words(annotation: Any, markers: list[Marker], link: Link) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        parts = [type_words(part, markers, link) for part in args if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in args)
    if origin in (list, tuple):
        return f"list of {type_words(args[0], markers, link)}"
    if origin is dict:
        return f"mapping to {type_words(args[1], markers, link)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return link(annotation)
    return PLAIN.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(metadata: Iterable[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [(sign, getattr(m, name, None)) for m in metadata for name, sign in signs.items()]
    return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

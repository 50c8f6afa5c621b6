"""Answers in JSON: read strictly, and held to a JSON Schema (draft 2020-12).

A server may be told to follow a schema and still not do it, and a model in this process is told by its prompt alone; so
what comes back is parsed and validated all the same. Nothing is repaired: a comma too many is no JSON.
"""

import json
import re
from typing import Any

from refinery.checks.formats import schema_mistake
from refinery.errors import RowError


def parse_json(text: str) -> Any:
    """The one JSON value that is the whole text, or stands in a single code fence that is. ValueError otherwise, for a
    key that is there twice too, and for NaN and Infinity, which JSON does not have."""
    return json.loads(without_fence(text), object_pairs_hook=_unique, parse_constant=_refuse)


def without_fence(text: str) -> str:
    """What stands in the one code fence that is the whole text, else the text."""
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n\s*```", text.strip(), re.DOTALL | re.IGNORECASE)
    return (fenced[1] if fenced else text).strip()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself. ValueError, in one line, where it is none, or refers to another document: that would have to
    be fetched."""
    if mistake := schema_mistake(schema):
        raise ValueError(mistake)
    return schema


def conforming(text: str, schema: dict[str, Any]) -> Any:
    """The value of a JSON answer. RowError bad_json, or schema_mismatch with the first place that does not fit."""
    from jsonschema import Draft202012Validator
    from referencing.exceptions import Unresolvable

    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise RowError("bad_json", f"{error}: {text[:80]!r}") from None
    try:
        wrong = next(iter(sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: e.json_path)), None)
    except (Unresolvable, RecursionError) as error:
        raise RowError("schema_mismatch", f"the schema cannot be followed: {error}"[:200]) from None
    if wrong is not None:
        raise RowError("schema_mismatch", f"{wrong.json_path}: {wrong.message}"[:200])
    return value

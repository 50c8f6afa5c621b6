"""Rules that a spec writes itself: a pattern whose group is the answer, a schema that a JSON answer follows."""

import json
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from refinery.checks import timed
from refinery.errors import UserError

LIMIT = 1.0
"""Seconds that a pattern may take on one text: one like (a+)+b takes years on some."""


def last_match(pattern: str, text: str) -> str | None:
    """The last match's group `answer`, else its first group, else the whole of it, white space made one space.

    None where nothing matches or the group is empty. TimeoutError after `LIMIT` seconds, UserError where the library is
    missing.
    """
    found = None
    for match in compiled(pattern).finditer(text, timeout=LIMIT, concurrent=True):
        groups = match.groupdict()
        found = groups["answer"] if "answer" in groups else match.group(1 if match.re.groups else 0)
    return " ".join((found or "").split()) or None


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """The pattern by the `regex` library, whose searches can be given a time limit. regex.error for a wrong one."""
    try:
        import regex
    except ImportError:
        raise UserError('patterns need regex: pip install "refinery[checks]"') from None
    return regex.compile(pattern)


def pattern_mistake(pattern: str) -> str | None:
    """What is wrong with a pattern, None where nothing is or the library is missing."""
    if find_spec("regex") is None:
        return None
    import regex

    try:
        compiled(pattern)
    except regex.error as error:
        return f"the pattern {pattern!r} does not work: {error}"
    return None


def follows(text: str, schema: dict[str, Any]) -> tuple[bool | None, dict[str, float | None], str]:
    """(whether the whole of `text` is JSON that follows `schema`, no scores, why that is unknown).

    A code fence or a word around the JSON, a key that stands twice, NaN and Infinity are refused.
    """
    return timed.ask("schema", text, json.dumps(schema, sort_keys=True))


def schema_mistake(schema: dict[str, Any]) -> str | None:
    """What is wrong with a schema (draft 2020-12), or None."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        return f"the schema is wrong at {where or 'its top'}: {error.message}"
    for reference in _references(schema):
        if not reference.startswith("#"):
            return f'the schema refers to "{reference}", and only what is inside it ("#/$defs/...") can be read'
    return None


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [value for key, value in schema.items() if key in ("$ref", "$dynamicRef") and isinstance(value, str)]
        return own + [reference for value in schema.values() for reference in _references(value)]
    return [r for item in schema for r in _references(item)] if isinstance(schema, list) else []

"""Between records and rows: what the store's tables hold of an Outcome, and JSON as DuckDB accepts it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import orjson

from refinery.records import Example, Outcome, digest

Row = dict[str, Any]
Part = tuple[str, Sequence[Mapping[str, Any]], Sequence[str]]
"""(table, rows, keys): rows to write, each over any that has the same keys; no keys where the table surely has none."""

GENERATION_KEYS = ("digest", "max_tokens")
LIKELIHOOD_KEYS = ("digest",)


def outcome_parts(rows: Sequence[tuple[str, int, Outcome]], *, new: bool = False) -> list[Part]:
    """(step, position, outcome) triples as `Store.replace_all` takes them; of equal (step, example) the last counts.
    `new` where the store surely has none of them."""
    bodies: dict[str, Row] = {}
    found: dict[tuple[str, str], Row] = {}
    for step, position, outcome in rows:
        example = outcome.example
        row: Row = {"step": step, "position": position, "example_id": outcome.example_id, "action": outcome.action}
        row |= {"reason": outcome.reason, "detail": outcome.detail, "transient": outcome.transient}
        row |= {"scores": outcome.scores, "body": None, "response": None, "candidates": None, "fell_back": None}
        row |= {"split": None, "as_given": None}
        if example is not None:
            body: Row = {"prompt": example.prompt, "answer": example.answer, "split": example.split}
            body |= {"parents": list(example.parents), "meta": example.meta}
            row["body"] = _name(body)
            bodies[row["body"]] = {"body": row["body"], **body}
            row |= {"response": example.response, "candidates": list(example.candidates)}
            row |= {"fell_back": example.fell_back, "split": example.split}
            row["as_given"] = example.response == example.answer
        found[step, outcome.example_id] = row
    keys = () if new else ("step", "example_id")
    return [("examples", list(bodies.values()), ("body",)), ("outcomes", list(found.values()), keys)]


def _name(body: Row) -> str:
    try:
        return hashlib.sha256(json_bytes(body)).hexdigest()[:32]
    except UnicodeEncodeError:  # the store will refuse it, and say so
        return digest(body)


def from_json(text: str) -> Any:
    """As json.loads has it, in a fifth of its time: integers of more than 64 bits, of which orjson makes floats, stay
    what they are."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)
    return json.loads(text) if _has_huge(found) else found


def _has_huge(value: Any) -> bool:
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind is float and abs(value) >= 2.0**63
    for each in value.values() if kind is dict else value:
        if type(each) is not str and _has_huge(each):
            return True
    return False


def outcome(row: Row) -> Outcome:
    example = None
    if row["body"] is not None:
        example = Example(
            id=row["example_id"],
            prompt=row["prompt"],
            answer=row["answer"],
            response=row["response"],
            candidates=tuple(row["candidates"]),
            fell_back=row["fell_back"],
            split=row["split"],
            parents=tuple(row["parents"]),
            meta=row["meta"],
        )
    return Outcome(
        example_id=row["example_id"],
        action=row["action"],
        reason=row["reason"],
        example=example,
        scores=row["scores"],
        detail=row["detail"],
        transient=row["transient"],
    )


def as_texts(values: Iterable[Any], kind: str) -> list[str | None]:
    """Values of a column of that type as the texts that the engine makes them of. UnicodeEncodeError for text that is
    not valid Unicode, which some engines do not survive."""
    if kind in ("JSON", "VARCHAR[]"):
        return [None if value is None else as_json(value) for value in values]
    if kind.endswith("[]"):
        return [None if value is None else str(value).replace("None", "NULL") for value in values]
    return [v if v is None or (type(v) is str and v.isascii()) else _valid(str(v)) for v in values]


def _valid(text: str) -> str:
    return text.encode("utf-8").decode("utf-8")


def as_json(value: Any) -> str:
    """JSON text; NaN and infinities, which JSON lacks, become null."""
    return json_bytes(value).decode("utf-8")


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8, NaN and infinities as null, a dataclass as an object. UnicodeEncodeError for text that is not
    valid Unicode."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # an integer over 64 bits, or half of a surrogate pair
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, default=str).encode("utf-8")


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value

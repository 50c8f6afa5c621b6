"""Markers for the parameters of operations and methods, so that the spec checker knows what a string stands for.

A field `judge: ModelName = "self"` is checked against the names under `models:`, a field `prompt: Template` against
the columns that exist, both before anything runs. They work inside lists and optionals too: `list[ModelName]`,
`Template | None`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class Marker:
    """What a string parameter names, or what the fingerprint should know of it."""

    kind: Literal["model", "template", "encoder", "step", "later"]


ModelName = Annotated[str, Marker("model")]
"""A name under the spec's `models:`."""

Template = Annotated[str, Marker("template")]
"""A sandboxed Jinja template over an example's fields and the op's VARIABLES (refinery/templates.py)."""

EncoderName = Annotated[str, Marker("encoder")]
"""A sentence encoder: the packaged name all-MiniLM-L6-v2, a local folder, or a hub id such as org/name."""
StepName = Annotated[str, Marker("step")]
"""For a training method: a step or source of the spec whose train rows come along (`replay: general`). What is in the
fingerprint is those rows, not the name."""
Later = Marker("later")
"""For a parameter added to an op that people have run: `Annotated[int, Later] = 0` stays out of the fingerprint while
it has its default, so that steps that stand keep standing. Only a changed VERSION says that they do not."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
"""A name that can stand in a path and a table: letters, digits, "_", "-" and "."."""


class Section(BaseModel):
    """Base of every part of a spec: unknown keys are refused, defaults are checked like given values."""

    model_config = ConfigDict(
        extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=(), populate_by_name=True
    )


class OpParams(BaseModel):
    """Base of every op's and method's `Params`: unknown keys are refused, defaults are checked like given values."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())


def varied(params: BaseModel, values: Mapping[str, Any]) -> Any:
    """`params` with other values, as if they had been written beside what was: a preset fills what neither says."""
    return type(params).model_validate({**params.model_dump(exclude_unset=True), **values})


def marked(params: BaseModel, kind: str) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every string in `params` that is marked as `kind`, with its path: (("judges", 0, "model"), "judge")."""
    for name, info in type(params).model_fields.items():
        value = getattr(params, name)
        own = any(m == Marker(kind) for m in info.metadata) or _mentions(info.annotation, kind)  # type: ignore[arg-type]
        yield from _strings(value, (name,), kind, own)


def added_later(params: BaseModel) -> set[str]:
    """The parameters marked Later that have their default: what a fingerprint leaves out."""
    fields = type(params).model_fields
    return {name for name, field in fields.items() if Later in field.metadata and _is_default(params, name, field)}


def _is_default(params: BaseModel, name: str, field: Any) -> bool:
    return bool(getattr(params, name) == field.get_default(call_default_factory=True))


def _mentions(annotation: Any, kind: str) -> bool:
    found = getattr(annotation, "__metadata__", ())
    return Marker(kind) in found or any(_mentions(part, kind) for part in get_args(annotation))  # type: ignore[arg-type]


def _strings(value: Any, path: tuple[str | int, ...], kind: str, own: bool) -> Iterator[tuple[Any, str]]:
    """Strings in `value` where they are marked themselves (`own`), and marked ones of models nested in it."""
    if isinstance(value, str):
        if own:
            yield path, value
    elif isinstance(value, BaseModel):
        yield from (((*path, *inner), text) for inner, text in marked(value, kind))
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(item, (*path, key), kind, own)

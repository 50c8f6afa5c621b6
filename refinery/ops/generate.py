"""A model answers a prompt of one's own: the question alone, or any template over the row's fields.

Unlike rewrite it shows no reference unless the template does. With the default prompt it gives what the model would say
by itself: self-generated supervision, or a column to compare with. `into: meta.NAME` puts the text beside the row as
the column NAME, which the templates of later steps can use, and leaves the response alone.
"""

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example, Outcome
from refinery.rowops import WriterParams, conversation, refusals, settle, write_all
from refinery.spec_types import Template
from refinery.structured import check_schema, conforming, without_fence

VERSION = 1
VARIABLES: tuple[str, ...] = ()

OWN_FIELDS = ("question", "answer", "response", "candidates", "id")


def _place(into: str) -> str:
    name = into.removeprefix("meta.")
    if into == "response":
        return into
    if name == into or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError('into is "response", or "meta." and a name of letters, digits and "_", such as meta.plan')
    if name in OWN_FIELDS:
        raise ValueError(f"into: templates know the row's own {name} by that name; choose another")
    return into


class Params(WriterParams):
    prompt: Template = "{{ question }}"
    banned: tuple[str, ...] = ()
    samples: int = Field(1, ge=1, le=64)
    """Texts for each row, with sample indices 0 to samples - 1."""
    json_schema: Annotated[dict[str, Any], AfterValidator(check_schema)] | None = None
    """A JSON Schema that answers must follow: sent to servers that can hold a model to it, checked here always."""
    into: Annotated[str, AfterValidator(_place)] = "response"
    """"response", or "meta.NAME": a column, which holds the text; what it says where `json_schema` is given; and a list
    of these where there are several samples."""


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The first usable text becomes the response and all usable ones the candidates, or they become the column.

    scores: `valid`, `refused` (count of each reason), and `into` where it is a column. Where none is usable the first
    sample's failure is the row's: bad_json and schema_mismatch beside those of every text. A transient failure of any
    sample is the row's too.
    """
    messages = conversation(example, params.prompt, params.system, example.fields())
    samples = await write_all(example, params, ctx, messages, range(params.samples), schema=params.json_schema)
    values = [_value(sample, params) for sample in samples]
    usable = [i for i, value in enumerate(values) if not isinstance(value, RowError)]
    if not usable:
        raise next(value for value in values if isinstance(value, RowError))
    scores: dict[str, Any] = {"valid": len(usable), "refused": refusals(v for v in values if isinstance(v, RowError))}
    if params.into == "response":
        texts = [str(samples[i]) for i in usable]
        texts = texts if params.json_schema is None else [without_fence(text) for text in texts]
        return settle(example, texts[0], texts, scores)
    found = [values[i] for i in usable]
    column = {params.into.removeprefix("meta."): found if params.samples > 1 else found[0]}
    seen = replace(example, meta={**example.meta, **column})
    outcome = settle(seen, seen.response, seen.candidates, {**scores, "into": params.into})
    return replace(outcome, detail=f"{params.into}: {found[0]}"[:500])


def _value(sample: str | RowError, params: Params) -> Any:
    """The text itself or, with a schema, what its JSON says."""
    if isinstance(sample, RowError) or params.json_schema is None:
        return sample
    try:
        return conforming(sample, params.json_schema)
    except RowError as error:
        return error


def columns(params: Params) -> list[str]:
    """Columns that the step adds, for the templates of later ones."""
    return [] if params.into == "response" else [params.into.removeprefix("meta.")]


def requests(params: Params) -> int:
    """Requests for each row, at most."""
    return params.samples


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    if params.samples > 1 and params.temperature == 0:
        return [f"temperature 0 gives the same text in all {params.samples} samples"]
    return []

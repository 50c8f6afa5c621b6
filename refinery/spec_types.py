"""Markers for the parameters of operations and methods, so that the spec checker knows what a string stands for.

A field `judge: ModelName = "self"` is checked against the names under `models:`, a field `prompt: Template` against
the columns that exist, both before anything runs. They work inside lists and optionals too: `list[ModelName]`,
`Template | None`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Marker:
    """What a string parameter names."""

    kind: Literal["model", "template", "encoder"]


ModelName = Annotated[str, Marker("model")]
"""A name under the spec's `models:`."""

Template = Annotated[str, Marker("template")]
"""A sandboxed Jinja template over an example's fields and the op's VARIABLES (refinery/templates.py)."""

EncoderName = Annotated[str, Marker("encoder")]
"""A sentence encoder: the packaged name all-MiniLM-L6-v2, a local folder, or a hub id such as org/name."""



class OpParams(BaseModel):
    """Base of every op's and method's `Params`: unknown keys are refused, defaults are checked like given values."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())

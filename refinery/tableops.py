"""What table operations share: the tables they see, and the outcomes they may give.

A table operation sees all rows of one or several steps. Every distinct id among them gets exactly one outcome; rows
that it makes are `created`, have ids of their own and name their parents.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from refinery.records import Example, Outcome, digest
from refinery.spec_types import OpParams


class TableParams(OpParams):
    """Parameters of every table operation."""


class Table(Protocol):
    """The rows a step hands on, in order. Each iteration streams them anew."""

    name: str
    """The step's name in the spec."""

    @property
    def ids(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Example]: ...


def kept(example: Example, reason: str = "ok", scores: dict[str, Any] | None = None) -> Outcome:
    return Outcome(example.id, "kept", reason, example, scores or {})


def changed(example: Example, reason: str = "ok", scores: dict[str, Any] | None = None) -> Outcome:
    """`example` as it is after the step."""
    return Outcome(example.id, "changed", reason, example, scores or {})


def dropped(
    example: Example | str,
    reason: str,
    scores: dict[str, Any] | None = None,
    detail: str = "",
    transient: bool = False,
) -> Outcome:
    """`transient`: the next run does the whole step again."""
    example_id = example if isinstance(example, str) else example.id
    return Outcome(example_id, "dropped", reason, None, scores or {}, detail, transient)


def created(example: Example, reason: str = "ok", scores: dict[str, Any] | None = None) -> Outcome:
    """A row that the step made; its id comes from `derived_id` and its `parents` are the rows it was made from."""
    return Outcome(example.id, "created", reason, example, scores or {})


def derived_id(*parts: Any) -> str:
    """The id of a made row: the same parts give the same id, in every run."""
    return digest(["made", *parts], 20)


def share_order(seed: int, example_id: str) -> str:
    """A random rank of a row that depends on no other row: the rows with the smallest ranks are a random sample, and
    it changes little as rows are added."""
    return digest([seed, example_id], 16)


def derived(example: Example, *parts: Any) -> Example:
    """A copy of the example as a made row: an id of its own from `parts`, its parent the original."""
    return replace(example, id=derived_id(*parts, example.id), parents=(example.id,))

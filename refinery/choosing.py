"""Rows by chance and by group, each row's fate hanging on its own id: what `sample`, `split` and `mix` share."""

import re
from collections.abc import Hashable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from refinery.errors import RowError
from refinery.records import Example, digest
from refinery.spec_types import Marker
from refinery.tableops import share_order
from refinery.templates import render

Group = TypeVar("Group", bound=Hashable)


def _as_template(value: Any) -> Any:
    """ "topic" -> "{{ topic }}"; anything else as it stands."""
    return f"{{{{ {value} }}}}" if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value) else value


Column = Annotated[str, BeforeValidator(_as_template), Marker("template")]
"""A column's name, or a template over a row's fields: `topic`, `{{ question | length > 200 }}`."""


def uniform(seed: int, example_id: str, draw: int = 0) -> float:
    """A number in (0, 1) that depends on nothing but these, the same in every run. `draw` tells several apart."""
    rank = share_order(seed, digest([draw, example_id]) if draw else example_id)
    return (int(rank[:13], 16) + 0.5) / 16**13


def number(template: str, example: Example) -> float:
    """What the template gives for the row, as a number. RowError("not_a_number")."""
    text = render(template, example.fields())
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise RowError("not_a_number", text[:80])
    return value


def in_proportion(total: int, sizes: Mapping[Group, int]) -> dict[Group, int]:
    """`total` things over groups in proportion to their sizes, whole, the parts cut off given to the largest remainders
    (Hamilton's method); no group gets more than it has."""
    whole = sum(sizes.values())
    total = min(total, whole)
    exact = {group: total * size / whole for group, size in sizes.items()} if whole else dict.fromkeys(sizes, 0.0)
    result = {group: int(share) for group, share in exact.items()}
    by_remainder = sorted(sizes, key=lambda group: (result[group] - exact[group], str(group)))
    for group in by_remainder[: total - sum(result.values())]:
        result[group] += 1
    return result


def in_equal_parts(total: int, sizes: Mapping[Group, int]) -> dict[Group, int]:
    """`total` things over groups in equal numbers; what a small group cannot give, the others give."""
    result = dict.fromkeys(sizes, 0)
    left = min(total, sum(sizes.values()))
    open_groups = sorted(sizes, key=str)
    while left:
        open_groups = [group for group in open_groups if result[group] < sizes[group]]
        each = max(1, left // len(open_groups))
        for group in open_groups:
            more = min(each, sizes[group] - result[group], left)
            result[group] += more
            left -= more
    return result

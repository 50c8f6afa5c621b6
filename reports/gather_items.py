"""Read the items that the page lets one look through: what any method lost or gained against the base, with answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from evals.panels import BASE, Panel
from refinery.store import Row, Store
from reports import table
from reports.blocks import Column, Explorer, Item, ItemSet, Mono, Table, Text
from reports.text import clean, shorten

PER_BENCHMARK = 40
"""Items of a benchmark on the page, at most."""
TEXT = 1500
"""Characters of one prompt or answer."""
BUDGET = 2_400_000
"""Characters of all of them together; above it fewer items of each benchmark are shown."""


def explorer(
    store: Store, panels: Sequence[Panel], base: Row | None, finals: Mapping[str, Sequence[Row]], seed: int | None
) -> Explorer | None:
    """Of each benchmark some items that a training with `seed` changed, found by the digest of their ids: every
    method's lost and gained ones in turn. None where nothing changed."""
    shown = {BASE: base["fingerprint"]} if base else {}
    shown |= {name: row["fingerprint"] for name, rows in finals.items() for row in rows if row["seed"] == seed}
    arms = [name for name in shown if name == BASE or any(name in panel.values for panel in panels)]
    if len(arms) < 2 or BASE not in arms:
        return None
    chosen = {panel.benchmark: list(_chosen(panel, arms)) for panel in panels}
    found = {panel.benchmark: _items(store, panel, shown, arms, chosen[panel.benchmark]) for panel in panels}
    keep = _fitting(found)
    sets = [
        ItemSet(p.benchmark, p.kind, len(p.items), int(_changed(p, arms).any(0).sum()), found[p.benchmark][:keep])
        for p in panels
    ]
    return Explorer(arms, sets, _counts(panels, arms, sets)) if any(each.items for each in sets) else None


def _differences(panel: Panel, arms: Sequence[str]) -> np.ndarray:
    """(arms but the base, items) score minus the base's; 0 where an arm was not measured."""
    base = panel.values[BASE][0]
    return np.stack([panel.values[arm][0] - base if arm in panel.values else 0 * base for arm in arms if arm != BASE])


def _changed(panel: Panel, arms: Sequence[str]) -> np.ndarray:
    return _differences(panel, arms) != 0


def _chosen(panel: Panel, arms: Sequence[str]) -> Iterator[int]:
    """Positions of items, each once: the first that each method lost, that each gained, the second, and so on."""
    differences = _differences(panel, arms)
    somewhere = np.flatnonzero((differences != 0).any(0))
    order = sorted(somewhere.tolist(), key=lambda i: hashlib.md5(panel.items[i].encode()).digest())
    turns = [[i for i in order if sign * row[i] > 0] for row in differences for sign in (-1, 1)]
    taken: set[int] = set()
    while any(turns) and len(taken) < PER_BENCHMARK:
        for turn in turns:
            while turn and turn[0] in taken:
                turn.pop(0)
            if turn and len(taken) < PER_BENCHMARK:
                taken.add(turn[0])
                yield turn.pop(0)


def _items(
    store: Store, panel: Panel, shown: Mapping[str, str], arms: Sequence[str], places: Sequence[int]
) -> list[Item]:
    """The chosen items with their texts, which stand with the primary metric alone."""
    if not places:
        return []
    sql = """SELECT checkpoint, item, prompt, target, response FROM samples
             WHERE benchmark = ? AND list_contains(?::VARCHAR[], checkpoint) AND list_contains(?::VARCHAR[], item)
               AND prompt <> ''"""
    names = [panel.items[place] for place in places]
    rows = store.query(sql, [panel.benchmark, [shown[arm] for arm in arms], names])
    texts = {(row["checkpoint"], row["item"]): row for row in rows}
    found = []
    for place, name in zip(places, names, strict=True):
        own = [texts.get((shown[arm], name)) for arm in arms]
        first = next((row for row in own if row), None)
        if first is None:
            continue
        values = [float(panel.values[arm][0][place]) if arm in panel.values else float("nan") for arm in arms]
        answers = [_cut(row["response"]) if row else table.ABSENT for row in own]
        found.append(Item(name, _cut(first["prompt"]), _cut(first["target"]), answers, values))
    return found


def _cut(text: str) -> str:
    short, left = shorten(clean(text), TEXT)
    return f"{short} […]" if left else short


def _fitting(found: Mapping[str, Sequence[Item]]) -> int:
    """How many items of each benchmark the page has room for."""
    for keep in (PER_BENCHMARK, 30, 20, 12, 8, 5, 3, 1):
        items = [item for each in found.values() for item in each[:keep]]
        if sum(len(i.prompt) + len(i.target) + sum(map(len, i.answers)) for i in items) <= BUDGET:
            return keep
    return 0


def _counts(panels: Sequence[Panel], arms: Sequence[str], sets: Sequence[ItemSet]) -> Table:
    """Lost and gained items, a row a method and a column a benchmark; then how many of them are here."""
    differences = [_differences(panel, arms) for panel in panels]
    rows: list[list[Text]] = []
    for place, name in enumerate(arm for arm in arms if arm != BASE):
        pairs = [(int((each[place] < 0).sum()), int((each[place] > 0).sum())) for each in differences]
        rows.append([Mono(name), *(f"{table.count(lost)} / {table.count(gained)}" for lost, gained in pairs)])
    rows.append(["changed by any", *(f"{table.count(each.changed)} of {table.count(each.total)}" for each in sets)])
    rows.append(["on this page", *(table.count(len(each.items)) for each in sets)])
    columns = [Column("Lost / gained"), *(Column(panel.benchmark, "right") for panel in panels)]
    return Table(columns, rows, note=_NOTE, name="items")


_NOTE = (
    "Items of one training a method, the first seed that all have. Lost: the base scored higher on it; gained: lower. "
    "Which of them are on this page is decided by the digest of their ids, every method’s lost and gained ones in turn."
)

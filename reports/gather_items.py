"""Read the items that the page lets one look through: what any method lost or gained against the base, with answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evals.panels import BASE, Panel
from refinery.store import Row, Store
from reports import table
from reports.blocks import Column, Explorer, Item, ItemSet, Mono, Table, Text
from reports.gather_models import measured, seed_of
from reports.text import clean, shorten

PER_BENCHMARK = 40
"""Items of a benchmark on the page, at most."""
TEXT = 1500
"""Characters of one prompt or answer."""
BUDGET = 2_400_000
"""Characters of all of them together; above it fewer items of each benchmark are shown."""


class Shown(NamedTuple):
    """The run of a method, or of the base, whose answers are shown."""

    checkpoint: str
    row: int
    """Its place in the panels' values."""


def explorer(
    store: Store, panels: Sequence[Panel], base: Row | None, finals: Mapping[str, Sequence[Row]]
) -> Explorer | None:
    """Of each benchmark some items that one training of a method changed, found by the digest of their ids: every
    method's lost and gained ones in turn. The training is that of the first seed that all have, else each method's
    first. None where nothing changed."""
    seeds = {name: list(map(seed_of, rows)) for name, rows in finals.items()}
    shared = [seed for own in seeds.values() for seed in own if all(seed in each for each in seeds.values())]
    shown = {BASE: Shown(base["fingerprint"], 0)} if base else {}
    for name, rows in finals.items():
        place = seeds[name].index(shared[0]) if shared else 0
        shown[name] = Shown(rows[place]["fingerprint"], place)
    shown = {name: run for name, run in shown.items() if name == BASE or any(name in p.values for p in panels)}
    if len(shown) < 2 or BASE not in shown:
        return None
    chosen = {panel.benchmark: list(_chosen(panel, shown)) for panel in panels}
    found = {panel.benchmark: _items(store, panel, shown, chosen[panel.benchmark]) for panel in panels}
    keep = _fitting(found)
    sets = [
        ItemSet(p.benchmark, p.kind, len(p.items), int(_changed(p, shown).any(0).sum()), found[p.benchmark][:keep])
        for p in panels
    ]
    note = _NOTE.format(which="the first seed that all have" if shared else "its first, as no seed is common to all")
    return Explorer(list(shown), sets, _counts(panels, shown, sets, note)) if any(each.items for each in sets) else None


def _differences(panel: Panel, shown: Mapping[str, Shown]) -> np.ndarray:
    """(arms but the base, items) score minus the base's; 0 where an arm was not measured."""
    base = panel.values[BASE][0]
    arms = {arm: run.row for arm, run in shown.items() if arm != BASE}
    return np.stack([panel.values[arm][row] - base if arm in panel.values else 0 * base for arm, row in arms.items()])


def _changed(panel: Panel, shown: Mapping[str, Shown]) -> np.ndarray:
    return _differences(panel, shown) != 0


def _chosen(panel: Panel, shown: Mapping[str, Shown]) -> Iterator[int]:
    """Positions of items, each once: the first that each method lost, that each gained, the second, and so on."""
    differences = _differences(panel, shown)
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


def _items(store: Store, panel: Panel, shown: Mapping[str, Shown], places: Sequence[int]) -> list[Item]:
    """The chosen items with their texts, which stand with the primary metric alone."""
    if not places:
        return []
    sql = """SELECT checkpoint, item, prompt, target, response FROM samples
             WHERE benchmark = ? AND list_contains(?::VARCHAR[], checkpoint || ' ' || fingerprint)
               AND list_contains(?::VARCHAR[], item) AND prompt <> ''"""
    names = [panel.items[place] for place in places]
    runs = [
        f"{run.checkpoint} {measured(store, run.checkpoint, panel)}"
        for arm, run in shown.items()
        if arm in panel.values
    ]
    rows = store.query(sql, [panel.benchmark, runs, names])
    texts = {(row["checkpoint"], row["item"]): row for row in rows}
    found = []
    for place, name in zip(places, names, strict=True):
        own = [texts.get((run.checkpoint, name)) for run in shown.values()]
        first = next((row for row in own if row), None)
        if first is None:
            continue
        values = [
            float(panel.values[arm][run.row][place]) if arm in panel.values else float("nan")
            for arm, run in shown.items()
        ]
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


def _counts(panels: Sequence[Panel], shown: Mapping[str, Shown], sets: Sequence[ItemSet], note: str) -> Table:
    """Lost and gained items, a row a method and a column a benchmark; then how many of them are here."""
    differences = [_differences(panel, shown) for panel in panels]
    rows: list[list[Text]] = []
    for place, name in enumerate(arm for arm in shown if arm != BASE):
        pairs = [(int((each[place] < 0).sum()), int((each[place] > 0).sum())) for each in differences]
        rows.append([Mono(name), *(f"{table.count(lost)} / {table.count(gained)}" for lost, gained in pairs)])
    rows.append(["changed by any", *(f"{table.count(each.changed)} of {table.count(each.total)}" for each in sets)])
    rows.append(["on this page", *(table.count(len(each.items)) for each in sets)])
    columns = [Column("Lost / gained"), *(Column(panel.benchmark, "right") for panel in panels)]
    return Table(columns, rows, note=note, name="items")


_NOTE = (
    "Items of one training a method, {which}. Lost: the base scored higher on it; gained: lower. "
    "Which of them are on this page is decided by the digest of their ids, every method’s lost and gained ones in turn."
)

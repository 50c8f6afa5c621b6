"""Sweeps and factorial designs among trained methods: found by their settings, measured by paired contrasts.

A sweep is a set of methods that are equal in everything but one key. A design crosses two or three factors: every
combination of their levels was trained, and nothing else differs. The effect of a factor is a contrast of cells,
averaged over the other factors' levels; an interaction is a difference of differences against the first levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.comparable import judge
from reports.cells import ABSENT, Cell, numeric, shown

if TYPE_CHECKING:
    from evals.panels import Panel
    from evals.stats import Mean

RECIPE = "method"
"""The factor that holds the method with the parameters that only it has."""


@dataclass(frozen=True)
class Sweep:
    """Methods that differ in `key` alone."""

    key: str
    cells: tuple[Cell, ...]
    """In the order of the key's values where they are numbers, else in the spec's."""

    @property
    def values(self) -> list[Any]:
        return [cell.value(self.key) for cell in self.cells]

    @property
    def numeric(self) -> bool:
        return numeric(self.values)


def sweeps(cells: Sequence[Cell]) -> list[Sweep]:
    """Every key that two or more methods differ in alone; of words, as of a number that may be none, three or more."""
    keys = list(dict.fromkeys(key for cell in cells for key in cell.settings))
    found = []
    for key in keys:
        if key in ("method", "source", "model"):
            continue
        groups: dict[Any, list[Cell]] = {}
        for cell in cells:
            if key in cell.settings:
                rest = frozenset((k, repr(v)) for k, v in cell.settings.items() if k != key)
                groups.setdefault(rest, []).append(cell)
        for group in groups.values():
            values = [cell.value(key) for cell in group]
            distinct = len({repr(value) for value in values})
            if distinct == len(group) and distinct >= (2 if numeric(values) else 3):
                ordered = sorted(group, key=lambda cell: cell.value(key)) if numeric(values) else group
                found.append(Sweep(key, tuple(ordered)))
    return found


@dataclass(frozen=True)
class Design:
    """A full crossing of `factors`."""

    factors: Mapping[str, tuple[str, ...]]
    """Factor to its levels, the reference first."""
    cells: Mapping[tuple[str, ...], Cell]
    """Level of each factor, in their order, to the method that has them."""


@dataclass(frozen=True)
class Effect:
    """A main effect (one factor at one level) or an interaction (several)."""

    levels: Mapping[str, str]
    domain: Mean | None
    general: Mean | None


def designs(cells: Sequence[Cell]) -> list[Design]:
    """Full crossings of three factors, then of two that are in none of those; the largest first. Methods whose data
    come through the same steps, and those of one recipe, are also looked at by themselves: others lack settings that
    these may cross."""
    alike: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(frozenset(key for key in cell.settings if "." in key), []).append(cell)
        alike.setdefault(cell.value("method"), []).append(cell)
    found: list[Design] = []
    for group in (cells, *(group for group in alike.values() if len(group) < len(cells))):
        for design in _designs(group):
            if not any(set(_names(design)) <= set(_names(known)) for known in found):
                found.append(design)
    return sorted(found, key=lambda design: -len(design.cells))


def _designs(cells: Sequence[Cell]) -> list[Design]:
    table = [_levels(cell, cells) for cell in cells]
    keys = [key for key in table[0] if len({row[key] for row in table}) > 1] if table else []
    keys = _apart(keys, table)
    found: list[Design] = []
    for size in (3, 2):
        for factors in itertools.combinations(keys, size):
            for group in _groups(factors, keys, table):
                design = _crossed(factors, group, table, cells)
                if design and not any(set(_names(design)) <= set(_names(known)) for known in found):
                    found.append(design)
    return found


def _names(design: Design) -> list[str]:
    return [cell.name for cell in design.cells.values()]


def _levels(cell: Cell, cells: Sequence[Cell]) -> dict[str, str]:
    """Setting to level. Keys that some methods lack go with the method: they are part of what it is."""
    shared = set.intersection(*(set(each.settings) for each in cells)) - {"method"}
    same = [other for other in cells if other.value("method") == cell.value("method")]
    own = [
        key
        for key in cell.settings
        if key not in shared and key != "method" and len({repr(other.value(key)) for other in same}) > 1
    ]
    words = [str(cell.value("method")), *(f"{key} {shown(cell.value(key))}" for key in own)]
    return {RECIPE: ", ".join(words), **{key: shown(cell.value(key)) for key in cell.settings if key in shared}}


def _apart(keys: Sequence[str], table: Sequence[Mapping[str, str]]) -> list[str]:
    """Without those that always go with another: a method's own learning rate is part of the method."""
    found: list[str] = []
    seen: set[tuple[int, ...]] = set()
    for key in keys:
        places = {level: i for i, level in enumerate(dict.fromkeys(row[key] for row in table))}
        partition = tuple(places[row[key]] for row in table)
        if partition not in seen:
            seen.add(partition)
            found.append(key)
    return found


def _groups(factors: Sequence[str], keys: Sequence[str], table: Sequence[Mapping[str, str]]) -> list[list[int]]:
    """Places in `table` that agree in every varying key but the factors."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(table):
        groups.setdefault(tuple(row[key] for key in keys if key not in factors), []).append(place)
    return [group for group in groups.values() if len(group) >= 2 ** len(factors)]


def _crossed(
    factors: Sequence[str], group: Sequence[int], table: Sequence[Mapping[str, str]], cells: Sequence[Cell]
) -> Design | None:
    """The largest full crossing in the group, leaving out levels that are not crossed; None where there is none."""
    there = {tuple(table[place][factor] for factor in factors): cells[place] for place in group}
    levels = [list(dict.fromkeys(combination[i] for combination in there)) for i in range(len(factors))]
    whole = [tuple(each) for each in levels]
    if len(factors) == 2:
        best = max(_rectangles(there, levels), key=lambda found: len(found[0]) * len(found[1]), default=None)
        whole = list(best) if best else []
    combinations = list(itertools.product(*whole))
    if not whole or any(len(each) < 2 for each in whole) or not all(each in there for each in combinations):
        return None
    return _shortened(Design(dict(zip(factors, whole, strict=True)), {each: there[each] for each in combinations}))


def _shortened(design: Design) -> Design:
    """Recipes by what tells them apart here: of a method that comes once, its name is enough."""
    if RECIPE not in design.factors:
        return design
    at = list(design.factors).index(RECIPE)
    first = {level: next(c for key, c in design.cells.items() if key[at] == level) for level in design.factors[RECIPE]}
    short = {}
    for level, cell in first.items():
        others = [other for other in first.values() if other.value("method") == cell.value("method")]
        differing = [key for key in cell.settings if len({repr(other.value(key)) for other in others}) > 1]
        words = [str(cell.value("method")), *(f"{key} {shown(cell.value(key))}" for key in differing)]
        short[level] = ", ".join(words)
    if len(set(short.values())) < len(short):
        return design
    factors = {**design.factors, RECIPE: tuple(short[level] for level in design.factors[RECIPE])}
    cells = {(*key[:at], short[key[at]], *key[at + 1 :]): cell for key, cell in design.cells.items()}
    return Design(factors, cells)


def _rectangles(
    there: Mapping[tuple[str, ...], Cell], levels: Sequence[Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Sets of first and of second levels that are fully crossed."""
    rows = {first: {second for second in levels[1] if (first, second) in there} for first in levels[0]}
    candidates = {frozenset(a & b) for a in rows.values() for b in rows.values()}
    for wanted in candidates:
        firsts = tuple(first for first in levels[0] if wanted <= rows[first])
        if len(wanted) > 1 and len(firsts) > 1:
            yield firsts, tuple(second for second in levels[1] if second in wanted)


def missing(cells: Sequence[Cell]) -> list[tuple[str, str, Cell]]:
    """What one more training would cross: (data, the methods crossed, the cell whose method lacks that data)."""
    by_method: dict[str, dict[str, Cell]] = {}
    for cell, row in zip(cells, (_levels(cell, cells) for cell in cells), strict=True):
        by_method.setdefault(row[RECIPE], {})[str(cell.value("data"))] = cell
    found = []
    for (one, has), (other, lacks) in itertools.permutations(by_method.items(), 2):
        gap = sorted(set(has) - set(lacks))
        if len(gap) == 1 and set(has) & set(lacks):
            found.append((gap[0], f"{one} and {other}", next(iter(lacks.values()))))
    return found


def effects(design: Design, notes: list[str]) -> list[Effect]:
    """Main effects of every level against the factor's first, then interactions of two and of three factors. `notes`:
    what `contrast` has to say."""
    names = list(design.factors)
    found = []
    for size in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, size):
            for levels in itertools.product(*(design.factors[name][1:] for name in chosen)):
                wanted = dict(zip(chosen, levels, strict=True))
                weights = [(design.cells[key], _weight(design, key, wanted)) for key in design.cells]
                found.append(Effect(wanted, contrast(weights, "domain", notes), contrast(weights, "general", notes)))
    return found


def _weight(design: Design, key: Sequence[str], wanted: Mapping[str, str]) -> float:
    """A cell's share in an effect: the sign of its levels times the mean over what is not asked."""
    weight = 1.0
    for (name, levels), level in zip(design.factors.items(), key, strict=True):
        if name not in wanted:
            weight /= len(levels)
        elif level == levels[0]:
            weight *= -1
        elif level != wanted[name]:
            return 0.0
    return weight


def contrast(weights: Sequence[tuple[Cell, float]], kind: str, notes: list[str]) -> Mean | None:
    """A weighted sum of cells' means over the benchmarks of `kind`, paired by item and by the seeds that all have, by
    item alone where there are none. None where cells were not measured on the same items, or not alike."""
    from evals import stats
    from evals.paired import block

    used = [(cell, weight) for cell, weight in weights if weight]
    panels = [{p.benchmark: p for p in cell.panels if p.kind == kind and cell.method in p.values} for cell, _ in used]
    if not used or not panels[0] or any(set(each) != set(panels[0]) for each in panels):
        return None
    blocks = []
    for benchmark, first in panels[0].items():
        own = [(cell, weight, each[benchmark]) for (cell, weight), each in zip(used, panels, strict=True)]
        if refused := _unlike(own):
            notes.append(f"No difference is shown on {benchmark}: {refused}.")
        if refused or any(panel.items != first.items for _, _, panel in own):
            return None
        seeds = [panel.seeds_of(cell.method) for cell, _, panel in own]
        arrays = [weight * panel.values[cell.method] for cell, weight, panel in own]
        if shared := [seed for seed in seeds[0] if all(seed in each for each in seeds)]:
            rows = [x[[each.index(seed) for seed in shared]] for x, each in zip(arrays, seeds, strict=True)]
            blocks.append(block(first, np.sum(rows, axis=0), 1 / len(panels[0])))
        else:
            sides = [block(first, x, 1 / len(panels[0])) for x in arrays]
            blocks += [replace(side, runs=i, shows_changes=i == 0) for i, side in enumerate(sides)]
            notes.append(f"{', '.join(cell.name for cell, _, _ in own)} have no seed in common: not paired by seed.")
    return stats.crossed(blocks)


def _unlike(own: Sequence[tuple[Cell, float, Panel]]) -> str:
    """What keeps the cells' scores on one benchmark from being compared; "" where nothing does."""
    (first, _, panel), *others = own
    for cell, _, other in others:
        if panel.like and other.like and (words := judge(other.like, panel.like).words):
            return f"{cell.name} was measured otherwise than {first.name} ({words})"
    return ""


def differing(cells: Sequence[Cell], key: str) -> dict[str, str]:
    """For each cell, by name, the settings in which it differs from the others, but for `key`."""
    keys = dict.fromkeys(k for cell in cells for k in cell.settings if k != key)
    varying = [k for k in keys if len({repr(cell.value(k)) for cell in cells}) > 1]
    return {
        cell.name: ", ".join(
            shown(cell.value(k)) if k in ("method", "data") else f"{k} {shown(cell.value(k))}"
            for k in varying
            if cell.value(k) != ABSENT
        )
        for cell in cells
    }

"""From a long table's lines to its figures: contrasts of methods with intervals over seeds and items."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals import stats
from evals.panels import BASE, Panel
from tests.bench.table_lines import Line

# ---- scores


def panels(known: Sequence[Line], methods: Sequence[str]) -> list[Panel]:
    """Of every domain that has all of these methods, on the seeds that all of them have there."""
    found = []
    for domain in dict.fromkeys(line["domain"] for line in known):
        own = [line for line in known if line["domain"] == domain]
        by_method = {name: {line["seed"]: line for line in own if line["method"] == name} for name in methods}
        base = next((line["right"] for line in own if line["method"] == BASE), None)
        shared = set.intersection(*map(set, by_method.values())) if by_method else set()
        if base is None or not shared:
            continue
        for benchmark, packed in base.items():
            rows = {
                name: [by_seed[s]["right"].get(benchmark) for s in sorted(shared)]
                for name, by_seed in by_method.items()
            }
            if packed["kind"] == "shown" or any(one is None for each in rows.values() for one in each):
                continue
            unlike = [name for name, each in rows.items() if any(one["items"] != packed["items"] for one in each)]
            assert not unlike, f"{benchmark}: {unlike} were asked other items than the base"
            values = {name: np.stack([unpacked(one) for one in each]) for name, each in rows.items()}
            values[BASE] = unpacked(packed)[None]
            items = _items(packed)
            found.append(Panel(benchmark, packed["kind"], items, values, runs=domain))
    return found


def _items(packed: Line) -> tuple[str, ...]:
    """Names for a benchmark's items: the same in every line that asked them, and no other benchmark's."""
    return tuple(f"{packed['items']}:{number}" for number in range(packed["n"]))


def unpacked(packed: Line) -> np.ndarray:
    if "values" in packed:
        return np.array(packed["values"], dtype=float)
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed["bits"]), np.uint8), count=packed["n"]).astype(float)


def deciding(found: Sequence[Panel]) -> list[Panel]:
    """Without the domain benchmarks that are shown apart: all but the first one and those of further domains, and of
    these only the cells that training covered."""
    first = {panel.runs: panel.benchmark for panel in reversed(found) if panel.kind == "domain"}
    taken = [p for p in found if p.benchmark.startswith("lab_") and not p.benchmark.endswith("_unseen")]
    return [p for p in found if p.kind == "general" or p.benchmark == first[p.runs] or p in taken]


# ---- contrasts


@dataclass(frozen=True, slots=True)
class Contrast:
    """A weighted sum of methods' scores, with its interval over seeds and items."""

    value: float
    low: float
    high: float
    n_items: int
    n_seeds: int
    """Trainings of each method, summed over domains."""


def contrast(known: Sequence[Line], weights: Mapping[str, float], of: str, confidence: float = 0.95) -> Contrast | None:
    """Of the mean over the benchmarks that `of` names: domain, unseen, general, both (domain and general, half each),
    or one by its name. The base may be among the methods. None where a method has no line, or none is called so."""
    found = panels(known, [name for name in weights if name != BASE])
    kinds = ("domain", "general") if of == "both" else (of,)
    chosen = {kind: [panel for panel in found if is_of(panel, kind, found)] for kind in kinds}
    if not all(chosen.values()):
        return None
    blocks = []
    for kind, some in chosen.items():
        for panel in some:
            values = sum(weight * panel.values[name] for name, weight in weights.items())
            blocks.append(
                stats.Block(np.asarray(values), panel.runs, panel.items, 1 / (len(chosen) * len(chosen[kind])))
            )
    mean = stats.crossed(blocks, confidence)
    runs = {block.runs: block.values.shape[0] for block in blocks}
    n_items = _count(panel for some in chosen.values() for panel in some)
    return Contrast(mean.value, mean.low, mean.high, n_items, sum(runs.values()))


def recovered(known: Sequence[Line], method: str, baseline: str) -> Contrast | None:
    """Of the general mean that the baseline lost, the share that the method did not lose: (method - baseline) over
    (base - baseline), interval by Fieller. NaN where the baseline's loss cannot be told from 0; None without lines."""
    found = [panel for panel in deciding(panels(known, [method, baseline])) if panel.kind == "general"]
    if not found:
        return None
    blocks = []
    for panel in found:
        each, other = panel.values[method], panel.values[baseline]
        both = np.stack([each - other, panel.values[BASE] - other], axis=-1)
        blocks.append(stats.Block(both, panel.runs, panel.items, 1 / len(found)))
    ratio = stats.crossed_ratio(blocks)
    known_loss = ratio.bounded and sum(block.values[..., 1].mean() for block in blocks) > 0
    ends = (ratio.value, ratio.low, ratio.high) if known_loss else (math.nan,) * 3
    return Contrast(*ends, _count(found), sum({block.runs: len(block.values) for block in blocks}.values()))


def _count(found: Iterable[Panel]) -> int:
    return sum(map(len, {panel.items for panel in found}))


def fewest_seeds(known: Sequence[Line], methods: Sequence[str]) -> int:
    """Of the trainings that all of these methods share, on the domain that has fewest."""
    return min((len(panel.values[name]) for panel in panels(known, methods) for name in methods), default=0)


def is_of(panel: Panel, kind: str, among: Sequence[Panel]) -> bool:
    if kind == "unseen":
        return panel.benchmark.endswith("_unseen")
    if kind in ("domain", "general"):
        return panel.kind == kind and any(panel is one for one in deciding(among))
    return panel.benchmark == kind


def base_panels(known: Sequence[Line]) -> list[Panel]:
    """Of the models before training alone."""
    found = []
    for line in (line for line in known if line["method"] == BASE):
        for name, packed in line["right"].items():
            if packed["kind"] != "shown":
                items = _items(packed)
                found.append(Panel(name, packed["kind"], items, {BASE: unpacked(packed)[None]}, runs=line["domain"]))
    return found


def stages(known: Sequence[Line], names: Sequence[str], tasks: Sequence[str]) -> stats.Continual:
    found = {p.benchmark: p.values for p in panels(known, names)}
    rows = [
        [np.broadcast_to(found[task][name].mean(1), found[task][names[0]].shape[:1]) for task in tasks]
        for name in (BASE, *names)
    ]
    return stats.continual(np.moveaxis(np.array(rows), 2, 0))


def measured(known: Sequence[Line], method: str, pick: Any) -> list[float]:
    """Of a method's lines, what `pick` finds in each, where it finds something."""
    found = (pick(line) for line in known if line["method"] == method)
    return [float(value) for value in found if value is not None]

"""From a long table's lines to its figures: contrasts of methods with intervals over seeds and items, and its page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evals import stats
from evals.panels import BASE, Panel
from refinery.spec import Spec
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
    chosen = {kind: [panel for panel in found if _is(panel, kind, found)] for kind in kinds}
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


def _is(panel: Panel, kind: str, among: Sequence[Panel]) -> bool:
    if kind == "unseen":
        return panel.benchmark.endswith("_unseen")
    if kind in ("domain", "general"):
        return panel.kind == kind and any(panel is one for one in deciding(among))
    return panel.benchmark == kind


# ---- pages


def page(table: str, spec: Spec, known: Sequence[Line]) -> str:
    if not known:
        return f"{table}: nothing has run"
    assert spec.train
    rows = table_rows(spec, known)
    if spec.train.stages:
        rows += ["", *stage_rows(spec, known)]
    if spec.evaluate and spec.evaluate.samples:
        rows += ["", *pass_rows(known)]
    return "\n".join(rows)


def table_rows(spec: Spec, known: Sequence[Line]) -> list[str]:
    assert spec.train
    apart = _apart(known)
    heads = ["method", "seeds", "domain", "less baseline", *apart, "general mean", "less baseline", "damage recovered"]
    heads += ["forward KL", *(["nll of data", "self-BLEU"] if any("data" in line for line in known) else [])]
    heads += ["words", "seconds", "tokens", "chosen"]
    found = [
        f"Baseline {spec.report.baseline}. Percent; 95% intervals over seeds and items. Nothing is extrapolated.",
        "",
    ]
    found += ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 2) + "---|"]
    for name in [BASE, *spec.train.methods]:
        cells = _cells(spec, known, name, apart, heads)
        found.append(f"| {name} | {' | '.join(cells)} |")
    return found


def _cells(spec: Spec, known: Sequence[Line], name: str, apart: Sequence[str], heads: Sequence[str]) -> list[str]:
    own = [line for line in known if line["method"] == name]
    if not own:
        return ["not run", *[""] * (len(heads) - 2)]
    means = {of: _mean(known, name, of) for of in ("domain", *apart, "general")}
    less = {of: _less(known, spec, name, of) for of in ("domain", "general")}
    cells = ["" if name == BASE else _seeds(own), means["domain"], less["domain"], *(means[of] for of in apart)]
    cells += [means["general"], less["general"], _recovered(known, spec, name)]
    cells += [_average(_known(own, "logged", "forward_kl"))]
    if "nll of data" in heads:
        cells += [_average(_known(own, "data", "nll")), _average(_known(own, "data", "self_bleu"))]
    cells += [_average(line["moved"]["domain"]["words"] for line in own if "domain" in line.get("moved", {}))]
    return [*cells, _average(line["seconds"] for line in own), _average(_spent(own)), _settings(own)]


def _apart(known: Sequence[Line]) -> list[str]:
    """Domain benchmarks that are no part of the domain's mean; cells that training left out under one name."""
    every = _base_panels(known)
    decided = {panel.benchmark for panel in deciding(every)}
    names = [panel.benchmark for panel in every if panel.benchmark not in decided]
    return list(dict.fromkeys("unseen" if name.endswith("_unseen") else name for name in names))


def _base_panels(known: Sequence[Line]) -> list[Panel]:
    found = []
    for line in (line for line in known if line["method"] == BASE):
        for name, packed in line["right"].items():
            if packed["kind"] != "shown":
                items = _items(packed)
                found.append(Panel(name, packed["kind"], items, {BASE: unpacked(packed)[None]}, runs=line["domain"]))
    return found


def _mean(known: Sequence[Line], name: str, of: str) -> str:
    if name == BASE:
        every = _base_panels(known)
        some = [panel for panel in every if _is(panel, of, every)]
        return f"{100 * np.mean([panel.values[BASE].mean() for panel in some]):.1f}" if some else ""
    found = contrast(known, {name: 1.0}, of)
    return percent(_share(found)) if found else ""


def _share(found: Contrast) -> Contrast:
    """A score, whose interval ends at 0 and 1."""
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _less(known: Sequence[Line], spec: Spec, name: str, of: str) -> str:
    baseline = spec.report.baseline
    found = contrast(known, {name: 1.0, baseline: -1.0}, of) if baseline and name not in (BASE, baseline) else None
    return percent(found, sign=True) if found else ""


def _recovered(known: Sequence[Line], spec: Spec, name: str) -> str:
    baseline = spec.report.baseline
    found = recovered(known, name, baseline) if baseline and name not in (BASE, baseline) else None
    return percent(found) if found else ""


def percent(estimate: Contrast, sign: bool = False) -> str:
    if math.isnan(estimate.value):
        return "not estimable"
    form = "+.1f" if sign else ".1f"
    return f"{100 * estimate.value:{form}} [{100 * estimate.low:{form}}, {100 * estimate.high:{form}}]"


def _seeds(own: Sequence[Line]) -> str:
    counts = {
        domain: sum(line["domain"] == domain for line in own) for domain in dict.fromkeys(x["domain"] for x in own)
    }
    return str(next(iter(counts.values()))) if len(counts) == 1 else ", ".join(f"{d} {n}" for d, n in counts.items())


def _known(own: Sequence[Line], part: str, name: str) -> list[float]:
    return [line[part][name] for line in own if name in line.get(part, {})]


def _spent(own: Sequence[Line]) -> list[float]:
    """All tokens that were generated for it: data, rewriter, rollouts; those of the rows are not generated."""
    parts = ("generated", "rewriter", "rolled_out")
    return [sum(line["tokens"].get(part, 0) for part in parts) for line in own if "tokens" in line]


def _average(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    if not found:
        return ""
    return f"{np.mean(found):,.0f}" if np.mean(found) >= 100 else f"{np.mean(found):.3g}"


def _settings(own: Sequence[Line]) -> str:
    return ", ".join(dict.fromkeys(f"{line['domain']} {value:g}" for line in own for value in line["chosen"].values()))


def stage_rows(spec: Spec, known: Sequence[Line]) -> list[str]:
    """What every stage left of every benchmark, and what was lost since a benchmark was at its best."""
    assert spec.train and spec.evaluate
    columns = [*spec.evaluate.domain, "general"]
    called = [stage.name or stage.data for stage in spec.train.stages]
    found = []
    for method in spec.train.methods:
        names = [*(f"{method}@{name}" for name in called[:-1]), method]
        if not all(any(line["method"] == name for line in known) for name in names):
            continue
        found += [f"| {method} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for stage, name in zip(["base", *called], [BASE, *names], strict=True):
            found.append(f"| after {stage} | " + " | ".join(_mean(known, name, column) for column in columns) + " |")
        if called == [name.removeprefix("lab_") for name in spec.evaluate.domain]:  # a stage for each
            measures = stages(known, names, spec.evaluate.domain)
            told = {"average accuracy": measures.accuracy, "backward transfer": measures.backward_transfer}
            words = [f"{label} {100 * m.value:+.1f}" + _ends(m.low, m.high) for label, m in told.items()]
            found += ["", f"{method}: {', '.join(words)} (points; t intervals over seeds)."]
        found.append("")
    return found[:-1]


def stages(known: Sequence[Line], names: Sequence[str], tasks: Sequence[str]) -> stats.Continual:
    found = {p.benchmark: p.values for p in panels(known, names)}
    rows = [
        [np.broadcast_to(found[task][name].mean(1), found[task][names[0]].shape[:1]) for task in tasks]
        for name in (BASE, *names)
    ]
    return stats.continual(np.moveaxis(np.array(rows), 2, 0))


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" [{100 * low:+.1f}, {100 * high:+.1f}]"


def pass_rows(known: Sequence[Line]) -> list[str]:
    """pass@k of what was sampled, with the interval over seeds and items."""
    names = [n for line in known for n, packed in line["right"].items() if packed["kind"] == "shown"]
    names = sorted(dict.fromkeys(names), key=lambda name: int(name.rpartition("@")[2]))
    found = ["| method | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for method in dict.fromkeys(line["method"] for line in known):
        own = [line["right"] for line in known if line["method"] == method]
        cells = []
        for name in names:
            values = np.stack([unpacked(right[name]) for right in own])
            mean = stats.crossed([stats.Block(values)])
            cells.append(percent(_share(Contrast(mean.value, mean.low, mean.high, values.shape[1], len(own)))))
        found.append(f"| {method} | {' | '.join(cells)} |")
    return found


def measured(known: Sequence[Line], method: str, pick: Any) -> list[float]:
    """Of a method's lines, what `pick` finds in each, where it finds something."""
    found = (pick(line) for line in known if line["method"] == method)
    return [float(value) for value in found if value is not None]

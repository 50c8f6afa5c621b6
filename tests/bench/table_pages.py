"""A long table's page, from its lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from evals import stats
from refinery.spec import Spec
from tests.bench.table_figures import (
    BASE,
    Contrast,
    base_panels,
    contrast,
    deciding,
    is_of,
    recovered,
    stages,
    unpacked,
)
from tests.bench.table_lines import Line

KINDS = ("domain", "general")


def page(table: str, spec: Spec, known: Sequence[Line]) -> str:
    if not known:
        return f"{table}: nothing has run"
    assert spec.train
    rows = table_rows(spec, known)
    if spec.matrix:
        rows += ["", *point_rows(spec, known)]
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
    every = base_panels(known)
    decided = {panel.benchmark for panel in deciding(every)}
    names = [panel.benchmark for panel in every if panel.benchmark not in decided]
    return list(dict.fromkeys("unseen" if name.endswith("_unseen") else name for name in names))


def _mean(known: Sequence[Line], name: str, of: str) -> str:
    if name == BASE:
        every = base_panels(known)
        some = [panel for panel in every if is_of(panel, of, every)]
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
    if len(counts) < 2 or any(" " in domain for domain in counts):  # points of a matrix have long names
        return str(sum(counts.values())) + (f" in {len(counts)}" if len(counts) > 1 else "")
    return ", ".join(f"{domain} {n}" for domain, n in counts.items())


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


def point_rows(spec: Spec, known: Sequence[Line]) -> list[str]:
    """At each point of the matrix what its base, the baseline and every other method score; before the points that
    share their first value, all of them together."""
    assert spec.train
    others = [name for name in spec.train.methods if name != spec.report.baseline]
    heads = [*spec.matrix, "seeds", "base general"]
    heads += [f"{spec.report.baseline} {of}" for of in ("domain", "general")]
    heads += [f"{name} {of}" for name in others for of in ("domain", "less baseline", "general", "less baseline")]
    found = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    groups: dict[str, list[Line]] = {}
    for line in known:
        for place in (line["domain"].split()[0] + " all", line["domain"]):
            groups.setdefault(place, []).append(line)
    for place, own in groups.items():
        cells = [_seeds([line for line in own if line["seed"] is not None and line["method"] == spec.report.baseline])]
        cells += [_mean(own, BASE, "general"), *(_mean(own, spec.report.baseline or "", of) for of in KINDS)]
        for name in others:
            cells += [cell for of in KINDS for cell in (_mean(own, name, of), _less(own, spec, name, of))]
        found.append(f"| {' | '.join([*place.split(), *cells])} |")
    return found


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

"""Base, plain fine-tuning and RAFT on three lab domains, five seeds each, tuned on equal grids: the pooled figures.

    python tests/bench/lab_results.py [DOMAIN ...]

Runs specs/lab_tuned.yaml once a domain (what stands is skipped, so it goes on after a stop), pools the three stores and
writes tests/bench/results/lab_tuned.json. About half an hour on two cores. Domain accuracy is that of the rule's cells
that training covers; cells left out of training are pooled on their own.
"""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.forgetting import Comparison, compare_panels
from evals.panels import Panels
from refinery import lab
from refinery.spec import Spec, load_spec
from refinery.store import Store
from reports.data import VALIDATION, Trial
from reports.gather import gather

ROOT = Path(__file__).parent.parent.parent
SPEC = ROOT / "specs" / "lab_tuned.yaml"
OUT = Path(__file__).parent / "results" / "lab_tuned.json"
DOMAINS = ("clinic", "workshop", "harbor")
DOMAIN_BENCHMARKS = tuple(f"lab_{domain}" for domain in lab.DOMAINS)


def overrides(domain: str) -> list[str]:
    return [f"name=lab_tuned_{domain}", f"source.lab={domain}", f"evaluate.domain=[lab_{domain},lab_{domain}_unseen]"]


def run(domain: str) -> Spec:
    command = [sys.executable, "-c", "from refinery.cli import main; main()", "run", str(SPEC)]
    for item in overrides(domain):
        command += ["--set", item]
    subprocess.run(command, check=True, cwd=ROOT)
    return load_spec(SPEC, overrides(domain))


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def chosen(spec: Spec, store: Store) -> dict[str, Any]:
    """Method to the tuned settings of its final checkpoints."""
    finals = [row for row in store.checkpoints() if row["role"] == "final"]
    return {row["name"]: {key: row["params"][key] for key in spec.train.tune} for row in finals}


def grid(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Every tuning point: its validation score, which chose, and its general mean, which did not."""
    points = []
    for trial in trials:
        scores = dict(trial.scores)
        point = {"method": trial.method, **trial.params, "chosen": trial.chosen}
        point["validation"] = scores.pop(VALIDATION).value
        general = [score.value for name, score in scores.items() if not name.startswith(DOMAIN_BENCHMARKS)]
        points.append({**point, "general_mean": sum(general) / len(general)})
    return points


def main() -> None:
    domains = sys.argv[1:] or list(DOMAINS)
    panels, each, settings, grids, baseline = [], {}, {}, {}, ""
    for domain in domains:
        spec = run(domain)
        store = Store(ROOT / spec.store_path, read_only=True)
        data = gather(store, spec)
        each[domain], settings[domain], grids[domain] = data.comparison, chosen(spec, store), grid(data.trials)
        panels += [dataclasses.replace(panel, runs=domain) for panel in data.panels]
        baseline, margin = data.comparison.baseline, data.comparison.margin
    seen = [panel for panel in panels if not panel.benchmark.endswith("_unseen")]
    unseen = [panel for panel in panels if panel.benchmark.endswith("_unseen") or panel.kind == "general"]
    pooled = compare_panels(Panels(seen, []), baseline=baseline, margin=margin)
    result = {"chosen": settings, "grid": grids, "pooled": dataclasses.asdict(pooled)}
    result["pooled_unseen"] = dataclasses.asdict(compare_panels(Panels(unseen, []), baseline=baseline, margin=margin))
    result["domains"] = {domain: dataclasses.asdict(comparison) for domain, comparison in each.items()}
    OUT.write_text(json.dumps(rounded(result), indent=1) + "\n", "utf-8")
    show(pooled)


def show(comparison: Comparison) -> None:
    for name, method in comparison.methods.items():
        lines = {"domain": method.domain_mean.score, "general": method.general_mean.score}
        lines |= {"general vs base": method.general_mean.vs_base, "recovered": method.general_mean.damage_recovered}
        lines |= {"vs best domain": method.vs_best_domain}
        for label, e in lines.items():
            print(f"{name:12} {label:16} {e.value:7.3f} [{e.low:.3f}, {e.high:.3f}] n={e.n_items} {e.note}")


if __name__ == "__main__":
    main()

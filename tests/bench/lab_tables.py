"""The lab's long tables, in pieces: each runs the spec of specs/tables/ for one domain and one seed.

    python -m tests.bench.lab_tables main [--minutes 60] [--domains clinic workshop harbor] [--show]

A finished piece is a set of lines in tests/bench/results/tables/NAME.jsonl, one for each checkpoint: its settings, what
its training took, and which items of each benchmark it got right, so that the table can be made from that file alone.
A piece that stands there is not run again; one that `--minutes` cut short goes on from its store. Where the spec has a
grid, the first seed's piece chooses on validation and the other seeds take what it chose. `--show` prints the table of
what is there and runs nothing.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.forgetting import Comparison, compare_panels
from evals.panels import BASE, Panel, Panels, load
from refinery.records import digest
from refinery.spec import Spec, load_spec
from refinery.store import Store
from reports.gather_models import checkpoints

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results" / "tables"
KEPT = ("forward_kl", "reverse_kl", "forward_kl_rollouts", "seconds_generation", "seconds_teacher", "seconds_student")
"""Of what a training logs, the last values that a line keeps, where they are there."""

Line = dict[str, Any]


def overrides(table: str, domain: str, seed: int, chosen: dict[str, Any]) -> list[str]:
    found = [f"name=table_{table}_{domain}", f"source.lab={domain}", f"train.seeds=[{seed}]"]
    found += [f"evaluate.domain=[lab_{domain},lab_{domain}_unseen]"]
    if chosen:
        found += ["train.tune={}"]
        found += [f"train.methods.{m}.{key}={value}" for m, point in chosen.items() for key, value in point.items()]
    return found


def spec_of(table: str, more: Sequence[str] = ()) -> Spec:
    return load_spec(ROOT / "specs" / "tables" / f"{table}.yaml", list(more))


# ---- one piece


def run(table: str, settings: Sequence[str], seconds: float) -> bool:
    """Whether the piece came to its end in that time; else it is stopped as Ctrl-C stops it."""
    command = [sys.executable, "-m", "refinery", "run", f"specs/tables/{table}.yaml"]
    for stage in ("refine", "train", "evaluate"):
        command += ["--stage", stage]
    for item in settings:
        command += ["--set", item]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
            return False


def lines(spec: Spec, domain: str, seed: int) -> list[Line]:
    """What the store holds of the piece: the base first, then every method."""
    assert spec.evaluate and spec.train
    store = Store(ROOT / spec.store_path, read_only=True)
    notes: list[str] = []
    base, finals = checkpoints(store, spec, notes)
    assert base
    loaded = load(
        store,
        base=base["fingerprint"],
        methods={name: [row["fingerprint"] for row in rows] for name, rows in finals.items()},
        domain=spec.evaluate.domain,
        general=spec.evaluate.general,
    )
    for note in notes + loaded.notes:
        print(f"{domain} seed {seed}: {note}", file=sys.stderr)
    found = []
    for name, rows in {BASE: [base], **finals}.items():
        row = rows[0]
        last = {each["name"]: each["value"] for each in store.training_metrics(row["fingerprint"])}
        found.append(
            {
                "domain": domain,
                "method": name,
                "seed": None if name == BASE else seed,
                "checkpoint": row["fingerprint"],
                "chosen": {key: row["params"][key] for key in spec.train.tune if name != BASE},
                "seconds": (row["manifest"] or {}).get("seconds"),
                "logged": {key: round(last[key], 6) for key in KEPT if key in last},
                "right": {panel.benchmark: _packed(panel, name) for panel in loaded.found if name in panel.values},
            }
        )
    return found


def _packed(panel: Panel, name: str) -> Line:
    """The items that were right, as bits in the order of their ids."""
    values = panel.values[name][0]
    assert set(np.unique(values)) <= {0.0, 1.0}, f"{panel.benchmark} is not right or wrong"
    bits = np.packbits(values.astype(bool)).tobytes().hex()
    return {"kind": panel.kind, "n": len(values), "items": digest(list(panel.items), 8), "bits": bits}


# ---- the file


def read(table: str) -> list[Line]:
    path = RESULTS / f"{table}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def write(table: str, new: Iterable[Line]) -> None:
    kept = {(line["domain"], line["method"], line["seed"]): line for line in [*read(table), *new]}
    ordered = sorted(kept.values(), key=lambda line: (line["domain"], -1 if line["seed"] is None else line["seed"]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in ordered)
    (RESULTS / f"{table}.jsonl").write_text(text, "utf-8")


def standing(known: Sequence[Line], domain: str, seed: int, methods: Iterable[str]) -> bool:
    there = {line["method"] for line in known if line["domain"] == domain and line["seed"] == seed}
    return there.issuperset(methods)


def chosen_by(known: Sequence[Line], domain: str, seed: int) -> dict[str, Any]:
    found = [line for line in known if line["domain"] == domain and line["seed"] == seed and line["chosen"]]
    return {line["method"]: line["chosen"] for line in found}


def work(table: str, domains: Sequence[str], minutes: float) -> None:
    """Seed by seed, all domains, until the time is over."""
    until = time.monotonic() + 60 * minutes
    train = spec_of(table).train
    assert train
    for seed in train.seeds:
        for domain in domains:
            known, left = read(table), until - time.monotonic()
            if standing(known, domain, seed, train.methods) or left < 30:
                continue
            chosen = chosen_by(known, domain, train.seeds[0]) if seed != train.seeds[0] else {}
            if train.tune and not chosen and seed != train.seeds[0]:
                continue  # its grid was cut short: the next call finishes it
            settings = overrides(table, domain, seed, chosen)
            if run(table, settings, left):
                found = lines(spec_of(table, settings), domain, seed)
                write(table, [{**line, "chosen": chosen.get(line["method"], line["chosen"])} for line in found])


# ---- the table


def panels(known: Sequence[Line]) -> list[Panel]:
    """Of every domain, on the seeds that all of its methods have."""
    found = []
    for domain in dict.fromkeys(line["domain"] for line in known):
        own = [line for line in known if line["domain"] == domain]
        by_method: dict[str, dict[Any, Line]] = {}
        for line in own:
            by_method.setdefault(line["method"], {})[line["seed"]] = line
        trained = {name: by_seed for name, by_seed in by_method.items() if name != BASE}
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in trained.values())))
        base = by_method[BASE][None]["right"]
        for benchmark, packed in base.items():
            rows = {name: [by_seed[s]["right"][benchmark] for s in seeds] for name, by_seed in trained.items()}
            unlike = [name for name, each in rows.items() if any(one["items"] != packed["items"] for one in each)]
            assert not unlike, f"{benchmark}: {unlike} were asked other items than the base"
            values = {name: np.stack([_unpacked(one) for one in each]) for name, each in rows.items()}
            values[BASE] = _unpacked(packed)[None]
            items = tuple(str(n) for n in range(packed["n"]))
            found.append(Panel(benchmark, packed["kind"], items, values, runs=domain))
    return found


def _unpacked(packed: Line) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(packed["bits"]), np.uint8), count=packed["n"]).astype(float)


def pooled(table: str, known: Sequence[Line]) -> Comparison:
    """The rule's cells that training covered are the domain; those it left out are shown apart."""
    spec = spec_of(table)
    seen = [panel for panel in panels(known) if not panel.benchmark.endswith("_unseen")]
    assert spec.report.baseline
    return compare_panels(Panels(seen, []), baseline=spec.report.baseline, margin=spec.report.margin)


def markdown(table: str) -> str:
    known = read(table)
    if not known:
        return f"{table}: nothing has run"
    comparison = pooled(table, known)
    counts = {d: len({line["seed"] for line in known if line["domain"] == d} - {None}) for d in _domains(known)}
    told = ", ".join(f"{domain} {n}" for domain, n in counts.items())
    rows = [f"Seeds: {told}. Percent, with 95% intervals over seeds and items.", ""]
    rows += ["| method | domain | general mean | damage recovered | forward KL | seconds | chosen |"]
    rows += ["|---|---:|---:|---:|---:|---:|---|"]
    for name, method in comparison.methods.items():
        own = [line for line in known if line["method"] == name]
        cells = [_percent(method.domain_mean.score), _percent(method.general_mean.score)]
        cells += [
            _percent(method.general_mean.damage_recovered),
            _mean(line["logged"].get("forward_kl") for line in own),
        ]
        cells += [_mean(line["seconds"] for line in own), _settings(own)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _domains(known: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line["domain"] for line in known))


def _percent(estimate: Any) -> str:
    if estimate is None or np.isnan(estimate.value):
        return "not estimable"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _mean(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{np.mean(found):.3g}" if found else ""


def _settings(own: Sequence[Line]) -> str:
    found = dict.fromkeys(f"{line['domain']} {value:g}" for line in own for value in line["chosen"].values())
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--domains", nargs="+", default=["clinic"])
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    if not args.show:
        work(args.table, args.domains, args.minutes)
    print(markdown(args.table))


if __name__ == "__main__":
    main()

"""The lab's long tables, in pieces: each trains one method of a spec in specs/tables/ on one domain with one seed
(or at one point of the spec's matrix).

    python -m tests.bench.lab_tables main [--minutes 60] [--domains clinic harbor] [--methods raft] [--seeds 0 1]
    python -m tests.bench.lab_tables main --show          # the table of what is there; runs nothing
    python -m tests.bench.lab_tables main --fill          # what the stores know and older lines lack; runs nothing
    python -m tests.bench.lab_tables main --report        # of each domain's store, as one spec; trains nothing

A finished piece is a line in tests/bench/results/tables/NAME.jsonl (tests/bench/table_lines.py), for each checkpoint
one: its settings, what its training took, and which items of each benchmark it got right, so that the table can be made
from that file alone. A piece that stands there is not run again; one that `--minutes` cut short goes on from its store.
Where the spec has a grid, the first seed's piece chooses on validation and the other seeds take what it chose.

A piece runs of the spec's graph and rewriters what its method needs. Where there are rewriters, it has a store of its
own, so that all that was generated there is what this method cost, and the spec's seed is the piece's own, so that
rewriters and their sampling vary with it as the training does.
"""

import argparse
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from refinery.catalog import METHODS, module
from refinery.records import digest
from refinery.spec import Spec, load_spec
from refinery.store import Store
from tests.bench import table_lines, table_pages
from tests.bench.table_lines import Line, read, write

ROOT = Path(__file__).parent.parent.parent


def document(table: str) -> dict[str, Any]:
    """The spec as it is written, aliases resolved."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "specs" / "tables" / f"{table}.yaml").read_text("utf-8"))
    return found


def spec_of(table: str, more: Sequence[str] = ()) -> Spec:
    return load_spec(ROOT / "specs" / "tables" / f"{table}.yaml", list(more))


def domains_of(table: str) -> list[str]:
    """The domain that the spec itself names; its own name where its rows are no domain's. With a matrix its points,
    each the values of its keys."""
    whole = document(table)
    if "matrix" in whole:
        return [" ".join(values) for values in itertools.product(*whole["matrix"].values())]
    return [str(whole["source"].get("lab", table))]


def named(table: str, domain: str) -> str:
    return f"table_{table}_{domain.replace(' ', '_')}"


def at(table: str, domain: str) -> list[str]:
    """Overrides for another domain than the spec's own; a point of its matrix as a spec without one."""
    whole = document(table)
    if "matrix" not in whole:
        if [domain] == (home := domains_of(table)):
            return []
        assert set(whole["evaluate"]["domain"]) == {f"lab_{home[0]}", f"lab_{home[0]}_unseen"}
        return [f"source.lab={domain}", f"evaluate.domain=[lab_{domain},lab_{domain}_unseen]"]
    values = dict(zip(whole["matrix"], domain.split(), strict=True))
    source = whole["sources"][values.pop("source")]
    found = ["matrix=null", "sources=null", f"source={json.dumps(source)}"]
    return [*found, *(f"{key}={json.dumps(value)}" for key, value in values.items())]


# ---- one piece


def overrides(table: str, domain: str, seed: int, method: str, chosen: Mapping[str, Any]) -> list[str]:
    whole = document(table)
    train = whole["train"]
    needed = [method, *(stage["method"] for stage in train.get("stages", ()) if stage.get("method"))]
    methods = {name: {**each, **chosen} for name, each in train["methods"].items() if name in needed}
    steps, rewriters = parts(whole, methods)
    own = f"_{method}_{seed}" if whole.get("rewriters") else ""
    found = [f"name={named(table, domain)}{own}", f"train.seeds=[{seed}]", "report.baseline=null"]
    found += [f"train.data={data_of(whole, methods[method])}"]
    fields = {key for each in methods.values() for key in module(METHODS, each["method"]).Params.model_fields}
    defaults = {key: value for key, value in train.get("defaults", {}).items() if key in fields}
    found += [f"train.methods={json.dumps(methods)}", f"train.defaults={json.dumps(defaults)}"]
    if "graph" in whole:
        found += [f"graph={json.dumps(steps)}"]
    if "rewriters" in whole:
        found += [f"rewriters={json.dumps(rewriters)}", f"seed={seed}"]
    if chosen:
        found += ["train.tune={}"]
    return found + at(table, domain)


def spec_digest(table: str, method: str) -> str:
    """Of what the spec says of a method's pieces. A line that was made of something else does not stand."""
    whole = document(table)
    train = {key: value for key, value in whole["train"].items() if key not in ("methods", "seeds")}
    methods = {method: whole["train"]["methods"][method]}
    said = [whole.get(key) for key in ("model", "source", "sources", "evaluate")]
    return digest([methods, train, *parts(whole, methods), *said], 8)


def parts(whole: Mapping[str, Any], methods: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The steps and rewriters that these methods name, and what those name."""
    steps, rewriters = whole.get("graph", {}), whole.get("rewriters", {})
    known = {**steps, **rewriters}
    waiting = {word for each in methods.values() for word in {data_of(whole, each), *_words(each)}}
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in known and name not in found:
            found.add(name)
            waiting |= _words(known[name])
    return {n: s for n, s in steps.items() if n in found}, {n: r for n, r in rewriters.items() if n in found}


def data_of(whole: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """What it learns from."""
    last = list(whole.get("graph", {}))[-1:]
    return str(method.get("data", whole["train"].get("data", *last)))


def _words(value: Any) -> set[str]:
    """Every string in it that may be the name of a step or a model."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        value = [each for key, each in value.items() if key not in ("op", "method", "preset", "kind")]
    return {word for each in value for word in _words(each)} if isinstance(value, list) else set()


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


def work(table: str, domains: Sequence[str], methods: Sequence[str], seeds: Sequence[int], minutes: float) -> None:
    """Seed by seed, domain by domain, method by method, until the time is over."""
    until = time.monotonic() + 60 * minutes
    train = spec_of(table).train
    assert train
    for seed in (seed for seed in train.seeds if not seeds or seed in seeds):
        for domain, method in ((d, m) for d in domains for m in train.methods if not methods or m in methods):
            known, left = read(table), until - time.monotonic()
            if standing(known, table, domain, seed, method) or left < 30:
                continue
            chosen = chosen_by(known, domain, train.seeds[0], method) if seed != train.seeds[0] else {}
            if train.tune and not chosen and seed != train.seeds[0]:
                continue  # its grid was cut short: the next call finishes it
            settings, started = overrides(table, domain, seed, method, chosen), time.monotonic()
            if run(table, settings, left):
                found = table_lines.lines(spec_of(table, settings), ROOT, domain, seed)
                wall = round(time.monotonic() - started, 1)
                told = {"wall": wall, "spec": spec_digest(table, method)}
                write(table, [_told(line, told, chosen) for line in found if line["method"] in _own(method, found)])


def _own(method: str, found: Iterable[Line]) -> list[str]:
    """The base, the method, and what its stages left."""
    names = [line["method"] for line in found]
    return [n for n in names if n in (table_lines.BASE, method) or n.startswith(f"{method}@")]


def _told(line: Line, told: Line, chosen: Mapping[str, Any]) -> Line:
    if line["method"] == table_lines.BASE:
        return line
    return {**line, "chosen": dict(chosen) or line["chosen"], **told}


def standing(known: Iterable[Line], table: str, domain: str, seed: int, method: str) -> bool:
    """Whether there is a line for it, of the spec as it is; one that does not say which spec it is of counts."""
    own = [line for line in known if (line["domain"], line["seed"], line["method"]) == (domain, seed, method)]
    return bool(own) and own[0].get("spec") in (None, spec_digest(table, method))


def chosen_by(known: Iterable[Line], domain: str, seed: int, method: str) -> dict[str, Any]:
    own = (line for line in known if (line["domain"], line["seed"], line["method"]) == (domain, seed, method))
    return next((dict(line["chosen"]) for line in own), {})


def fill(table: str) -> None:
    """Figures that a line lacks and that the store of its domain still holds."""
    known = read(table)
    for domain in dict.fromkeys(line["domain"] for line in known):
        path = ROOT / spec_of(table, [f"name={named(table, domain)}"]).store_path
        if path.exists():
            own = [line for line in known if line["domain"] == domain and line["seed"] is not None]
            write(table, [table_lines.filled(line, path) for line in own])


def together(table: str, domain: str) -> list[str]:
    """Overrides that make one spec of the pieces whose checkpoints the domain's store still holds, each with the
    settings that were chosen for it, on the seeds that all of them have."""
    whole = document(table)
    path = ROOT / spec_of(table, [f"name={named(table, domain)}"]).store_path
    known = {row["fingerprint"] for row in Store(path, read_only=True).checkpoints() if row["status"] == "complete"}
    lines = [line for line in read(table) if line["domain"] == domain and line["checkpoint"] in known]
    methods, seeds = {}, []
    for name, each in whole["train"]["methods"].items():
        if own := [line for line in lines if line["method"] == name]:
            methods[name] = {**each, **own[0]["chosen"]}
            seeds.append({line["seed"] for line in own})
    found = [f"name={named(table, domain)}", f"train.seeds={sorted(set.intersection(*seeds))}"]
    found += [f"train.methods={json.dumps(methods)}", *(["train.tune={}"] if "tune" in whole["train"] else [])]
    return found + at(table, domain)


def report(table: str, domain: str) -> None:
    """What stands is taken up, and its report is written beside the store."""
    command = [sys.executable, "-m", "refinery", "run", f"specs/tables/{table}.yaml"]
    subprocess.run([*command, *(word for item in together(table, domain) for word in ("--set", item))], cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--domains", nargs="+", default=[])
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--fill", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.fill:
        fill(args.table)
    elif args.report:
        for domain in args.domains or domains_of(args.table):
            report(args.table, domain)
    elif not args.show:
        work(args.table, args.domains or domains_of(args.table), args.methods, args.seeds, args.minutes)
    print(table_pages.page(args.table, spec_of(args.table), read(args.table)))


if __name__ == "__main__":
    main()

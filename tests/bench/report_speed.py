"""How long a report takes, and how much memory: 60 trainings and their base on 8 benchmarks of 1,000 items each.

    python -m tests.bench.report_speed [--write]

A real store of 488,000 made-up samples with texts, read, compared (bootstrap included), drawn and written in every
format by a process of its own, whose time and peak memory are measured. --write keeps the figures beside this file.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from refinery.records import Score, digest
from refinery.spec import MethodSpec, Spec
from refinery.store import Store
from tests.reports import conftest as toy

METHODS, SEEDS, BENCHMARKS, ITEMS = 20, 3, 8, 1000
RESULT = Path(__file__).parent / "results" / "report_speed.json"
SECONDS, BYTES = 30.0, 2 * 2**30
"""What it should stay under."""


class Recipe(toy.Recipe):
    top_k: int = 512


def make_spec(folder: Path) -> Spec:
    """Twenty methods: a sweep of top_k on refined rows, and the same on raw ones."""
    spec = toy.make_spec(train=True)
    methods = {"sft": MethodSpec(method="sft", data="source", params=toy.Recipe())}
    for number in range(METHODS - 1):
        data, k = ("agrees", "source")[number % 2], 2 ** (1 + number // 2)
        methods[f"raft_{data}_k{k}"] = MethodSpec(method="raft", data=data, params=Recipe(top_k=k))
    spec.train.methods, spec.train.tune, spec.train.data = methods, {}, "agrees"
    spec.evaluate.domain, spec.evaluate.general = ["b0"], [f"b{n}" for n in range(1, BENCHMARKS)]
    return spec.model_copy(update={"store": str(folder / "store.duckdb")})


def fill(store: Store, spec: Spec) -> None:
    """Rows of the toy run, then checkpoints, their scores and samples, which the engine makes by itself."""
    toy.fill(store, toy.make_spec(train=False), train=False)
    base = "base" * 8
    rows = [toy.checkpoint(base, "base", "", "base", 0, {}, "")]
    skill = {base: 0.85}
    for number, (name, method) in enumerate(spec.train.methods.items()):
        for seed in range(SEEDS):
            made = digest([name, seed])
            params = method.params.model_dump(mode="json")
            rows.append(toy.checkpoint(made, name, method.method, "final", seed, params, base))
            skill[made] = 0.5 + 0.3 * number / METHODS + 0.01 * seed
    logged = [line for row in rows[1:] for line in toy.log(row["fingerprint"], row["name"], row["seed"])]
    settings = {"shots": 0, "primary_metric": "accuracy"}
    scores = [
        asdict(
            Score(c, f"b{b}", "accuracy", p, p - 0.02, p + 0.02, ITEMS, f"settings{b}".ljust(32, "0"), True, settings)
        )
        for c, p in skill.items()
        for b in range(BENCHMARKS)
    ]
    store.replace_all([("checkpoints", rows, ["fingerprint"]), ("scores", scores, ["checkpoint", "benchmark"]),
                       ("training_metrics", logged, ["checkpoint", "step", "name"])])  # fmt: skip
    with store._transaction() as connection:
        connection.execute("CREATE TEMP TABLE skills (checkpoint VARCHAR, p DOUBLE)")
        connection.executemany("INSERT INTO skills VALUES (?, ?)", list(skill.items()))
        connection.execute(_SAMPLES.format(benchmarks=BENCHMARKS, items=ITEMS))


_SAMPLES = """
    INSERT INTO samples
    SELECT s.checkpoint, 'b' || b, 'accuracy', md5(b || '-' || i)[:24],
           (0.7 * (hash(b, i) % 10007) / 10007 + 0.3 * (hash(s.checkpoint, b, i) % 10007) / 10007 < s.p)::INT,
           'Question ' || i || ' of b' || b || repeat(': what follows from this premise', 8), 'answer ' || i,
           'Let us see. ' || repeat(md5(s.checkpoint || i), 6), rpad('settings' || b, 32, '0')
    FROM skills s, range({benchmarks}) bs(b), range({items}) r(i)
"""


def measure(folder: Path) -> dict[str, Any]:
    """The child's figures."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "tests.bench.report_speed", "--child", str(folder)], check=True,
                          capture_output=True, text=True)  # fmt: skip
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = json.loads(done.stdout.splitlines()[-1])
    times = {"wall_s": time.monotonic() - started, "cpu_s": used.ru_utime + used.ru_stime}
    return {**times, "peak_mib": used.ru_maxrss / 1024, **own}


def child(folder: Path) -> None:
    """What `refinery report` does, from a store that stands."""
    from reports.gather import gather
    from reports.report import FORMATS, write

    started = time.monotonic()
    data = gather(Store(folder / "store.duckdb", read_only=True), make_spec(folder))
    gathered = time.monotonic()
    paths = write(data, folder / "out", FORMATS)
    print(json.dumps({"gather_s": gathered - started, "write_s": time.monotonic() - gathered,
                      "page_mib": paths["html"].stat().st_size / 2**20}))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--child", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        fill(Store(folder / "store.duckdb"), make_spec(folder))
        found = {key: round(value, 2) for key, value in measure(folder).items()}
    found |= {"checkpoints": METHODS * SEEDS + 1, "samples": (METHODS * SEEDS + 1) * BENCHMARKS * ITEMS}
    found |= {
        "load_average": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "blas_threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }
    print(json.dumps(found, indent=1))
    if arguments.write:
        RESULT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"under {SECONDS:.0f} s: {found['wall_s'] < SECONDS}; under 2 GiB: {found['peak_mib'] * 2**20 < BYTES}")
    return None


if __name__ == "__main__":
    main()

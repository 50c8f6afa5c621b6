"""Time and memory of every diagnostic that asks no model, on rows of 100 words streamed from a store.

    python tests/bench/diagnostics.py [rows ...]      (100,000 where none are given)

Each size runs in a process of its own: reading the pairs, then each family. The encoder is left out and in: without it
all families but `embedding`, with it the packaged sentence encoder (`--encoder`). Exits with 1 where 100,000 rows take
more than LIMIT_S seconds or LIMIT_GB of memory, or where time grows faster than the rows.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S, LIMIT_GB = 180, 4.0
BATCH = 5000


def fill(path: Path, rows: int) -> None:
    """A step whose answers are mostly another text, of 100 words from a vocabulary of 20,000."""
    from refinery.records import Example, Outcome
    from refinery.store import Store

    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "to", "vi") for c in range(1400)]
    store = Store(path)
    store.start_step("step", store.start_run("bench", "", "", {}), "refined", "rewrite", 1, {}, [], {})
    for start in range(0, rows, BATCH):
        made = []
        for i in range(start, min(start + BATCH, rows)):
            raw = rng.choices(words, k=100)
            refined = [w if rng.random() < 0.6 else rng.choice(words) for w in raw]
            texts = f"{' '.join(raw[:50])}. {' '.join(raw[50:])}", f"- {' '.join(refined)}"
            example = Example(f"e{i}", [{"role": "user", "content": f"q {i}"}], *texts, fell_back=i % 10 == 0)
            made.append((i, Outcome(example.id, "changed", "ok", example)))
        store.add_outcomes("step", made)
    store.finish_step("step")


def measure(path: str, encoder: bool) -> None:
    from refinery import diagnostics
    from refinery.checks import Check
    from refinery.diagnostics._gates import Reference
    from refinery.diagnostics._pairs import read_pairs
    from refinery.store import Store

    store, times = Store(path), {}
    started = time.monotonic()
    pairs = read_pairs(store, "step")
    times["read"] = time.monotonic() - started
    tools = {"reference": Reference(Check("last_word"))}
    if encoder:
        from refinery.encoder import Encoder

        tools["encoder"] = Encoder()
    for family in diagnostics.all_families():
        started = time.monotonic()
        diagnostics.run(store, "step", families=[family], pairs=pairs, **tools)
        times[family] = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    times = {name: round(seconds, 1) for name, seconds in times.items()}
    cpu = round(time.process_time())
    print(json.dumps({"seconds": times, "cpu": cpu, "gb": round(memory, 2)}))


def main(sizes: list[int], encoder: bool) -> int:
    total: dict[int, float] = {}
    failed = False
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bench.duckdb"
            fill(path, rows)
            command = [sys.executable, __file__, "--measure", str(path), *(["--encoder"] if encoder else [])]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        found = json.loads(done.stdout)
        total[rows] = sum(found["seconds"].values())
        spent = f"{total[rows]:.0f} s ({found['cpu']} of a processor), {found['gb']} GiB at most"
        print(f"{rows:>9,} rows: {spent}; {found['seconds']}", flush=True)
        failed |= rows <= 100_000 and (total[rows] > LIMIT_S or found["gb"] > LIMIT_GB)
    least = min(sizes)
    failed |= any(total[rows] / total[least] > 1.1 * rows / least for rows in sizes)
    return int(failed)


if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if each != "--encoder"]
    if "--measure" in arguments:
        measure(arguments[1], "--encoder" in sys.argv)
    else:
        sys.exit(main([int(each) for each in arguments] or [100_000], "--encoder" in sys.argv))

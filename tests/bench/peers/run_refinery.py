"""Refinery: the spec that a person would write, through the command that a person would type. Every answer is stored.

argv: ROWS BASE_URL CONCURRENCY WORK
"""

import json
import sys
from pathlib import Path

from refinery.cli import main

rows, base_url, concurrency, work = sys.argv[1:5]
model = {"backend": "openai", "model": "fake-model", "base_url": base_url, "concurrency": int(concurrency)}
rewrite = {"op": "rewrite", "from": "source", "model": "writer", "banned": []}
spec = {
    "name": "bench",
    "models": {"writer": model},
    "source": {"path": rows, "prompt": "{{ instruction }}", "answer": "{{ response }}", "split": {"train": 1.0}},
    "graph": {"rewritten": {**rewrite, "prompt": "Rewrite: {{ instruction }}\n{{ answer }}"}},
    "store": f"{work}/bench.duckdb",
}
path = Path(work, "bench.yaml")
path.write_text(json.dumps(spec))
sys.argv = ["refinery", "run", str(path), "--stage", "refine"]
main()

"""How much slower semantic_filter is than its encoder alone, with the packaged all-MiniLM-L6-v2.

    python tests/bench/filter_speed.py [--rows 1000] [--passes 3]

Each row has a question and an answer of 100 common words, so that no text is over the encoder's window; the filter
compares the two, which embeds both. `filter` is the time of the whole graph from an empty store: rows read, vectors and
outcomes stored. `bare` is SentenceTransformer.encode of the same texts at its default batch. Both load the weights, in
one process whose libraries are loaded, in turn. Prints JSON.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from refinery.encoder import Encoder
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store
from tests.bench.peers.rows import WORDS

SPEC = """
name: filter
source: {path: "ROWS", prompt: "{{ question }}", answer: "{{ answer }}", split: {train: 1.0}}
graph: {close: {op: semantic_filter, from: source, against: "{{ question }}"}}
"""


def texts(rows: int) -> list[tuple[str, str]]:
    draw, words = random.Random(0), WORDS.split()
    return [(" ".join(draw.choices(words, k=100)), " ".join(draw.choices(words, k=100))) for _ in range(rows)]


def filtered(pairs: list[tuple[str, str]], folder: Path) -> float:
    """Seconds."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in pairs))
    (folder / "spec.yaml").write_text(SPEC.replace("ROWS", str(path)))
    spec = load_spec(folder / "spec.yaml")
    started = time.perf_counter()
    result = run_graph(spec, Store(folder / "store.duckdb"))["close"]
    seconds = time.perf_counter() - started
    assert result.rows == result.ran == len(pairs)
    assert not result.failed
    return seconds


def bare(pairs: list[tuple[str, str]]) -> float:
    """Seconds."""
    from sentence_transformers import SentenceTransformer

    started = time.perf_counter()
    model = SentenceTransformer(str(Encoder().folder), model_kwargs={"dtype": "float32"}).eval()
    model.encode([text for pair in pairs for text in pair], normalize_embeddings=True, show_progress_bar=False)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    pairs, found = texts(args.rows), []
    bare(pairs[:8])
    for _ in range(args.passes):
        with tempfile.TemporaryDirectory() as folder:
            found.append({"filter": filtered(pairs, Path(folder)), "bare": bare(pairs)})
    ratio = statistics.median(each["filter"] for each in found) / statistics.median(each["bare"] for each in found)
    result: dict[str, Any] = {"rows": args.rows, "passes": found, "ratio": round(ratio, 3)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""How long near-duplicate search takes, and what it misses, on clustered vectors with planted near-duplicates.

    python tests/bench/near_duplicates.py --rows 1000000

Vectors (384-d, as all-MiniLM-L6-v2 gives) lie around topics; a fifth of them are copies of another row at a cosine
drawn evenly from 0.93 to 1, so that some lie on either side of the threshold 0.95. Prints JSON:

  seconds       deciding every row (refinery.neighbours.leaders), with index and training
  pair_recall   of all pairs at or above the threshold that have one of 10,000 rows at an end, found by exact search
                over all rows, those that the same index finds too
  drop_recall   of those rows among the 10,000 that have, by exact search, a staying row within the threshold before
                them, those that were dropped
  wrong         rows dropped without a staying row within the threshold before them (0: cosines are exact)
"""

import argparse
import json
import resource
import time

import numpy as np

from refinery import neighbours

SIZE = 384


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 384) float32 unit vectors."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((max(1, rows // 500), SIZE), dtype=np.float32)
    found = np.empty((rows, SIZE), dtype=np.float32)
    for start in range(0, rows, 50_000):
        part = found[start : start + 50_000]
        part[:] = 0.7 * topics[rng.integers(len(topics), size=len(part))]
        part += 0.71 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    copies = rng.permutation(rows)[: rows // 5]
    originals = np.setdiff1d(np.arange(rows), copies)
    of = rng.choice(originals, size=len(copies))
    cosines = rng.uniform(0.93, 1, size=len(copies)).astype(np.float32)[:, None]
    for start in range(0, len(copies), 50_000):
        part = slice(start, start + 50_000)
        base = found[of[part]]
        aside = rng.standard_normal(base.shape, dtype=np.float32)
        aside -= (aside * base).sum(1, keepdims=True) * base
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        found[copies[part]] = cosines[part] * base + np.sqrt(1 - cosines[part] ** 2) * aside
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--checked", type=int, default=10_000)
    parser.add_argument("--min-cosine", type=float, default=0.95)
    args = parser.parse_args()
    library, data = neighbours.faiss(), vectors(args.rows)
    rows = np.random.default_rng(1).permutation(args.rows)[: args.checked]

    started = time.perf_counter()
    found = neighbours.leaders(data, args.min_cosine)
    seconds = time.perf_counter() - started

    stays = found.leader == np.arange(args.rows)
    exact = library.IndexFlatIP(SIZE)
    exact.add(data)
    limits, _, others = exact.range_search(data[rows], args.min_cosine)
    ends = np.repeat(rows, np.diff(limits).astype(int))
    pairs = {(a, b) for a, b in zip(ends.tolist(), others.tolist(), strict=True) if a != b}
    del exact
    before = {a for a, b in pairs if b < a and stays[b]}
    started = time.perf_counter()
    index = neighbours.index_for(data)
    index.add(data)
    building = time.perf_counter() - started
    limits, _, others = index.range_search(data[rows], args.min_cosine)
    ends = np.repeat(rows, np.diff(limits).astype(int))
    again = set(zip(ends.tolist(), others.tolist(), strict=True))
    print(
        json.dumps(
            {
                "rows": args.rows,
                "seconds": round(seconds, 1),
                "building": round(building, 1),
                "dropped": int((~stays).sum()),
                "pairs": len(pairs),
                "pair_recall": round(len(pairs & again) / len(pairs), 4),
                "drop_recall": round(sum(not stays[a] for a in before) / len(before), 4),
                "wrong": sum(not stays[a] and a not in before for a in rows.tolist()),
                "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            }
        )
    )


if __name__ == "__main__":
    main()

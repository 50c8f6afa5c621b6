"""Which vectors lie close together, by FAISS: exactly for some tens of thousands, by an inverted file for millions.

Vectors are unit vectors, so that an inner product is a cosine. The inverted file (Johnson et al., arXiv:1702.08734)
sorts vectors into cells around k-means centroids and looks only into the cells nearest to what is sought: neighbours as
close as near-duplicates are share a cell or lie in one beside it. tests/bench/near_duplicates.py measures speed and
recall.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from refinery.errors import UserError

EXACT_UP_TO = 50_000
"""Vectors that are searched one by one; above, by cells."""
PROBES = 8
"""Cells looked into."""
TRAINED_ON = 48
"""Vectors for each centroid that k-means sees."""
ROUNDS = 6
"""Of k-means: the cells need not be good ones."""
BLOCK = 2048
"""Rows that are decided together."""
SLACK = 5e-7
"""float32 gives 0.99999994 for a vector and itself; cosines are compared to six decimals."""


def faiss() -> Any:
    """UserError where it is not installed."""
    try:
        import faiss as library
    except ImportError:
        raise UserError('near-duplicates need faiss: pip install "refinery[embed]"') from None
    return library


def index_for(vectors: np.ndarray, *, seed: int = 0) -> Any:
    """An empty index, by inner product, fit for as many vectors as these and trained on some of them.

    `vectors`: (n, d) float32.
    """
    library = faiss()
    count, size = vectors.shape
    if count <= EXACT_UP_TO:
        return library.IndexFlatIP(size)
    cells = int(4 * count**0.5 / 2) or 1
    index = library.IndexIVFFlat(library.IndexFlatIP(size), size, cells, library.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed, index.cp.max_points_per_centroid = ROUNDS, seed + 1, TRAINED_ON
    chosen = np.random.default_rng(seed).permutation(count)[: cells * TRAINED_ON]
    index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    index.nprobe = PROBES
    return index


def nearest(queries: np.ndarray, among: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For each of (n, d) `queries` the nearest of (m, d) `among`: (indices, cosines), -1 and nan where m is 0."""
    if not len(among):
        return np.full(len(queries), -1), np.full(len(queries), np.nan)
    index = index_for(among, seed=seed)
    index.add(among)
    cosines, found = index.search(queries, 1)
    return found[:, 0], cosines[:, 0]


@dataclass(frozen=True, slots=True)
class Leaders:
    """Who covers whom. Arrays over the rows, in the order of their ranks."""

    leader: np.ndarray
    """The row that stays in its stead; its own index for a row that stays."""
    nearest: np.ndarray
    """The nearest of the rows that stay and rank before it, -1 where there is none: a leader, or the reason why this
    row is one."""
    cosine: np.ndarray
    """To `nearest`, nan where there is none."""


def leaders(vectors: np.ndarray, min_cosine: float, *, seed: int = 0) -> Leaders:
    """Go through unit `vectors` (n, d; float32) in their order: a row stays unless one that stays is as near as
    `min_cosine`, so that every row that goes has a near one that stays. Rows do not chain: of three in a line, whose
    ends are apart, both ends stay.

    Memory is the vectors' own twice over; the time for n rows that all stay grows as n^1.5.
    """
    count, enough = len(vectors), min_cosine - SLACK
    nearest_row, cosine = np.full(count, -1, dtype=np.int64), np.full(count, np.nan, dtype=np.float32)
    leader = np.arange(count, dtype=np.int64)
    index = index_for(vectors, seed=seed)
    staying = np.empty(count, dtype=np.int64)
    known = 0
    for start in range(0, count, BLOCK):
        block = vectors[start : start + BLOCK]
        best = np.full(len(block), -np.inf, dtype=np.float32)
        who = np.full(len(block), -1, dtype=np.int64)
        if known:
            cosines, found = index.search(block, 1)
            there = found[:, 0] >= 0
            best[there], who[there] = cosines[there, 0], staying[found[there, 0]]
        _within(block, start, best, who, enough)
        stays = best < enough
        has = who >= 0
        nearest_row[start : start + len(block)] = who
        cosine[start : start + len(block)][has] = best[has]
        leader[start : start + len(block)][~stays] = who[~stays]
        new = np.flatnonzero(stays)
        index.add(np.ascontiguousarray(block[new]))
        staying[known : known + len(new)] = start + new
        known += len(new)
    return Leaders(leader, nearest_row, cosine)


def _within(block: np.ndarray, start: int, best: np.ndarray, who: np.ndarray, enough: float) -> None:
    """The same among the block's own rows: `best` and `who` become what they are with its earlier rows that stay."""
    candidates = np.flatnonzero(best < enough)
    cosines = block[candidates] @ block.T
    for row, values in zip(candidates, cosines, strict=True):
        if best[row] >= enough:
            continue
        nearer = row + 1 + np.flatnonzero(values[row + 1 :] > best[row + 1 :])
        best[nearer], who[nearer] = values[nearer], start + row

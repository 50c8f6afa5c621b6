"""Vectors in clusters, and an order of them of which any first part shows the clusters in proportion."""

import numpy as np

from refinery.choosing import in_proportion
from refinery.neighbours import faiss


def by_clusters(vectors: np.ndarray, clusters: int, wanted: int, seed: int) -> list[tuple[int, int, float]]:
    """(place, cluster, distance to its centre) of each of (n, d) float32 `vectors`, the first to take first: the first
    `wanted` have of each cluster in proportion to its size, the nearest to its centre; so, nearly, has any first part.
    """
    found, distances = cluster(vectors, clusters, seed)
    members: dict[int, list[int]] = {}
    for place in np.argsort(distances, kind="stable").tolist():
        members.setdefault(int(found[place]), []).append(place)
    turns = [
        ((rank + 0.5) / len(places), each, place)
        for each, places in members.items()
        for rank, place in enumerate(places)
    ]
    taken = in_proportion(wanted, {each: len(places) for each, places in members.items()})
    first = {place for each, places in members.items() for place in places[: taken[each]]}
    order = sorted(turns, key=lambda turn: (turn[2] not in first, turn))
    return [(place, each, float(distances[place])) for _, each, place in order]


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(cluster of each row, distance to its centre) by k-means, for (n, d) float32 `vectors`."""
    library = faiss()
    count = min(clusters, len(vectors))
    kmeans = library.Kmeans(
        vectors.shape[1],
        count,
        niter=25,
        nredo=3,
        seed=seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=10**6,
    )
    kmeans.train(vectors)
    squares, found = kmeans.index.search(vectors, 1)
    return found[:, 0], np.sqrt(np.maximum(squares[:, 0], 0))

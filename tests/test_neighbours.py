"""FAISS against exhaustive search in numpy, on planted near-duplicates."""

import numpy as np
import pytest

from refinery import neighbours


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def planted(count, size=48, seed=0):
    """Rows around topics; every fourth is a copy of an earlier one at a cosine between 0.9 and 1."""
    rng = np.random.default_rng(seed)
    found = unit(rng.standard_normal((count // 50 + 1, size))[np.arange(count) % (count // 50 + 1)]
                 + rng.standard_normal((count, size)))  # fmt: skip
    for row in range(4, count, 4):
        aside = rng.standard_normal(size)
        base = found[rng.integers(row)]
        aside -= (aside @ base) * base
        cosine = rng.uniform(0.9, 1)
        found[row] = cosine * base + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)
    return unit(found)


def by_hand(vectors, min_cosine):
    """(leader, nearest staying row before, its cosine) one row at a time, in float64."""
    vectors = vectors.astype(np.float64)
    leader, near, cosines, staying = [], [], [], []
    for row, vector in enumerate(vectors):
        values = vectors[staying] @ vector
        best = int(values.argmax()) if staying else -1
        near.append(staying[best] if staying else -1)
        cosines.append(values[best] if staying else np.nan)
        covered = bool(staying) and values[best] >= min_cosine
        leader.append(staying[best] if covered else row)
        if not covered:
            staying.append(row)
    return np.array(leader), np.array(near), np.array(cosines)


@pytest.mark.parametrize("block", [16, 200, 4096])
@pytest.mark.parametrize("min_cosine", [0.5, 0.93, 0.99])
def test_exactly_what_going_row_by_row_finds(monkeypatch, block, min_cosine):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    vectors = planted(600)
    found = neighbours.leaders(vectors, min_cosine)
    leader, near, cosines = by_hand(vectors, min_cosine)
    assert (found.leader == leader).all()
    assert (found.nearest == near).all()
    np.testing.assert_allclose(found.cosine, cosines, atol=1e-5)
    assert 0 < (leader != np.arange(600)).sum() < 600


def test_a_chain_does_not_join_its_ends():
    angles = np.deg2rad([0, 10, 20, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = neighbours.leaders(vectors, float(np.cos(np.deg2rad(12))))
    assert found.leader.tolist() == [0, 0, 2, 2]


def test_by_cells_hardly_a_pair_is_missed_and_no_row_goes_wrongly(monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 1000)
    monkeypatch.setattr(neighbours, "BLOCK", 512)
    vectors = planted(10_000)
    found = neighbours.leaders(vectors, 0.95)
    stays = found.leader == np.arange(len(vectors))
    cosines = vectors @ vectors.T
    before = np.tril(cosines, -1) * stays[None, :]
    covered = before.max(axis=1) >= 0.95
    assert not (~stays & ~covered).any()
    assert (~stays & covered).sum() / covered.sum() >= 0.95

    index = neighbours.index_for(vectors)
    index.add(vectors)
    limits, _, others = index.range_search(vectors, 0.95)
    rows = np.repeat(np.arange(len(vectors)), np.diff(limits).astype(int))
    np.fill_diagonal(cosines, 0)
    exact = set(zip(*(part.tolist() for part in np.nonzero(cosines >= 0.95)), strict=True))
    recall = len(exact & set(zip(rows.tolist(), others.tolist(), strict=True))) / len(exact)
    assert recall >= 0.95
    assert len(exact) > 2_000


def test_the_nearest_of_another_set():
    vectors = planted(300)
    places, cosines = neighbours.nearest(vectors[:100], vectors[100:])
    exact = vectors[:100] @ vectors[100:].T
    assert (places == exact.argmax(axis=1)).all()
    np.testing.assert_allclose(cosines, exact.max(axis=1), atol=1e-5)
    places, cosines = neighbours.nearest(vectors, vectors[:0])
    assert (places == -1).all()
    assert np.isnan(cosines).all()


def test_the_same_rows_again_and_an_empty_set():
    vectors = planted(50)
    found = neighbours.leaders(np.concatenate([vectors, vectors]), 1.0)
    assert (found.leader[50:] == found.leader[:50]).all()
    assert neighbours.leaders(vectors[:0], 0.9).leader.tolist() == []

"""Embedding measures against loops in float64, scipy's matrix square root and scipy's t interval."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import linalg, stats

from refinery.diagnostics import embedding
from refinery.diagnostics._pairs import paired


class Table:
    """An encoder that looks vectors up."""

    identity = "table"

    def __init__(self, vectors: dict[str, np.ndarray]):
        self.vectors, self.asked = vectors, []

    def encode(self, texts):
        self.asked.append(list(texts))
        return np.array([self.vectors[t] for t in texts], dtype=np.float32)


def pairs(n: int, d: int, shift: float, seed: int = 0):
    """n raw and refined texts whose vectors differ by noise and by `shift` along the first axis."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x + 0.5 * rng.normal(size=(n, d))
    y[:, 0] += shift
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    raw, refined = [f"raw {i}" for i in range(n)], [f"refined {i}" for i in range(n)]
    table = {**dict(zip(raw, x, strict=True)), **dict(zip(refined, y, strict=True))}
    single = [np.asarray(v, dtype=np.float32).astype(np.float64) for v in (x, y)]
    return raw, refined, Table(table), *single


def measured(n=60, d=6, shift=0.4, seed=0):
    raw, refined, encoder, x, y = pairs(n, d, shift, seed)
    return {r["name"]: r for r in embedding.measure(paired(raw, refined), encoder=encoder)}, x, y


def test_cosines():
    rows, x, y = measured()
    cosines = [float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(x, y, strict=True)]
    mean = rows["cosine_mean"]
    assert mean["value"] == pytest.approx(np.mean(cosines), abs=1e-6)
    interval = stats.t.interval(0.95, len(cosines) - 1, np.mean(cosines), stats.sem(cosines))
    assert (mean["low"], mean["high"]) == pytest.approx(interval, abs=1e-5)
    assert rows["cosine_median"]["value"] == pytest.approx(np.median(cosines), abs=1e-6)
    assert rows["cosine_p05"]["value"] == pytest.approx(np.percentile(cosines, 5), abs=1e-6)
    shape = mean["detail"]["histogram"]
    assert len(shape["counts"]) == 20 and len(shape["edges"]) == 21 and sum(shape["counts"]) == 60
    inside = [shape["edges"][-2] <= c for c in cosines]
    assert shape["counts"][-1] == sum(inside)


def naive_mmd2(x, y, sigma):
    """Gretton et al. 2012, eq. 4, term by term."""
    n, total = len(x), 0.0

    def k(a, b):
        return np.exp(-np.sum((a - b) ** 2) / (2 * sigma**2))

    for i in range(n):
        for j in range(n):
            if i != j:
                total += k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
    return total / (n * (n - 1))


def test_mmd_equals_the_double_loop_with_the_median_distance():
    rows, x, y = measured()
    both = np.vstack([x, y])
    sigma = np.median([np.linalg.norm(both[i] - both[j]) for i in range(120) for j in range(i)])
    assert rows["mmd2"]["detail"]["bandwidth"] == pytest.approx(sigma, rel=1e-6)
    assert rows["mmd2"]["value"] == pytest.approx(naive_mmd2(x, y, sigma), abs=1e-9)


def test_mmd_p_equals_swapping_pairs_one_by_one(monkeypatch):
    raw, refined, encoder, x, y = pairs(12, 4, 0.2)
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(200, 12))
    monkeypatch.setattr(embedding, "exchanges", lambda n, seed, times=200: signs[:times])
    rows = {r["name"]: r for r in embedding.measure(paired(raw, refined), encoder=encoder)}
    sigma, observed = rows["mmd2"]["detail"]["bandwidth"], rows["mmd2"]["value"]
    extreme, shifts = 0, 0
    for row in signs:
        swap = (row < 0)[:, None]
        a, b = np.where(swap, y, x), np.where(swap, x, y)
        extreme += naive_mmd2(a, b, sigma) >= observed - 1e-12
        shifts += centroid_distance(a, b) >= rows["centroid_shift"]["value"] - 1e-12
    assert rows["mmd2"]["detail"]["p"] == (1 + extreme) / 201
    assert rows["centroid_shift"]["detail"]["p"] == (1 + shifts) / 201


def centroid_distance(x, y):
    a, b = x.mean(0), y.mean(0)
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_centroid_shift():
    rows, x, y = measured()
    assert rows["centroid_shift"]["value"] == pytest.approx(centroid_distance(x, y), abs=1e-7)


def test_p_values_find_a_shift_and_are_uniform_without_one():
    shifted, *_ = measured(shift=0.8)
    assert shifted["mmd2"]["detail"]["p"] < 0.01 and shifted["centroid_shift"]["detail"]["p"] < 0.01
    # Without a shift raw and refined must be exchangeable: both are one text's vector plus noise of their own.
    below = {"mmd2": 0, "centroid_shift": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        base = rng.normal(size=(30, 4))
        x, y = (base + 0.5 * rng.normal(size=(30, 4)) for _ in range(2))
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        below["mmd2"] += embedding._mmd2(x, y, seed)["detail"]["p"] < 0.2
        below["centroid_shift"] += embedding._centroid_shift(x, y, seed)["detail"]["p"] < 0.2
    for count in below.values():
        assert stats.binomtest(count, 60, 0.2).pvalue > 0.001


def test_frechet_equals_scipy_and_is_withheld_for_few_rows():
    rows, x, y = measured()
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert rows["frechet"]["value"] == pytest.approx(expected, abs=1e-6)
    assert 0 < rows["frechet"]["detail"]["exchanged"] < rows["frechet"]["value"]
    few, *_ = measured(n=11, d=6)
    assert few["frechet"]["value"] is None and few["frechet"]["detail"]["note"] == (
        "11 pairs are fewer than twice the 6 dimensions"
    )


def test_equal_sides_have_no_distance():
    raw, _, encoder, *_ = pairs(40, 5, 0)
    rows = {r["name"]: r for r in embedding.measure(paired(raw, raw), encoder=encoder)}
    assert rows["cosine_mean"]["value"] == pytest.approx(1)
    for name in ("centroid_shift", "mmd2", "frechet"):
        assert rows[name]["value"] == pytest.approx(0, abs=1e-6)
    assert rows["mmd2"]["detail"]["p"] == rows["centroid_shift"]["detail"]["p"] == 1


def test_empty_texts_are_left_out_and_counted():
    raw, refined, encoder, x, y = pairs(10, 4, 0.3)
    encoder.vectors[""] = np.zeros(4)
    rows = {r["name"]: r for r in embedding.measure(paired([*raw, "raw 0"], [*refined, ""]), encoder=encoder)}
    assert rows["cosine_mean"]["n"] == 10 and rows["cosine_mean"]["detail"]["empty"] == 1
    assert rows["cosine_mean"]["value"] == pytest.approx(np.mean(np.sum(x * y, 1)), abs=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_next_to_no_rows(n):
    raw, refined, encoder, *_ = pairs(2, 4, 0.3)
    encoder.encode = lambda texts: np.array([encoder.vectors[t] for t in texts], dtype=np.float32).reshape(-1, 4)
    rows = {r["name"]: r for r in embedding.measure(paired(raw[:n], refined[:n]), encoder=encoder)}
    assert rows["cosine_mean"]["n"] == n
    assert (rows["cosine_mean"]["value"] is None) == (n == 0)
    assert (rows["mmd2"]["value"] is None) == (n < 2)


def test_large_sets_are_sampled_with_a_seed_and_each_text_is_encoded_once(monkeypatch):
    monkeypatch.setattr(embedding, "LIMIT", 20)
    raw, refined, encoder, *_ = pairs(50, 4, 0.3)
    first = embedding.measure(paired(raw, refined), encoder=encoder)
    assert first[0]["n"] == 20 and [len(a) for a in encoder.asked] == [40]
    assert embedding.measure(paired(raw, refined), encoder=encoder) == first
    assert embedding.measure(paired(raw, refined), encoder=encoder, seed=1) != first


def test_the_map_keeps_distances_of_what_lies_in_a_plane():
    """Vectors on a circle lie in two dimensions: the map must show their distances as they are."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, (20, 2))
    x, y = (np.stack([np.cos(a), np.sin(a), 0 * a], axis=1) for a in angles.T)
    row = embedding._map(x, y)
    assert row["value"] == pytest.approx(1)
    places = np.array(row["detail"]["points"])
    ours = np.linalg.norm(places[:, :2] - places[:, 2:], axis=1)
    assert ours == pytest.approx(np.linalg.norm(x - y, axis=1), abs=1e-3)
    assert embedding._map(x[:2], y[:2])["value"] is None


def test_distance_to_the_models_own_answers():
    raw, refined, encoder, x, y = pairs(40, 5, 0.6)
    z = np.array([0.9 * b + 0.1 * a for a, b in zip(x, y, strict=True)])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    encoder.vectors |= {f"own {i}": z[i] for i in range(40)}
    own = SimpleNamespace(texts={str(i): f"own {i}" for i in range(30)}, model="self", cut=2)
    rows = {r["name"]: r for r in embedding.measure(paired(raw, refined), encoder=encoder, own=own)}
    gain = np.sum((y - x)[:30] * z[:30], axis=1)
    assert rows["own_cosine_change"]["value"] == pytest.approx(gain.mean(), abs=1e-6)
    assert rows["own_cosine_change"]["n"] == 30 and rows["own_cosine_change"]["detail"]["cut"] == 2
    both = [*x[:30], *z[:30]]
    sigma = np.median([np.linalg.norm(a - b) for i, a in enumerate(both) for b in both[:i]])
    assert rows["own_mmd2_raw"]["value"] == pytest.approx(naive_mmd2(x[:30], z[:30], sigma), abs=1e-6)
    assert rows["own_mmd2_refined"]["value"] < rows["own_mmd2_raw"]["value"]

"""The classifier two-sample test: areas against scikit-learn's, intervals against a bootstrap."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from refinery.diagnostics import _numbers, separability
from refinery.diagnostics._pairs import paired


def corpus(n, words, seed, extra=""):
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=12)) + (extra if rng.random() < 0.5 else "") for _ in range(n)]


WORDS = [f"w{i}" for i in range(60)]


def test_areas_equal_scikit_learn():
    rng = np.random.default_rng(0)
    zeros, ones = np.round(rng.normal(size=60), 1), np.round(rng.normal(0.7, 1, size=60), 1)  # rounded: with ties
    fold = np.arange(60) % 3
    theirs = [
        roc_auc_score(np.repeat([0, 1], 20), np.concatenate([zeros[fold == f], ones[fold == f]])) for f in range(3)
    ]
    value, influence = separability.areas(zeros, ones, fold)
    assert value == pytest.approx(np.mean(theirs))
    assert influence.mean() == pytest.approx(0, abs=1e-12)


def test_interval_agrees_with_a_bootstrap_over_pairs():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=400)
    zeros, ones = shared + rng.normal(size=400), shared + rng.normal(0.6, 1, size=400)
    _, influence = separability.areas(zeros, ones, np.zeros(400))
    error = np.std(influence, ddof=1) / 400**0.5
    drawn = []
    for _ in range(600):
        at = rng.integers(0, 400, 400)
        drawn.append(roc_auc_score(np.repeat([0, 1], 400), np.concatenate([zeros[at], ones[at]])))
    assert error == pytest.approx(np.std(drawn), rel=0.12)
    _, unpaired = separability.areas(rng.permutation(zeros), ones, np.zeros(400))
    assert np.std(influence) < 0.9 * np.std(unpaired)  # what a pair shares moves neither side past the other


def test_sides_of_one_kind_cannot_be_told_apart():
    inside = 0
    for seed in range(6):
        raw, refined = corpus(120, WORDS, seed), corpus(120, WORDS, seed + 100)
        (row,) = separability.measure(paired(raw, refined))
        assert row["n"] == 120 and 0.3 < row["value"] < 0.7
        inside += row["low"] <= 0.5 <= row["high"]
    assert inside >= 4


def test_a_habit_is_found_and_named():
    raw, refined = corpus(150, WORDS, 1), corpus(150, WORDS, 2, extra=" indeed so")
    (row,) = separability.measure(paired(raw, refined))
    assert row["low"] > 0.5 and "indeed" in row["detail"]["words"][1]
    (row,) = separability.measure(paired(raw, [f"{t} indeed" for t in raw]))
    assert row["value"] == pytest.approx(1) and row["low"] < 1  # always right, never certain


def test_against_own_answers():
    raw, refined = corpus(60, WORDS, 1), corpus(60, WORDS, 2)
    own = SimpleNamespace(texts={str(i): f"other words {i % 7} entirely" for i in range(30)})
    rows = {r["name"]: r for r in separability.measure(paired(raw, refined), own=own)}
    assert {name: row["n"] for name, row in rows.items()} == {"raw_refined": 60, "own_raw": 30, "own_refined": 30}
    assert rows["own_raw"]["value"] > 0.95


def test_too_few_no_words_and_no_library(monkeypatch):
    (row,) = separability.measure(paired(["a"] * 5, ["b"] * 5))
    assert row["value"] is None and row["detail"]["note"] == "needs 20 pairs"
    (row,) = separability.measure(paired(["!"] * 30, ["?"] * 30))
    assert row["value"] is None and "no words" in row["detail"]["note"]
    monkeypatch.setattr(_numbers, "find_spec", lambda name: None)
    (row,) = separability.measure(paired(["a b"] * 30, ["b c"] * 30))
    assert row["detail"]["note"] == 'needs scikit-learn: pip install "refinery[diagnose]"'

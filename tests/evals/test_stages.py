"""The matrix of continual stages, from scores written by hand."""

from pathlib import Path

import pytest

from evals.stages import Matrix, matrices
from refinery.records import Score
from refinery.spec import SourceSpec, Spec
from refinery.store import Store
from trainers.methods import sft


def spec() -> Spec:
    train = {
        "seeds": [0, 1],
        "stages": [{"data": "source", "name": "a"}, {"data": "source", "name": "b"}],
        "methods": {"plain": {"method": "sft", "params": sft.Params()}},
    }
    return Spec(
        name="x",
        source=SourceSpec(lab="clinic"),
        train=train,
        evaluate={"domain": ["one"], "general": ["two", "three"]},
    )


def fill(store: Store) -> None:
    values = {
        ("base", "base", 0): {"one": 0.1, "two": 0.8},
        ("plain@a", "stage", 0): {"one": 0.9, "two": 0.7},
        ("plain@a", "stage", 1): {"one": 0.7, "two": 0.5},
        ("plain", "final", 0): {"one": 0.5, "two": 0.9},
        ("plain", "final", 1): {"one": 0.4, "two": 0.8},
        ("plain@old", "former", 0): {"one": 1.0, "two": 1.0},
    }
    for (name, role, seed), scores in values.items():
        fingerprint = f"{name}{seed}"
        store.start_checkpoint(fingerprint, "run", name, "sft", {}, seed, "", "", "", role)
        store.add_scores([Score(fingerprint, b, "acc", v, 0, 1, 10, "f", True, {}) for b, v in scores.items()])


def test_means_over_seeds_and_what_was_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    fill(store)
    (found,) = matrices(spec(), store)
    assert found.rows == ["base", "a", "b"] and found.columns == ["one", "two", "three"]
    assert [row[:2] for row in found.values] == [
        pytest.approx([0.1, 0.8]),
        pytest.approx([0.8, 0.6]),
        pytest.approx([0.45, 0.85]),
    ]
    assert all(row[2] is None for row in found.values)
    assert found.forgotten()[:2] == pytest.approx([0.8 - 0.45, 0.8 - 0.85]) and found.forgotten()[2] is None
    lines = found.lines()
    assert lines[0].split() == ["plain", "one", "two", "three"] and lines[-1].split() == [
        "forgotten",
        "0.350",
        "-0.050",
    ]


def test_scores_measured_otherwise_stand_in_no_column(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    fill(store)
    other = Score("plain1", "one", "acc", 0.9, 0, 1, 10, "g", True, {"batch_size": 8})
    store.add_scores([other])
    with_both = matrices(spec(), store)[0]
    assert with_both.values[2][0] == pytest.approx(0.45)  # its score under the shared settings counts
    store.start_checkpoint("plain2", "run", "plain", "sft", {}, 2, "", "", "", "final")
    store.add_scores([Score("plain2", "one", "acc", 0.9, 0, 1, 10, "g", True, {"batch_size": 8})])
    (found,) = matrices(spec(), store)
    assert found.values[2][0] == pytest.approx(0.45)
    assert found.notes == ["plain seed 2: one left out (batch_size 8 instead of None)"]
    assert found.lines()[-1] == found.notes[0]


def test_a_domain_benchmark_for_each_stage_gives_the_measures_of_continual_learning(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    fill(store)
    two = spec()
    assert two.evaluate is not None
    two.evaluate.domain, two.evaluate.general = ["one", "two"], ["three"]
    (found,) = matrices(two, store)
    assert found.measures is not None
    assert found.measures.accuracy.value == pytest.approx(((0.5 + 0.9) / 2 + (0.4 + 0.8) / 2) / 2)
    assert found.measures.backward_transfer.value == pytest.approx(((0.5 - 0.9) + (0.4 - 0.7)) / 2)
    assert found.measures.forward_transfer.value == pytest.approx(((0.7 - 0.8) + (0.5 - 0.8)) / 2)
    assert any(line.startswith("backward transfer -0.350 [") for line in found.lines())
    assert matrices(spec(), store)[0].measures is None


def test_nothing_without_stages(tmp_path: Path) -> None:
    one = spec()
    assert one.train is not None
    one.train.stages = []
    assert matrices(one, Store(tmp_path / "store.duckdb")) == []


def test_a_stage_without_scores_is_unknown_and_not_zero() -> None:
    assert Matrix("m", ["base", "a"], ["x"], [[0.5], [None]]).forgotten() == [None]
    assert Matrix("m", ["base", "a", "b"], ["x"], [[None], [0.4], [0.5]]).forgotten() == [pytest.approx(-0.1)]

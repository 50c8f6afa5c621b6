"""Preferences: verdicts by hand, kappas against scikit-learn and statsmodels."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from refinery.diagnostics import preference
from refinery.diagnostics._pairs import paired
from refinery.diagnostics.preference import Labels, kappa, majority, texts_digest

RAW, REFINED = [f"a{i}" for i in range(10)], [f"b{i}" for i in range(10)]
PAIRS = paired(RAW, REFINED)


def label(i, choice, first="raw", rater="me", kind="human", texts=None, model=""):
    texts = texts or texts_digest(RAW[i], REFINED[i])
    return {"example_id": str(i), "rater": rater, "kind": kind, "first": first, "choice": choice, "texts": texts,
            "model": model}  # fmt: skip


def rows(*labels):
    return {r["name"]: r for r in preference.measure(PAIRS, labels=Labels(labels))}


def test_wins_ties_and_consistency():
    found = rows(
        label(0, "refined"), label(0, "refined", "refined"),  # stands when swapped
        label(1, "refined"), label(1, "raw", "refined"),  # follows the place: a tie
        label(2, "raw"),  # judged once
        label(3, "tie"), label(3, "tie", "refined"),
        label(4, "refined"),
    )  # fmt: skip
    wins = found["human_wins"]
    assert (wins["value"], wins["n"]) == (2 / 3, 3) and wins["detail"]["tie"] == 2
    assert found["human_ties"]["value"] == 2 / 5
    assert (found["human_consistency"]["value"], found["human_consistency"]["n"]) == (2 / 3, 3)
    assert found["human_kappa"]["value"] is None and not any(name.startswith("model") for name in found)


def test_people_and_models_are_kept_apart():
    found = rows(label(0, "refined"), label(0, "raw", kind="model", rater="judge", model="m"))
    assert found["human_wins"]["value"] == 1 and found["model_wins"]["value"] == 0
    assert found["model_wins"]["detail"]["models"] == ["m"]


def test_judgements_of_texts_that_changed_do_not_count():
    assert rows(label(0, "refined", texts="other")) == {}
    assert rows(label(0, "refined", texts="other"), label(1, "raw"))["human_wins"]["n"] == 1


def test_majority():
    assert majority(["raw", "refined", "refined"]) == "refined"
    assert majority(["raw", "refined", "tie"]) == "tie" and majority(["tie", "tie", "raw"]) == "raw"


@pytest.mark.parametrize("seed", range(5))
def test_kappas_equal_the_libraries(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 40)
    table = np.stack([np.where(rng.random(40) < 0.6, truth, rng.integers(0, 3, 40)) for _ in range(4)], axis=1)
    assert kappa(table[:, :2]) == pytest.approx(cohen_kappa_score(table[:, 0], table[:, 1], labels=[0, 1, 2]))
    assert kappa(table) == pytest.approx(fleiss_kappa(aggregate_raters(table, n_cat=3)[0]))


def test_two_raters():
    found = rows(*(label(i, "refined" if i % 2 else "raw", rater=r) for i in range(8) for r in ("me", "you")))
    row = found["human_kappa"]
    assert row["value"] == 1 and row["n"] == 8 and row["detail"]["kind"] == "Cohen"
    same = rows(*(label(i, "refined", rater=r) for i in range(4) for r in ("me", "you")))
    assert same["human_kappa"]["value"] is None  # chance would agree as well

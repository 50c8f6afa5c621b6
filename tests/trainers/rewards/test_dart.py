"""DART's reward in closed form, and its presets."""

import random
import statistics

import pytest

from trainers.methods.dart import Params
from trainers.rewards import dart
from trainers.rewards.dart import Weights


def test_robust_scale_is_the_deviation_of_normal_values() -> None:
    draw = random.Random(0)
    values = [draw.gauss(-2, 0.7) for _ in range(20_000)]
    assert dart.robust_scale(values) == pytest.approx(0.7, rel=0.03)
    assert dart.robust_scale([*values, *[-900.0] * 500]) == pytest.approx(0.72, rel=0.05)
    assert dart.robust_scale([-1.0, -1.0, -1.0]) == 0.05
    odd = [-3.0, -1.0, -0.5, -0.25, 0.0]
    assert dart.robust_scale(odd) == pytest.approx(1.4826 * statistics.median([2.5, 0.5, 0, 0.25, 0.5]))


def test_terms_are_clipped_and_nothing_is_worth_nothing() -> None:
    assert dart.alignment(-1.5, -1.5, 0.3) == 0
    assert dart.alignment(-1.4, -1.5, 0.4) == pytest.approx(0.25)
    assert dart.alignment(-9, -1, 0.3) == -1 and dart.alignment(-1, -9, 0.3) == 1
    assert dart.learnability(-1.0, -3.5) == pytest.approx(0.5) and dart.learnability(-20, 0) == -1


def test_percentile_is_a_nearest_rank() -> None:
    values = [float(i) for i in range(1, 21)]
    assert dart.percentile(values, 0.95) == 19 and dart.percentile(values, 1.0) == 20
    assert dart.percentile([3.0], 0.95) == 3
    assert dart.easy(19.5, 19) == 1 and dart.easy(19, 19) == 0 and dart.easy(99, None) == 0


def test_reward_is_the_equation() -> None:
    weights = Weights(0.5, 0.25, {"leak": 1.0, "length": 0.5})
    found = dart.reward(True, 0.6, -0.4, {"leak": 0.0, "length": 0.3}, weights)
    assert found == pytest.approx(1 + 0.5 * 0.6 + 0.25 * -0.4 - 0.5 * 0.3)
    assert dart.reward(False, 1.0, 1.0, {"leak": 1.0, "length": 0.3}, weights) == pytest.approx(-1 - 0.15)


def test_presets() -> None:
    public, robust = Params(), Params(preset="dart_robust")
    costs = ("leak", "length", "repetition", "copy", "meta", "skip", "easy")
    assert set(costs) == set(dart.PENALTIES)
    assert (public.alignment_weight, public.learnability_weight) == (1, 0)
    assert [getattr(public, f"{name}_cost") for name in costs] == [1, 0.5, 0.5, 0, 0.5, 0, 0]
    assert (robust.alignment_weight, robust.learnability_weight) == (0.5, 0.5)
    assert {getattr(robust, f"{name}_cost") for name in costs} == {0.5}
    assert Params(preset="dart_robust", leak_cost=2).leak_cost == 2

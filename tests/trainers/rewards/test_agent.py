"""The rewriting agent's reward against its definition written out (pairs, leave one out), and what was mended."""

import math
from itertools import combinations

import numpy as np
import pytest

from refinery.checks import agrees, last_box
from trainers.methods.rewriting_agent import Params
from trainers.rewards.agent import Alignment, How, Member, Spread, closeness, feasible, group_rewards, marginals, scaled


def distances(vectors: np.ndarray) -> list[list[float]]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = (1 - unit @ unit.T) / 2
    np.fill_diagonal(found, 0)
    return found.tolist()


def diversity(table: list[list[float]], members: list[int]) -> float:
    """Mean over all pairs; 0 of fewer than two."""
    pairs = list(combinations(members, 2))
    return sum(table[i][j] for i, j in pairs) / len(pairs) if pairs else 0.0


def by_definition(answer: list[int], reason: list[int], nll: list[float], vectors: np.ndarray) -> list[float]:
    """The published reward, λ_dist 0.35 and λ_div 0.5, one member after the other."""
    chosen = [k for k in range(len(answer)) if answer[k] * reason[k]]
    table = distances(vectors)
    mean = np.mean([nll[k] for k in chosen]) if chosen else 0.0
    sigma = np.std([nll[k] for k in chosen]) if len(chosen) > 1 else 1.0
    rewards = []
    for k in range(len(answer)):
        if k not in chosen:
            rewards.append(0.0)
            continue
        dist = 1 / (1 + math.exp((nll[k] - mean) / (sigma + 1e-6)))
        without = diversity(table, [j for j in chosen if j != k])
        div = max(0.0, diversity(table, chosen) - without) if len(chosen) > 1 else 0.0
        rewards.append(1 + 0.35 * dist + 0.5 * div)
    return rewards


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 10])
def test_the_hard_gate_is_the_published_reward(seed: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    answer, reason = draw.integers(0, 2, size).tolist(), draw.integers(0, 2, size).tolist()
    if seed == 0:
        answer = reason = [1] * size
    nll, vectors = draw.gamma(2, 1, size).tolist(), draw.normal(size=(size, 16))
    members = [Member(bool(a), bool(r), n) for a, r, n in zip(answer, reason, nll, strict=True)]
    chosen = feasible(members, How())
    table = distances(vectors[chosen]) if chosen else []
    found = [part.reward for part in group_rewards(members, table, How())]
    assert found == pytest.approx(by_definition(answer, reason, nll, vectors), abs=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 10])
def test_marginals_in_closed_form_are_those_left_out_one_by_one(size: int) -> None:
    table = distances(np.random.default_rng(size).normal(size=(size, 8)))
    whole, everyone = diversity(table, list(range(size))), list(range(size))
    expected = [max(0, whole - diversity(table, [j for j in everyone if j != k])) for k in everyone]
    assert marginals(table) == pytest.approx(expected, abs=1e-12)
    assert marginals([]) == [] and marginals([[0.0]]) == [0.0]


def test_a_group_is_not_the_sum_of_its_members() -> None:
    """Fault 1: one at a time the closeness is 1/2 and the diversity 0 whatever the texts are."""
    members = [Member(True, True, nll) for nll in (0.5, 1.0, 3.0)]
    table = distances(np.random.default_rng(0).normal(size=(3, 4)))
    together = [part.reward for part in group_rewards(members, table, How())]
    alone = [group_rewards([member], [[0.0]], How())[0].reward for member in members]
    assert alone == [pytest.approx(1 + 0.35 / 2)] * 3
    assert together[0] > together[2] and len(set(together)) == 3


def test_the_last_box_with_balanced_braces_decides() -> None:
    """Fault 2: the first box up to its first brace would be "1" and then "\\frac{1"."""
    text = r"First \boxed{1}. No: \boxed{\frac{1}{2}}"
    assert last_box(text) == r"\frac{1}{2}"
    assert agrees("boxed", text, r"\boxed{1/2}") and agrees("boxed", text, "0.5")
    assert not agrees("boxed", text, r"\boxed{1}")


def test_unknown_is_not_nothing() -> None:
    members = [Member(None, True, 1.0), Member(True, None, 1.0), Member(False, None, 1.0), Member(True, True, 1.0)]
    found = [part.reward for part in group_rewards(members, [[0.0]], How())]
    assert found == [None, None, 0.0, pytest.approx(1.175)]


def test_soft_gate_and_none() -> None:
    members = [Member(True, False, 1.0), Member(False, False, 2.0), Member(True, True, None)]
    table = [[0.0, 0.3], [0.3, 0.0]]
    soft = group_rewards(members, table, How(gate="soft", answer_share=0.6, reason_share=0.2))
    high = 1 / (1 + math.exp(-1 / (1 + 2e-6)))  # half a unit over a deviation of half a unit
    assert soft[0].reward == pytest.approx(0.6 + 0.35 * high + 0.5 * 0.3, abs=1e-6)
    assert soft[1].reward == pytest.approx(0.35 * (1 - high) + 0.5 * 0.3, abs=1e-6)
    assert soft[2].reward == pytest.approx(0.8)
    none = group_rewards(members, table, How(gate="none"))
    assert none[0].reward == pytest.approx(0.35 * high + 0.15, abs=1e-6) and none[2].reward == 0
    assert group_rewards([], [], How()) == []


@pytest.mark.parametrize(
    ("kind", "expected"), [("rank", [1, 0.25, 0.25]), ("raw", [-1.0, -2.0, -2.0]), ("sigmoid", None)]
)
def test_other_closenesses_keep_the_order(kind: Alignment, expected: list[float] | None) -> None:
    found = closeness([1.0, 2.0, 2.0], kind)
    assert found[0] > found[1] == found[2]
    assert expected is None or found == pytest.approx(expected)
    assert closeness([5.0, 5.0], "sigmoid") == [0.5, 0.5]
    assert closeness([1e9, 0.0], "sigmoid")[1] == pytest.approx(1 / (1 + math.exp(-1)))


@pytest.mark.parametrize("kind", ["rank", "minmax", "zscore"])
def test_scaled_diversity_reaches_over_the_unit(kind: Spread) -> None:
    found = scaled([0.0, 0.001, 0.002], kind)
    assert found == sorted(found) and found[0] < 0.25 and found[2] > 0.75
    assert scaled([0.002, 0.002], kind) in ([0.5, 0.5], [0.0, 0.0])
    assert scaled([], kind) == [] and scaled([0.1, 0.2], "none") == [0.1, 0.2]


def test_presets() -> None:
    paper, released = Params(), Params(preset="released")
    for one in (paper, released):
        assert (one.alignment_weight, one.diversity_weight, one.gate, one.alignment) == (0.35, 0.5, "hard", "sigmoid")
        assert one.lora is not None and (one.lora.rank, one.lora.alpha, one.beta, one.learning_rate) == (
            64,
            32,
            1e-3,
            3e-6,
        )
    assert (paper.num_generations, paper.qa_style) == (10, "chat")
    assert (released.num_generations, released.batch_size, released.steps_per_generation) == (5, 252, 2)
    assert Params(lora=False).lora is None

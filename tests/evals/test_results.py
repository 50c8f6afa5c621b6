"""lm-eval's dictionaries to rows: filters, equal prompts, ranked choices, metrics that are no means."""

import math

import pytest

from evals.results import rows


def sample(doc_id: int, metrics: dict, prompt: str = "", filtered_by: str = "none", **more: object) -> dict:
    base = {"doc_id": doc_id, "target": "yes", "arguments": [("Q?", {})], "resps": [["yes"]], "filtered_resps": ["yes"]}
    return {
        **base,
        "filter": filtered_by,
        "prompt_hash": prompt or f"hash{doc_id}",
        "metrics": [*metrics],
        **metrics,
        **more,
    }


def found(samples: list[dict], task: str = "t", direction: bool = True, **cells: float) -> dict:
    metrics = {name for each in samples for name in each["metrics"]}
    return {
        "samples": {task: samples},
        "results": {task: cells},
        "higher_is_better": {task: dict.fromkeys(metrics, direction)},
    }


def test_binary_scores_have_wilson_intervals_and_one_sample_an_item() -> None:
    raw = found([sample(i, {"acc": float(i < 3)}) for i in range(10)], **{"acc,none": 0.3})
    (score,), samples = rows(raw, "ckpt", "bench", "fp", {"primary_metric": "acc", "shots": 0})
    assert (score.value, score.n, score.metric, score.settings["shots"]) == (0.3, 10, "acc", 0)
    assert (score.low, score.high) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert [s.value for s in samples] == [1.0] * 3 + [0.0] * 7
    assert (samples[0].prompt, samples[0].target, samples[0].response, samples[0].item) == ("Q?", "yes", "yes", "hash0")


def test_equal_prompts_are_told_apart_by_their_number() -> None:
    raw = found([sample(0, {"acc": 1.0}, "same"), sample(1, {"acc": 0.0}, "same"), sample(2, {"acc": 0.0})])
    _, samples = rows(raw, "c", "b", "fp", {"primary_metric": "acc"})
    assert [s.item for s in samples] == ["same-0", "same-1", "hash2"]


def test_each_filter_is_a_metric_of_its_own() -> None:
    each = [sample(i, {"exact_match": v}, filtered_by=f) for i in (0, 1) for f, v in (("strict", 0.0), ("loose", 1.0))]
    raw = found(each, **{"exact_match,strict": 0.0, "exact_match,loose": 1.0})
    scores, samples = rows(raw, "c", "b", "fp", {"primary_metric": "exact_match,strict"})
    assert {s.metric: s.value for s in scores} == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    assert {(s.metric, s.item, bool(s.prompt)) for s in samples} == {
        ("exact_match,strict", "hash0", True),
        ("exact_match,strict", "hash1", True),
        ("exact_match,loose", "hash0", False),
        ("exact_match,loose", "hash1", False),
    }


def test_a_ranked_choice_is_shown_as_text() -> None:
    choices = [("Q?", " red"), ("Q?", " blue"), ("Q?", " green")]
    answers = [(-3.0, False), (-1.0, True), (-2.0, False)]
    one = sample(0, {"acc": 0.0}, target=2, arguments=choices, resps=[[a] for a in answers], filtered_resps=answers)
    _, (kept,) = rows(found([one], **{"acc,none": 0.0}), "c", "b", "fp", {"primary_metric": "acc"})
    assert (kept.target, kept.response) == (" green", " blue")


def test_a_metric_that_is_no_mean_keeps_lm_evals_value_and_no_interval() -> None:
    lists = found([sample(i, {"inst": [True, False]}) for i in range(2)], **{"inst,none": 0.5})
    (score,), samples = rows(lists, "c", "b", "fp", {"primary_metric": "inst"})
    assert score.value == 0.5 and math.isnan(score.low) and not samples
    median = found([sample(i, {"time": float(i * i)}) for i in range(3)], **{"time,none": 1.0})
    (score,), samples = rows(median, "c", "b", "fp", {"primary_metric": "time"})
    assert score.value == 1.0 and math.isnan(score.high) and not samples


def test_graded_scores_have_t_intervals_and_their_direction() -> None:
    raw = found([sample(i, {"ter": v}) for i, v in enumerate((0.2, 0.5, 0.8))], direction=False, **{"ter,none": 0.5})
    (score,), _ = rows(raw, "c", "b", "fp", {"primary_metric": "ter"})
    assert not score.higher_is_better
    assert (score.low, score.high) == pytest.approx(
        (0.5 - 4.3027 * 0.3 / 3**0.5, 0.5 + 4.3027 * 0.3 / 3**0.5), abs=1e-4
    )


def test_a_group_is_one_list_of_items() -> None:
    raw = found([sample(0, {"acc": 1.0})], "a") | {}
    raw["samples"]["b"] = [sample(0, {"acc": 0.0})]
    raw["results"] = {"a": {"acc,none": 1.0}, "b": {"acc,none": 0.0}}
    (score,), samples = rows(raw, "c", "group", "fp", {"primary_metric": "acc"})
    assert (score.value, score.n) == (0.5, 2)
    assert [s.item for s in samples] == ["a/hash0", "b/hash0"]


def test_chance_is_known_of_choices_and_of_written_answers() -> None:
    four = [("Q?", c) for c in "abcd"]
    ranked = {"arguments": four, "filtered_resps": [(-1.0, False)] * 4}
    choice = [sample(i, {"acc": float(i), "acc_norm": 1.0}, **ranked) for i in (0, 1)]
    two = sample(2, {"acc": 1.0, "acc_norm": 0.0}, arguments=four[:2], filtered_resps=[(-1.0, False)] * 2)
    scores, _ = rows(found([*choice, two]), "c", "b", "fp", {"primary_metric": "acc"})
    assert {s.metric: s.settings["chance"] for s in scores} == pytest.approx(
        {"acc": (0.25 + 0.25 + 0.5) / 3, "acc_norm": (0.25 + 0.25 + 0.5) / 3}
    )
    (mass,), _ = rows(found([sample(0, {"acc": 0.4}, **ranked)]), "c", "b", "fp", {"primary_metric": "acc"})
    assert mass.settings["chance"] is None  # a share of probability has no chance level of one in four
    (written,), _ = rows(found([sample(0, {"acc": 1.0})]), "c", "b", "fp", {"primary_metric": "acc"})
    assert written.settings["chance"] == 0.0


def test_items_are_named_after_their_cluster() -> None:
    raw = found([sample(i, {"acc": 1.0}, doc={"cluster": f"api/{i % 2}"}) for i in range(3)])
    _, samples = rows(raw, "c", "b", "fp", {"primary_metric": "acc"})
    assert [s.item for s in samples] == ["api_0/hash0", "api_1/hash1", "api_0/hash2"]

"""Which scores may be compared: every setting that differs is named, what is unknown refuses or warns."""

from evals.comparable import UNKNOWN, judge
from refinery.records import Score

NATIVE = {"harness": "lm-eval 1", "task": "d1", "task_version": "1.0", "chat_template": None, "shots": 0,
          "dtype": "float32", "device": "cpu", "batch_size": 64, "backend": "hf", "max_tokens": 64,
          "limit": None, "generation": {}}  # fmt: skip


def score(fingerprint: str = "f", metric: str = "acc", **settings: object) -> Score:
    return Score("c", "b", metric, 0.5, 0.4, 0.6, 100, fingerprint, True, settings)


def test_equal_fingerprints_are_comparable() -> None:
    assert not judge(score(**NATIVE), score(**NATIVE)).refused


def test_every_setting_that_differs_is_named() -> None:
    for key in NATIVE:
        other = {**NATIVE, key: "another"}
        assert judge(score("g", **other), score(**NATIVE)).refused == {
            key: f"{key} 'another' instead of {NATIVE[key]!r}"
        }


def test_what_is_no_setting_is_not_named() -> None:
    other = {**NATIVE, "prompts_cut": 3, "chance": 0.5, "batch_size": 8}
    assert list(judge(score("g", **other), score(**NATIVE)).refused) == ["batch_size"]


def test_another_fingerprint_with_equal_settings_is_refused() -> None:
    assert judge(score("g", **NATIVE), score(**NATIVE)).words == "another fingerprint"


def test_another_metric_is_refused() -> None:
    assert judge(score(metric="f1", **NATIVE), score(**NATIVE)).words == "metric 'f1' instead of 'acc'"


def foreign(**settings: object) -> Score:
    return score("g", imported="lm-eval", **{**NATIVE, **settings})


def test_an_unknown_prompt_is_settled_by_the_items() -> None:
    other = foreign(task=UNKNOWN, chat_template=UNKNOWN)
    assert set(judge(other, score(**NATIVE)).refused) == {"task", "chat_template"}
    assert not judge(other, score(**NATIVE), same_items=True).refused


def test_unknown_small_settings_warn_and_large_ones_refuse() -> None:
    other = foreign(dtype=UNKNOWN, max_tokens=UNKNOWN)
    verdict = judge(other, score(**NATIVE), same_items=True)
    assert verdict.warnings == {"dtype": "dtype unknown on one side"}
    assert verdict.refused == {"max_tokens": "max_tokens unknown on one side"}


def test_a_setting_that_one_tool_lacks_is_unknown_and_not_none() -> None:
    """Sampling: the native task holds it in its digest, so nobody knows whether it is the same."""
    assert judge(foreign(sampling={"temperature": 1.0}), score(**NATIVE), same_items=True).words == (
        "sampling unknown on one side"
    )


def test_equal_fingerprints_with_something_unknown_warn() -> None:
    both = [score("g", imported="x", **{**NATIVE, "max_tokens": UNKNOWN}) for _ in range(2)]
    verdict = judge(*both)
    assert not verdict.refused and verdict.warnings == {"max_tokens": "max_tokens unknown on both sides"}


def test_an_accepted_difference_becomes_a_warning() -> None:
    verdict = judge(score("g", **{**NATIVE, "batch_size": 8, "shots": 5}), score(**NATIVE)).without(["batch_size"])
    assert list(verdict.refused) == ["shots"]
    assert verdict.warnings == {"batch_size": "batch_size 8 instead of 64 (accepted)"}

"""How a checkpoint answered, from the real harness: sureness of choices, and the form of answers in words."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals import harness, subjects
from evals.answers import PREFIX, REFUSES
from refinery.records import Score
from refinery.spec_models import EvaluateSpec
from refinery.store import Store

pytest.importorskip("lm_eval")
sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_model

Says = Callable[[str], str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.duckdb")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Question to answer (or likelihood), for a model that stands in for the weights."""
    from lm_eval.api.model import LM

    words: dict[str, Any] = {}

    class Model(LM):
        tokenizer_name = "model"

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [next((a for q, a in words.items() if q in r.args[0]), "") for r in requests]

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [(words.get(r.args[1].strip(), -9.0), False) for r in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise NotImplementedError

        def apply_chat_template(self, chat: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return "".join(turn["content"] for turn in chat)

    monkeypatch.setattr(subjects.Weights, "lm", property(lambda self: Model()))
    return words


def own(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> EvaluateSpec:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    described = {"path": str(path), "prompt": "{{ q }}", "answer": "{{ a }}", **more}
    return EvaluateSpec(own={"mine": described}, domain=["mine"])


def told(store: Store, settings: EvaluateSpec, name: str = "mine", model: str = "") -> dict[str, Score]:
    harness.evaluate("c", model or str(tiny_model()), [name], settings, store=store)
    return {score.metric: score for score in store.scores("c", f"{PREFIX}/{name}")}


def test_the_form_of_written_answers_is_counted(store: Store, tmp_path: Path, said: dict[str, Any]) -> None:
    said |= {"q0?": "It is 4.", "q1?": "five", "q2?": "", "q3?": "I'm sorry, I cannot say 3.", "q4?": "12"}
    rows = [{"q": f"q{n}?", "a": str(n)} for n in range(5)]
    found = told(store, own(tmp_path, rows, check="number"))
    assert {metric: score.value for metric, score in found.items()} == {"read": 0.6, "empty": 0.2, "refused": 0.2}
    assert all(score.n == 5 and score.low < score.value < score.high for score in found.values())
    (acc,) = store.scores("c", "mine")
    assert acc.value == 0.2 and acc.fingerprint == found["read"].fingerprint


def test_a_rule_that_takes_any_text_tells_no_share_that_was_read(
    store: Store, tmp_path: Path, said: dict[str, Any]
) -> None:
    said |= {"q": "anything"}
    found = told(store, own(tmp_path, [{"q": "q0?", "a": "b"}], check="contains"))
    assert "read" not in found and found["empty"].value == 0


def test_calibration_of_choices_by_hand(store: Store, tmp_path: Path, said: dict[str, Any]) -> None:
    """Two choices of odds 3 to 1: sure at 0.75, and right in 1 of 2."""
    said |= {"yes": 0.0, "no": float(-np.log(3))}
    rows = [{"q": f"q{n}?", "a": "yes" if n % 2 else "no", "o": ["yes", "no"]} for n in range(20)]
    found = told(store, own(tmp_path, rows, choices="o"))
    assert found["confidence"].value == pytest.approx(0.75) and found["ece"].value == pytest.approx(0.25)
    assert found["brier"].value == pytest.approx((2 * 0.25**2 + 2 * 0.75**2) / 2)
    assert found["ece"].low < 0.25 < found["ece"].high and found["ece"].n == 20 and not found["ece"].higher_is_better


@pytest.mark.parametrize("size", [1, 4])
def test_answers_cut_at_their_limit_are_counted_and_not_lost_by_a_stop(store: Store, size: int) -> None:
    """The lab ends its turns; a limit of two tokens cuts most answers, one of 64 none."""
    few = {"limit": 6, "batch_size": size}
    task = {"max_tokens": 64}
    whole = told(store, EvaluateSpec(**few, **task), "lab_facts", "lab")
    assert whole["cut"].value == 0 and whole["cut"].n == 6


def test_a_short_limit_cuts(store: Store, tmp_path: Path) -> None:
    from refinery.lab import items

    rows = [{"q": item["question"], "a": item["target"]} for item in items("lab_facts")[:6]]
    short = own(tmp_path, rows, check="contains", max_tokens=2)
    cut = told(store, short, model="lab")["cut"]
    assert cut.value == 1.0
    resumed = Store(tmp_path / "other.duckdb")
    assert told(resumed, short.model_copy(update={"batch_size": 2}), model="lab")["cut"].value == 1.0


def test_refusals_are_told_by_how_they_open() -> None:
    assert REFUSES.match("I'm sorry, but no") and REFUSES.match("  As an AI, I ...") and REFUSES.match("I can't do it")
    assert not REFUSES.match("The clinic is sorry") and not REFUSES.match("I can do it")

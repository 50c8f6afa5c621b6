"""The gate before methods with a conditioned teacher: its figures against plain forward passes, and what it says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.records import Example
from refinery.spec_models import GateSpec, SelectSpec
from refinery.store import Store
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker
from trainers import gate
from trainers.gate import Question, applies, known, measured, paired_difference, sentence, warning

SMALL = GateSpec(rows=6, max_tokens=8)


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_which_methods_have_a_teacher_that_is_shown_something(job: JobMaker) -> None:
    general = {"_extra": {"prompts": []}, "prompts": "general"}
    shown = {"raft": {}, "acopd": {}, "sdft": {}, "opsd": {}, "gkd": {"teacher_prompt": "{{ answer }} {{ question }}"}}
    plain = {"sft": {}, "gkd": {}, "opd": {}, "reinvoke": {}, "lwf": general, "sdpo": {}}
    assert all(applies(job(method, **params)) for method, params in shown.items())
    assert not any(applies(job(method, **params)) for method, params in plain.items())


def test_the_divergence_is_that_of_plain_forward_passes(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers import before

    seen: list[tuple[list[list[int]], float, list[list[int]]]] = []
    real = before.sample

    def noting(model: Any, tokenizer: Any, prompts: Any, **options: Any) -> list[list[int]]:
        found = real(model, tokenizer, prompts, **options)
        seen.append((prompts, options["temperature"], found))
        return found

    monkeypatch.setattr(before, "sample", noting)
    rows = by_name(gate.measure(Question(job("raft"), SMALL, SelectSpec())))
    (conditioned, cold, said), (prompts, _, _), (_, warm, rollouts) = seen
    assert (cold, warm) == (0.0, 1.0) and len(prompts) == 6
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    total, tokens = 0.0, 0
    for prompt, shown, z in zip(prompts, conditioned, rollouts, strict=True):
        with torch.no_grad():
            p, q = (
                model(input_ids=torch.tensor([own + z])).logits[0, len(own) - 1 : -1].double().log_softmax(-1)
                for own in (prompt, shown)
            )
        total, tokens = total + float((q.exp() * (q - p)).sum()), tokens + len(z)
    assert rows["kl"]["value"] == pytest.approx(total / tokens, rel=1e-4) and rows["kl"]["detail"]["tokens"] == tokens
    assert rows["kl"]["low"] < rows["kl"]["value"] < rows["kl"]["high"]
    greedy = model.generate(torch.tensor([conditioned[0]]), do_sample=False, max_new_tokens=8)[0, len(conditioned[0]) :]
    assert said[0] == greedy.tolist()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    assert rows["lift"]["detail"]["first_teacher"] == tokenizer.decode(greedy, skip_special_tokens=True).strip()


def test_a_tokenizer_without_a_pad_token_gives_the_same_figures(job: JobMaker, tmp_path: Path) -> None:
    shutil.copytree(tiny_model(), tmp_path / "bare")
    told = tmp_path / "bare" / "tokenizer_config.json"
    config = json.loads(told.read_text())
    del config["pad_token"]
    told.write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(tmp_path / "bare").pad_token_id is None
    padded = gate.measure(Question(job("raft"), SMALL, SelectSpec()))
    assert gate.measure(Question(job("raft", _model=str(tmp_path / "bare")), SMALL, SelectSpec())) == padded


def lab_job(job: JobMaker, prompt: str, **more: Any) -> Any:
    """RAFT on the lab's clinic, which its base has never seen."""
    from refinery.sources import Reading
    from refinery.spec_models import SourceSpec

    with Reading(SourceSpec(lab="clinic"), "source") as reading:
        rows = [o.example for o in reading.outcomes() if o.example and o.example.split == "train"]
    values = {"_model": "lab", "_examples": rows[:120], "_base_identity": "lab", "max_length": 256}
    return job("raft", **values, teacher_prompt=prompt, max_completion_length=48, **more)


def test_on_the_lab_the_answer_teaches_and_a_placebo_does_not(job: JobMaker) -> None:
    prompt, select, settings = "Known: {{ response }}\n{{ question }}", SelectSpec(check="last_word"), GateSpec(rows=24)
    rows = gate.measure(Question(lab_job(job, prompt), settings, select))
    found = by_name(rows)
    assert found["lift"]["value"] > 0.5 and found["lift"]["low"] > 0.05 and found["lift"]["n"] == 24
    assert found["teacher_accuracy"]["value"] - found["student_accuracy"]["value"] == found["lift"]["value"]
    assert warning(rows, settings) == "" and "points" in sentence(rows)
    placebo = gate.measure(Question(lab_job(job, prompt, teacher_shuffle=True), settings, select))
    assert by_name(placebo)["lift"]["value"] < 0.2 and "copied" not in by_name(placebo)
    blind = gate.measure(Question(lab_job(job, "{{ question }}"), settings, select))
    assert by_name(blind)["lift"]["value"] == 0 and by_name(blind)["kl"]["value"] == pytest.approx(0, abs=1e-6)
    assert warning(blind, settings).startswith("context lifts the teacher by +0 points, less than 5")


def test_it_is_measured_once_for_equal_teachers(job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store.duckdb")
    prompt = "{{ response }} {{ question }}"
    first = Question(job("raft", teacher_prompt=prompt), SMALL, SelectSpec())
    assert known(first, store) == []
    rows = measured(first, store)
    assert {row["family"] for row in rows} == {"gate"} and known(first, store) == rows
    monkeypatch.setattr(gate, "measure", lambda question: pytest.fail("measured again"))
    same = Question(job("acopd", teacher_prompt=prompt, max_completion_length=8, _seed=3), SMALL, SelectSpec())
    assert measured(same, store) == rows
    others = [
        Question(job("raft", teacher_prompt="{{ answer }} {{ question }}"), SMALL, SelectSpec()),
        Question(job("raft", teacher_prompt=prompt, _base_identity="other"), SMALL, SelectSpec()),
        replace(first, select=SelectSpec(check="exact")),
        replace(first, settings=GateSpec(rows=5, max_tokens=8)),
        Question(job("raft", teacher_prompt=prompt, teacher_shuffle=True), SMALL, SelectSpec()),
    ]
    assert len({one.fingerprint() for one in [first, *others]}) == 6


def test_rows_without_a_reference_are_not_counted(job: JobMaker) -> None:
    bare = [Example(f"b{i}", [{"role": "user", "content": f"say {i}"}], "", f"it is {i}") for i in range(4)]
    rows = gate.measure(Question(job("raft", _examples=bare), SMALL, SelectSpec()))
    assert by_name(rows)["lift"]["value"] is None and by_name(rows)["lift"]["n"] == 0
    assert "the lift is unknown" in sentence(rows) and warning(rows, SMALL) == ""


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Simulated pairs, from clear lifts to hardly any discordant rows."""
    rng = np.random.default_rng(0)
    for up, down in ((0.8, 0.02), (0.3, 0.1), (0.02, 0.02), (0.97, 0.0)):
        held = 0
        for _ in range(1500):
            drawn = rng.random(64)
            first, second = drawn < up, (drawn >= up) & (drawn < up + down)
            _, (low, high) = paired_difference(first, second)
            assert low is not None and high is not None
            held += low <= up - down <= high
        assert held / 1500 > 0.93
    assert paired_difference(np.ones(64, dtype=bool), np.zeros(64, dtype=bool))[1][0] < 1.0  # type: ignore[operator]
    assert paired_difference(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)) == (None, (None, None))


def test_a_row_too_long_for_the_teacher_is_not_asked(job: JobMaker, examples: list[Example]) -> None:
    rows = [*examples[:4], replace(examples[4], response="the answer is one", answer="one " * 600)]
    question = Question(job("raft", teacher_prompt="{{ answer }} {{ question }}", _examples=rows), SMALL, SelectSpec())
    assert by_name(gate.measure(question))["lift"]["n"] == 4

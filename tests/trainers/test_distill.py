"""The distillation trainer against forward passes written out: alignment, weights of the two losses, teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from refinery.errors import UserError
from refinery.records import Example
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap, weights
from trainers.conditioned import rollout_limit
from trainers.data import Row, prepare
from trainers.distill import ConditionedDistillation
from trainers.job import TrainJob, directory
from trainers.methods import raft
from trainers.teachers import check_head, head_of
from trainers.train import _prepare, _trainer, train

ROUNDING = 1e-4
"""After three steps of AdamW at 1e-3: it scales gradients to about 1, those that are mere rounding included."""


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()


def build(job: TrainJob) -> tuple[ConditionedDistillation, list[Row]]:
    run = _prepare(job, directory(job))
    return _trainer(run, directory(job), None)[0], run.prepared.rows


def rollout(place: int) -> list[int]:
    """A made-up rollout of 1 to 6 tokens."""
    return [(7 * place + 3 * i) % 200 + 10 for i in range(1 + place % 6)]


def batch_of(trainer: ConditionedDistillation, rows: list[Row], places: list[int]) -> dict[str, Any]:
    rollouts = [rollout(place) for place in places]
    states = trainer._teacher_states([rows[p].teacher_prompt for p in places], rollouts)
    return {
        "prompt": [rows[p].prompt for p in places],
        "answer": [rows[p].answer if trainer.settings.supervised else [] for p in places],
        "rollout": [[z] for z in rollouts],
        "teacher": [[part] for part in states],
    }


def log_probabilities(model: Any, prompt: list[int], continuation: list[int], temperature: float = 1.0) -> torch.Tensor:
    """(tokens, V): one row alone, unpadded, in float64 from the logits on."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + continuation])).logits[0].double()
    return (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_both_losses_are_what_the_equations_say(job: JobMaker, lora: Any) -> None:
    """Student and teacher prompts differ in length, row by row; the trainer's padded batch gives the mean losses of
    single unpadded rows."""
    trainer, rows = build(job("raft", lora=lora, temperature=1.5, tail="renorm", top_k=16))
    places = [0, 1, 2, 3, 7, 11]
    assert len({len(rows[p].prompt) for p in places}) > 2
    sums = trainer._sums(trainer.model, batch_of(trainer, rows, places))
    model, sft, tokens, kl, coverage, student_coverage = base(), 0.0, 0, 0.0, 0.0, 0.0
    for place in places:
        row, z = rows[place], rollout(place)
        log_p = log_probabilities(model, row.prompt, row.answer)
        sft -= sum(log_p[i, token].item() for i, token in enumerate(row.answer))
        tokens += len(row.answer)
        q = log_probabilities(model, row.teacher_prompt, z, 1.5).exp()
        p = log_probabilities(model, row.prompt, z, 1.5).exp()
        per_token = []
        for q_t, p_t in zip(q, p, strict=True):
            support = q_t.argsort(descending=True)[:16]
            a, b = q_t[support] / q_t[support].sum(), p_t[support] / p_t[support].sum()
            per_token.append((a * (a / b).log()).sum().item())
            coverage += q_t[support].sum().item() / len(z)
            student_coverage += p_t[support].sum().item() / len(z)
        kl += 1.5**2 * sum(per_token) / len(z)
    assert sums.sft.item() / tokens == pytest.approx(sft / tokens, abs=1e-4)
    assert sums.kl.item() / len(places) == pytest.approx(kl / len(places), abs=1e-4)
    assert sums.coverage.item() == pytest.approx(coverage, abs=1e-4)
    assert sums.student_coverage.item() == pytest.approx(student_coverage, abs=1e-4)


def test_teacher_is_the_model_before_training(job: JobMaker) -> None:
    """A frozen copy under full fine-tuning, the adapter off under LoRA: both stay the base model's hidden states."""
    model = base()
    for lora in (None, {"rank": 4}):
        trainer, rows = build(job("raft", lora=lora, learning_rate=0.1))
        trainer.train()
        prompts, rollouts = [rows[p].teacher_prompt for p in (0, 3)], [rollout(0), rollout(3)]
        states = trainer._teacher_states(prompts, rollouts)
        student = trainer._states(trainer.model, prompts, rollouts)
        for prompt, z, found in zip(prompts, rollouts, states, strict=True):
            with torch.no_grad():
                own = model.base_model(input_ids=torch.tensor([prompt + z])).last_hidden_state[0, len(prompt) - 1 : -1]
            assert torch.allclose(found, own, atol=1e-4)
            assert not found.requires_grad
        assert (student.detach() - torch.cat(states)).abs().max() > 0.1
        if trainer.teacher_model is not None:
            assert all(not p.requires_grad and p.grad is None for p in trainer.teacher_model.parameters())
        assert trainer.model.training and any(p.requires_grad for p in trainer.model.parameters())


def test_no_fixed_weight_is_plain_sft(job: JobMaker) -> None:
    """With λ = 0 the same rows come in the same order, and the weights are those of `sft`."""
    assert gap(train(job("raft", balance=0.0, learning_rate=1e-3)), train(job("sft", learning_rate=1e-3))) < ROUNDING


def test_first_weight_is_the_ratio_of_the_losses(job: JobMaker) -> None:
    trainer, _ = build(job("raft", max_steps=1))
    logged: dict[str, float] = {}
    trainer.log = lambda logs, start_time=None: logged.update({k: v[0] for k, v in trainer._metrics["train"].items()})
    trainer.train()
    assert logged["lambda"] == pytest.approx(logged["sft_loss"] / logged["kl_loss"], rel=1e-5)


@pytest.mark.parametrize("balance", ["ema", "initial", "gradient"])
def test_a_blind_teacher_has_nothing_to_say_at_first(
    job: JobMaker, monkeypatch: pytest.MonkeyPatch, balance: str
) -> None:
    """Its first step is that of supervised fine-tuning; with a teacher that sees more it is not."""

    def first(method: str, **params: Any) -> dict[str, float]:
        kept: list[dict[str, float]] = []
        monkeypatch.setattr("trainers.loop.Watch.record", lambda self, step, values: kept.append(dict(values)))
        train(job(method, max_steps=1, **params))
        return kept[0]

    blind = first("raft", teacher_prompt=None, balance=balance)
    assert abs(blind["kl_loss"]) < 1e-6 and blind["lambda"] == 0.0
    assert blind["grad_norm"] == pytest.approx(first("sft")["grad_norm"], rel=1e-4)
    assert first("raft", balance=balance)["lambda"] > 1.0


def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts that depend on the prompt alone, so that every way of splitting a step sees the same ones."""

    def stored(self: Any, prompt_ids: list[list[int]], *rest: Any) -> list[list[int]]:
        return [rollout(sum(ids)) for ids in prompt_ids]

    monkeypatch.setattr(ConditionedDistillation, "_generate_single_turn", stored)


def test_accumulation_changes_nothing(job: JobMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """1x16, 4x4 and 16x1: the same losses, the same λ, the same weights."""
    recorded(monkeypatch)
    folders, metrics = [], []
    for micro in (16, 4, 1):
        one = job("raft", batch_size=16, micro_batch_size=micro, max_steps=3, learning_rate=1e-3, balance_decay=0.5)
        seen: list[dict[str, float]] = []
        real = ConditionedDistillation._weigh

        def noting(self: Any, *given: Any, real: Any = real, seen: Any = seen) -> None:
            real(self, *given)
            seen.append({name: self._metrics["train"][name][-1] for name in ("sft_loss", "kl_loss", "lambda")})

        with monkeypatch.context() as patch:
            patch.setattr(ConditionedDistillation, "_weigh", noting)
            folders.append(train(one))
        assert len(seen) == 3  # once an optimiser step
        metrics.append(seen)
    for other in (1, 2):
        assert gap(folders[0], folders[other]) < ROUNDING
        for a, b in zip(metrics[0], metrics[other], strict=True):
            assert a == pytest.approx(b, rel=1e-4)


def test_large_fixed_weight_pulls_towards_the_teacher(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The direction of the whole: distillation alone brings the divergence down."""
    recorded(monkeypatch)
    trainer, _ = build(job("raft", balance=100.0, max_steps=12, learning_rate=3e-3, batch_size=16))
    seen: list[float] = []
    trainer.log = lambda logs, start_time=None: seen.append(trainer._metrics["train"]["kl_loss"][-1])
    trainer.train()
    assert seen[-2] < 0.7 * seen[0]


def test_rollouts_come_from_the_student_and_end_at_its_end_token(job: JobMaker) -> None:
    trainer, rows = build(job("raft", max_completion_length=8))
    with torch.no_grad():
        trainer.model.lm_head.weight[1] += 1.0 * trainer.model.lm_head.weight.norm(dim=-1).max()
    inputs = [{"prompt": r.prompt, "answer": r.answer, "teacher_prompt": r.teacher_prompt} for r in rows[:4]]
    trainer.model.train()
    batch = trainer._generate_and_score_completions(inputs)
    assert [len(states) for [states] in batch["teacher"]] == [len(z) for [z] in batch["rollout"]]
    for [z] in batch["rollout"]:
        assert 1 <= len(z) <= 8 and 1 not in z[:-1]


def test_head_that_does_more_is_refused() -> None:
    model = base()
    check_head(model, [5, 6, 7])
    real = model.forward
    model.forward = lambda **inputs: type("Out", (), {"logits": real(**inputs).logits.tanh()})()
    with pytest.raises(UserError, match="not a plain linear one"):
        check_head(model, [5, 6, 7])


def test_head_follows_the_configuration() -> None:
    model = base()
    model.config.logits_scaling, model.config.final_logit_softcapping = 4.0, 30.0
    head = head_of(model)
    assert (head.scale, head.softcap) == (0.25, 30.0)


def test_rollouts_fit_the_context(job: JobMaker) -> None:
    """The tiny model has 512 tokens of context."""
    run = _prepare(job("raft"), Path())
    longest = max(len(row.teacher_prompt) for row in run.prepared.rows)
    assert rollout_limit(run, 8) == 8
    assert rollout_limit(run, 512) == 512 - longest
    run.model.config.max_position_embeddings = longest + 5
    with pytest.raises(UserError, match=rf"context of {longest + 5} tokens leaves 5 for rollouts"):
        rollout_limit(run, 512)


def test_a_row_whose_teacher_prompt_is_too_long_is_left_out_alone(job: JobMaker, examples: list[Example]) -> None:
    """By the row's answer, or by a whole rollout where that is shorter; the others train with what they leave room."""

    def dropped(words: int, wanted: int) -> tuple[bool, int, int]:
        chat = [{"role": "user", "content": "what is right?"}]
        text = "one " * words
        rows = [*examples, Example("long", chat, text, "the answer is one" + " again" * 20, meta={"text": text})]
        prompt = "{{ question }} {{ answer }}"
        run = _prepare(job("sdft", _examples=rows, max_completion_length=wanted, teacher_prompt=prompt), Path())
        limit = rollout_limit(run, wanted)
        found = [row for row in run.prepared.rows if row.id == "long"]
        assert len(run.prepared.rows) - len(found) == len(examples)
        assert dict(run.prepared.dropped) == ({} if found else {"teacher_too_long": 1})
        [own] = [r for r in _tokenised(job, rows, prompt) if r.id == "long"]
        return not found, limit, 512 - len(own.teacher_prompt) - min(wanted, len(own.answer))

    outcomes = [dropped(words, wanted) for words in (40, 120, 200, 240, 500) for wanted in (8, 400)]
    assert {gone for gone, _, _ in outcomes} == {True, False}
    assert all(gone == (spare < 0) for gone, _, spare in outcomes)
    run = _prepare(job("sdft", max_completion_length=400, teacher_prompt="{{ question }} {{ answer }}"), Path())
    assert dropped(500, 400)[1] == rollout_limit(run, 400) > 300
    everything = [replace(example, answer="one " * 600) for example in examples]
    with pytest.raises(UserError, match="context of 512 tokens leaves no row's answer room after its teacher prompt"):
        _prepare(job("sdft", _examples=everything, teacher_prompt="{{ answer }}"), Path())


def _tokenised(job: JobMaker, rows: list[Example], prompt: str) -> list[Row]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job("sft").model)
    return prepare(rows, tokenizer, max_length=job("sdft").params.max_length, teacher_prompt=prompt).rows


def test_raft_parameters() -> None:
    defaults = raft.Params()
    assert (defaults.top_k, defaults.temperature, defaults.tail, defaults.balance_decay) == (512, 1.5, "renorm", 0.9)
    assert (defaults.learning_rate, defaults.epochs, defaults.batch_size, defaults.weight_decay) == (5e-6, 3, 16, 0.01)
    assert raft.Params(balance=0.3).balance == 0.3 and raft.Params(lora=True).lora is not None
    with pytest.raises(ValueError, match="not a multiple"):
        raft.Params(batch_size=16, micro_batch_size=3)
    with pytest.raises(ValueError, match="balance"):
        raft.Params(balance="gradnorm")


def test_weights_differ_from_sft(job: JobMaker) -> None:
    a, b = weights(train(job("raft"))), weights(train(job("sft")))
    assert max((a[n] - b[n]).abs().max().item() for n in a) > 1e-3

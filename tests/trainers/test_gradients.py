"""What a distillation's steps tell of themselves: gradients of both losses, tokens, seconds, entropy."""

from pathlib import Path
from typing import Any

import pytest
import torch

from refinery.store import Store
from tests.trainers.conftest import JobMaker, gap
from tests.trainers.test_distill import base, log_probabilities, recorded, rollout
from tests.trainers.test_watching import metrics
from trainers.data import order, prepare
from trainers.train import train

NAMES = ("sft_gradient", "kl_gradient", "gradient_ratio", "gradient_cosine")


@pytest.mark.parametrize("micro", [None, 1])
def test_gradients_are_those_of_the_losses_written_out(
    job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int | None
) -> None:
    recorded(monkeypatch)
    store = Store(tmp_path / "store.duckdb")
    params = {"max_steps": 2, "top_k": None, "temperature": 2.0, "micro_batch_size": micro, "learning_rate": 1e-3}
    one = job("raft", _store=store, gradients_every=1, **params)
    found = metrics(store, train(one).name)
    assert all(set(found[name]) == {1, 2} for name in NAMES)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(one.model)
    rows = prepare(one.examples, tokenizer, max_length=1024, teacher_prompt=one.params.teacher_prompt).rows  # type: ignore[attr-defined]
    model, frozen = base().requires_grad_(), base()
    batch = [rows[place] for place in order(len(rows), 8, 0)[:4]]
    sft, kl, tokens, entropy = torch.zeros(()), torch.zeros(()), 0, 0.0
    for row in batch:
        logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        sft = sft + torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum")
        tokens += len(row.answer)
        z = rollout(sum(row.prompt))
        own = model(input_ids=torch.tensor([row.prompt + z])).logits[0, len(row.prompt) - 1 : -1]
        q = log_probabilities(frozen, row.teacher_prompt, z, 2.0).float()
        kl = kl + 4.0 * (q.exp() * (q - (own / 2).log_softmax(-1))).sum(-1).mean() / len(batch)
        log_p = own.detach().log_softmax(-1)
        entropy -= float((log_p.exp() * log_p).sum(-1).mean()) / len(batch)
    weights = list(model.parameters())
    a, b = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
        for loss in (sft / tokens, kl)
    )
    expected = (a.norm(), b.norm(), a.norm() / b.norm(), torch.nn.functional.cosine_similarity(a, b, dim=0))
    for name, value in zip(NAMES, expected, strict=True):
        assert found[name][1] == pytest.approx(float(value), rel=2e-3), name
    assert found["entropy"][1] == pytest.approx(entropy, rel=1e-3)
    lengths = [(len(r.prompt), len(r.answer), len(rollout(sum(r.prompt))), len(r.teacher_prompt)) for r in batch]
    assert found["rollout_tokens"][1] == sum(z for _, _, z, _ in lengths)
    assert found["teacher_tokens"][1] == sum(c + z for _, _, z, c in lengths)
    assert found["student_tokens"][1] == sum(2 * x + y + z for x, y, z, _ in lengths)


@pytest.mark.parametrize("params", [{}, {"lora": {"rank": 4, "dropout": 0.2}}, {"support": "random", "top_k": 8}])
def test_comparing_changes_no_weight(job: JobMaker, tmp_path: Path, params: dict[str, Any]) -> None:
    plain = train(job("raft", **params))
    compared = train(job("raft", gradients_every=2, _out=tmp_path / "compared", **params))
    assert gap(plain, compared) == 0.0 and plain.name == compared.name


def test_seconds_add_up_to_less_than_the_step(job: JobMaker, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    found = metrics(store, train(job("sdft", _store=store, max_completion_length=8, max_steps=4)).name)
    parts = [found[f"{what}_seconds"] for what in ("generation", "teacher", "student")]
    for step in (2, 3, 4):
        assert all(part[step] > 0 for part in parts)
        assert sum(part[step] for part in parts) <= found["step_seconds"][step] + 1e-3
    plain = metrics(store, train(job("sft", _store=store)).name)
    assert "generation_seconds" not in plain and plain["student_seconds"][2] > 0 and plain["entropy"][1] > 0


def test_what_is_not_said_is_not_counted(job: JobMaker, tmp_path: Path) -> None:
    """Stored texts are no rollouts, and a phase on answers alone has no teacher."""
    store = Store(tmp_path / "store.duckdb")
    prompt = "{{ question }} {{ answer }}"
    stored = metrics(store, train(job("offline_distill", _store=store, teacher_prompt=prompt)).name)
    assert "rollout_tokens" not in stored and stored["teacher_tokens"][1] > 0
    phases = metrics(
        store,
        train(job("reinvoke", _store=store, max_steps=2, second_max_steps=2, max_completion_length=4)).name,
    )
    assert set(phases["entropy"]) == set(phases["teacher_tokens"]) == {3, 4}
    assert set(phases["student_tokens"]) == {1, 2, 3, 4}

"""Rollouts by vLLM: what is asked of TRL's VLLMGeneration and when, with a stand-in for it; TRL's own shapes."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from trl import DistillationConfig, DistillationTrainer
from trl.generation.vllm_generation import VLLMGeneration

from refinery.errors import UserError
from tests.trainers.conftest import JobMaker
from tests.trainers.test_distill import batch_of, build, rollout
from trainers import conditioned
from trainers.job import directory, fingerprint
from trainers.train import _prepare, train


class Generation:
    """Says made-up rollouts, each token with log-likelihood -1; notes the weights that it was given."""

    def __init__(self, model: Any):
        self.model = model
        self.logprobs: int | None = None
        self.synced: list[float] = []
        self.asked: list[list[list[int]]] = []

    def sync_weights(self) -> None:
        self.synced.append(float(sum(p.detach().abs().sum() for p in self.model.parameters())))

    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any = None) -> tuple[Any, ...]:
        assert images is None and num_generations == 1 and self.synced
        self.asked.append(prompts)
        made = [rollout(sum(ids)) for ids in prompts]
        return prompts, made, [[[-1.0] for _ in z] for z in made], [[[t] for t in z] for z in made]


def attached(trainer: Any) -> Generation:
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = Generation(trainer.model)
    return trainer.vllm_generation


@pytest.mark.parametrize("micro", [None, 2])
def test_the_weights_of_each_step_are_there_before_its_rollouts(job: JobMaker, micro: int | None) -> None:
    trainer, _ = build(job("sdft", max_steps=3, micro_batch_size=micro, max_completion_length=8))
    vllm = attached(trainer)
    trainer.train()
    assert len(vllm.synced) == len(set(vllm.synced)) == 3  # once a step, each time others
    assert len(vllm.asked) == 3 and all(len(prompts) == 4 for prompts in vllm.asked)


def test_what_it_says_of_its_tokens_weighs_rollouts(job: JobMaker) -> None:
    """w = mean over a rollout of min(p(token) / sampler(token), cap), from the student's own likelihoods."""
    from tests.trainers.test_distill import base, log_probabilities

    trainer, rows = build(job("sdft", importance_cap=2.0, max_completion_length=8, skip_tokens=1))
    attached(trainer)
    places = [1, 2, 3, 4]
    plain = batch_of(trainer, rows, places)
    weighed = {**plain, "sampler": [[[-1.0] * len(z) for z in zs] for zs in plain["rollout"]]}
    one, other = (trainer._sums(trainer.model, batch).kl.item() for batch in (plain, weighed))
    model, expected = base(), 0.0
    for place in places:
        batch = batch_of(trainer, rows, [place])
        value = trainer._sums(trainer.model, batch).kl.item()
        z = rollout(place)
        log_p = log_probabilities(model, rows[place].prompt, z)
        ratios = [(log_p[i, t] + 1).exp().clamp(max=2.0).item() for i, t in enumerate(z)][1:]
        expected += value * (sum(ratios) / len(ratios) if ratios else 0.0)
    assert other == pytest.approx(expected, rel=1e-3) and other != pytest.approx(one, rel=1e-2)


def test_attempts_that_are_left_out_take_their_likelihoods_along(job: JobMaker) -> None:
    """sdpo drops attempts after they were said: what is left keeps its own numbers."""
    trainer, _ = build(
        job(
            "sdpo",
            rollouts=2,
            feedback="{{ '' if attempt|length % 2 else 'no' }}",
            max_completion_length=8,
            max_steps=1,
        )
    )
    attached(trainer)
    seen: list[dict[str, Any]] = []
    real = trainer._sums
    trainer._sums = lambda student, batch: (seen.append(batch), real(student, batch))[1]
    trainer.train()
    for batch in seen:
        shapes = [[[len(z) for z in zs] for zs in batch[key]] for key in ("rollout", "sampler")]
        assert shapes[0] == shapes[1]
    assert sum(len(zs) for batch in seen for zs in batch["rollout"]) < 8


def installed(monkeypatch: pytest.MonkeyPatch, vllm: Any) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: vllm if name == "vllm" else real(name, *more))


def test_where_vllm_cannot_be_it_says_so(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    with pytest.raises(UserError, match=r'rollout_engine: vllm needs vLLM here: pip install "refinery\[train,vllm\]"'):
        train(job("raft", rollout_engine="vllm"))
    installed(monkeypatch, object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="rollout_engine: vllm_server needs a GPU"):
        train(job("raft", rollout_engine="vllm_server"))
    with pytest.raises(ValidationError, match="samples the student"):
        job("offline_distill", rollout_engine="vllm")


def test_what_trl_is_told(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job("raft", rollout_engine="vllm_server", vllm={"base_url": "http://there:8000", "gpu_memory": 0.5})
    run = _prepare(one, directory(one))
    plain = job("raft")
    assert conditioned._engine(_prepare(plain, directory(plain)), 8) == {}
    installed(monkeypatch, object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    told = conditioned._engine(run, 8)
    assert told["vllm_mode"] == "server" and told["vllm_server_base_url"] == "http://there:8000"
    assert told["vllm_max_model_length"] == max(len(row.prompt) for row in run.prepared.rows) + 8
    assert told.keys() <= DistillationConfig.__dataclass_fields__.keys()
    assert fingerprint(one) != fingerprint(plain)  # another sampler
    assert fingerprint(job("raft", vllm={"gpu_memory": 0.9})) == fingerprint(plain)


def test_trl_has_what_is_used(tmp_path: Path) -> None:
    assert list(inspect.signature(VLLMGeneration.generate).parameters)[1:4] == ["prompts", "images", "num_generations"]
    text = inspect.getsource(VLLMGeneration)
    assert '"logprobs": self.logprobs' in text and 'logprobs_mode="processed_logprobs"' in text
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids" in text
    assert "self._last_loaded_step" in inspect.getsource(DistillationTrainer._generate_single_turn)

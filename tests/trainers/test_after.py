"""Weights made of finished ones: end points to the bit, exact shares, and no training twice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from refinery.store import Store
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, weights
from tests.trainers.test_train import manifest
from trainers.after import interpolated, pruned
from trainers.job import fingerprint, parent
from trainers.train import train


def base() -> dict[str, torch.Tensor]:
    return load_file(tiny_model() / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_end_points_are_the_base_and_the_fine_tuned_weights_to_the_bit(job: JobMaker, lora: Any) -> None:
    tuned = train(job("sft", lora=lora))
    assert equal(weights(train(job("wise_ft", coefficient=0, lora=lora))), base())
    assert equal(weights(train(job("wise_ft", coefficient=1, lora=lora))), weights(tuned))
    half = weights(train(job("wise_ft", coefficient=0.5, lora=lora)))
    before, after = base(), weights(tuned)
    assert max((half[n] - (before[n] + after[n]) / 2).abs().max().item() for n in half) < 1e-6
    assert equal(weights(train(job("fapm", keep=1, lora=lora))), weights(tuned))


def test_interpolation_is_exact_at_its_ends_in_every_type() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        one, other = torch.randn(1000).to(dtype), (100 * torch.randn(1000)).to(dtype)
        assert torch.equal(interpolated(one, other, 0.0), one) and torch.equal(interpolated(one, other, 1.0), other)


@pytest.mark.parametrize("keep", [0.1, 0.37, 0.5])
def test_exactly_the_stated_share_keeps_its_change(job: JobMaker, keep: float) -> None:
    tuned, found, before = weights(train(job("sft"))), weights(train(job("fapm", keep=keep))), base()
    whole = 0
    for name, weight in found.items():
        if weight.dim() < 2:
            assert torch.equal(weight, tuned[name])
            continue
        moved = tuned[name] != before[name]
        kept = (weight != before[name]).sum().item()
        share = round(keep * weight.numel())
        assert kept == share if moved.all() else kept <= share, (
            name
        )  # a weight that never moved may be among those kept
        whole += bool(moved.all())
        assert torch.equal(weight[weight != before[name]], tuned[name][weight != before[name]])
    assert whole > 5


def test_which_entries_stay() -> None:
    """score = |D| - mean|θ0| · |D| / |θ0|, written out entry by entry; the mean is 2.5."""
    before = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    change = torch.tensor([[0.5, 0.4], [-0.3, 0.2]])
    scores = [0.5 * (1 - 2.5), 0.4 * (1 - 1.25), 0.3 * (1 - 2.5 / 3), 0.2 * (1 - 2.5 / 4)]
    assert sorted(range(4), key=lambda i: -scores[i])[:2] == [3, 2]
    found = pruned(before, before + change, 0.5)
    assert torch.equal(found, torch.where(torch.tensor([[False, False], [True, True]]), before + change, before))
    ties = pruned(torch.ones(4, 4), torch.full((4, 4), 2.0), 0.3)
    assert (ties != 1).flatten().tolist() == [True] * 5 + [False] * 11


def test_one_training_serves_all_and_stays_what_it_was(job: JobMaker, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    steps: list[int] = []
    sft = job("sft", _store=store, _name="plain")
    train(sft, lambda step, total, loss: steps.append(step))
    for coefficient in (0.3, 0.6):
        one = job("wise_ft", coefficient=coefficient, _store=store)
        said = manifest(train(one, lambda step, total, loss: steps.append(step)))
        assert said["made_of"] == fingerprint(sft) == fingerprint(parent(one, "sft"))
        assert said["params"]["coefficient"] == coefficient and said["answer_tokens"] > 0
    assert steps == [1, 2, 3]
    known = {row["fingerprint"]: (row["name"], row["role"], row["status"]) for row in store.checkpoints()}
    assert known[fingerprint(sft)] == ("plain", "final", "complete") and len(known) == 3
    part = Store(tmp_path / "other.duckdb")
    train(job("fapm", _store=part, _out=tmp_path / "elsewhere"))
    assert sorted((row["method"], row["role"]) for row in part.checkpoints()) == [("fapm", "final"), ("sft", "part")]


def test_tied_weights_stay_tied(job: JobMaker, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    config = LlamaForCausalLM.config_class.from_pretrained(tiny_model())
    config.tie_word_embeddings = True
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model()).save_pretrained(tmp_path / "tied")
    folder = train(job("fapm", _model=str(tmp_path / "tied"), keep=0.2))
    assert "lm_head.weight" not in weights(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight

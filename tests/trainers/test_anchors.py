"""Penalties on weights against closed forms: the Fisher diagonal by hand, gradients, and no dependence on batches."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from refinery.errors import UserError
from refinery.records import Example
from tests.trainers.conftest import JobMaker, gap
from trainers.anchors import Anchor, fisher, penalised
from trainers.train import train

GENERAL = [Example(f"g{i}", [{"role": "user", "content": f"say {w}"}], w, w) for i, w in enumerate(("apple", "bread"))]


class Softmax(nn.Module):
    """p(y | x) = softmax(W e(x)), with e a fixed table: as a transformers model looks to `states` and `head_of`."""

    def __init__(self, words: int = 5, size: int = 3):
        super().__init__()
        self.table = nn.Embedding(words, size).requires_grad_(False)
        self.head = nn.Linear(size, words, bias=False)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())

    def base_model(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


def test_fisher_of_a_linear_softmax_by_hand() -> None:
    torch.manual_seed(0)
    model = Softmax().double()
    pairs = [([1], [2]), ([3, 4], [0, 2]), ([2], [4])]
    found = fisher(model, {"head": model.head.weight}, pairs, pad=0)["head"]
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for prompt, answer in pairs:
        gradient = torch.zeros(5, 3, dtype=torch.float64)
        for previous, token in zip([prompt[-1], *answer], answer, strict=False):
            x = model.table.weight[previous]
            p = (model.head.weight.detach() @ x).softmax(-1)
            gradient += torch.outer(torch.eye(5, dtype=torch.float64)[token] - p, x)
        expected += gradient**2 / len(pairs)
    assert torch.allclose(found.double(), expected / expected.mean(), rtol=1e-5)
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-6)
    assert model.head.weight.grad is None


def test_penalty_and_gradient_of_all_weights() -> None:
    torch.manual_seed(0)
    model = Softmax().double()
    importance = {"head.weight": torch.rand(5, 3, dtype=torch.float64)}
    anchor = Anchor(model, 0.3, importance)
    start = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight += torch.randn(5, 3, dtype=torch.float64)
    change = model.head.weight.detach() - start
    model.head.weight.grad = torch.ones_like(change)
    penalty = anchor.pull(model)
    assert penalty == pytest.approx(float(0.15 * (importance["head.weight"] * change**2).sum()), abs=1e-12)
    assert torch.allclose(model.head.weight.grad, 1 + 0.3 * importance["head.weight"] * change, atol=1e-12)
    assert penalised(model).keys() == {"head.weight"}


def test_penalty_and_gradient_of_adapters() -> None:
    """dA = μ s Bᵀ (F ∘ Δ), dB = μ s (F ∘ Δ) Aᵀ with Δ = s·B·A."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model: Any = get_peft_model(
        nn.Sequential(nn.Linear(4, 3)).double(), LoraConfig(r=2, lora_alpha=6, target_modules=["0"])
    )
    layer = model.base_model.model[0]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    (name,) = penalised(model)
    importance = {name: torch.rand(3, 4, dtype=torch.float64)}
    anchor = Anchor(model, 0.5, importance)
    assert not anchor.start and anchor.pull(model) == 0.0
    with torch.no_grad():
        b += torch.randn(3, 2, dtype=torch.float64)
    a.grad = b.grad = None
    delta = 3.0 * (b @ a).detach()
    assert anchor.pull(model) == pytest.approx(float(0.25 * (importance[name] * delta**2).sum()), abs=1e-12)
    weighted = 0.5 * importance[name] * delta
    assert torch.allclose(a.grad, 3.0 * b.detach().t() @ weighted, atol=1e-12)
    assert torch.allclose(b.grad, 3.0 * weighted @ a.detach().t(), atol=1e-12)


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
@pytest.mark.parametrize("method", ["l2sp", "ewc", "lwf"])
def test_micro_batches_change_nothing_and_no_weight_is_plain_sft(
    job: JobMaker, tmp_path: Any, method: str, lora: Any
) -> None:
    params: dict[str, Any] = {"lora": lora, "weight_decay": 0, "learning_rate": 1e-3, "max_steps": 4, "mu": 0.5}
    if method != "l2sp":
        params |= {"prompts": "general", "max_completion_length": 6, "_extra": {"prompts": GENERAL}}
    whole = train(job(method, **params))
    assert gap(whole, train(job(method, micro_batch_size=1, **params))) < 1e-4
    none = train(job(method, **{**params, "mu": 0}))
    shared = {key: params[key] for key in ("lora", "weight_decay", "learning_rate", "max_steps")}
    sft = train(job("sft", **shared))
    assert gap(none, sft) < 1e-5 < gap(whole, sft)


def test_a_strong_pull_keeps_the_weights(job: JobMaker) -> None:
    import json

    from safetensors.torch import load_file

    from tests.tiny import tiny_model
    from tests.trainers.conftest import weights

    base = load_file(tiny_model() / "model.safetensors")

    def moved(mu: float) -> float:
        folder = train(job("l2sp", mu=mu, learning_rate=1e-3, epochs=8, max_steps=40, schedule="constant"))
        assert json.loads((folder / "manifest.json").read_text())["final"]["penalty"] > 0
        found = weights(folder)
        return sum(float(((found[name] - base[name]) ** 2).sum()) for name in found)

    assert moved(10.0) < moved(1e-6) / 4


def test_no_prompts_left_is_said(job: JobMaker) -> None:
    with pytest.raises(UserError, match="no prompts to train with"):
        long = [Example("long", [{"role": "user", "content": "word " * 300}], "", "")]
        train(job("ewc", prompts="general", max_length=128, _extra={"prompts": long}))

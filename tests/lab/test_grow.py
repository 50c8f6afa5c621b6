"""A grown model says what the smaller one says, and all new in it can be trained. A cut one keeps what matters."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from refinery.lab.grow import cut, grown


def config(hidden=64, inner=96, layers=2, **more):
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    heads = hidden // 32
    return LlamaConfig(
        **shape, vocab_size=50, num_attention_heads=heads,
        **{"num_key_value_heads": heads, "head_dim": 32, "tie_word_embeddings": True} | more,
    )  # fmt: skip


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = LlamaForCausalLM(config())
    with torch.no_grad():
        for weight in model.parameters():  # far from where training begins
            weight.add_(0.3 * torch.randn_like(weight))
    return model.eval()


@pytest.mark.parametrize("shape", [(96, 96, 2), (64, 128, 2), (64, 96, 3), (128, 160, 4)])
def test_it_says_the_same(small, shape):
    ids = torch.randint(0, 50, (3, 17))
    large = grown(small, config(*shape)).eval()
    before, after = small(input_ids=ids).logits, large(input_ids=ids).logits
    assert before.std() > 0.5
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert large.lm_head.weight is large.model.embed_tokens.weight


def test_every_weight_moves_after_a_few_steps(small):
    large = grown(small, config(128, 160, 3))
    start = {name: weight.detach().clone() for name, weight in large.named_parameters()}
    optimizer = torch.optim.AdamW(large.parameters(), lr=1e-2, weight_decay=0.0)
    ids = torch.randint(0, 50, (4, 16))
    for _ in range(3):
        large(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    used = sorted(set(ids.flatten().tolist()))
    for name, weight in large.named_parameters():
        still = (weight.detach() == start[name]).float()
        assert (still[used] if "embed" in name else still).mean() < 0.01, name


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (config(64, 64), "at least as large in"),
        (config(64, 96, head_dim=64), "the same head_dim"),
        (config(128, num_key_value_heads=2), "a key and a value for each head"),
        (config(64, 96, tie_word_embeddings=False), "the same head_dim"),
    ],
)
def test_what_cannot_be_kept_is_refused(small, other, why):
    with pytest.raises(ValueError, match=why):
        grown(small, other)


def test_cutting_what_writes_nothing_changes_nothing(small):
    """A layer and neurons that write zeros: the best neurons and the other layers are what is left."""
    torch.manual_seed(1)
    padded = grown(small, config(64, 128, 3)).eval()
    rows = torch.randperm(128)
    with torch.no_grad():  # the mute neurons are not the last ones
        for layer in padded.model.layers:
            layer.mlp.gate_proj.weight.copy_(layer.mlp.gate_proj.weight[rows])
            layer.mlp.up_proj.weight.copy_(layer.mlp.up_proj.weight[rows])
            layer.mlp.down_proj.weight.copy_(layer.mlp.down_proj.weight[:, rows])
    ids = torch.randint(0, 50, (3, 17))
    found = cut(padded, (0, 1), 96).eval()
    assert (found.config.num_hidden_layers, found.config.intermediate_size) == (2, 96)
    assert found.num_parameters() == small.num_parameters()
    torch.testing.assert_close(found(input_ids=ids).logits, small(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
    assert found.lm_head.weight is found.model.embed_tokens.weight


def test_a_cut_model_is_its_own(small):
    found = cut(small, (1,), 96)
    with torch.no_grad():
        for weight in found.parameters():
            weight.zero_()
    assert all(weight.abs().sum() > 0 for weight in small.parameters())
    assert len(found.model.layers) == 1 and len(small.model.layers) == 2

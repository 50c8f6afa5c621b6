"""A grown model says what the smaller one says, and everything new in it can be trained."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from refinery.lab.grow import grown


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

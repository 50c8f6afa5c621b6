"""A wider and deeper model that at first says exactly what a smaller one says (after Net2Net, arXiv:1511.05641).

So the large base need not learn from nothing what the middle one knows, which would take hours. Everything
new reads the old activations by random weights and writes by zeros: nothing changes until it is trained.
"""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

WRITERS = ("o_proj.weight", "down_proj.weight")
"""The matrices that write to the residual stream."""


@torch.no_grad()
def grown(model: LlamaForCausalLM, config: LlamaConfig) -> LlamaForCausalLM:
    """A model of `config`, new weights from torch's generator. The old heads come first, so do the old layers.

    Raises ValueError where `config` is smaller somewhere, or has heads of another size: those cannot be kept.
    """
    old, new = model.config, LlamaForCausalLM(config)
    grows = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same = ("head_dim", "vocab_size", "rms_norm_eps", "tie_word_embeddings", "rope_parameters")
    if any(getattr(config, key) < getattr(old, key) for key in grows):
        raise ValueError(f"a grown model is at least as large in {', '.join(grows)}")
    if any(getattr(config, key) != getattr(old, key) for key in same) or config.hidden_size % old.head_dim:
        raise ValueError(f"a grown model has the same {', '.join(same)}")
    if any(each.num_key_value_heads != each.num_attention_heads for each in (old, config)):
        raise ValueError("a grown model has a key and a value for each head")
    known, target = dict(model.named_parameters()), dict(new.named_parameters())
    # The new zeros lower the mean square that a norm divides by, so its weights make up for that.
    balance = (old.hidden_size / config.hidden_size) ** 0.5
    for name, weight in target.items():
        if name.endswith(WRITERS) or "embed_tokens" in name:
            weight.zero_()
        if weight.ndim == 1:
            weight.fill_(balance)
        if name in known:
            block = tuple(slice(0, length) for length in known[name].shape)
            weight[block] = known[name] * balance if weight.ndim == 1 else known[name]
    return new

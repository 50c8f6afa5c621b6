"""Models of other sizes made from a trained one, so that they need not learn from nothing what it knows.

A grown one is wider and deeper and at first says exactly the same (after Net2Net, arXiv:1511.05641): what is new reads
the old activations by random weights and writes by zeros, so nothing changes until it is trained. A cut one lacks some
layers and the neurons of smallest norm, and has to be trained until it says again what it said.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
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
    if any(getattr(config, key) != getattr(old, key) for key in same) or config.hidden_size % (old.head_dim or 1):
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


@torch.no_grad()
def cut(model: LlamaForCausalLM, layers: Sequence[int], inner: int) -> LlamaForCausalLM:
    """A new model of these `layers` of `model`, each with its `inner` neurons of largest norm.

    A neuron's norm is the product of what it reads by (gate and up) and what it writes by (down).
    """
    config = LlamaConfig(**model.config.to_dict() | {"num_hidden_layers": len(layers), "intermediate_size": inner})
    new = LlamaForCausalLM(config)
    new.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    new.model.norm.load_state_dict(model.model.norm.state_dict())
    for number, layer in zip(layers, new.model.layers, strict=True):
        old = model.model.layers[number]
        for part in ("self_attn", "input_layernorm", "post_attention_layernorm"):
            getattr(layer, part).load_state_dict(getattr(old, part).state_dict())
        gate, up, down = old.mlp.gate_proj.weight, old.mlp.up_proj.weight, old.mlp.down_proj.weight
        norms = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
        best = norms.topk(inner).indices.sort().values
        layer.mlp.gate_proj.weight = nn.Parameter(gate[best].clone())
        layer.mlp.up_proj.weight = nn.Parameter(up[best].clone())
        layer.mlp.down_proj.weight = nn.Parameter(down[:, best].clone())
    return new

"""Rollouts by a decoding loop of our own: the samples of transformers' `generate` under the same seed, with less to do.

A row that has ended leaves the batch, a prompt that is asked several times is read once, and what `generate` looks up
anew for every token is prepared once. Random numbers are taken as `torch.multinomial` takes them, one for each row and
word whether the row still goes on or not, so that samples, and what is drawn after them, are those of `generate` (on a
CPU; a GPU's `generate` may run a token further before it notices that all rows have ended).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from refinery.models.decoding import can_join, forget_columns, left_padded, positions


@dataclass(frozen=True)
class Manner:
    """How the next token is chosen and when a row ends."""

    limit: int
    """Tokens at most."""
    ends: Sequence[int]
    pad: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def warpers(self) -> list[Any]:
        """Those of `generate`, in its order."""
        found: list[Any] = [TemperatureLogitsWarper(self.temperature)] if self.temperature != 1.0 else []
        found += [TopKLogitsWarper(self.top_k)] if self.top_k else []
        return found + ([TopPLogitsWarper(self.top_p)] if self.top_p < 1.0 else [])


def can_sample(model: Any) -> bool:
    """Whether `sample` is for this model: keys and values in every layer, and attention that takes a mask of ours."""
    return model.config.get_text_config()._attn_implementation == "sdpa" and can_join(model)


@torch.inference_mode()
def sample(model: Any, prompts: Sequence[Sequence[int]], manner: Manner) -> list[list[int]]:
    """One continuation of each prompt, with its end token where it came to one. `model` is in eval mode."""
    device = model.device
    ends = torch.tensor(list(manner.ends), device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    live = torch.arange(len(prompts), device=device)
    under_way, logits = _read(model, prompts, manner)
    warpers = manner.warpers()
    for step in range(manner.limit):
        tokens = _choose(logits.float(), warpers, live, len(prompts))
        for row, token in zip(live.tolist(), tokens.tolist(), strict=True):
            answers[row].append(token)
        going = ~torch.isin(tokens, ends)
        if step + 1 == manner.limit or not going.any():
            break
        if not going.all():
            live, tokens = live[going], tokens[going]
            under_way.keep(going)
        logits = under_way.step(tokens)
    return answers


def _choose(logits: Tensor, warpers: list[Any], live: Tensor, rows: int) -> Tensor:
    """(live,) tokens from their (live, V) logits; the random numbers of all rows are drawn."""
    for warper in warpers:
        logits = warper(None, logits)
    noise = torch.empty(rows, logits.shape[-1], device=logits.device).exponential_()
    noise = noise if len(live) == rows else noise[live]
    return (logits.softmax(-1) / noise).argmax(-1)


class _UnderWay:
    """Left-padded rows: their keys and values, which columns are theirs, and the position of their next token."""

    def __init__(self, model: Any, cache: Any, mask: Tensor, positions: Tensor, room: int):
        self.model, self.cache, self.positions = model, cache, positions
        self.width = mask.shape[1]
        self.mask = torch.cat([mask, mask.new_ones(len(mask), room)], -1)[:, None, None, :]

    def keep(self, going: Tensor) -> None:
        self.cache.batch_select_indices(going.nonzero()[:, 0])
        self.mask, self.positions = self.mask[going], self.positions[going]
        spare = int(self.mask[:, 0, 0].int().argmax(-1).min())  # columns that no row uses any more
        if spare * 8 >= self.width:
            self.mask, self.width = self.mask[..., spare:], self.width - spare
            forget_columns(self.cache, spare)

    def step(self, tokens: Tensor) -> Tensor:
        """(rows, V) logits after the rows' next tokens."""
        self.width += 1
        made = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask[..., : self.width],
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.positions = self.positions + 1
        return made.logits[:, -1]  # type: ignore[no-any-return]


def _read(model: Any, prompts: Sequence[Sequence[int]], manner: Manner) -> tuple[_UnderWay, Tensor]:
    """The prompts' keys and values, each different one read once, and the logits after them."""
    device = model.device
    places: dict[tuple[int, ...], int] = {}
    order = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    ids, mask = left_padded(list(places), manner.pad, device)
    cache = DynamicCache(config=model.config)
    made = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = made.logits[:, -1]
    if len(places) < len(prompts):
        rows = torch.tensor(order, device=device)
        cache.batch_select_indices(rows)
        mask, logits = mask[rows], logits[rows]
    return _UnderWay(model, cache, mask.bool(), mask.sum(-1, keepdim=True), manner.limit), logits

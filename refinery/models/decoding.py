"""Decoding and scoring on tensors: what TransformersModel runs. Importing this imports torch.

Rows are padded on the left and masked, with positions counted from each row's first token, so that a row is computed
as it would be alone. Sampling takes one uniform number for each (request, position) from a counter-based generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from refinery.models.base import FinishReason, Sampling


@dataclass(slots=True)
class Row:
    """One answer being written."""

    index: int
    prompt: list[int]
    sampling: Sampling
    limit: int
    """Tokens it may still grow to: max_tokens, or what the context leaves."""
    noise: np.ndarray
    """(limit,) uniform numbers in [0, 1), one for each position."""
    tail: int
    """How many of the last tokens can hold the end of a stop text."""
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    text: str | None = None


class Decoder:
    """Rows under way together. A row leaves when it ends, and others may join at any time: none of them notices."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer
        self.rows: list[Row] = []
        self._ends = _end_tokens(model, tokenizer)
        self._batch: _Batch | None = None

    @torch.inference_mode()
    def join(self, rows: list[Row]) -> None:
        if rows:
            new = _Batch(self.model, [row.prompt for row in rows], self.tokenizer.pad_token_id or 0)
            self._batch = new if not self.rows or self._batch is None else self._batch.with_(new)
            self.rows = [*self.rows, *rows]

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One token more for every row; those that ended with it, by themselves or at their limit."""
        assert self._batch is not None
        uniform = [row.noise[len(row.tokens)] for row in self.rows]
        chosen = choose(self._batch.logits, [row.sampling for row in self.rows], uniform)
        for row, token in zip(self.rows, chosen, strict=True):
            _grow(row, token, self._ends, self.tokenizer)
        going = [i for i, row in enumerate(self.rows) if row.finish is None]
        ended = [row for row in self.rows if row.finish is not None]
        self.rows = [self.rows[i] for i in going]
        if self.rows:
            self._batch.step([chosen[i] for i in going], going)
        else:
            self._batch = None
        return ended


def decode(model: Any, tokenizer: Any, rows: list[Row]) -> None:
    """Grow every row, in place, until it ends."""
    decoder = Decoder(model, tokenizer)
    decoder.join(rows)
    while decoder.rows:
        decoder.step()


class _Batch:
    """Left-padded rows under way: their key-value cache, mask and the logits of the next token."""

    def __init__(self, model: Any, prompts: list[list[int]], pad: int):
        ids, self.mask = left_padded(prompts, pad, model.device)
        self.model, self.cache = model, DynamicCache(config=model.config)
        self.logits = self._forward(ids, positions(self.mask))

    def with_(self, other: "_Batch") -> "_Batch":
        """These rows and then those of `other`, all padded on the left to the longer of the two."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        layers: Any = zip(self.cache.layers, other.cache.layers, strict=True)
        for layer, new in layers:
            layer.keys = torch.cat([_widened(layer.keys, width, -2), _widened(new.keys, width, -2)])
            layer.values = torch.cat([_widened(layer.values, width, -2), _widened(new.values, width, -2)])
        self.mask = torch.cat([_widened(self.mask, width, -1), _widened(other.mask, width, -1)])
        self.logits = torch.cat([self.logits, other.logits])
        return self

    def step(self, tokens: list[int], keep: list[int]) -> None:
        """Go on with the rows `keep` (indices into the present ones), whose next tokens are `tokens`."""
        if len(keep) < len(self.mask):
            rows = torch.tensor(keep, device=self.mask.device)
            self.cache.batch_select_indices(rows)
            self.mask = self.mask[rows]
            self._narrow()
        position = self.mask.sum(-1, keepdim=True)  # (rows, 1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(keep), 1)], dim=-1)
        self.logits = self._forward(torch.tensor(tokens, device=self.mask.device)[:, None], position)

    def _narrow(self) -> None:
        """Drop the columns that are padding in every row, once they are an eighth of all."""
        spare = int(self.mask.any(0).int().argmax())
        if spare * 8 >= self.mask.shape[1]:
            self.mask = self.mask[:, spare:]
            forget_columns(self.cache, spare)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) float32 after the last of `ids` (rows, length)."""
        out = self.model(
            input_ids=ids,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float()


def can_join(model: Any) -> bool:
    """Whether rows of different prompts may be put into one cache: not where layers see a sliding window alone, or
    keep a state in place of keys and values."""
    layers = DynamicCache(config=model.config).layers
    return all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def forget_columns(cache: Any, spare: int) -> None:
    """The first columns of every layer's keys and values, which are padding in all rows."""
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[..., spare:, :], layer.values[..., spare:, :]


def _widened(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Zeros put before it along `dim`, up to `width`."""
    shape = list(tensor.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor


@torch.inference_mode()
def score(model: Any, pairs: list[tuple[list[int], list[int]]], pad: int = 0) -> list[list[float]]:
    """Log-probabilities, in nats, of each token of `target` after `prompt`, for (prompt, target) token ids."""
    ids, mask = left_padded([[*prompt, *target] for prompt, target in pairs], pad, model.device)
    longest = max(len(target) for _, target in pairs)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions(mask),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    found = []
    for logits, (_, target) in zip(out.logits, pairs, strict=True):
        own = logits[-len(target) - 1 : -1].float()  # (tokens, vocabulary): each row predicts the token after it
        chosen = own.gather(-1, torch.tensor(target, device=own.device)[:, None])[:, 0]
        found.append((chosen - own.logsumexp(-1)).tolist())
    return found


def noise(name: str, length: int) -> np.ndarray:
    """(length,) uniform numbers in [0, 1) for the positions of the request of that digest.

    From the raw words of numpy's Philox, whose stream is fixed for good: a longer answer extends a shorter one's.
    """
    words = np.random.Philox(key=int(name[:32], 16)).random_raw(length)
    return (words >> np.uint64(11)) * 2.0**-53


def choose(logits: torch.Tensor, samplings: list[Sampling], uniform: list[float]) -> list[int]:
    """The next token of each row of `logits` (rows, vocabulary) float32.

    Temperature 0 takes the likeliest. Else the token at which the cumulative probability, in vocabulary order and
    after temperature, top_k and top_p, passes the row's `uniform` number.
    """
    tokens = logits.argmax(-1)
    drawn = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        kept = warp(logits[rows], [samplings[i] for i in drawn])
        totals = kept.double().softmax(-1).cumsum(-1)
        at = torch.tensor([[uniform[i]] for i in drawn], dtype=totals.dtype, device=logits.device)
        passed = torch.searchsorted(totals, at * totals[:, -1:], right=True)[:, 0]
        tokens[rows] = passed.clamp(max=logits.shape[-1] - 1)
    return tokens.tolist()


def warp(logits: torch.Tensor, samplings: list[Sampling]) -> torch.Tensor:
    """Logits (rows, vocabulary) divided by temperature, and -inf outside top_k, then outside top_p.

    As transformers' warpers do it: ties with the k-th stay, and top_p keeps the smallest set of the likeliest tokens
    that reaches it, at least one.
    """

    def column(values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device)[:, None]

    logits = logits / column([sampling.temperature for sampling in samplings])
    size = logits.shape[-1]
    if any(0 < sampling.top_k < size for sampling in samplings):
        counts = column([min(sampling.top_k, size) or size for sampling in samplings])
        least = logits.sort(-1, descending=True).values.gather(-1, counts - 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if any(sampling.top_p < 1 for sampling in samplings):
        values, order = logits.sort(-1)
        cut = values.softmax(-1).cumsum(-1) <= column([1 - sampling.top_p for sampling in samplings])
        cut[:, -1] = False
        cut &= column([sampling.top_p < 1 for sampling in samplings])
        logits = logits.masked_fill(cut.scatter(-1, order, cut), -torch.inf)
    return logits


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (rows, longest) int64, the mask 0 where padded."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Each row's positions counted from its first real token."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    declared = getattr(model.generation_config, "eos_token_id", None)
    ends = set(declared if isinstance(declared, list) else [declared])
    return {token for token in (*ends, tokenizer.eos_token_id) if token is not None}


def text_of(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _grow(row: Row, token: int, ends: set[int], tokenizer: Any) -> None:
    """Add a token to a row, and its end where this is it. The end token is no part of the answer."""
    if token in ends:
        row.finish = "stop"
        return
    row.tokens.append(token)
    if row.tail and _stopped(row, tokenizer):
        row.finish = "stop"
    elif len(row.tokens) >= row.limit:
        row.finish = "length"


def _stopped(row: Row, tokenizer: Any) -> bool:
    """Whether a stop text has just been completed; if so, row.text ends before the first."""
    recent = text_of(tokenizer, row.tokens[-row.tail - 4 :])  # a token holds a byte at least
    if not any(stop in recent for stop in row.sampling.stop):
        return False
    text = text_of(tokenizer, row.tokens)
    found = [place for stop in row.sampling.stop if (place := text.find(stop)) >= 0]
    if found:
        row.text = text[: min(found)]
    return bool(found)

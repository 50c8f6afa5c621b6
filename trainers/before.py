"""The model as it was before training: what it says, and what it would have said next.

Samples are drawn with the counter-based noise of refinery/models/decoding.py, so they take nothing from the random
numbers of the training and are the same after an interruption.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from refinery.errors import UserError
from refinery.models import decoding
from refinery.models.base import Sampling
from refinery.records import digest
from trainers.chunks import by_chunks
from trainers.data import prompt_ids
from trainers.head import Head
from trainers.job import Run
from trainers.targets import token_kl
from trainers.teachers import causal_model, check_head

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its answer."""

BATCH = 32
"""Answers written side by side."""


class Before:
    """A frozen copy of the weights; under LoRA the same weights with the adapter off."""

    def __init__(self, run: Run):
        first = run.prepared.rows[0]
        check_head(run.model, first.prompt + first.answer)
        self.copy = None
        if run.adapter is None:
            frozen = copy.deepcopy(run.model).requires_grad_(False).eval()
            self.copy = frozen.to(torch.bfloat16) if run.arguments["bf16"] else frozen

    @contextlib.contextmanager
    def of(self, model: Any) -> Iterator[Any]:
        """The original of `model`, the trained one, unwrapped."""
        original = model if self.copy is None else self.copy
        with evaluating(original), model.disable_adapter() if self.copy is None else contextlib.nullcontext():
            yield original


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Without dropout for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def split(accelerator: Any) -> bool:
    """Whether weights are split over processes (FSDP, ZeRO)."""
    return accelerator.distributed_type.name in ("FSDP", "DEEPSPEED")


def refuse_split(accelerator: Any, what: str) -> None:
    """UserError where weights are split over processes, for what looks at them whole."""
    kind = accelerator.distributed_type.name
    if split(accelerator):
        raise UserError(f"{kind} splits the weights, which {what} do not support; train with DDP")


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    end: int,
    limit: int,
    name: str,
    temperature: float = 1.0,
) -> list[list[int]]:
    """One answer to each prompt, of at most `limit` tokens, with the end token where it came to it. `name` picks the
    noise: the same name and prompt, the same numbers."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    rows = []
    for index, prompt in enumerate(prompts):
        own = min(limit, context - len(prompt))
        if own < 1:
            raise UserError(f"a prompt of {len(prompt)} tokens leaves no room in the context of {context}")
        noise = decoding.noise(digest([name, index, prompt]), own)
        rows.append(decoding.Row(index, list(prompt), Sampling(temperature=temperature, max_tokens=own), own, noise, 0))
    with evaluating(model):
        for start in range(0, len(rows), BATCH):
            decoding.decode(model, tokenizer, rows[start : start + BATCH])
    return [row.tokens + ([end] if row.finish == "stop" else []) for row in rows]


def own_answers(run: Run, prompts: Sequence[list[int]], limit: int) -> list[Pair]:
    """The prompts with what the model says to them before training. The run's model must still be that one."""
    name = f"before/{run.job.seed}"
    answers = sample(run.model, run.tokenizer, prompts, end=run.prepared.ending.token_id, limit=limit, name=name)
    return [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer]


def general_prompts(run: Run, count: int) -> list[list[int]]:
    """Of the rows that `prompts` names: `count` prompts, chosen by the digest of seed and row, so that appended rows
    disturb few."""
    examples = sorted(run.job.extra["prompts"], key=lambda example: digest([run.job.seed, example.id]))
    return prompt_ids(examples[:count], run.tokenizer, max_length=run.job.params.max_length)


def states(model: Any, pairs: Sequence[Pair], pad: int | None) -> tuple[Tensor, Tensor]:
    """(N, H) hidden states that predict the answers' tokens, and those tokens (N,), answer after answer. Padding is
    masked, so any token serves where the tokenizer has none for it."""
    width = max(len(prompt) + len(answer) for prompt, answer in pairs)
    device = next(model.parameters()).device
    ids = torch.tensor([[*p, *a, *([pad or 0] * (width - len(p) - len(a)))] for p, a in pairs], device=device)
    ends = torch.tensor([len(prompt) + len(answer) for prompt, answer in pairs], device=device)[:, None]
    starts = torch.tensor([len(prompt) for prompt, _ in pairs], device=device)[:, None]
    place = torch.arange(width, device=device)[None]
    made = causal_model(model).base_model(input_ids=ids, attention_mask=(place < ends).long(), use_cache=False)
    predicting = (place >= starts - 1) & (place < ends - 1)
    targets = torch.tensor([token for _, answer in pairs for token in answer], device=device)
    return made.last_hidden_state[predicting], targets


def forward_kl(hidden: Tensor, head: Head, before: Tensor, head_before: Head) -> Tensor:
    """(N,) KL(before || now) of next-token distributions, all words counted; gradients go to `hidden` and `head`."""
    frozen = head_before.frozen(before.dtype)

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        with torch.no_grad():
            reference = frozen.cap(frozen.project(before[rows]))
        return (token_kl(logits, reference)[0],)

    return by_chunks(hidden, head, per_chunk)[0]


@torch.no_grad()
def both_kl(hidden: Tensor, head: Head, before: Tensor, head_before: Head) -> tuple[Tensor, Tensor]:
    """(N,) KL(before || now) and KL(now || before), without gradients."""
    frozen = head_before.frozen(before.dtype)

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        return token_kl(logits, frozen.cap(frozen.project(before[rows])))

    forward, reverse = by_chunks(hidden, head, per_chunk)
    return forward, reverse

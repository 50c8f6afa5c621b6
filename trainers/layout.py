"""How prompts and continuations lie in a batch: padded on the right, and where it saves work the continuations of one
prompt behind each other in one row, so that the prompt is computed once.

Such a row is the prompt, then its continuations. Each of them sees the prompt and itself, and its positions count on
from the prompt's end; so every token gets the states that it would get in a row of its own. The last token of a
continuation predicts nothing that is asked for, and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from refinery.models.decoding import can_join
from trainers.teachers import causal_model

Tokens = Sequence[int]


@dataclass(slots=True)
class _Line:
    """One row of the batch."""

    tokens: list[int]
    positions: list[int]
    parts: list[int]
    """0 for the prompt, k for its k-th continuation."""
    count: int = 0

    @classmethod
    def of(cls, prompt: Tokens) -> "_Line":
        return cls(list(prompt), list(range(len(prompt))), [0] * len(prompt))

    def add(self, prompt: Tokens, continuation: Tokens) -> list[int]:
        """The places of the states that predict the continuation's tokens."""
        start, read = len(self.tokens), continuation[:-1]
        self.count += 1
        self.tokens += read
        self.positions += range(len(prompt), len(prompt) + len(read))
        self.parts += [self.count] * len(read)
        return [len(prompt) - 1, *range(start, start + len(read))][: len(continuation)]


@dataclass(slots=True)
class Layout:
    lines: list[_Line] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    """(row, column) of each state that is asked for, in the order of the continuations."""

    @property
    def width(self) -> int:
        return max(len(line.tokens) for line in self.lines)

    @property
    def shared(self) -> bool:
        return any(line.count > 1 for line in self.lines)

    def cost(self, hidden: int) -> int:
        """About proportional to the arithmetic: a token takes 24 H² operations in a layer's matrices and 4 n H in its
        attention over n others."""
        return len(self.lines) * self.width * (6 * hidden + self.width)

    def inputs(self, pad: int, device: Any) -> dict[str, Tensor]:
        """What the model is called with."""
        width = self.width

        def padded(rows: list[list[int]], value: int) -> Tensor:
            return torch.tensor([row + [value] * (width - len(row)) for row in rows], device=device)

        ids = padded([line.tokens for line in self.lines], pad)
        if not self.shared:
            lengths = torch.tensor([len(line.tokens) for line in self.lines], device=device)[:, None]
            mask = (torch.arange(width, device=device)[None] < lengths).long()
            return {"input_ids": ids, "attention_mask": mask}
        parts = padded([line.parts for line in self.lines], -1)
        seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])  # (rows, from, to)
        positions = padded([line.positions for line in self.lines], 0)
        return {"input_ids": ids, "attention_mask": seen.tril()[:, None], "position_ids": positions}

    def pick(self, states: Tensor) -> Tensor:
        """(N, H) of the (rows, width, H) states."""
        rows, columns = torch.tensor(self.places, dtype=torch.long, device=states.device).reshape(-1, 2).unbind(-1)
        return states[rows, columns]


def lay(
    prompts: Sequence[Tokens], continuations: Sequence[Tokens], skips: Sequence[int], together: bool, hidden: int
) -> Layout:
    """For the states that predict each continuation after its first `skip` tokens. `together`: continuations of equal
    prompts may share a row, and do where that is less work; `hidden` is the model's H."""
    apart = _lay(prompts, continuations, skips, together=False)
    if not together or len({tuple(prompt) for prompt in prompts}) == len(prompts):
        return apart
    joined = _lay(prompts, continuations, skips, together=True)
    return min(apart, joined, key=lambda layout: layout.cost(hidden))


def _lay(prompts: Sequence[Tokens], continuations: Sequence[Tokens], skips: Sequence[int], together: bool) -> Layout:
    layout, rows = Layout(), dict[Any, int]()
    for number, (prompt, continuation, skip) in enumerate(zip(prompts, continuations, skips, strict=True)):
        row = rows.setdefault(tuple(prompt) if together else number, len(layout.lines))
        if row == len(layout.lines):
            layout.lines.append(_Line.of(prompt))
        layout.places += [(row, place) for place in layout.lines[row].add(prompt, continuation)[skip:]]
    return layout


@torch.no_grad()
def can_share(model: Any, prompt: Tokens, answer: Tokens) -> bool:
    """Whether this model gives the same states to continuations that share a row. Not where layers keep more than keys
    and values, nor where attention takes no mask of one's own."""
    inner = causal_model(model)
    if inner.config.get_text_config()._attn_implementation != "sdpa" or not can_join(inner):
        return False
    tail = list(answer[::-1])
    prompts, answers = [prompt, prompt], [list(answer), [*tail, *tail]]
    device, backbone, found = next(model.parameters()).device, inner.base_model, []
    training = model.training
    model.eval()
    try:
        for together in (False, True):
            layout = _lay(prompts, answers, [0, 0], together)
            made = backbone(**layout.inputs(0, device), use_cache=False).last_hidden_state
            found.append(layout.pick(made).float())
    except (RuntimeError, ValueError, TypeError):  # a model of its own kind: the usual rows are for all
        return False
    finally:
        model.train(training)
    gap, size = (found[0] - found[1]).abs().max(), found[0].abs().max()
    coarse = next(model.parameters()).dtype != torch.float32
    return bool(gap <= (0.05 if coarse else 1e-3) * size)

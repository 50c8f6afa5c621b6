"""The frozen model that a rewriter writes for: likelihoods of texts, what it says itself, a yes or a no."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from refinery.models import tokens
from refinery.records import Message
from trainers.job import Run
from trainers.losses import cross_entropy
from trainers.teachers import Teacher, causal_model, frozen_copy

Ids = list[int]


class Target:
    """The weights before training: under LoRA the trained model with its adapter off, else a copy of its own.

    `attach` it to the trainer before the first question. Ids of a text after a prompt are those of the text alone put
    behind the prompt's: tokenised together, the boundary between them could fall elsewhere.
    """

    def __init__(self, run: Run, size: int):
        """`size`: rows of one forward pass."""
        self.tokenizer, self.size = run.tokenizer, size
        self.ending = run.prepared.ending
        self.teacher = Teacher("adapter") if run.adapter is not None else Teacher("copy", frozen_copy(run))
        self.trainer: Any = None

    def attach(self, trainer: Any) -> None:
        self.trainer = trainer
        if self.teacher.frozen is not None:
            self.teacher.frozen.to(trainer.accelerator.device)

    @property
    def _student(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    # ---- texts as ids

    def chat(self, messages: list[Message]) -> Ids:
        """The chat up to and with the header of the assistant's turn, and what its answers begin with."""
        return [*tokens.prompt_ids(self.tokenizer, messages, {}), *self.words(self.ending.lead)]

    def words(self, text: str) -> Ids:
        """The text alone, without special tokens."""
        return tokens.continuation_ids(self.tokenizer, text) if text else []

    # ---- questions

    def mean_log_probs(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[float | None]:
        """(1/|y|) Σ_t log p(y_t | x, y_<t) for each (x, y); None where y is empty."""
        found: list[float | None] = [None] * len(pairs)
        asked = [i for i, (_, text) in enumerate(pairs) if text]
        asked.sort(key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))  # equal lengths together
        for start in range(0, len(asked), self.size):
            some = asked[start : start + self.size]
            for i, values in zip(some, self._log_probs([pairs[i] for i in some]), strict=True):
                found[i] = values.double().mean().item()
        return found

    @torch.no_grad()
    def _log_probs(self, pairs: list[tuple[Ids, Ids]]) -> list[Tensor]:
        with self.teacher.active(self._student) as model, self.trainer.accelerator.autocast():
            states, mask = self._states(model, [x + y for x, y in pairs])
            head = self.teacher.head(self._student)
            place = torch.arange(states.shape[1], device=states.device)[None]
            lengths = mask.sum(-1, keepdim=True)
            starts = torch.tensor([len(x) for x, _ in pairs], device=states.device)[:, None]
            kept = (place >= starts - 1) & (place < lengths - 1)
            targets = torch.tensor([token for _, y in pairs for token in y], device=states.device)
            values = -cross_entropy(states[kept], head, targets)
        return list(values.split([len(y) for _, y in pairs]))

    @torch.no_grad()
    def next_probs(self, prompts: Sequence[Ids], ids: Sequence[int]) -> list[list[float]]:
        """Of each prompt, the probabilities with which each of `ids` comes next."""
        found: list[list[float]] = []
        for start in range(0, len(prompts), self.size):
            with self.teacher.active(self._student) as model, self.trainer.accelerator.autocast():
                states, mask = self._states(model, list(prompts[start : start + self.size]))
                last = states[torch.arange(len(states), device=states.device), mask.sum(-1) - 1]
                head = self.teacher.head(self._student)
                logits = head.cap(head.project(last)).double()
            found += logits.softmax(-1)[:, list(ids)].tolist()
        return found

    @torch.no_grad()
    def vectors(self, texts: Sequence[Ids]) -> Tensor:
        """(n, H) unit vectors: the mean of the last hidden states along each text alone. Every text has a token."""
        found = []
        for start in range(0, len(texts), self.size):
            with self.teacher.active(self._student) as model, self.trainer.accelerator.autocast():
                states, mask = self._states(model, list(texts[start : start + self.size]))
            weights = mask[..., None].double()
            found.append((states.double() * weights).sum(1) / weights.sum(1))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1).cpu()

    @torch.no_grad()
    def says(self, prompts: Sequence[Ids], limit: int, seed: int) -> list[str]:
        """One sample at temperature 1 for each prompt, of `limit` tokens at most. Leaves the random state as it was, so
        that it does not matter when it is asked."""
        from transformers import GenerationConfig

        pad, ends = self.tokenizer.pad_token_id, [*self.trainer.eos_token_ids]
        how = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=limit, eos_token_id=ends, pad_token_id=pad, disable_compile=True
        )
        found: list[str] = []
        with torch.random.fork_rng(), self.teacher.active(self._student) as model:
            torch.manual_seed(seed)
            for start in range(0, len(prompts), self.size):
                rows = list(prompts[start : start + self.size])
                width = max(map(len, rows))
                device = self.trainer.accelerator.device
                ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
                mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
                with self.trainer.accelerator.autocast():
                    made = causal_model(model).generate(input_ids=ids, attention_mask=mask, generation_config=how)
                found += self.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        return [text.strip() for text in found]

    def _states(self, model: Any, rows: list[Ids]) -> tuple[Tensor, Tensor]:
        """(n, tokens, H) last hidden states, and the mask; rows are padded on the right."""
        width, device = max(map(len, rows)), self.trainer.accelerator.device
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        backbone = causal_model(model).base_model
        return backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, mask

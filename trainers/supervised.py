"""TRL's SFTTrainer on rows that are tokens already, and what its relatives need of it."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer
from trl.models.utils import _ForwardRedirection

from trainers.head import Head
from trainers.job import Run
from trainers.loop import Loop
from trainers.teachers import causal_model, head_of


class SupervisedTrainer(Loop, SFTTrainer):
    """Mean cross-entropy over all answer tokens of an optimiser step; the prompt's tokens are masked."""

    cross_entropy = True


Kind = TypeVar("Kind", bound=SupervisedTrainer)


def supervised(run: Run, kind: type[Kind] = SupervisedTrainer, *, whole: bool = False, **options: Any) -> Kind:  # type: ignore[assignment]
    """The trainer of one run; `options` go to SFTConfig. `whole` trains the prompt's tokens too."""
    rows = [
        {"input_ids": row.prompt + row.answer, "labels": ([] if whole else [-100] * len(row.prompt)) + trained}
        for row in run.prepared.rows
        for trained in [row.prompt + row.answer if whole else row.answer]
    ]
    config = SFTConfig(**run.arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **options)
    trainer = kind(
        model=run.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=run.adapter,
    )
    trainer.places = run.places
    return trainer


TokenLoss = Callable[[Tensor, Head, Tensor], Tensor]
"""From (N, H) hidden states, the head and (N,) targets to (N,) losses (trainers/targets.py)."""


class TokenLossTrainer(SupervisedTrainer):
    """The mean over all answer tokens of a loss of one's own, taken from hidden states: the logits of a whole batch are
    never there at once. Set `token_loss` before training."""

    cross_entropy = False
    token_loss: TokenLoss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """`model` may be wrapped (DDP, FSDP): the call goes through its forward pass, where gradients are hooked."""
        inner = self.accelerator.unwrap_model(model)
        losses = _ForwardRedirection()(model, inner, self._token_losses, inner, inputs)
        tokens = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / torch.as_tensor(tokens, device=losses.device).clamp(min=1)
        return loss * self.accelerator.num_processes if num_items_in_batch is not None else loss

    def _token_losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        targets = inputs["labels"][:, 1:]
        trained = targets != -100
        with self.accelerator.autocast():
            backbone = causal_model(model).base_model
            made = backbone(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            return self.token_loss(made.last_hidden_state[:, :-1][trained], head_of(model), targets[trained])

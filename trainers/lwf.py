"""Supervised fine-tuning with a divergence from the model before training, on prompts of their own."""

from typing import Any

import torch
from torch import Tensor
from trl.models.utils import _ForwardRedirection

from trainers.before import Before, Pair, forward_kl, general_prompts, own_answers, states
from trainers.data import order
from trainers.job import Run
from trainers.supervised import SupervisedTrainer, supervised
from trainers.teachers import head_of


class LwfTrainer(SupervisedTrainer):
    """Each optimiser step takes `rows` of the `pairs` along, in shuffled passes of their own, spread over the step's
    micro-batches; the divergence is a mean over the step's tokens of theirs, whatever `micro_batch_size` is."""

    before: Before
    pairs: list[Pair]
    kl_places: list[int]
    rows: int
    mu: float
    _at: tuple[int, int] = (-1, 0)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        loss: Tensor = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        step, parts = self.state.global_step, self.args.gradient_accumulation_steps
        part = self._at[1] + 1 if self._at[0] == step else 0
        self._at = (step, part)
        window = [self.pairs[place] for place in self.kl_places[step * self.rows : (step + 1) * self.rows]]
        own = window[part::parts]
        kl = loss.new_zeros(())
        if own:
            inner = self.accelerator.unwrap_model(model)
            kl = _ForwardRedirection()(model, inner, self._kl, inner, own) / sum(len(answer) for _, answer in window)
        self._metrics["train"]["sft_loss"].append(loss.item() * parts)
        self._metrics["train"]["kl_loss"].append(kl.item() * parts)
        return loss + self.mu * kl

    def _kl(self, model: Any, pairs: list[Pair]) -> Tensor:
        tokenizer: Any = self.processing_class
        pad = tokenizer.pad_token_id
        with self.accelerator.autocast():
            with torch.no_grad(), self.before.of(model) as original:
                reference, head_before = states(original, pairs, pad)[0], head_of(original)
            hidden, _ = states(model, pairs, pad)
            return forward_kl(hidden, head_of(model), reference, head_before).sum()


def lwf(run: Run) -> LwfTrainer:
    """The trainer of one run (trainers/methods/lwf.py has the parameters)."""
    params: Any = run.job.params
    prompts = general_prompts(run, params.prompt_count)
    pairs = own_answers(run, prompts, params.max_completion_length)
    before = Before(run)
    trainer = supervised(run, LwfTrainer)
    trainer.before, trainer.pairs, trainer.mu = before, pairs, params.mu
    trainer.rows = params.kl_rows or params.batch_size
    trainer.kl_places = order(len(pairs), run.arguments["max_steps"] * trainer.rows, run.job.seed)
    run.notes |= {"kl_prompts": len(pairs), "kl_tokens": sum(len(answer) for _, answer in pairs)}
    return trainer

"""How far a model has moved from what it was, measured while it is trained, on a fixed set of prompts.

    forward_kl   Σ_t KL(p0 || p) along answers that the model gave before training, the same at every probe
    reverse_kl   Σ_t KL(p || p0) along fresh answers of the model as it stands
    forward_kl_rollouts   Σ_t KL(p0 || p) along the same fresh answers

as a mean over tokens, and with `_sequence` as a mean over answers: that of whole sequences, unbiased where the answers
are p0's (the first) or p's (the second). probe_length and probe_cut are of the fresh answers. The forward one
on the new task's prompts is what forgetting has been found to go with (arXiv 2509.04259). All words of the vocabulary
count. Nothing is taken from the random numbers of the training, so the weights are the same with and without probes.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from refinery.errors import UserError
from trainers.before import BATCH, Before, Pair, both_kl, evaluating, own_answers, refuse_split, sample, states
from trainers.data import prompt_ids
from trainers.job import Run
from trainers.teachers import head_of

LIMIT = 128
"""Tokens of an answer, where the method has no max_completion_length of its own."""


class Probe(TrainerCallback):
    """Probes every `probe_every` steps and after the last; `record(step, values)` takes what it finds."""

    def __init__(self, run: Run, trainer: Any, before: Before, answers: list[Pair], record: Callable[..., None]):
        refuse_split(trainer.accelerator, "probes")
        self.run, self.trainer, self.before, self.answers, self.record = run, trainer, before, answers, record

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step % self.run.job.params.probe_every and step != state.max_steps:
            return
        if self.trainer.accelerator.is_main_process:
            self.record(step, self.measure(step))

    @torch.no_grad()
    def measure(self, step: int) -> dict[str, float]:
        run, model = self.run, self.trainer.accelerator.unwrap_model(self.trainer.model)
        prompts = [prompt for prompt, _ in self.answers]
        with self.trainer.accelerator.autocast():
            name, limit = f"probe/{run.job.seed}/{step}", answer_limit(run)
            end = run.prepared.ending.token_id
            fresh = sample(model, run.tokenizer, prompts, end=end, limit=limit, name=name)
            own = [(prompt, answer) for prompt, answer in zip(prompts, fresh, strict=True) if answer]
            forward, _ = self._means(model, self.answers)
            along, reverse = self._means(model, own)
        found = {**_named("forward_kl", forward), **_named("reverse_kl", reverse)}
        found |= _named("forward_kl_rollouts", along)
        cut = sum(answer[-1:] != [end] for answer in fresh) / len(fresh)
        return found | {"probe_length": sum(map(len, fresh)) / len(fresh), "probe_cut": cut}

    def _means(self, model: Any, pairs: list[Pair]) -> tuple[tuple[float, float], tuple[float, float]]:
        """KL(p0 || p) and KL(p || p0), each as a mean over tokens and over answers."""
        sums, tokens = [0.0, 0.0], sum(len(answer) for _, answer in pairs)
        for start in range(0, len(pairs), BATCH):
            for way, value in enumerate(self._divergences(model, pairs[start : start + BATCH])):
                sums[way] += value
        forward, reverse = ((total / max(tokens, 1), total / max(len(pairs), 1)) for total in sums)
        return forward, reverse

    def _divergences(self, model: Any, pairs: list[Pair]) -> tuple[float, float]:
        pad = self.run.tokenizer.pad_token_id
        with self.before.of(model) as original:
            reference, head_before = states(original, pairs, pad)[0], head_of(original)
        with evaluating(model):
            hidden, _ = states(model, pairs, pad)
        forward, reverse = both_kl(hidden, head_of(model), reference, head_before)
        return float(forward.sum()), float(reverse.sum())


def _named(label: str, values: tuple[float, float]) -> dict[str, float]:
    return {label: values[0], f"{label}_sequence": values[1]}


def answer_limit(run: Run) -> int:
    return int(getattr(run.job.params, "max_completion_length", LIMIT))


def answers_before(run: Run) -> tuple[Before, list[Pair]]:
    """The prompts to probe with the answers of the run's model, which must still be the one before training; and that
    model, kept."""
    params = run.job.params
    rows = run.job.extra.get("probe_prompts")
    if rows is None:
        prompts = [row.prompt for row in run.prepared.rows[: params.probe_rows] if row.prompt]
    else:
        prompts = prompt_ids(rows[: params.probe_rows], run.tokenizer, max_length=params.max_length)
    if not prompts:
        raise UserError("probe_every: these rows have no prompts; name some with probe_prompts")
    return Before(run), own_answers(run, prompts, answer_limit(run))

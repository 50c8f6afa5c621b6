"""TRL's GRPOTrainer on prompts that are token ids already, with one reward that sees whole groups.

    loss = -(1/N) Σ min(ρ A, clip(ρ, 1 - ε, 1 + ε_high) A) + β · k3,      A = (r - mean r) / (std r + 1e-4)

over tokens, N as `loss_type` says, ρ the ratio of a token's probability to that at which it was sampled, r the rewards
of one prompt's rollouts, k3 = exp(d) - d - 1 with d = log p_ref - log p. All of this is TRL's.

All rollouts of a prompt are made and judged in one process, so that a reward may compare them with one another. Rewards
are rounded to 2^-16: then the mean of equal rewards is that reward in float32 too, and their group has no variance.
"""

import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from refinery.errors import UserError
from trainers.conditioned import rollout_limit
from trainers.job import Run
from trainers.loop import Loop

GRAIN = 2**16


@dataclass(frozen=True)
class Group:
    """All rollouts of one prompt."""

    place: int
    """Of the row, in the run's prepared rows."""
    texts: list[str]
    ids: list[list[int]]
    whole: list[bool]
    """Of each, whether it came to its end within the length that is allowed."""


@dataclass
class Judgement:
    """Rewards of the rollouts of several groups, one list a group; None is unknown, and is not 0."""

    rewards: list[list[float | None]]
    told: dict[str, list[float]] = field(default_factory=dict)
    """Further figures, whose means stand in the store as reward/NAME; what is unknown is left out of them."""


Judge = Callable[[list[Group]], Judgement]


class Reward:
    """A judge of groups as a TRL reward function."""

    __name__ = "judged"

    def __init__(self, judge: Judge, group: int):
        self.judge, self.group, self.processes = judge, group, 1
        self.ends: frozenset[int] = frozenset()
        """The tokens that end a rollout."""

    def __call__(
        self,
        prompts: Any,
        completions: list[str],
        completion_ids: list[list[int]],
        place: list[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        groups = []
        for start in range(0, len(place), self.group):
            one = slice(start, start + self.group)
            assert len(set(place[one])) == 1, "a group of rollouts was split"
            ids = completion_ids[one]
            whole = [bool(row) and row[-1] in self.ends for row in ids]
            groups.append(Group(place[start], [text.strip() for text in completions[one]], ids, whole))
        made = self.judge(groups)
        for name, values in made.told.items():
            if values:
                log_metric(f"reward/{name}", sum(values) / len(values))
        log_metric("rollout_tokens", float(sum(map(len, completion_ids)) * self.processes))
        flat = [value for group in made.rewards for value in group]
        log_metric("reward/unknown", sum(value is None for value in flat) / len(flat))
        return [None if value is None else round(value * GRAIN) / GRAIN for value in flat]


class Grpo(Loop, GRPOTrainer):
    """TRL's trainer; what stands here is which prompts come when, and where it goes on after an interruption."""

    block: int
    """Places of one generation: prompts of `steps_per_generation` optimiser steps."""

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "passes": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Forward passes are counted on, else the first generation after a resume would begin within another."""
        super().restore(state)
        self._step = state["passes"]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """The prompts of each generation, each as often as it has rollouts, as often as TRL draws them anew."""
        args: Any = self.args
        times = args.steps_per_generation * args.num_iterations
        apart = self.block * args.num_iterations
        starts = range(0, len(self.places), apart)
        blocks = [self.places[start : start + self.block] for start in starts]
        return [place for block in blocks for place in [p for p in block for _ in range(args.num_generations)] * times]

    def _generate_single_turn(self, *inputs: Any, **options: Any) -> Any:
        with self.timed("generation"):
            return super()._generate_single_turn(*inputs, **options)

    def _calculate_rewards(self, *inputs: Any) -> Any:
        """What the frozen model is asked for a reward counts as the teacher's time. TRL warns of an unknown reward,
        with the whole row, at every batch: how many there are stands in the store instead."""
        logger = logging.getLogger(GRPOTrainer.__module__)
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with self.timed("teacher"):
                return super()._calculate_rewards(*inputs)
        finally:
            logger.setLevel(level)

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}


def build(run: Run, judge: Judge) -> Grpo:
    """The trainer of one run."""
    params: Any = run.job.params
    limit = rollout_limit(run, params.max_completion_length)
    reward = Reward(judge, params.num_generations)
    rows = [{"place": place, "prompt": row.prompt} for place, row in enumerate(run.prepared.rows)]
    trainer = Grpo(
        model=run.model,
        reward_funcs=reward,
        args=_config(run, limit),
        train_dataset=Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=run.adapter,
    )
    trainer.places = run.places
    trainer.block = params.steps_per_generation * params.batch_size
    if run.prepared.ending.token_id not in trainer.eos_token_ids:
        trainer.eos_token_ids.append(run.prepared.ending.token_id)
        if params.vllm is None:
            trainer.generation_config.eos_token_id = trainer.eos_token_ids
    reward.ends, reward.processes = frozenset(trainer.eos_token_ids), trainer.accelerator.num_processes
    run.notes["rollout_limit"] = limit
    return trainer


SAME = (
    "num_generations", "num_iterations", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
    "mask_truncated_completions", "loss_type", "beta", "epsilon", "epsilon_high", "delta", "scale_rewards",
    "importance_sampling_level", "top_entropy_quantile", "entropy_coef",
)  # fmt: skip
"""What GRPOConfig calls by the same name."""


def _config(run: Run, limit: int) -> GRPOConfig:
    params: Any = run.job.params
    given = dict(run.arguments)
    mine = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * params.num_generations
    size = params.rollouts_per_pass or given["per_device_train_batch_size"] * params.num_generations
    if mine % size:
        raise UserError(f"rollouts_per_pass {size} does not divide the {mine} rollouts of a process and step")
    given |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": mine // size}
    whole = params.steps_per_generation * params.num_iterations
    given["save_steps"] = math.ceil(given["save_steps"] / whole) * whole  # a generation is never resumed half-way
    if params.vllm is not None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError('rollouts by vllm need it: pip install "refinery[vllm]", or leave vllm out')
        given |= {"use_vllm": True, **{f"vllm_{key}": value for key, value in params.vllm.model_dump().items()}}
    if run.job.revision is not None:
        given["model_init_kwargs"] = {"revision": run.job.revision}  # of the reference model
    return GRPOConfig(
        **given,
        **{name: getattr(params, name) for name in SAME},
        steps_per_generation=params.steps_per_generation * given["gradient_accumulation_steps"],
        max_completion_length=limit,
        disable_dropout=True,
        trust_remote_code=run.job.trust_remote_code,
    )

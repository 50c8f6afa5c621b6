"""Rollouts for distillation: who speaks, from what, and the hidden states along what was said.

Two methods of TRL's trainer are overridden here (tests/trainers/test_trl_contract.py holds their shapes):
`_tokenize_prompts` (prompts are token ids already) and `_generate_single_turn` (no dropout; the teacher may speak).
"""

import contextlib
import random
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from trl import DistillationTrainer

from trainers.before import split
from trainers.distill_params import Source
from trainers.divergences import Divergence
from trainers.layout import lay
from trainers.sampling import Manner, can_sample, sample
from trainers.teachers import Teacher, causal_model, teaching

Batch = dict[str, Any]
"""Lists with one entry per row: prompt and answer (token ids), rollout (a list of token ids each), teacher ((tokens, H)
states along each rollout), sampler (its log-likelihoods, where it gives them). And two numbers of the whole optimiser
step: answer_tokens and units, which are rollouts or their tokens."""


@dataclass(frozen=True)
class Settings:
    """What is learnt, and from what; the parameters of trainers/distill_params.py."""

    how: Divergence
    supervised: bool
    sft_steps: int = 0
    """First steps on answers alone; those after them on rollouts alone (trainers/methods/reinvoke.py)."""
    source: Source = "student"
    on_policy: float = 1.0
    rollouts: int = 1
    rollout_temperature: float = 1.0
    skip_tokens: int = 0
    by_tokens: bool = False
    importance_cap: float | None = None
    gradients_every: int | None = None
    """Steps between two comparisons of the losses' gradients (trainers/gradients.py)."""


def like(nested: list[list[Any]], flat: list[Any]) -> list[list[Any]]:
    """`flat` in the shape of `nested`."""
    values = iter(flat)
    return [[next(values) for _ in row] for row in nested]


class Rollouts(DistillationTrainer):
    """TRL's generation, by student, teacher or data."""

    def __init__(self, *, settings: Settings, teacher: Teacher, **options: Any):
        super().__init__(teacher_model=teacher.frozen, **options)
        self.settings, self.teacher = settings, teacher
        self._teacher_speaks = self._spoke = False
        """Whether the teacher is the one to speak, and whether anyone spoke in this step."""
        self._sampler: list[list[float]] | None = None
        """log p of the step's rollouts' tokens under whatever sampled them, where that says."""
        self.shares = False
        """Whether continuations of one prompt may share a row."""
        if self.use_vllm:
            self.vllm_generation.logprobs = 0  # of the sampled tokens
        if teacher.kind == "copy":
            teacher.frozen = self.accelerator.unwrap_model(self.teacher_model).requires_grad_(False).eval()

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_single_turn(self, *inputs: Any, **options: Any) -> list[list[int]]:
        """Without dropout, and by the teacher where it is the one to speak: TRL generates with `model_wrapped`."""
        if self.use_vllm:
            return self._by_vllm(inputs[0])
        own, speaking = self.model_wrapped, self._teacher_speaks
        teacher = self.teacher.active(self.accelerator.unwrap_model(own)) if speaking else contextlib.nullcontext()
        with teaching(self.model), teacher:
            try:
                if speaking and self.teacher_model is not None:
                    self.model_wrapped = self.teacher_model
                model = self.accelerator.unwrap_model(self.model_wrapped)
                if not split(self.accelerator) and can_sample(model):
                    return sample(model, inputs[0], self._manner())
                return super()._generate_single_turn(*inputs, **options)  # type: ignore[no-any-return]
            finally:
                self.model_wrapped = own

    def _manner(self) -> Manner:
        config: Any = self.generation_config
        likelihood = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
        return Manner(config.max_new_tokens, self.eos_token_ids, self._tokenizer.pad_token_id, **likelihood)

    def _by_vllm(self, prompts: list[list[int]]) -> list[list[int]]:
        """By TRL's VLLMGeneration, which gets the weights first, once a step. It says how likely its tokens were."""
        if self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        _, answers, log_p, _ = self.vllm_generation.generate(prompts=prompts, images=None, num_generations=1)
        self._sampler = [[token[0] or 0.0 for token in row] for row in log_p]
        return [list(answer) for answer in answers]

    def _rollouts(self, inputs: list[Batch]) -> list[list[list[int]]]:
        """Each row's rollouts: of the step's source, which is the same in all processes."""
        settings = self.settings
        source, self._sampler = settings.source, None
        if settings.on_policy < 1:
            draw = random.Random(f"{self.args.seed}/{self.state.global_step}").random()
            source = source if draw < settings.on_policy else "stored"
        self._spoke = source != "stored"
        if source == "stored":
            self._metrics["train"]["completions/mean_length"].append(
                sum(len(row["answer"]) for row in inputs) / len(inputs)
            )
            return [[row["answer"]] for row in inputs]
        self._teacher_speaks = source == "teacher"
        prompt = "teacher_prompt" if self._teacher_speaks else "prompt"
        asked = [{"prompt": row[prompt]} for row in inputs for _ in range(settings.rollouts)]
        made = super()._generate_and_score_completions(asked)
        kept = made["completion_mask"].bool()
        flat = [ids[mask].tolist() for ids, mask in zip(made["completion_ids"], kept, strict=True)]
        return [flat[i : i + settings.rollouts] for i in range(0, len(flat), settings.rollouts)]

    def _states(
        self,
        model: Any,
        prompts: list[list[int]],
        continuations: list[list[int]],
        skips: list[int] | None = None,
    ) -> Tensor:
        """(N, H) hidden states that predict the continuations' tokens, after the first `skips` of each, row after
        row (trainers/layout.py)."""
        inner = causal_model(model)
        hidden = inner.config.get_text_config().hidden_size
        layout = lay(prompts, continuations, skips or [0] * len(prompts), self.shares, hidden)
        with self.accelerator.autocast():
            inputs = layout.inputs(self._tokenizer.pad_token_id, self.accelerator.device)
            return layout.pick(inner.base_model(**inputs, use_cache=False).last_hidden_state)

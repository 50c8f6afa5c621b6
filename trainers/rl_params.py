"""Parameters of the methods that learn from rewards of their own rollouts (GRPO). Light: nothing here imports torch.

They have the names and the meaning that TRL's GRPOConfig gives them, except where it is said.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from refinery.checks import Kind as CheckKind
from refinery.spec_types import Template
from trainers.params import TrainParams


class VllmRollouts(BaseModel):
    """Rollouts by vLLM instead of transformers, handed to TRL as they are (there each name begins with vllm_)."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["colocate", "server"] = "colocate"
    """In the training's own processes, or by a running `trl vllm-serve`, to which the weights are sent at each step."""
    server_base_url: str | None = None
    server_timeout: float = Field(240.0, gt=0)
    group_port: int = 51216
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)
    """colocate: share of a GPU's memory that vLLM takes."""
    tensor_parallel_size: int = Field(1, ge=1)
    max_model_length: int | None = Field(None, ge=1)
    enable_sleep_mode: bool = False
    """colocate: give the memory back while weights are updated."""
    importance_sampling_correction: bool = True
    """Weigh by the ratio of the trained model's probability to vLLM's, which differ by rounding."""
    importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    importance_sampling_clip_max: float | None = 3.0


PLACEMENT = {
    "mode",
    "server_base_url",
    "server_timeout",
    "group_port",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "enable_sleep_mode",
}
"""Where vLLM runs; it shapes no weights, as the rest of VllmRollouts does."""


class RlParams(TrainParams):
    """Shared by grpo, dart and rewriting_agent: group relative policy optimisation (arXiv:2402.03300) by TRL.

    Of each prompt `num_generations` rollouts are sampled; a rollout's advantage is its reward less the mean of its
    group, divided by the group's standard deviation. A group of equal rewards teaches nothing (share in the store:
    `zero_variance`); a rollout whose reward is unknown counts in no mean and has advantage 0. Steps without vLLM go on
    after an interruption exactly where they were.
    """

    learning_rate: float = Field(1e-6, gt=0)
    epochs: float = Field(1, gt=0)
    """Passes over the prompts."""
    batch_size: int = Field(16, ge=1)
    """Prompts per optimiser step, over all processes, each with `num_generations` rollouts."""
    num_generations: int = Field(8, ge=2)
    """Rollouts of one prompt: the group within which rewards are compared."""
    rollouts_per_pass: int | None = Field(None, ge=1)
    """Ours: rollouts in one forward pass and process, a divisor of those of a process and step. All of a micro batch's
    where it is left out."""
    steps_per_generation: int = Field(1, ge=1)
    """Ours counts optimiser steps: rollouts are generated for so many at once."""
    num_iterations: int = Field(1, ge=1)
    """Times that a batch of rollouts is learnt from."""

    # rollouts
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0 is all words."""
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    max_completion_length: int = Field(512, ge=1)
    """Tokens of a rollout, where the model's context leaves room for that many after the longest prompt."""
    mask_truncated_completions: bool = False
    """Leave rollouts that were cut at that length out of the loss."""
    vllm: VllmRollouts | None = None

    # loss
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """How tokens' losses are averaged and the ratio is bounded; grpo is the paper's, each rollout's mean first."""
    beta: float = Field(0.0, ge=0)
    """Weight of the KL divergence from the model before training (its k3 estimate); 0 keeps no reference model."""
    epsilon: float = Field(0.2, gt=0)
    """The ratio to the rollouts' own model is clipped at 1 - epsilon."""
    epsilon_high: float | None = Field(None, gt=0)
    """And at 1 + epsilon_high; epsilon where it is left out."""
    delta: float | None = Field(None, gt=0)
    """Upper bound of the ratio where the advantage is negative."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Whose standard deviation divides; none is Dr. GRPO's choice."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """sequence is GSPO's choice."""
    top_entropy_quantile: float = Field(1.0, gt=0, le=1)
    """Learn only from this share of the tokens, the least certain ones."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of an entropy bonus."""

    @model_validator(mode="after")
    def _whole_groups(self) -> "RlParams":
        if self.max_steps is not None and self.max_steps % self.steps_per_generation:
            raise ValueError(
                f"max_steps {self.max_steps} is not a multiple of steps_per_generation {self.steps_per_generation}"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError("rollouts and their probabilities are taken without dropout: leave lora.dropout at 0")
        return self

    def shaping(self) -> dict[str, Any]:
        found = super().shaping()
        return found if self.vllm is None else {**found, "vllm": self.vllm.model_dump(mode="json", exclude=PLACEMENT)}


class RewriterParams(RlParams):
    """Shared by dart and rewriting_agent: a rewriter, trained to write demonstrations for the model it begins as.

    It is trained under `rewriters:` and asked, by the same prompt, by the steps that name its model.
    """

    prompt: Template
    """What the rewriter is asked, over an example's fields; the rewrite op that asks it later should ask the same."""
    system: Template | None = None
    check: CheckKind = "boxed"
    """The rule that finds a rewrite's final answer and compares it with the reference. A rewrite that was cut off gives
    no answer."""
    of: Template = "{{ answer }}"
    """The reference: a column with the bare answer, or the whole reference text."""

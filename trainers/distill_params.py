"""Parameters of every method that distils from a teacher along rollouts. Light: nothing here imports torch.

A method's file names its paper and gives its defaults; what each knob means stands here, once. The equations are in
trainers/divergences.py (D at one position), trainers/balance.py (λ) and trainers/distill.py (the whole loss).
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from refinery.spec_types import Later, Template
from trainers.params import TrainParams

Kind = Literal["forward", "reverse", "jsd"]
Support = Literal["teacher", "student", "random"]
Tail = Literal["renorm", "bucket", "full"]
Estimator = Literal["analytic", "sampled", "rao_blackwell"]
Balance = Literal["ema", "initial", "gradient"]
Source = Literal["student", "stored", "teacher"]
Teaching = Literal["frozen", "ema", "live"]
Engine = Literal["transformers", "vllm", "vllm_server"]


class VllmParams(BaseModel):
    """How vLLM takes part in a training (rollout_engine: vllm or vllm_server); shapes no weights."""

    model_config = ConfigDict(extra="forbid")

    gpu_memory: float = Field(0.3, gt=0, lt=1)
    """vllm: share of the GPU's memory for its weights and cache."""
    tensor_parallel: int = Field(1, ge=1)
    """vllm: processes that share one copy."""
    sleep: bool = False
    """vllm: gives its memory back while weights are trained."""
    base_url: str = "http://localhost:8000"
    """vllm_server: the address of the server."""
    group_port: int = Field(51216, ge=1, le=65535)
    """vllm_server: the port over which weights are sent."""
    timeout: float = Field(240.0, gt=0)
    """vllm_server: seconds to wait for it to come up."""


class DistillParams(TrainParams):
    """Shared by raft, acopd, sdft, opd, gkd, opsd, offline_distill, reinvoke and sdpo."""

    SUPERVISED: ClassVar[bool] = False
    """Whether cross-entropy on the response is part of the loss, next to the divergence."""

    # the teacher
    teacher: Annotated[Teaching, Later] = "frozen"
    """Whose weights: the model before training (under LoRA the same weights with the adapter off), a moving average of
    the student's, or the student's own at that step."""
    teacher_ema: Annotated[float, Later] = Field(0.02, gt=0, le=1)
    """α of teacher: ema, once per optimiser step: φ ← αθ + (1-α)φ, in float32, from φ = θ. Under LoRA it averages the
    two factors of each adapter, not their product."""
    teacher_prompt: Template | None = None
    """The teacher's last user turn, over an example's fields (`answer` is the raw reference, `response` what refinement
    made of it, every column has its name). None: the teacher sees what the student sees."""
    teacher_shuffle: Annotated[bool, Later] = False
    """A placebo: all fields of `teacher_prompt` but the question and the id are another row's, drawn by the seed."""

    # the divergence
    divergence: Annotated[Kind, Later] = "forward"
    """forward KL(teacher || student), reverse KL(student || teacher), or GKD's generalised Jensen-Shannon."""
    beta: Annotated[float, Later] = Field(0.5, gt=0, lt=1)
    """β of jsd: m = β·teacher + (1-β)·student; near 0 it acts as forward, near 1 as reverse."""
    top_k: int | None = Field(None, ge=1)
    """K words at each position; at most the vocabulary, which None is."""
    support: Annotated[Support, Later] = "teacher"
    """Whose likeliest K; random: K draws, whose mean is the divergence over the whole vocabulary."""
    tail: Tail = "renorm"
    """The words outside the K: ignored, one more outcome, or all counted one by one."""
    temperature: float = Field(1.0, gt=0)
    """T of both distributions in the divergence, before the K are chosen. Not that of the rollouts."""
    estimator: Annotated[Estimator, Later] = "analytic"
    """analytic sums over words; sampled takes the rollout's own token; rao_blackwell is analytic plus the gradient
    through the sampling of what comes before."""
    token_clip: Annotated[float | None, Later] = Field(None, gt=0)
    """Upper bound of one word's term of the divergence at one position."""
    skip_tokens: Annotated[int, Later] = Field(0, ge=0)
    """First tokens of each rollout that are not learnt from ("Based on the reference, ...")."""
    reduction: Annotated[Literal["rows", "tokens"], Later] = "rows"
    """rows: mean over each rollout's tokens, then over rollouts. tokens: mean over all tokens of the step."""

    # the rollouts
    rollout_source: Annotated[Source, Later] = "student"
    """Who says what is learnt from: the student now, the data (`response`), or the teacher with its own prompt."""
    on_policy: Annotated[float, Later] = Field(1.0, ge=0, le=1)
    """GKD's λ: share of optimiser steps on rollouts of `rollout_source`; the others are on the data's responses."""
    rollouts: Annotated[int, Later] = Field(1, ge=1)
    """Rollouts per prompt and step."""
    rollout_temperature: float = Field(1.0, gt=0)
    rollout_top_p: Annotated[float, Later] = Field(1.0, gt=0, le=1)
    rollout_top_k: Annotated[int, Later] = Field(0, ge=0)
    """Sampling of the rollouts; top_k 0 is all words."""
    max_completion_length: int = Field(512, ge=1)
    """Tokens of a rollout, where the model's context leaves room for that many after the longest prompt."""
    importance_cap: Annotated[float | None, Later] = Field(None, gt=0)
    """Bound of the ratio student / sampler at each token, averaged over a rollout to its weight. Rollouts of
    transformers need none: without the sampler's own likelihoods every weight is 1."""
    rollout_engine: Annotated[Engine, Later] = "transformers"
    """Who samples the student's rollouts: this process by transformers; vLLM inside it, or a `vllm serve` that gets the
    weights over NCCL, each after every optimiser step. vLLM needs a GPU and this environment's own vLLM, and an
    interrupted training then ends with other weights than it would have had: its sampling is not repeatable."""
    vllm: Annotated[VllmParams, Later] = VllmParams.model_validate({})

    @model_validator(mode="after")
    def _consistent(self) -> "DistillParams":
        untouched = self.rollout_top_p == 1 and self.rollout_top_k == 0 and self.rollout_source == "student"
        if self.estimator != "analytic" and not (untouched and self.on_policy == 1):
            raise ValueError(f"estimator: {self.estimator} needs rollouts of the student, by its whole distribution")
        if self.estimator == "sampled" and self.temperature != self.rollout_temperature:
            raise ValueError("estimator: sampled needs temperature and rollout_temperature to be equal")
        if self.estimator == "rao_blackwell" and self.skip_tokens:
            raise ValueError("estimator: rao_blackwell learns from every token: leave skip_tokens at 0")
        if self.rollout_engine != "transformers" and self.rollout_source != "student":
            raise ValueError(
                f"rollout_engine: {self.rollout_engine} samples the student: rollout_source must be student"
            )
        if self.support == "random" and (self.top_k is None or self.estimator != "analytic"):
            raise ValueError("support: random needs top_k, the number of draws, and estimator: analytic")
        return self


class BalancedParams(DistillParams):
    """Cross-entropy on the response plus λ times the divergence."""

    SUPERVISED: ClassVar[bool] = True

    balance: Balance | float = "ema"
    """λ: moving averages of the losses (ema), the ratio of the first step's losses (initial), moving averages of the
    two gradients' norms at the last layer (gradient), or this fixed number. While the averaged divergence is below 1e-6
    nats, float32's rounding of none at all, the first three are lambda_min."""
    balance_decay: float = Field(0.9, ge=0, lt=1)
    """β of those averages. Not a decay of weights: that is teacher_ema."""
    lambda_min: float = Field(0.0, ge=0)
    lambda_max: float | None = Field(None, gt=0)
    """Bounds of an averaged λ; unbounded in RAFT's paper, where it grows without limit as the divergence vanishes.
    bfloat16 rounds more coarsely than `balance` looks at: bound it there if the teacher sees what the student sees."""
    gradients_every: Annotated[int | None, Later] = Field(None, ge=1)
    """Optimiser steps between two comparisons of the two losses' gradients over all trained weights: their norms, ratio
    and cosine. Each costs a step's passes once more, and memory for two gradients; None compares never."""

"""Elastic weight consolidation (arXiv 1612.00796): cross-entropy, and a pull on what general prompts depend on.

    L = L_SFT + (μ/2) Σ_i F_i (θ_i - θ0_i)²        F_i = mean over (x, y) of (∂ log p(y|x) / ∂θ_i)²,  y ~ p(· | x)

F, the diagonal of the Fisher information, is taken before training along the model's own samples y (at temperature 1,
one a prompt), not along reference answers, and divided by its mean, so that μ means the same for every model. One
backward pass a prompt. Needs twice the trained weights more in memory (with LoRA, once those of the adapted layers);
weights that are split over processes (FSDP, ZeRO) are refused.
"""

from typing import Any

from pydantic import Field

from refinery.spec_types import StepName
from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1
COPIES = 2
"""Of the trained weights, kept beside them: the start and F."""


class Params(TrainParams):
    prompts: StepName
    """The step or source with general prompts; its answers are not used."""
    prompt_count: int = Field(256, ge=1)
    """How many of them, at most."""
    max_completion_length: int = Field(128, ge=1)
    """Tokens of a sample."""
    mu: float = Field(10.0, ge=0)
    """μ; 1 to 100 are usual."""
    weight_decay: float = Field(0.0, ge=0)


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.anchors import Anchor, AnchoredTrainer, fisher, penalised
    from trainers.before import general_prompts, own_answers
    from trainers.supervised import supervised

    params: Any = run.job.params
    pairs = own_answers(run, general_prompts(run, params.prompt_count), params.max_completion_length)
    trainer: Any = supervised(run, AnchoredTrainer)
    trainer.check()
    importance = fisher(trainer.model, penalised(trainer.model), pairs, run.tokenizer.pad_token_id)
    trainer.anchor = Anchor(trainer.model, params.mu, importance)
    run.notes |= {"fisher_prompts": len(pairs), "fisher_tokens": sum(len(answer) for _, answer in pairs)}
    return trainer

"""Do the two terms of a loss pull the same way? Their gradients over all trained weights, compared.

Equal losses need not have equal gradients (trainers/balance.py makes the losses equal), and gradients that point away
from each other undo each other's work. Nothing is taken from the training's random numbers, so that the weights are the
same whether gradients are compared or not.
"""

from typing import Any

import torch

from trainers.losses import gradient_at


def compared(trainer: Any, batch: dict[str, Any]) -> dict[str, float]:
    """Norms of the gradients of mean cross-entropy and mean divergence (without λ) of one optimiser step, the ratio of
    the first to the second, and the cosine between them; over all processes. What is not finite is not a number.

    `trainer` is a ConditionedDistillation and `batch` its buffered step."""
    student = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    total: Any = 0
    devices = [trainer.accelerator.device] if trainer.accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        for rows in trainer._micro_batches(len(batch["prompt"])):
            micro = {key: value[rows] for key, value in batch.items() if isinstance(value, list)}
            sums = trainer._sums(student, micro)
            total = total + torch.stack([gradient_at(term, weights) for term in (sums.sft, sums.kl)])
    counts = torch.stack([batch["answer_tokens"], batch["units"]])
    sft, kl = trainer.accelerator.reduce(total, "sum") / counts[:, None]
    names = ("sft_gradient", "kl_gradient", "gradient_ratio", "gradient_cosine")
    values = (sft.norm(), kl.norm(), sft.norm() / kl.norm(), (sft @ kl) / (sft.norm() * kl.norm()))
    return {name: float(value) for name, value in zip(names, values, strict=True)}

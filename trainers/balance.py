"""How much the distillation term weighs against cross-entropy, in plain numbers."""

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

LARGE = 100.0
"""A weight above this is warned of: as the divergence goes to zero, their ratio goes to infinity."""

FLOOR = 1e-6
"""Nats. A smaller averaged divergence is what float32 makes of two equal distributions, a teacher that sees what the
untrained student sees: its gradient is zero but for rounding, which λ would multiply by some hundred million."""


@dataclass
class Balancer:
    """λ of L = L_SFT + λ·L_KL; no gradient flows through it. With a_k the quantity that is balanced:

        ema       m_k(s) = β·m_k(s-1) + (1-β)·a_k(s),  m̂_k = m_k / (1-β^s),  λ = m̂_SFT / (m̂_KL + ε),  a_k = L_k
                  RAFT, Eqs 11 and 12: λ·L_KL is about as large as L_SFT whatever the two losses' scales, and λ of the
                  first step is L_SFT / L_KL
        gradient  the same with a_k = ‖∂L_k/∂W‖, W the last layer: equal losses need not have equal gradients
        initial   λ = L_SFT(1) / (L_KL(1) + ε) for good
        fixed     λ is `fixed`

    While the averaged L_KL is below FLOOR, λ is `minimum`, and `initial` waits for the first step whose L_KL is not.

    `update` belongs once to each optimiser step, with quantities of everything that the step sees: per micro-batch, β
    would mean something else.
    """

    decay: float = 0.9
    fixed: float | None = None
    minimum: float = 0.0
    maximum: float | None = None
    eps: float = 1e-8
    steps: int = 0
    sft: float = 0.0
    kl: float = 0.0
    skipped: int = 0
    """Steps with a quantity that was not finite: they leave the averages as they are."""
    large: int = 0
    """Steps whose λ was above LARGE."""
    kind: Literal["ema", "initial", "gradient"] = "ema"
    nats: float = 0.0
    """gradient: the average of L_KL itself."""

    def update(self, sft: float, kl: float, nats: float = 0.0) -> float:
        """λ for the step whose quantities are `sft` and `kl`; `nats` is L_KL where `kl` is its gradient's norm."""
        if self.fixed is not None:
            return self.fixed
        if self.kind == "initial" and not self._apart:
            self.sft, self.kl, self.steps = 0.0, 0.0, 0
        if not (math.isfinite(sft) and math.isfinite(kl) and math.isfinite(nats)):
            self.skipped += 1
        elif self.kind != "initial" or not self.steps:
            self.sft = self.decay * self.sft + (1 - self.decay) * sft
            self.kl = self.decay * self.kl + (1 - self.decay) * max(kl, 0.0)  # rounding can leave a zero below zero
            self.nats = self.decay * self.nats + (1 - self.decay) * max(nats, 0.0)
            self.steps += 1
        weight = self.weight()
        if weight > LARGE:
            self.large += 1
            if self.large == 1:
                logging.getLogger("refinery").warning(
                    "balance: λ is %.3g: the divergence has all but vanished; lambda_max bounds it", weight
                )
        return weight

    def weight(self) -> float:
        """λ as the averages stand; 0 before the first finite step."""
        if self.fixed is not None:
            return self.fixed
        if not self.steps:
            return 0.0
        if not self._apart:
            return self.minimum
        correction = 1 - self.decay**self.steps
        ratio = (self.sft / correction) / (self.kl / correction + self.eps)
        return max(self.minimum, ratio if self.maximum is None else min(ratio, self.maximum))

    @property
    def _apart(self) -> bool:
        """Whether the averaged divergence is more than rounding."""
        total = self.nats if self.kind == "gradient" else self.kl
        return total > 0 and total / (1 - self.decay**self.steps) >= FLOOR

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps; `Balancer(**state)` goes on from it."""
        return asdict(self)

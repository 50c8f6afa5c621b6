"""Whose weights teach, and where a model's logits come from."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from refinery.errors import UserError
from trainers.ema import WeightAverage
from trainers.head import Head
from trainers.job import Run


class Teacher:
    """One of four ways to have a teacher:

    copy       the weights before training once more; for full fine-tuning
    adapter    the student with its LoRA adapter off: the same weights, at no cost
    ema        the student with the moving average of its weights (trainers/ema.py)
    live       the student itself
    """

    def __init__(self, kind: Literal["copy", "adapter", "ema", "live"], frozen: Any = None, alpha: float = 0.0):
        self.kind, self.frozen, self.alpha = kind, frozen, alpha
        self.average: WeightAverage | None = None
        if frozen is not None:
            frozen.requires_grad_(False).eval()

    def follow(self, student: Any) -> None:
        """Begin the average at the student's weights; before the first step."""
        if self.kind == "ema":
            self.average = WeightAverage(student, self.alpha)

    def step(self) -> None:
        """After an optimiser step."""
        if self.average is not None:
            self.average.update()

    @contextlib.contextmanager
    def active(self, student: Any) -> Iterator[Any]:
        """The model that teaches, ready: no dropout, and its own weights."""
        model = self.frozen if self.kind == "copy" else student
        own = contextlib.nullcontext() if self.average is None else self.average.swapped_in()
        with teaching(model, adapter_off=self.kind == "adapter"), own:
            yield model

    def head(self, student: Any) -> Head:
        """The teacher's output head; `student` is the unwrapped student."""
        if self.kind == "copy":
            return head_of(self.frozen)
        head = head_of(student)
        if self.average is None:
            return head
        linear = causal_model(student).get_output_embeddings()
        weight, bias = self.average.of(linear.weight), getattr(linear, "bias", None)
        bias = None if bias is None else self.average.of(bias)
        return head._replace(weight=head.weight if weight is None else weight, bias=head.bias if bias is None else bias)

    def save(self, folder: Path) -> None:
        """What a checkpoint must hold to go on."""
        if self.average is not None:
            self.average.save(folder)

    def load(self, folder: Path) -> None:
        if self.average is not None:
            self.average.load(folder)


@contextlib.contextmanager
def teaching(model: Any, adapter_off: bool = False) -> Iterator[None]:
    """The model as teacher for a while: no dropout, and no adapter where it is the student's own."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter() if adapter_off else contextlib.nullcontext():
            yield
    finally:
        model.train(training)


def frozen_copy(run: Run) -> Any:
    """The weights before training once more; in bfloat16 where training runs in it, since they never change."""
    teacher = copy.deepcopy(run.model).requires_grad_(False).eval()
    return teacher.to(torch.bfloat16) if run.arguments["bf16"] else teacher


def causal_model(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def head_of(model: Any) -> Head:
    """The model's output head, with what its architecture does to the logits afterwards."""
    model = causal_model(model)
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale = scale / divisor
    weight = linear.weight.full_tensor() if hasattr(linear.weight, "full_tensor") else linear.weight  # FSDP's shards
    return Head(weight, getattr(linear, "bias", None), float(scale), getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: Any, ids: list[int]) -> None:
    """UserError where `head_of` does not reproduce the model's own logits: an architecture that does more to them."""
    device = next(model.parameters()).device
    tokens = torch.tensor([ids], device=device)
    own = model(input_ids=tokens).logits[0].float()
    states = model.base_model(input_ids=tokens).last_hidden_state[0]
    head = head_of(model).frozen(states.dtype)
    gap = (head.cap(head.project(states)) - own).abs().max().item()
    if gap > 0.02 * max(1.0, own.abs().max().item()):
        raise UserError(f"{type(model).__name__}: its output head is not a plain linear one, which distillation needs")


def last_layer(model: Any) -> list[torch.nn.Parameter]:
    """The trained parameters of the last layer of the longest stack of layers, adapters included."""
    stacks = [module for module in causal_model(model).modules() if isinstance(module, torch.nn.ModuleList)]
    return [p for p in max(stacks, key=len)[-1].parameters() if p.requires_grad]

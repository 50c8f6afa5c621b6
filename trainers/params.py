"""Parameters that every training method shares. Light: nothing here imports torch."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, field_validator, model_validator

from refinery.spec_types import Later, OpParams, StepName, added_later

WATCHING = frozenset(
    {"save_every", "report_to", "probe_every", "probe_prompts", "probe_rows", "gradients_every", "vllm"}
)
"""Parameters that shape no weights, and so are no part of a checkpoint's identity (vllm: but for what
RlParams.shaping says)."""


class LoraParams(BaseModel):
    """Train low-rank adapters on every linear layer but the head; `lora: {}` takes the defaults.

    The saved checkpoint holds the merged weights, so it loads like any other model; the adapter stands in `adapter/`.
    """

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, gt=0)
    """Adapters are scaled by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    layers: list[str] | None = None
    """Names of the linear layers to adapt (`[q_proj, v_proj]`); all of them where it is left out."""


def or_switch(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "boolean"})


class TrainParams(OpParams):
    """What a `tune:` grid may vary and `train.defaults` may set, whatever the method. Defaults: RAFT's paper, and a
    cosine schedule with 3% warm-up and clipping at 1, which it does not state."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    """What `preset` names, in methods that have it: values for parameters that are not given."""

    learning_rate: float = Field(5e-6, gt=0)
    epochs: float = Field(3, gt=0)
    """Passes over the rows. The passes run on into one another, so every batch is full; 0.5 is half a pass."""
    max_steps: int | None = Field(None, ge=1)
    """Stop the plan after so many optimiser steps (the schedule is laid over them too)."""
    batch_size: int = Field(16, ge=1)
    """Rows per optimiser step, over all processes."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per forward pass and process; gradients are accumulated up to `batch_size`. Results do not depend on it."""
    weight_decay: float = Field(0.01, ge=0)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(1024, ge=8)
    """Tokens of prompt and answer together; longer rows are left out and counted as `too_long`, never cut."""
    lora: LoraParams | None = Field(None, json_schema_extra=or_switch)
    """None trains every weight; true takes the defaults, false is none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic: bfloat16 on a GPU, float32 on a CPU. Trained weights and optimiser stay in float32."""
    gradient_checkpointing: bool = False
    save_every: int = Field(100, ge=1)
    """Optimiser steps between two checkpoints: what an interruption can cost at most."""
    report_to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], Later] = ()
    """Run trackers that get every step's metrics besides the store; none unless they are named."""
    probe_every: Annotated[int | None, Later] = Field(None, ge=1)
    """Optimiser steps between two probes of the divergence from the model before training; None probes never."""
    probe_prompts: Annotated[StepName | None, Later] = None
    """The step whose first prompts are probed; those of the training rows where it is left out."""
    probe_rows: Annotated[int, Later] = Field(32, ge=1)
    """How many prompts a probe answers."""

    @model_validator(mode="wrap")
    @classmethod
    def _preset(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A preset's values, under those that are given. They do not count as set: another preset takes their place."""
        if not isinstance(data, dict):
            return handler(data)
        own = cls.model_fields.get("preset")
        found = handler({**cls.PRESETS.get(str(data.get("preset", own and own.default)), {}), **data})
        found.model_fields_set.intersection_update(data)
        return found

    @field_validator("lora", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """`lora: true` is `lora: {}`, and `lora: false` is none."""
        return {} if value is True else None if value is False else value

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> "TrainParams":
        rows, micro = self.batch_size, self.micro_batch_size
        if micro and rows % micro:
            raise ValueError(f"batch_size {rows} is not a multiple of micro_batch_size {micro}")
        return self

    def shaping(self) -> dict[str, Any]:
        """The values that shape the weights, as a checkpoint's identity has them."""
        return self.model_dump(mode="json", exclude={*WATCHING, *added_later(self)})

"""What all methods' trainers share: which rows come when, whole checkpoints, metrics in the store, no side effects."""

import contextlib
import functools
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from trainers.energy import Meter
from trainers.errors import Diverged
from trainers.job import Progress

if TYPE_CHECKING:
    from refinery.store import Store

MARKER = "refinery.json"
"""The last file written into a checkpoint: one without it was cut off while being written."""

HOPELESS = 5
"""Steps in a row without a finite gradient after which training gives up."""

WINDOW, TIMES, NATS = 10, 2.0, 3.0
"""A loss has run away when its mean over WINDOW steps is above TIMES the highest of the first WINDOW steps + NATS."""

METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "mean_token_accuracy": "token_accuracy",
    "sft_loss": "sft_loss",
    "kl_loss": "kl_loss",
    "lambda": "lambda",
    "penalty": "penalty",
    "replay_loss": "replay_loss",
    "entropy": "entropy",
    "rollout_entropy": "entropy",
    "coverage": "coverage",
    "teacher_tail": "teacher_tail",
    "student_tail": "student_tail",
    "solved": "solved",
    "informed": "informed",
    "completions/mean_length": "rollout_length",
    "completions/clipped_ratio": "rollouts_cut",
    "rollout_tokens": "rollout_tokens",
    "teacher_tokens": "teacher_tokens",
    "student_tokens": "student_tokens",
    "generation_seconds": "generation_seconds",
    "teacher_seconds": "teacher_seconds",
    "student_seconds": "student_seconds",
    "sft_gradient": "sft_gradient",
    "kl_gradient": "kl_gradient",
    "gradient_ratio": "gradient_ratio",
    "gradient_cosine": "gradient_cosine",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "zero_variance",
    "kl": "reference_kl",
    "clip_ratio/region_mean": "clip_ratio",
    "cispo_clip_ratio": "clip_ratio",
}
"""What a trainer logs, and the name under which the store has it. What begins with reward/ keeps its name."""


class Loop:
    """Stands before a TRL trainer among a class's bases and overrides what must not depend on TRL's defaults.

    Set `places` before training. TRL's own samplers restart their shuffling when a training resumes in a later epoch,
    and its distillation sampler leaves out the rows that do not fill a batch.
    """

    places: list[int]
    cross_entropy: bool = False
    """The whole loss is cross-entropy, and stands in the store as such (sft_loss)."""
    repeats: int = 1
    """How often the data loader must yield each optimiser step's rows."""
    broken: int = 0
    """Steps left out because their gradient was not finite."""
    _in_a_row: int = 0

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights, optimiser, schedule and random states; JSON."""
        return {"steps_broken": self.broken}

    def restore(self, state: dict[str, Any]) -> None:
        self.broken = state["steps_broken"]

    @functools.cached_property
    def spent(self) -> dict[str, float]:
        """Seconds since the last optimiser step, by what they went into: generation, teacher, student."""
        return defaultdict(float)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] += time.monotonic() - started

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """What of a step is neither generation nor the teacher's is the student's forward and backward passes."""
        started, aside = time.monotonic(), sum(self.spent.values())
        loss = super().training_step(*args, **kwargs)
        aside = sum(self.spent.values()) - aside
        self.spent["student"] += time.monotonic() - started - aside
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs = {**logs, **{f"{what}_seconds": value for what, value in self.spent.items()}}
            self.spent.clear()
        super().log(logs, *args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> list[int]:
        window = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        starts = range(0, len(self.places), window)
        return [place for start in starts for place in self.places[start : start + window] * self.repeats]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """None while gradients are broken: it would take the place of one from before."""
        if self._in_a_row:
            return
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            (folder / MARKER).write_text(json.dumps(self.extra_state()), encoding="utf-8")

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Tied weights are saved under one of their names: the other is missing from every checkpoint, and no loss."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        missing = set(load_result.missing_keys)
        there = {weight.data_ptr() for name, weight in named.items() if name not in missing}
        lost = [name for name in load_result.missing_keys if name not in named or named[name].data_ptr() not in there]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=lost))

    def _clip_grad_norm(self, model: Any) -> Any:
        """Without gradients the optimiser leaves the weights as they are: one broken batch costs one step, not all."""
        norm = super()._clip_grad_norm(model)
        if math.isfinite(float(norm)):
            self._in_a_row = 0
            return norm
        model.zero_grad(set_to_none=True)
        self.broken, self._in_a_row = self.broken + 1, self._in_a_row + 1
        if self._in_a_row >= HOPELESS:
            step = self.state.global_step + 1
            words = f"no finite gradient for {HOPELESS} steps in a row"
            raise Diverged(words, step, step - HOPELESS + 1)
        return norm

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the manifest says what these weights are."""

    def _send_telemetry(self) -> None:
        """None."""


class Watch(TrainerCallback):
    """Takes what a trainer logs after each step to the store and to whoever watches.

    Writes before each checkpoint and about every two seconds. A resumed training logs the steps after its checkpoint
    once more; the store keeps the later value.
    """

    def __init__(
        self,
        store: "Store | None",
        checkpoint: str,
        tokens: list[int],
        progress: Progress | None,
        meter: Meter | None = None,
        cross_entropy: bool = False,
    ):
        """`tokens`: those of each step's rows. `cross_entropy`: Loop's."""
        self.cross_entropy = cross_entropy
        self.meter = meter
        self.store, self.checkpoint, self.tokens, self.progress = store, checkpoint, tokens, progress
        self._first: list[float] = []
        self.recent: list[dict[str, float]] = []
        """The metrics of the last ten steps."""
        self._rows: list[tuple[int, str, float]] = []
        self._written = self._last = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        state.log_history.clear()  # it would be saved, and grow, with every checkpoint
        if not logs or "loss" not in logs:
            return
        now = time.monotonic()
        named = {name: METRICS.get(name, name) for name in logs if name in METRICS or name.startswith("reward/")}
        values = {ours: float(logs[name]) for name, ours in named.items() if logs[name] is not None}
        if self.cross_entropy:
            values = {"sft_loss": values["loss"], **values}
        step = state.global_step
        values |= {"step_seconds": now - self._last, "tokens": float(self.tokens[step - 1])}
        if self.meter and (joules := self.meter.taken()) is not None:
            values["energy_joules"] = joules
        self._last = now
        self.record(step, values)
        if self.recent and ("kl_loss" in self.recent[-1]) != ("kl_loss" in values):
            self._first, self.recent = [], []  # a second phase: another loss, not to be compared with the first one's
        self.recent = [*self.recent[-9:], values]
        if now - self._written > 2:
            self.flush()
        if self.progress:
            self.progress(step, len(self.tokens), values["loss"])
        self._check(step, values["loss"], control)

    def record(self, step: int, values: dict[str, float]) -> None:
        """What is to stand in the store of a step; what is not finite does not."""
        self._rows += [(step, name, value) for name, value in values.items() if math.isfinite(value)]

    def _check(self, step: int, loss: float, control: Any) -> None:
        """Diverged where the loss has run away from that of the first steps since this training began or went on. No
        checkpoint is written at a step whose own loss is that high."""
        if len(self._first) < WINDOW:
            self._first.append(abs(loss))
            return
        limit, mean = TIMES * max(self._first) + NATS, sum(one["loss"] for one in self.recent) / len(self.recent)
        if loss > limit:
            control.should_save = False
        if mean > limit:
            words = f"the loss has run away ({mean:.3g} over {WINDOW} steps, {max(self._first):.3g} at first)"
            high = next(number for number, one in enumerate(self.recent) if one["loss"] > limit)
            raise Diverged(words, step, step - len(self.recent) + 1 + high)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.flush()

    def flush(self) -> None:
        rows, self._rows, self._written = self._rows, [], time.monotonic()
        if self.store is not None and rows:
            self.store.add_training_metrics(self.checkpoint, rows)

    def final(self) -> dict[str, float]:
        """Each metric's mean over the last ten steps, of its finite values."""
        found: dict[str, list[float]] = {}
        for values in self.recent:
            for name, value in values.items():
                if math.isfinite(value):
                    found.setdefault(name, []).append(value)
        return {name: sum(values) / len(values) for name, values in found.items()}

"""What a training job comes to before any weights are loaded: its rows as tokens, and which come when."""

from dataclasses import dataclass, replace
from typing import Any

from refinery.catalog import METHODS, module
from trainers import data
from trainers.data import Prepared
from trainers.job import TrainJob


@dataclass(frozen=True)
class Course:
    prepared: Prepared
    """Its rows are all that are trained on, replayed ones too."""
    steps: int
    """Optimiser steps."""
    places: list[int]
    """The row of every training sample, in order."""
    notes: dict[str, Any]
    """What the method wants the manifest to say of them."""

    def batch(self, step: int) -> list[str]:
        """The ids of the rows of optimiser step `step`, counted from 1."""
        size = len(self.places) // self.steps
        return [self.prepared.rows[place].id for place in self.places[(step - 1) * size : step * size]]

    def tokens(self) -> list[int]:
        """Of each step: its rows' tokens, prompts and answers together. What is generated on the way is not counted."""
        size = len(self.places) // self.steps
        lengths = [len(row.prompt) + len(row.answer) for row in self.prepared.rows]
        windows = (self.places[start : start + size] for start in range(0, len(self.places), size))
        return [sum(lengths[place] for place in window) for window in windows]


def course(job: TrainJob, tokenizer: Any) -> Course:
    """The job's rows and plan, by its method's own `prepare(job, tokenizer)` and `plan(job, prepared, tokenizer)` where
    it has them. UserError where no row is left."""
    method, params = module(METHODS, job.method), job.params
    if hasattr(method, "prepare"):
        prepared = method.prepare(job, tokenizer)
    else:
        teacher_prompt = getattr(params, "teacher_prompt", None)
        prepared = data.prepare(job.examples, tokenizer, max_length=params.max_length, teacher_prompt=teacher_prompt)
    notes: dict[str, Any] = {}
    if hasattr(method, "plan"):
        plan, notes = method.plan(job, prepared, tokenizer)
    else:
        plan = data.plan(prepared.rows, params, job.seed)
    return Course(replace(prepared, rows=plan.rows), plan.steps, plan.places, notes)

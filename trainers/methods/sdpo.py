"""Self-distillation policy optimisation (arXiv 2601.20802): the student, shown what one of its own other attempts got
right or what feedback says of this one, teaches itself along this attempt.

    L = (1/R) Σ_attempts (1/L) Σ_t JSD( q_φ(· | x, solution, feedback, z_<t), p(· | x, z_<t) ),  φ ← αθ + (1-α)φ

Several attempts at each prompt are checked against the row's `answer` by a rule; one that passes is the solution of the
others (never of itself). Attempts with neither a solution nor feedback are left out, of R too. The divergence is taken
on the student's K likeliest words and one outcome for all others. Of the paper's two ways to hold the teacher back this
is the moving average, not the trust region; feedback is a template over the row and the attempt, not a running program.
"""

from typing import Any

from pydantic import Field, model_validator

from refinery.checks import Check
from refinery.checks import Kind as CheckKind
from refinery.errors import UserError
from refinery.spec_types import Template
from trainers import conditioned, data
from trainers.distill_params import DistillParams, Kind, Support, Tail, Teaching
from trainers.job import Run, TrainJob

__all__ = ["Params", "build", "prepare"]

VERSION = 1
VARIABLES = ("solution", "feedback", "attempt", "correct")

TEACHER_PROMPT = """\
{{ question }}
{% if solution %}

A correct solution:

{{ solution }}
{% endif %}
{% if feedback %}

What was said of an unsuccessful attempt:

{{ feedback }}
{% endif %}

Now solve the question above correctly."""


class Params(DistillParams):
    learning_rate: float = Field(1e-5, gt=0)
    batch_size: int = Field(32, ge=1)
    rollouts: int = Field(8, ge=1)
    teacher: Teaching = "ema"
    teacher_ema: float = Field(0.05, gt=0, le=1)
    check: CheckKind = "contains"
    """How an attempt is checked against the row's answer."""
    feedback: Template | None = None
    """What is said of one attempt, over the row's fields, `attempt` and `correct`: "{{ '' if correct else hint }}"."""
    teacher_prompt: Template | None = TEACHER_PROMPT
    divergence: Kind = "jsd"
    beta: float = Field(0.5, gt=0, lt=1)
    top_k: int | None = Field(100, ge=1)
    support: Support = "student"
    tail: Tail = "bucket"
    importance_cap: float | None = Field(2.0, gt=0)

    @model_validator(mode="after")
    def _unshuffled(self) -> "Params":
        if self.teacher_shuffle:
            raise ValueError("teacher_shuffle: this teacher is shown attempts at a prompt, not another row's fields")
        return self


def prepare(job: TrainJob, tokenizer: Any) -> data.Prepared:
    """Rows without the teacher's prompts, which are made of the attempts."""
    params: Any = job.params
    if params.feedback is None and (params.rollouts < 2 or not any(e.answer for e in job.examples)):
        raise UserError(
            f"{job.name}: with nothing to check attempts by there is no solution to show: rows need an answer and "
            "rollouts must be 2 or more, or give feedback"
        )
    return data.prepare(job.examples, tokenizer, max_length=params.max_length, answered=False)


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.reprompt import Reprompt

    params: Any = run.job.params
    trainer = conditioned.build(run)
    examples = {example.id: example for example in run.job.examples}
    trainer.reprompt = Reprompt(
        run.tokenizer,
        [examples[row.id] for row in run.prepared.rows],
        params.teacher_prompt or "{{ question }}",
        params.feedback,
        Check(params.check),
        getattr(run.model.config.get_text_config(), "max_position_embeddings", None),
    )
    return trainer

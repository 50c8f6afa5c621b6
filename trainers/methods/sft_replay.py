"""Supervised fine-tuning with general rows among the new ones, at a fixed share.

Every pass sees all new rows once and so many rows of `replay` that these are `ratio` of the whole; they come in
shuffled passes of their own. The baseline that methods against forgetting are measured by; 1 to 30% are usual. Rows
without a good original answer may be given the base model's own by a `demonstrate` step.
"""

from typing import Any, Literal

from pydantic import Field

from refinery.spec_types import StepName
from trainers.data import Plan, Prepared
from trainers.job import Run, TrainJob
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    replay: StepName
    """The step or source whose train rows come along."""
    ratio: float = Field(0.1, gt=0, lt=1)
    """Their share of all rows, or of all trained tokens."""
    by: Literal["row", "token"] = "row"


def plan(job: TrainJob, prepared: Prepared, tokenizer: Any) -> tuple[Plan, dict[str, Any]]:
    """The rows of both, when they come, and what the manifest should say of it."""
    from trainers.replay import mixed, replay_rows

    params: Any = job.params
    replay, dropped = replay_rows(job, tokenizer)
    made = mixed(prepared.rows, replay, params, job.seed)
    first = len(prepared.rows)
    old = [made.rows[place] for place in made.places if place >= first]
    tokens = sum(len(made.rows[place].answer) for place in made.places)
    notes = {"replay_rows": len(replay), "replay_dropped": dropped, "replayed": len(old)}
    return made, {**notes, "replayed_token_share": sum(len(row.answer) for row in old) / tokens}


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.supervised import supervised

    return supervised(run)

"""Which prompts a training by reinforcement sees, and when. Light."""

import math
from typing import Any

from trainers import data
from trainers.job import TrainJob


def plan(job: TrainJob, prepared: data.Prepared, tokenizer: Any) -> tuple[data.Plan, dict[str, Any]]:
    """One shuffled pass over the prompts after another; those of one generation come `num_iterations` times."""
    params: Any = job.params
    rows, several = prepared.rows, params.steps_per_generation
    prompts = math.ceil(data.steps(len(rows), params.epochs, params.batch_size, None) / several) * several
    total = prompts * params.num_iterations
    total = total if params.max_steps is None else min(total, params.max_steps)
    block = several * params.batch_size
    generations = math.ceil(total / (several * params.num_iterations))
    order = data.order(len(rows), generations * block, job.seed)
    places = [
        place for start in range(0, len(order), block) for place in order[start : start + block] * params.num_iterations
    ]
    return data.Plan(rows, total, places[: total * params.batch_size]), {}

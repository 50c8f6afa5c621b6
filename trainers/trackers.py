"""Run trackers (tensorboard, wandb, mlflow, trackio), through transformers' own callbacks; none unless they are named.

Where a tracker keeps what it is told, and who may see it, is the tracker's own to configure (WANDB_PROJECT,
MLFLOW_TRACKING_URI, ...). TensorBoard's files stand under `tensorboard/` in the checkpoint's folder.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refinery.errors import UserError
from trainers.job import TrainJob

PLACE = "TENSORBOARD_LOGGING_DIR"


def tracking(job: TrainJob, folder: Path) -> dict[str, Any]:
    """Arguments for transformers.TrainingArguments. UserError where a tracker is not installed."""
    wanted = list(job.params.report_to)
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"report_to: {name} is not installed: pip install {name}")
    named = {"run_name": f"{job.name}-seed{job.seed}-{folder.name[:8]}", "project": "refinery"} if wanted else {}
    return {"report_to": wanted, **named}


@contextlib.contextmanager
def tracked(job: TrainJob, folder: Path) -> Iterator[None]:
    """TensorBoard's folder for a while, unless the environment names one."""
    ours = "tensorboard" in job.params.report_to and PLACE not in os.environ
    if ours:
        os.environ[PLACE] = str(folder / "tensorboard")
    try:
        yield
    finally:
        if ours:
            del os.environ[PLACE]

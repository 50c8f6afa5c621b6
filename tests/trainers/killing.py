"""Trainings in processes of their own, killed and taken up again.

The processes are forked from a server that has imported everything and has run nothing: a start costs no seconds, and
a killed one is as dead as any.
"""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.job import TrainJob

PRELOADED = ["trainers.distill", "trainers.supervised", "trainers.conditioned", "trainers.replay", "trainers.anchors",
             "trainers.lwf", "trainers.train", "refinery.models.transformers", "refinery.store", "peft",
             "transformers.models.llama.modeling_llama", "tests.trainers.killing"]  # fmt: skip


def context() -> Any:
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def training(job: TrainJob, store: Path | None, dies_at: int | None) -> None:
    """Trains; at the end of step `dies_at` the process kills itself."""
    import torch

    from refinery.store import Store
    from trainers.train import train

    torch.set_num_threads(1)

    def progress(step: int, total: int, loss: float) -> None:
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train(job if store is None else replace(job, store=Store(store), run_id="run"), progress)


def run(job: TrainJob, store: Path | None = None, dies_at: int | None = None) -> int:
    """The exit code of a training in a process of its own."""
    process = context().Process(target=training, args=(job, store, dies_at))
    process.start()
    process.join()
    return int(process.exitcode)


def killed_when(job: TrainJob, there: Path, after: float) -> int:
    """Starts a training and kills it `after` seconds after the file or folder is there; its exit code."""
    process = context().Process(target=training, args=(job, None, None))
    process.start()
    while process.is_alive() and not there.exists():
        time.sleep(0.002)
    time.sleep(after)
    process.kill()
    process.join()
    return int(process.exitcode)

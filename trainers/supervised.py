"""TRL's SFTTrainer on rows that are tokens already."""

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trainers.job import Run
from trainers.loop import Loop


class SupervisedTrainer(Loop, SFTTrainer):
    """Mean cross-entropy over all answer tokens of an optimiser step; the prompt's tokens are masked."""


def supervised(run: Run, **options: Any) -> SupervisedTrainer:
    """The trainer of one run; `options` go to SFTConfig."""
    rows = [
        {"input_ids": row.prompt + row.answer, "labels": [-100] * len(row.prompt) + row.answer}
        for row in run.prepared.rows
    ]
    config = SFTConfig(**run.arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, **options)
    trainer = SupervisedTrainer(
        model=run.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=run.adapter,
    )
    trainer.places = run.places
    return trainer

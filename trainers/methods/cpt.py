"""Continued pre-training: cross-entropy on every token of a text, given those before it.

    L = -(1/N) Σ_t log p(x_t | x_<t)

Without `text`, a row's text is its chat with the response, prompt tokens trained too. With `text`, a template over the
row's fields and columns (`text: "{{ text }}"`), no chat template is used and rows need no response.
"""

from typing import Any

from refinery.spec_types import Template
from trainers import data
from trainers.job import Run, TrainJob
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    """With `text`, max_length cuts long texts into several rows; of chats it leaves out the longer ones, as ever."""

    text: Template | None = None
    """What is read, over the row's fields; the whole chat where it is left out."""
    pack: bool = False
    """Lay all texts end to end and cut every max_length tokens, so that no batch is padded; rows then begin anywhere in
    a text and may hold several, which see each other. Only with `text`."""


def prepare(job: TrainJob, tokenizer: Any) -> data.Prepared:
    """The rows as token ids."""
    params: Any = job.params
    if params.text is None:
        return data.prepare(job.examples, tokenizer, max_length=params.max_length)
    from trainers.texts import texts

    return texts(job, tokenizer, params.text, pack=params.pack)


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.supervised import supervised

    return supervised(run, whole=True)

"""Whole texts as rows, for plain language modelling: every token is trained, and no chat template is used."""

from collections import Counter
from typing import Any

from refinery.errors import RowError, UserError
from refinery.templates import render
from trainers.data import Ending, Prepared, Row
from trainers.job import TrainJob


def texts(job: TrainJob, tokenizer: Any, template: str, *, pack: bool) -> Prepared:
    """Rows of at most `max_length` tokens of the rendered texts, each text closed by the end-of-text token.

    A longer text goes on in further rows, so nothing is lost; `pack` lays all texts end to end and cuts every
    `max_length` tokens, whatever text that is in. UserError where the tokenizer has no end token, or nothing is left.
    """
    end, length = tokenizer.eos_token_id, job.params.max_length
    if end is None:
        raise UserError("the model's tokenizer has no end-of-text token, with which texts are closed")
    dropped: Counter[str] = Counter()
    found: list[tuple[str, str]] = []
    for example in job.examples:
        try:
            text = render(template, example.fields())
        except RowError as error:
            dropped[error.reason] += 1
            continue
        if text.strip():
            found.append((example.id, text))
        else:
            dropped["empty_text"] += 1
    ids = tokenizer([text for _, text in found])["input_ids"] if found else []
    closed = [tokens if tokens[-1:] == [end] else [*tokens, end] for tokens in ids]
    streams = [(name, tokens) for (name, _), tokens in zip(found, closed, strict=True)]
    if pack:
        streams = [("packed", [token for _, tokens in streams for token in tokens])]
    rows = [
        Row(name if start == 0 and not pack else f"{name}/{start // length}", [], tokens[start : start + length], [])
        for name, tokens in streams
        for start in range(0, len(tokens), length)
        if len(tokens) - start > 1  # of a single token, nothing is predicted
    ]
    if not rows:
        why = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "there were none"
        raise UserError(f"no texts to train on: {why}")
    prompts = {"text": template, "first_text": found[0][1]}
    return Prepared(rows, dropped, prompts, Ending("", tokenizer.decode([end]), end))

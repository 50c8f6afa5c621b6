"""What the steps would ask: the ops are run on source rows with a model that answers at once and notes its prompts."""

import asyncio
import heapq
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refinery.context import Context
from refinery.errors import RowError, UserError
from refinery.models.base import Likelihood, Prompt, Reply, Sampling
from refinery.records import Example
from refinery.spec import SOURCE, Spec
from refinery.steps import readings, resolve
from refinery.store import Store

ROWS = 32
"""The longest rows of the source, on which the ops are tried."""
CHARACTERS = 4
"""In a token, about, where there is no tokenizer to count."""
AROUND = 8
"""Tokens that a chat template puts around a turn, about."""


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest prompt that one model would get."""

    step: str
    op: str
    text: str
    turns: int
    max_tokens: int

    def tokens(self, place: Path | None) -> tuple[int, str]:
        """(tokens, "" or "about "): counted with the tokenizer in the folder `place` where it has one."""
        around = AROUND * self.turns
        if place is not None and (place / "tokenizer.json").exists():
            try:
                from tokenizers import Tokenizer

                return len(Tokenizer.from_file(str(place / "tokenizer.json")).encode(self.text).ids) + around, ""
            except ImportError:
                pass
        return len(self.text) // CHARACTERS + around, "about "


def longest_prompts(spec: Spec) -> tuple[int, dict[str, Longest], str]:
    """(rows of the train split, model name to its longest prompt, what is wrong with the steps or ""). Reads the
    sources; UserError where they cannot be read.

    A row's answer stands for whatever earlier steps make of it. Steps that see whole tables are passed over.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = spec.store_path if spec.store_path.exists() else Path(folder) / "empty.duckdb"
        store = Store(path)
        with readings(spec, store) as read:
            prints = {name: each if isinstance(each, str) else each.fingerprint() for name, each in read.items()}
            main = read[SOURCE]
            outcomes = store.stream(main) if isinstance(main, str) else enumerate(main.outcomes())
            count, rows = _longest_rows(outcome.example for _, outcome in outcomes)
    notes = _Notes()
    try:
        steps = resolve(spec, prints)
    except UserError as error:
        return count, {}, str(error)
    for step in steps:
        if not step.is_table and not step.needs_all:
            asyncio.run(_try(step, rows, Context(step.name, spec.seed, notes), notes))
    return count, notes.longest, ""


def _longest_rows(examples: Iterator[Example | None]) -> tuple[int, list[Example]]:
    count = 0
    longest: list[tuple[int, int, Example]] = []
    for example in examples:
        if example is None or example.split != "train":
            continue
        count += 1
        size = len(example.answer) + sum(len(turn["content"]) for turn in example.prompt)
        heapq.heappush(longest, (size, -count, example))
        if len(longest) > ROWS:
            heapq.heappop(longest)
    return count, [example for _, _, example in sorted(longest, reverse=True)]


async def _try(step: Any, rows: list[Example], ctx: Context, notes: "_Notes") -> None:
    notes.step, notes.op = step.name, step.op
    for example in rows:
        try:
            await step.module.apply(example, step.params, ctx)
        except (RowError, UserError):
            continue


class _Notes:
    """A Provider whose one model notes the longest prompt by name, and answers with what reads as a middling grade."""

    def __init__(self) -> None:
        self.step = self.op = ""
        self.longest: dict[str, Longest] = {}

    async def model(self, name: str) -> Any:
        return _Noting(name, self)

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 4), dtype=np.float32) / 2

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]:
        return [len(text) // CHARACTERS for text in texts]

    def note(self, name: str, prompt: Prompt, max_tokens: int) -> None:
        text = prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)
        turns = 1 if isinstance(prompt, str) else len(prompt)
        if name not in self.longest or len(text) > len(self.longest[name].text):
            self.longest[name] = Longest(self.step, self.op, text, turns, max_tokens)


@dataclass(slots=True)
class _Noting:
    name: str
    notes: _Notes
    identity: str = "probe"

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        self.notes.note(self.name, prompt, sampling.max_tokens)
        return Reply("0.5", "stop", 0, 0)

    async def loglikelihood(self, messages: Prompt, continuation: str) -> Likelihood:
        prompt = [*messages, {"role": "assistant", "content": continuation}] if not isinstance(messages, str) else ""
        self.notes.note(self.name, prompt, 0)
        return Likelihood([-1.0])

    async def user_slot(self) -> str:
        return ""

    async def close(self) -> None:
        pass

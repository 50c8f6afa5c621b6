"""A teacher's prompts from what the student has just said: a solution that one of its attempts found, and feedback."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refinery.checks import Check, compare
from refinery.errors import RowError
from refinery.records import Example
from refinery.templates import render
from trainers.data import teacher_messages

Ids = list[int]

THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Reprompt:
    """What the teacher of one attempt z is shown: the row's own prompt, in which `template` has replaced the last user
    turn. It is rendered from the row's fields and

        solution   the first other attempt at the same prompt that passes the check, its <think> part left out; or ""
        feedback   `feedback` rendered from the fields, `attempt` (z as text) and `correct`; or ""

    An attempt for which both are empty teaches nothing and is left out, as is one whose new prompt leaves no room for
    it in the context. Attempts of one prompt must be in one process, which they are.
    """

    tokenizer: Any
    examples: list[Example]
    """By a row's place."""
    template: str
    feedback: str | None
    check: Check
    context: int | None
    """Tokens of prompt and attempt together, at most."""

    def __call__(
        self, places: list[int], rollouts: list[list[Ids]]
    ) -> tuple[list[list[Ids]], list[list[Ids]], dict[str, float]]:
        """Attempts that can be learnt from, their teacher's prompts, and the shares of all attempts that are solved and
        that are learnt from."""
        kept: list[list[Ids]] = []
        shown: list[list[Ids]] = []
        solved = 0
        for place, attempts in zip(places, rollouts, strict=True):
            example = self.examples[place]
            texts = [self.tokenizer.decode(z, skip_special_tokens=True).strip() for z in attempts]
            correct = [self._passes(text, example.answer) for text in texts]
            solved += sum(correct)
            pairs = [(z, self._prompt(example, texts, correct, number)) for number, z in enumerate(attempts)]
            fitting = [(z, prompt) for z, prompt in pairs if prompt is not None and self._fits(prompt, z)]
            kept.append([z for z, _ in fitting])
            shown.append([prompt for _, prompt in fitting])
        count = max(1, sum(map(len, rollouts)))
        return kept, shown, {"solved": solved / count, "informed": sum(map(len, kept)) / count}

    def _passes(self, text: str, reference: str) -> bool:
        return bool(reference) and compare(self.check, THOUGHT.sub("", text), reference).agrees is True

    def _fits(self, prompt: Ids, attempt: Ids) -> bool:
        return self.context is None or len(prompt) + len(attempt) <= self.context

    def _prompt(self, example: Example, texts: list[str], correct: list[bool], number: int) -> Ids | None:
        others = [text for i, text in enumerate(texts) if i != number and correct[i]]
        solution = THOUGHT.sub("", others[0]) if others else ""
        fields: Mapping[str, Any] = {**example.fields(), "attempt": texts[number], "correct": correct[number]}
        try:
            feedback = render(self.feedback, fields).strip() if self.feedback else ""
            if not solution and not feedback:
                return None
            messages = teacher_messages(example, self.template, {**fields, "solution": solution, "feedback": feedback})
        except RowError:
            return None
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

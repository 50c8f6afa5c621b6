"""The few types that flow through Refinery: `Example` in, `Outcome` per step, `Score` and `Sample` per checkpoint."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

Message = dict[str, str]
"""One chat turn: {"role": "system" | "user" | "assistant", "content": text}."""

Action = Literal["kept", "changed", "fell_back", "dropped", "created"]


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str).encode


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, in ASCII; what JSON lacks as its `str`.

    Digests hang on these bytes, so that none may ever change. orjson writes the same in a fifth of the time where
    `_same_for_orjson` holds and no character needs a \\u that it would not write.
    """
    if _same_for_orjson(value):
        try:
            found = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        except TypeError:  # half of a surrogate pair, an integer over 64 bits, too deep
            return _canonical(value).encode("ascii")
        if found.isascii() and b"\x7f" not in found:
            return found
    return _canonical(value).encode("ascii")


def _same_for_orjson(value: Any) -> bool:
    """Plain types alone, keys of text, and no float that is written with an exponent."""
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return True
    if kind is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    elif kind is not list and kind is not tuple:
        return kind is float and (value == 0 or 1e-4 <= abs(value) < 1e16)
    for each in value:
        if type(each) is not str and not _same_for_orjson(each):
            return False
    return True


def digest(value: Any, length: int = 32) -> str:
    """Hex SHA-256 prefix of the canonical JSON of `value`, so that equal means equal."""
    return hashlib.sha256(canonical(value)).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Example:
    """One training item. Its id survives every row step, so any two steps can be joined row by row."""

    id: str
    prompt: list[Message]
    """Chat messages without the final answer."""
    answer: str
    """The reference answer, never changed by a step."""
    response: str
    """The supervision as it stands: what a method trained on this step would learn to say."""
    candidates: tuple[str, ...] = ()
    """Several samples for `response`: a filter drops those that fail, and the best of the rest becomes `response`."""
    fell_back: bool = False
    """True once a step has given up and put `answer` (back) into `response`: later row steps pass the row through."""
    split: str = "train"
    """"train", "validation" or "test": the graph refines the train split, the others are for choosing and testing."""
    parents: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    """The source row's columns, for templates, grouping and checks."""

    def with_response(self, response: str, candidates: tuple[str, ...] = ()) -> "Example":
        return replace(self, response=response, candidates=candidates)

    def fall_back(self) -> "Example":
        return replace(self, response=self.answer, candidates=(), fell_back=True)

    @property
    def question(self) -> str:
        """The last user turn, as text."""
        return next((m["content"] for m in reversed(self.prompt) if m["role"] == "user"), "")

    def fields(self) -> dict[str, Any]:
        """What a prompt template may name: the source columns, then question, answer, response, candidates and id over
        them."""
        own = {"question": self.question, "answer": self.answer, "response": self.response, "id": self.id}
        return {**self.meta, **own, "candidates": list(self.candidates)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step did to one example. `example` is the example after the step, None when it was dropped."""

    example_id: str
    action: Action
    reason: str
    """A fixed snake_case word, counted in the funnel: "ok", "below_threshold", "server_error"."""
    example: Example | None
    scores: dict[str, Any] = field(default_factory=dict)
    """Every number that decided the outcome: {"cosine": 0.83, "cosines": [0.83, 0.79]}."""
    detail: str = ""
    transient: bool = False
    """True where running the same step again may succeed; such rows are asked again by the next run."""
    failed: bool = field(default=False, compare=False)
    """The row could not be processed, which `limits.failed` counts; of a row that was decided against False. Not
    stored."""


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one checkpoint on one benchmark: a mean over `n` items with its 95% interval."""

    checkpoint: str
    benchmark: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    fingerprint: str
    """Digest of everything that must be equal for two scores to be comparable (see evals/harness.py)."""
    higher_is_better: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    """What the fingerprint digests, readable."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One benchmark item as one checkpoint answered it; `item` joins the same item across checkpoints."""

    checkpoint: str
    benchmark: str
    metric: str
    item: str
    value: float
    prompt: str
    target: str
    response: str
    fingerprint: str

"""What every backend answers with, and the one interface they share."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from refinery.errors import RowError
from refinery.records import Message

FinishReason = Literal["stop", "length"]

Prompt = list[Message] | str
"""What an answer is asked to: chat messages, which end with an assistant turn where that turn is to be continued; or
a raw text to be completed, without a chat template."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How text is drawn. temperature 0 takes the likeliest token at each step; top_p 1 and top_k 0 cut nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    seed: int = 0
    schema: dict[str, Any] | None = field(default=None, hash=False)
    """A JSON Schema that the answer must follow, where the backend can hold it to one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `finish_reason` is "stop" where the model ended it, "length" where a limit cut it."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    """0 where a server did not say."""
    completion_tokens: int
    """0 where a server did not say. The end token is counted by servers that count it and by ours not."""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a continuation is: one natural-log probability for each of its tokens, no end token."""

    logprobs: list[float]
    cached: bool = False

    @property
    def tokens(self) -> int:
        return len(self.logprobs)

    @property
    def sum(self) -> float:
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """Per token, in nats; nan for an empty continuation."""
        return self.sum / self.tokens if self.logprobs else math.nan


@dataclass(slots=True)
class Counts:
    """What a model was asked since it was opened. Tokens and cost are those of answers that were not cached."""

    sent: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    """Requests that were sent again after a failure."""
    in_flight: int = 0
    """Requests on the wire now."""
    cost: float = 0.0
    """USD, of the models that have a price."""


class Model(Protocol):
    """Something that writes and scores text. Requests may run side by side; the model does its own batching.

    Both calls raise RowError where this one request failed (prompt_too_long, invalid_text, empty_response,
    bad_response; server_error, timeout and rate_limited are transient) and UserError where every request would.
    """

    identity: str
    """What is asked, wherever it runs: the weights' digest, or a served model's name and provider."""

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        """An answer to `prompt`, or what follows it. `sample` counts the draws from one prompt: each is its own
        noise."""
        ...

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        """Log-probabilities of `continuation` as the assistant's turn after `messages`, or as what follows in it."""
        ...

    async def user_slot(self) -> str:
        """The chat template's text up to where the user's words begin."""
        ...

    async def close(self) -> None: ...


def continues(prompt: Prompt) -> bool:
    """Whether the prompt is a chat whose last turn, the assistant's, is to be continued."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def texts_of(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]


def check_text(*texts: str) -> None:
    """RowError invalid_text where a text holds half a surrogate pair, which no tokenizer, server or store takes."""
    for text in texts:
        try:
            text.isascii() or text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError("invalid_text", f"lone surrogate at character {error.start}") from None

"""What every backend answers with, and the one interface they share."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from refinery.errors import RowError
from refinery.records import Message

FinishReason = Literal["stop", "length"]


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


class Model(Protocol):
    """Something that writes and scores text. Requests may run side by side; the model does its own batching.

    Both calls raise RowError where this one request failed (prompt_too_long, invalid_text, empty_response,
    bad_response; server_error, timeout and rate_limited are transient) and UserError where every request would.
    """

    identity: str
    """What is asked, wherever it runs: the weights' digest, or a served model's name and provider."""

    async def generate(self, messages: list[Message], sampling: Sampling, sample: int = 0) -> Reply:
        """An answer to chat `messages`. `sample` counts the draws from one prompt: each index is its own noise."""
        ...

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        """Log-probabilities of `continuation` as the assistant's turn after `messages`."""
        ...

    async def close(self) -> None: ...


def check_text(*texts: str) -> None:
    """RowError invalid_text where a text holds half a surrogate pair, which no tokenizer, server or store takes."""
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RowError("invalid_text", f"lone surrogate at character {error.start}") from None

"""What a row operation may ask for: text, likelihoods and embeddings, each from what the spec names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from refinery.models.base import Likelihood, Model, Reply, Sampling
from refinery.records import Message


class Services(Protocol):
    """Opens what steps ask, once each, and closes it when the graph is done."""

    async def model(self, name: str) -> Model: ...

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray: ...


@dataclass(slots=True)
class Usage:
    """What a step has cost so far. Requests that were answered from the store cost no tokens."""

    asked: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Context:
    """One step's access to models and encoders. Calls of many rows run side by side; each may raise RowError."""

    def __init__(self, step: str, seed: int, services: Services):
        self.step, self.seed, self.usage = step, seed, Usage()
        self._services = services

    async def ask(
        self,
        model: str,
        messages: list[Message],
        *,
        sample: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
    ) -> Reply:
        """One answer from the model of that name. Equal requests give equal answers, those of earlier runs included;
        `sample` tells draws from one prompt apart."""
        sampling = Sampling(temperature, top_p, top_k, max_tokens, tuple(stop), self.seed)
        reply = await (await self._services.model(model)).generate(messages, sampling, sample)
        if reply.cached:
            self.usage.cached += 1
        else:
            self.usage.asked += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
        return reply

    async def loglikelihood(self, model: str, messages: list[Message], continuation: str) -> Likelihood:
        """Log-probabilities (nats) of `continuation` as the assistant's turn after `messages`."""
        found = await (await self._services.model(model)).loglikelihood(messages, continuation)
        self.usage.asked += 1
        return found

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        """(n, d) float32 unit vectors in the order of `texts`; a text without a token gives a zero vector."""
        return await self._services.embed(encoder, texts)

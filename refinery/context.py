"""What a row operation may ask for: text, likelihoods and embeddings, each from what the spec names."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from refinery.models.base import Likelihood, Model, Reply, Sampling
from refinery.records import Message


class Provider(Protocol):
    """Where a context's models and encoders come from: a run's `Services`, or a plan that only looks up answers."""

    async def model(self, name: str) -> Model: ...

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray: ...


class Context:
    """One step's access to models and encoders. Calls of many rows run side by side; each may raise RowError."""

    def __init__(self, step: str, seed: int, provider: Provider):
        self.step, self.seed = step, seed
        self._provider = provider

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
        return await (await self._provider.model(model)).generate(messages, sampling, sample)

    async def loglikelihood(self, model: str, messages: list[Message], continuation: str) -> Likelihood:
        """Log-probabilities (nats) of `continuation` as the assistant's turn after `messages`."""
        return await (await self._provider.model(model)).loglikelihood(messages, continuation)

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        """(n, d) float32 unit vectors in the order of `texts`; a text without a token gives a zero vector."""
        return await self._provider.embed(encoder, texts)

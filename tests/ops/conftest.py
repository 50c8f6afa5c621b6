"""A scripted stand-in for the graph's Context: every request is recorded, answers come from plain functions."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from refinery.errors import RowError
from refinery.models.base import Likelihood, Reply
from refinery.records import Example


@dataclass
class FakeContext:
    answers: object = None
    """Called with (model, messages, sample); gives a text, a Reply, or a RowError to raise."""
    likelihoods: object = None
    """Called with (model, messages, continuation); gives the mean log-likelihood, or a RowError to raise."""
    vectors: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    scored: list = field(default_factory=list)
    prepared: object = None

    async def ask(self, model, messages, *, sample=0, **sampling):
        self.requests.append({"model": model, "messages": messages, "sample": sample, **sampling})
        await asyncio.sleep(0)
        answer = self.answers(model, messages, sample)
        if isinstance(answer, RowError):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer, "stop", 5, 5)

    async def loglikelihood(self, model, messages, continuation):
        self.scored.append((model, messages, continuation))
        mean = self.likelihoods(model, messages, continuation)
        if isinstance(mean, RowError):
            raise mean
        return Likelihood([mean] * 3)

    async def embed(self, encoder, texts):
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    async def count_tokens(self, model, texts):
        return [len(text) // 2 for text in texts]

    async def map(self, function, items):
        async def one(item):
            try:
                return await function(item)
            except RowError as error:
                return error

        return await asyncio.gather(*(one(item) for item in items))


@pytest.fixture
def fake():
    return FakeContext


@pytest.fixture
def row():
    def make(answer="It is Paris.", response=None, question="Capital of France?", **more):
        prompt = [{"role": "user", "content": question}]
        return Example("r1", prompt, answer, answer if response is None else response, **more)

    return make


@pytest.fixture
def run():
    def go(op, example, ctx, **params):
        return asyncio.run(op.apply(example, op.Params(**params), ctx))

    return go

"""What a row operation may ask for: text, likelihoods and embeddings, each from what the spec names."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from refinery.errors import RowError
from refinery.models.base import Likelihood, Model, Reply, Sampling
from refinery.records import Message

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW = 256
"""Items of `Context.map` in flight, where the caller says nothing else."""


class Provider(Protocol):
    """Where a context's models and encoders come from: a run's `Services`, or a plan that only looks up answers."""

    async def model(self, name: str) -> Model: ...

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray: ...

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]: ...


class Context:
    """One step's access to models and encoders. Calls of many rows run side by side; each may raise RowError."""

    def __init__(self, step: str, seed: int, provider: Provider, window: int = WINDOW):
        self.step, self.seed, self.window = step, seed, window
        self.prepared: Any = None
        """What the op's `prepare` found in all rows, where it has one."""
        self.note: Callable[[RowError | None], None] = lambda _: None
        """Called by `map` with each item's failure, or None; what it raises stops the rest."""
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
        schema: dict[str, Any] | None = None,
    ) -> Reply:
        """One answer from the model of that name. Equal requests give equal answers, those of earlier runs included;
        `sample` tells draws from one prompt apart.

        Messages that end with an assistant turn are continued: the reply's text is what follows. `schema` is a JSON
        Schema that a server is told to hold the answer to; not every backend can, so parse the answer strictly.
        """
        sampling = Sampling(temperature, top_p, top_k, max_tokens, tuple(stop), self.seed, schema)
        return await (await self._provider.model(model)).generate(messages, sampling, sample)

    async def complete(
        self,
        model: str,
        text: str,
        *,
        sample: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_tokens: int = 512,
        stop: Sequence[str] = (),
    ) -> Reply:
        """What the model writes after `text` as it stands, without a chat template."""
        sampling = Sampling(temperature, top_p, top_k, max_tokens, tuple(stop), self.seed)
        return await (await self._provider.model(model)).generate(text, sampling, sample)

    async def user_slot(self, model: str) -> str:
        """The model's chat template up to where the user's words begin: completed, it gives an instruction as the model
        expects one (Magpie, arXiv:2406.08464, section 2.1). UserError where the template is a server's own."""
        return await (await self._provider.model(model)).user_slot()

    async def loglikelihood(self, model: str, messages: list[Message], continuation: str) -> Likelihood:
        """Log-probabilities (nats) of `continuation` as the assistant's turn after `messages`."""
        return await (await self._provider.model(model)).loglikelihood(messages, continuation)

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        """(n, d) float32 unit vectors in the order of `texts`; a text without a token gives a zero vector."""
        return await self._provider.embed(encoder, texts)

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]:
        """Tokens of each text for that model, without special tokens. UserError where its tokenizer is not at hand."""
        return await self._provider.count_tokens(model, texts)

    async def map(
        self, function: Callable[[Item], Awaitable[Result]], items: Iterable[Item]
    ) -> list[Result | RowError]:
        """`await function(item)` for every item, `window` of them side by side; each result, or the RowError that was
        raised in its place, in the order of the items. Any other error stops the rest and is raised."""
        results: list[Any] = []
        waiting = iter(items)
        await side_by_side(_work(function, waiting, results, self.note) for _ in range(self.window))
        return results


async def side_by_side(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """All of it at once; what one raises stops the others and is raised."""
    workers = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _work(
    function: Callable[[Item], Awaitable[Any]],
    waiting: Iterator[Item],
    results: list[Any],
    note: Callable[[RowError | None], None],
) -> None:
    for item in waiting:
        place = len(results)
        results.append(None)
        try:
            results[place] = await function(item)
        except RowError as error:
            results[place] = error
        note(results[place] if isinstance(results[place], RowError) else None)

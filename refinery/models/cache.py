"""The request cache: nothing that was answered is asked again, and nothing that differs is taken for the same.

A request's digest covers what shapes its answer: the messages as rendered (the system prompt is one of them), the
model's identity, the sampling parameters and the sample index. `max_tokens` stands outside: an answer that ended by
itself serves any limit it fits in, one that was cut serves only the limit that cut it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from refinery.journal import Journal
from refinery.models.base import Likelihood, Model, Prompt, Reply, Sampling, check_text, continues, texts_of
from refinery.models.batcher import Batcher
from refinery.records import Message, digest
from refinery.store import Store, now

Answer = TypeVar("Answer", Reply, Likelihood)

LOOKUP_BATCH = 2000


def generation_digest(identity: str, prompt: Prompt, sampling: Sampling, sample: int) -> str:
    """Names the answer to this request. It also seeds the sampling noise, so equal requests draw equal text."""
    asked = {**_asked(prompt), "sampling": _shape(sampling), "sample": sample}
    return digest({"kind": "complete" if isinstance(prompt, str) else "generate", "model": identity, **asked})


def likelihood_digest(identity: str, messages: list[Message], continuation: str) -> str:
    return digest({"kind": "score", "model": identity, **_asked(messages), "continuation": continuation})


def _asked(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    return {"messages": prompt, **({"continue": True} if continues(prompt) else {})}


def reusable(rows: Iterable[Mapping[str, Any]], max_tokens: int) -> Mapping[str, Any] | None:
    """The stored answer, of one digest's, that asking again with `max_tokens` would give; None where there is none."""
    for row in rows:
        if row["max_tokens"] == max_tokens:
            return row
        fits = row["max_tokens"] <= max_tokens or 0 < row["completion_tokens"] <= max_tokens
        if row["finish_reason"] == "stop" and fits:
            return row
    return None


@dataclass(slots=True)
class Counts:
    """What a model was asked since it was opened. Tokens are those of answers that were not cached."""

    sent: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class CachedModel:
    """A Model whose answers are looked up first and noted in the journal as they come.

    Two equal requests at the same time are sent once. Failures are not stored: they are asked again.
    """

    def __init__(self, model: Model, store: Store, journal: Journal):
        self.model, self.journal, self.counts = model, journal, Counts()
        self.identity = model.identity
        self._under_way: dict[tuple[str, ...], asyncio.Future[Any]] = {}
        self._lookups = {
            "generations": Batcher(_each(store.generations), max_batch=LOOKUP_BATCH, name="cache"),
            "likelihoods": Batcher(_each(store.likelihoods), max_batch=LOOKUP_BATCH, name="cache"),
        }

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        check_text(*texts_of(prompt))
        name = generation_digest(self.identity, prompt, sampling, sample)

        async def answer() -> Reply:
            found = self.journal.find("generations", (name, sampling.max_tokens)) or reusable(
                await self._stored("generations", name) or (), sampling.max_tokens
            )
            if found:
                return Reply(**{key: found[key] for key in _REPLY}, cached=True)
            reply = await self.model.generate(prompt, sampling, sample)
            request = {**_asked(prompt), "sample": sample, "sampling": _shape(sampling)}
            row = {key: getattr(reply, key) for key in _REPLY}
            row |= {"digest": name, "model": self.identity, "request": request, "max_tokens": sampling.max_tokens}
            self.journal.append("generations", {**row, "created_at": now().isoformat()})
            self.counts.prompt_tokens += reply.prompt_tokens
            self.counts.completion_tokens += reply.completion_tokens
            return reply

        return self._counted(await self._once((name, str(sampling.max_tokens)), answer))

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        check_text(continuation, *(message["content"] for message in messages))
        name = likelihood_digest(self.identity, messages, continuation)

        async def answer() -> Likelihood:
            row = self.journal.find("likelihoods", (name,)) or await self._stored("likelihoods", name)
            if row:
                return Likelihood(list(row["logprobs"]), cached=True)
            likelihood = await self.model.loglikelihood(messages, continuation)
            request = {"messages": messages, "continuation": continuation}
            row = {"digest": name, "model": self.identity, "request": request, "logprobs": likelihood.logprobs}
            self.journal.append("likelihoods", {**row, "created_at": now().isoformat()})
            return likelihood

        return self._counted(await self._once((name,), answer))

    async def user_slot(self) -> str:
        return await self.model.user_slot()

    async def close(self) -> None:
        for lookup in self._lookups.values():
            lookup.close()
        await self.model.close()

    async def _stored(self, table: str, name: str) -> Any:
        return await self._lookups[table](name) if self.journal.may_be_stored(table, name) else None

    def _counted(self, answer: Answer) -> Answer:
        if answer.cached:
            self.counts.cached += 1
        else:
            self.counts.sent += 1
        return answer

    async def _once(self, key: tuple[str, ...], answer: Callable[[], Awaitable[Answer]]) -> Answer:
        """`answer()`, or that of an equal request already under way, which counts as cached."""
        while there := self._under_way.get(key):
            try:
                return replace(await asyncio.shield(there), cached=True)
            except asyncio.CancelledError:
                if not there.cancelled():
                    raise  # this caller was cancelled; else only the one it waited for: try again
        mine = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            found = await answer()
            mine.set_result(found)
            return found
        except Exception as error:
            self.counts.failed += 1
            mine.set_exception(error)
            mine.exception()  # nobody may be waiting for it
            raise
        finally:
            mine.cancel()  # does nothing once it is set
            del self._under_way[key]


_REPLY = ("text", "finish_reason", "prompt_tokens", "completion_tokens")


def _each(find: Callable[[Sequence[str]], Mapping[str, Any]]) -> Callable[[list[str]], list[Any]]:
    """A lookup of many names at once, as a Batcher runs it: one result, or None, for each."""

    def run(names: list[str]) -> list[Any]:
        found = find(names)
        return [found.get(name) for name in names]

    return run


def _shape(sampling: Sampling) -> dict[str, Any]:
    """What of the sampling shapes an answer: everything but max_tokens."""
    shape = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop),
        "seed": sampling.seed,
    }
    return shape if sampling.schema is None else {**shape, "schema": sampling.schema}

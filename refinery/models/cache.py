"""The request cache: nothing that was answered is asked again, and nothing that differs is taken for the same.

A request's digest covers what shapes its answer: the messages as rendered (the system prompt is one of them), the
model's identity, the sampling parameters and the sample index. `max_tokens` stands outside: an answer that ended by
itself serves any limit it fits in, one that was cut serves only the limit that cut it.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar

from refinery.journal import Journal
from refinery.models.base import Counts, Likelihood, Model, Prompt, Reply, Sampling, check_text, continues, texts_of
from refinery.models.batcher import Batcher
from refinery.records import Message, digest
from refinery.store import Store, now

_TEXT = json.encoder.encode_basestring_ascii
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str).encode
_text_json = lru_cache(64)(_TEXT)

Answer = TypeVar("Answer", Reply, Likelihood)

LOOKUP_BATCH = 2000


def generation_digest(identity: str, prompt: Prompt, sampling: Sampling, sample: int) -> str:
    """Names the answer to this request. It also seeds the sampling noise, so equal requests draw equal text."""
    kinds = type(sampling.temperature), type(sampling.top_p)  # 1 == 1.0, and yet their JSON differs
    shape = _shape_json(sampling, kinds) if sampling.schema is None else _canonical(_shape(sampling))
    model = f'"model":{_text_json(identity)},"sample":{sample},"sampling":{shape}'
    if isinstance(prompt, str):
        text = f'{{"kind":"complete",{model},"text":{_TEXT(prompt)}}}'
    else:
        go_on = '"continue":true,' if continues(prompt) else ""
        text = f'{{{go_on}"kind":"generate","messages":{canonical_messages(prompt)},{model}}}'
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def canonical_messages(messages: Sequence[Message]) -> str:
    """The messages as records.digest would write them, ASCII throughout."""
    parts = []
    for message in messages:
        if len(message) != 2:
            return _canonical(messages)
        parts.append(f'{{"content":{_TEXT(message["content"])},"role":{_TEXT(message["role"])}}}')
    return f"[{','.join(parts)}]"


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


class CachedModel:
    """A Model whose answers are looked up first and noted in the journal as they come.

    Two equal requests at the same time are sent once. Failures are not stored: they are asked again.
    """

    def __init__(self, model: Model, store: Store, journal: Journal):
        self.model, self.journal = model, journal
        self.counts: Counts = getattr(model, "counts", None) or Counts()
        self.identity = model.identity
        self._named = getattr(model, "generate_named", None)
        if hasattr(model, "trust") and store.has_answers(self.identity):
            model.trust()
        self._under_way: dict[tuple[str, int], asyncio.Future[Any] | None] = {}
        self._lookups = {
            "generations": Batcher(each(store.generations), max_batch=LOOKUP_BATCH, name="cache"),
            "likelihoods": Batcher(each(store.likelihoods), max_batch=LOOKUP_BATCH, name="cache"),
        }

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        check_text(*texts_of(prompt))
        name = generation_digest(self.identity, prompt, sampling, sample)
        return await self._once((name, sampling.max_tokens), self._generated, prompt, sampling, sample, name)

    async def _generated(self, prompt: Prompt, sampling: Sampling, sample: int, name: str) -> Reply:
        found: Mapping[str, Any] | None = self.journal.find("generations", (name, sampling.max_tokens))
        if not found and self.journal.may_be_stored("generations", name):
            found = reusable(await self._lookups["generations"](name) or (), sampling.max_tokens)
        if found:
            tokens = found["prompt_tokens"], found["completion_tokens"]
            return Reply(found["text"], found["finish_reason"], *tokens, cached=True)
        if self._named:
            reply = await self._named(prompt, sampling, name)
        else:
            reply = await self.model.generate(prompt, sampling, sample)
        row = {
            "digest": name,
            "model": self.identity,
            "request": {**_asked(prompt), "sample": sample, "sampling": _shape(sampling)},
            "max_tokens": sampling.max_tokens,
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "created_at": now().isoformat(),
        }
        self.journal.append("generations", row)
        self.counts.prompt_tokens += reply.prompt_tokens
        self.counts.completion_tokens += reply.completion_tokens
        return reply

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        check_text(continuation, *(message["content"] for message in messages))
        name = likelihood_digest(self.identity, messages, continuation)

        return await self._once((name, 0), self._scored, messages, continuation, name)

    async def _scored(self, messages: list[Message], continuation: str, name: str) -> Likelihood:
        row: Any = self.journal.find("likelihoods", (name,))
        if not row and self.journal.may_be_stored("likelihoods", name):
            row = await self._lookups["likelihoods"](name)
        if row:
            return Likelihood(list(row["logprobs"]), cached=True)
        likelihood = await self.model.loglikelihood(messages, continuation)
        request = {**_asked(messages), "continuation": continuation}
        row = {"digest": name, "model": self.identity, "request": request, "logprobs": likelihood.logprobs}
        self.journal.append("likelihoods", {**row, "created_at": now().isoformat()})
        return likelihood

    async def user_slot(self) -> str:
        return await self.model.user_slot()

    async def close(self) -> None:
        for lookup in self._lookups.values():
            lookup.close()
        await self.model.close()

    async def _once(self, key: tuple[str, int], answer: Callable[..., Awaitable[Answer]], *asked: Any) -> Answer:
        """`answer(*asked)`, or that of an equal request already under way, which counts as cached."""
        while key in self._under_way:
            there = self._under_way[key]
            if there is None:  # nobody has waited for it yet
                there = self._under_way[key] = asyncio.get_running_loop().create_future()
            try:
                found = replace(await asyncio.shield(there), cached=True)
                self.counts.cached += 1
                return found
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not there.cancelled() or (task and task.cancelling()):
                    raise  # this caller was cancelled; else only the one it waited for: try again
        self._under_way[key] = None
        try:
            found = await answer(*asked)
        except Exception as error:
            self.counts.failed += 1
            if there := self._under_way[key]:
                there.set_exception(error)
                there.exception()  # it may have been cancelled
            raise
        else:
            if there := self._under_way[key]:
                there.set_result(found)
        finally:
            if (there := self._under_way.pop(key)) and not there.done():
                there.cancel()
        if found.cached:
            self.counts.cached += 1
        else:
            self.counts.sent += 1
        return found


def each(find: Callable[[Sequence[str]], Mapping[str, Any]]) -> Callable[[list[str]], list[Any]]:
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


@lru_cache(256)
def _shape_json(sampling: Sampling, kinds: tuple[type, ...]) -> str:
    return _canonical(_shape(sampling))

"""What only a model can say of two sets: its own free answers, and how likely each side is to it. Cached like every
request, so that what was answered is not asked again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from refinery import event_loop
from refinery.context import Context
from refinery.diagnostics._pairs import Pair, Pairs
from refinery.errors import RowError
from refinery.journal import Journal
from refinery.models import identity
from refinery.records import Message, digest
from refinery.services import Services
from refinery.spec import Spec
from refinery.store import Store

Result = TypeVar("Result")
TEMPERATURE = 1.0
"""The model's answers as they come: its own distribution, neither sharpened nor flattened."""


@dataclass(frozen=True, slots=True)
class Own:
    """The base model's own answers to a sample of the questions, without a reference."""

    model: str
    texts: dict[str, str] = field(repr=False)
    """By example id."""
    cut: int
    """How many were cut at the token limit."""
    identity: str


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Token log-probabilities (nats) of both sides of a sample of pairs, told the question alone."""

    model: str
    logprobs: dict[str, tuple[list[float], list[float]]] = field(repr=False)
    identity: str


def ask_model(
    spec: Spec, store: Store, pairs: Pairs, prompts: dict[str, list[Message]], model: str, rows: int, max_tokens: int
) -> tuple[Own, Likelihoods | None, dict[str, int]]:
    """(own answers, likelihoods or None where the model is a server, reason -> rows that failed).

    `prompts` by example id. Needs the store's run lock, as every request does.
    """

    async def run() -> tuple[Own, Likelihoods | None, dict[str, int]]:
        services = Services(spec.models, store, journal)
        try:
            ctx = Context("diagnose", spec.seed, services)
            chosen = [pair for pair in pairs.sample(rows) if pair.id in prompts]
            failures: dict[str, int] = {}
            own = await _own(ctx, spec, chosen, prompts, model, max_tokens, failures)
            scored = spec.models[model].backend != "openai"
            return own, await _likelihoods(ctx, spec, chosen, prompts, model, failures) if scored else None, failures
        finally:
            await services.close()

    with Journal(store) as journal:
        return event_loop.run(run())


async def _own(
    ctx: Context, spec: Spec, chosen: Sequence[Pair], prompts: dict[str, list[Message]], model: str, max_tokens: int,
    failures: dict[str, int],
) -> Own:  # fmt: skip
    async def answer(pair: Pair) -> tuple[str, bool]:
        reply = await ctx.ask(model, prompts[pair.id], temperature=TEMPERATURE, max_tokens=max_tokens)
        return reply.text.strip(), reply.finish_reason == "length"

    found = await _each(ctx, answer, chosen, failures)
    texts = {pair_id: text for pair_id, (text, _) in found.items()}
    name = digest([identity(spec.models[model]), sorted(texts.items())])
    return Own(model, texts, sum(cut for _, cut in found.values()), name)


async def _likelihoods(
    ctx: Context, spec: Spec, chosen: Sequence[Pair], prompts: dict[str, list[Message]], model: str,
    failures: dict[str, int],
) -> Likelihoods:  # fmt: skip
    async def score(pair: Pair) -> tuple[list[float], list[float]]:
        sides = [await ctx.loglikelihood(model, prompts[pair.id], text) for text in (pair.raw, pair.refined)]
        return sides[0].logprobs, sides[1].logprobs

    found = await _each(ctx, score, chosen, failures)
    texts = sorted([pair.id, pair.raw, pair.refined] for pair in chosen if pair.id in found)
    return Likelihoods(model, found, digest([identity(spec.models[model]), texts]))


async def _each(
    ctx: Context, function: Callable[[Pair], Awaitable[Result]], chosen: Sequence[Pair], failures: dict[str, int]
) -> dict[str, Result]:
    """By example id; rows that failed are counted by reason and left out."""
    found: dict[str, Result] = {}
    for pair, result in zip(chosen, await ctx.map(function, chosen), strict=True):
        if isinstance(result, RowError):
            failures[result.reason] = failures.get(result.reason, 0) + 1
        else:
            found[pair.id] = result
    return found


def prompts_of(store: Store, step: str, ids: Sequence[str]) -> dict[str, list[Message]]:
    """Example id to the chat before the answer."""
    sql = """SELECT o.example_id, e.prompt FROM outcomes o JOIN examples e USING (body)
             WHERE o.step = ? AND list_contains(?::VARCHAR[], o.example_id)"""
    return {row["example_id"]: row["prompt"] for row in store.query(sql, [step, list(ids)])}

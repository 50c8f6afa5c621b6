"""Blind pairwise judgements: what is asked of whom, in which order, and how an answer becomes a row of the store."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from refinery.context import Context
from refinery.diagnostics._pairs import Pair, Pairs
from refinery.diagnostics.preference import texts_digest
from refinery.errors import RowError, UserError
from refinery.records import digest
from refinery.rows import Row
from refinery.store import now

PROMPT = """\
Two assistants answered the same question. Say which answer is better: correct first, then complete, clear and direct. \
Do not let length or the order of the answers sway you.

Question:
{question}

Answer A:
{a}

Answer B:
{b}

Reply with one word alone: A, B or tie."""

_REPLY = re.compile(r"\W*(?:answer\s+)?(a|b|tie)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Item:
    """One row to judge, in one order; who made which text is not in it."""

    id: str
    question: str
    a: str
    b: str
    turn: int
    """0 for the first time a row is shown, 1 for the second, with the answers changed round."""


def differing(pairs: Pairs, rows: int, seed: int) -> list[Pair]:
    """At most `rows` pairs that differ, drawn by their ids: equal texts are nobody's to prefer."""
    size = rows
    while True:  # most pairs differ, so that a sample little larger than asked for is mostly enough
        found = [pair for pair in pairs.sample(size, seed) if pair.raw != pair.refined]
        if len(found) >= rows or size >= len(pairs):
            return found[:rows]
        size = min(len(pairs), 2 * size)


def first_side(example_id: str, seed: int, turn: int) -> str:
    """Which side stands as A: by a digest of the row, so that the page need not know; the other one the second time."""
    is_raw = int(digest(["order", seed, example_id], 8), 16) % 2 == 0
    return "raw" if is_raw != (turn == 1) else "refined"


def items(pairs: Sequence[Pair], questions: dict[str, str], seed: int, *, both: bool = True) -> list[Item]:
    """Every pair once in an order by chance, then (with `both`) once more with the answers changed round, in another
    order by chance."""
    found = []
    for turn in (0, 1) if both else (0,):
        for pair in sorted(pairs, key=lambda p, t=turn: digest(["place", seed, t, p.id])):  # type: ignore[misc]
            raw_first = first_side(pair.id, seed, turn) == "raw"
            a, b = (pair.raw, pair.refined) if raw_first else (pair.refined, pair.raw)
            found.append(Item(pair.id, questions.get(pair.id, ""), a, b, turn))
    return found


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is judged: two steps, and the seed of the orders."""

    step: str
    against: str
    seed: int
    pairs: dict[str, Pair]

    @property
    def name(self) -> str:
        """Names exactly these texts in these orders, so that answers to another sheet are refused."""
        return digest(
            [self.step, self.against, self.seed, sorted([p.id, p.raw, p.refined] for p in self.pairs.values())]
        )

    def row(self, answer: Any, rater: str, kind: str = "human", model: str = "") -> Row:
        """A judgement {id, turn, choice: a, b or tie} as the store keeps it. UserError for anything else."""
        wanted = {"id": str, "turn": int, "choice": str}
        if not isinstance(answer, dict) or any(not isinstance(answer.get(k), t) for k, t in wanted.items()):
            raise UserError(f"a judgement has id, turn and choice, not {str(answer)[:80]}")
        if answer["id"] not in self.pairs or answer["turn"] not in (0, 1) or answer["choice"] not in ("a", "b", "tie"):
            raise UserError(f"no such judgement on this sheet: {str(answer)[:80]}")
        first = first_side(answer["id"], self.seed, answer["turn"])
        second = "refined" if first == "raw" else "raw"
        pair = self.pairs[answer["id"]]
        row = {"step": self.step, "against": self.against, "example_id": pair.id, "rater": rater, "kind": kind}
        row |= {"first": first, "choice": {"a": first, "b": second, "tie": "tie"}[answer["choice"]], "model": model}
        return row | {"texts": texts_digest(pair.raw, pair.refined), "created_at": now()}


async def judge(
    ctx: Context, model: str, identity: str, sheet: Sheet, asked: Iterable[Item]
) -> tuple[list[Row], dict[str, int]]:
    """(judgements by the model of that name, reason -> requests that gave none). Each item is one request."""

    async def one(item: Item) -> Row:
        prompt = PROMPT.format(question=item.question, a=item.a, b=item.b)
        reply = await ctx.ask(model, [{"role": "user", "content": prompt}], max_tokens=16)
        found = _REPLY.fullmatch(reply.text.strip())
        if found is None:
            raise RowError("unparsable", reply.text[:80])
        answer = {"id": item.id, "turn": item.turn, "choice": found[1].lower()}
        return sheet.row(answer, model, "model", identity)

    results = await ctx.map(one, list(asked))
    failures: dict[str, int] = {}
    for result in results:
        if isinstance(result, RowError):
            failures[result.reason] = failures.get(result.reason, 0) + 1
    return [result for result in results if not isinstance(result, RowError)], failures

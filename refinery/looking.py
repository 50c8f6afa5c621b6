"""Looking at a store: its funnel, its rows and their ways. Plain data for `refinery show`; reads only, so it works
while a run goes on."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from refinery.errors import UserError, did_you_mean
from refinery.records import Action, Example
from refinery.rows import Row, outcome
from refinery.store import Store

ACTIONS: tuple[Action, ...] = ("kept", "changed", "fell_back", "dropped", "created")
ANCESTORS = 50
"""Rows that a made row came from, at most, whose histories are shown with its own."""


@dataclass(frozen=True, slots=True)
class Funnel:
    """One step's rows by what became of them."""

    name: str
    op: str
    fingerprint: str
    upstream: list[str]
    """Fingerprints."""
    status: str
    """running or complete, as the store has it: whether a process is at it, the lock says (refinery/runs.py)."""
    actions: dict[str, int]
    reasons: list[Row]
    """Rows of action, reason, transient and rows; the most first, "ok" included."""

    @property
    def rows(self) -> int:
        return sum(self.actions.values())

    @property
    def retry(self) -> int:
        """Rows that failed for a reason that may pass."""
        return sum(part["rows"] for part in self.reasons if part["transient"])


def latest(store: Store, names: Iterable[str] = ()) -> list[Row]:
    """Of each name the step that the last run had, each after what it reads; only of `names`, where any are given."""
    wanted = set(names)
    waiting = [row for row in store.last_steps() if not wanted or row["name"] in wanted]
    there = {row["fingerprint"] for row in waiting}
    done: list[Row] = []
    while waiting:
        known = {row["fingerprint"] for row in done}
        ready = next((row for row in waiting if not (set(row["upstream"]) & there) - known), waiting[0])
        done.append(ready)
        waiting.remove(ready)
    return done


def funnel(store: Store, steps: Sequence[Row]) -> list[Funnel]:
    """`steps` as `latest` gives them."""
    sql = """SELECT step, action, reason, transient, count(*) AS rows FROM outcomes
             WHERE list_contains(?::VARCHAR[], step) GROUP BY ALL ORDER BY rows DESC, action, reason"""
    parts = store.query(sql, [[step["fingerprint"] for step in steps]])
    found = []
    for step in steps:
        own = [{k: v for k, v in part.items() if k != "step"} for part in parts if part["step"] == step["fingerprint"]]
        actions: Counter[str] = Counter({action: 0 for action in ACTIONS})
        for part in own:
            actions[part["action"]] += part["rows"]
        about = (step["name"], step["op"], step["fingerprint"], list(step["upstream"]), step["status"])
        found.append(Funnel(*about, dict(actions), own))
    return found


# ---- rows


@dataclass(frozen=True, slots=True)
class Shown:
    """One row at one step."""

    step: str
    op: str
    id: str
    action: str
    reason: str
    transient: bool
    detail: str
    scores: dict[str, Any]
    question: str | None
    reference: str | None
    before: str | None
    """The response that came in; None for a row that was made here."""
    response: str | None
    """The response after the step; None where it was dropped."""
    candidates: list[str]
    parents: list[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows of a step to show; what is left empty does not matter."""

    action: str = ""
    reason: str = ""
    search: str = ""
    """Text in the row's question, reference or any response at any step, in any case."""


def rows(store: Store, steps: Sequence[Row], name: str, wanted: Wanted, limit: int) -> tuple[int, list[Shown]]:
    """(how many there are, the first `limit` of them) of the step of that name, in its order."""
    step = _named(store, steps, name)
    where, params = ["o.step = ?"], [step["fingerprint"]]
    if wanted.action:
        if wanted.action not in ACTIONS:
            raise UserError(
                f'no action "{wanted.action}"{did_you_mean(wanted.action, ACTIONS)}; there are: {", ".join(ACTIONS)}'
            )
        where.append("o.action = ?")
        params.append(wanted.action)
    if wanted.reason:
        _check_reason(store, [step], wanted.reason)
        where.append("o.reason = ?")
        params.append(wanted.reason)
    if wanted.search:
        where.append("list_contains(?::VARCHAR[], o.example_id)")
        params.append(_matching(store, steps, wanted.search))
    condition = " AND ".join(where)
    total = store.query(f"SELECT count(*) AS n FROM outcomes o WHERE {condition}", params)[0]["n"]
    sql = f"{_JOINED} WHERE {condition} ORDER BY o.position LIMIT ?"
    return total, _shown(store, steps, store.query(sql, [*params, limit]))


def fates(store: Store, steps: Sequence[Row], wanted: Wanted, limit: int) -> tuple[int, list[Shown]]:
    """`rows` over all steps: each row where it was last seen, or, with an action or reason, wherever that is so."""
    if wanted.reason:
        _check_reason(store, steps, wanted.reason)
    if wanted.action or wanted.reason:
        with_it = [f.name for f in funnel(store, steps) if any(p["reason"] == wanted.reason for p in f.reasons)]
        names = with_it if wanted.reason else [step["name"] for step in steps]
        found = [rows(store, steps, name, wanted, limit) for name in names]
        return sum(n for n, _ in found), [row for _, some in found for row in some][:limit]
    order = [step["fingerprint"] for step in steps]
    ids = _matching(store, steps, wanted.search)
    last = "row_number() OVER (PARTITION BY o.example_id ORDER BY list_position(?::VARCHAR[], o.step) DESC) = 1"
    sql = f"""{_JOINED} WHERE list_contains(?::VARCHAR[], o.step) AND list_contains(?::VARCHAR[], o.example_id)
              QUALIFY {last} ORDER BY o.position LIMIT ?"""
    return len(ids), _shown(store, steps, store.query(sql, [order, ids, order, limit]))


def history(store: Store, steps: Sequence[Row], prefix: str) -> list[Shown]:
    """What every step did to the one row whose id starts with `prefix`, and before it, where it was made from others,
    to those."""
    known = [step["fingerprint"] for step in steps]
    sql = """SELECT DISTINCT example_id FROM outcomes
             WHERE list_contains(?::VARCHAR[], step) AND starts_with(example_id, ?) ORDER BY example_id LIMIT 4"""
    found = [row["example_id"] for row in store.query(sql, [known, prefix])]
    if not found:
        raise UserError(f'no row whose id starts with "{prefix}" in {store.path.name}')
    if len(found) > 1 and prefix not in found:
        more = " ..." if len(found) > 3 else ""
        raise UserError(f'several rows start with "{prefix}": {", ".join(found[:3])}{more}; give more of the id')
    ids = [prefix if prefix in found else found[0]]
    shown: list[Shown] = []
    seen: set[str] = set()
    while ids and len(seen) < ANCESTORS:
        current = ids.pop(0)
        seen.add(current)
        own = way(store, steps, current)
        shown = own + shown
        ids += [parent for row in own for parent in row.parents if parent not in seen and parent not in ids]
    return shown


def way(store: Store, steps: Sequence[Row], example_id: str) -> list[Shown]:
    """What every step did to the row of that id."""
    known = [step["fingerprint"] for step in steps]
    sql = f"""{_JOINED} WHERE o.example_id = ? AND list_contains(?::VARCHAR[], o.step)
              ORDER BY list_position(?::VARCHAR[], o.step)"""
    return _shown(store, steps, store.query(sql, [example_id, known, known]))


def made_from(store: Store, steps: Sequence[Row], example_id: str) -> list[str]:
    """Ids of the rows that were made from this one, directly."""
    sql = """SELECT DISTINCT o.example_id, o.position FROM outcomes o JOIN examples e USING (body)
             WHERE list_contains(?::VARCHAR[], o.step) AND list_contains(e.parents, ?) AND o.action = 'created'
             ORDER BY o.position"""
    found = store.query(sql, [[step["fingerprint"] for step in steps], example_id])
    return list(dict.fromkeys(row["example_id"] for row in found))


_JOINED = """SELECT o.*, e.prompt, e.answer, e.parents, e.meta
             FROM outcomes o LEFT JOIN examples e USING (body)"""


def _named(store: Store, steps: Sequence[Row], name: str) -> Row:
    found = next((step for step in steps if step["name"] == name), None)
    if found is None:
        names = [step["name"] for step in steps]
        known = did_you_mean(name, names) or f" (there are: {', '.join(names)})"
        raise UserError(f'no step "{name}" in {store.path.name}{known}')
    return found


def _check_reason(store: Store, steps: Sequence[Row], reason: str) -> None:
    known = sorted({part["reason"] for step in funnel(store, steps) for part in step.reasons})
    if reason not in known:
        hint = did_you_mean(reason, known) or f" (there are: {', '.join(known)})"
        raise UserError(f'no row with the reason "{reason}"{hint}')


def _matching(store: Store, steps: Sequence[Row], text: str) -> list[str]:
    """Ids of the rows that hold `text` at any of the steps. A prompt is searched as its JSON stands."""
    inside = json.dumps(text, ensure_ascii=False)[1:-1]
    sql = """SELECT DISTINCT o.example_id FROM outcomes o LEFT JOIN examples e USING (body)
             WHERE list_contains(?::VARCHAR[], o.step) AND (contains(lower(o.response), lower(?))
               OR contains(lower(e.answer), lower(?)) OR contains(lower(e.prompt::VARCHAR), lower(?)))"""
    known = [step["fingerprint"] for step in steps]
    return [row["example_id"] for row in store.query(sql, [known, text, text, inside])]


def _shown(store: Store, steps: Sequence[Row], found: Sequence[Row]) -> list[Shown]:
    """With the texts that came in, which is all there is to show of a dropped row."""
    by_print = {step["fingerprint"]: step for step in reversed(steps)}
    upstream = sorted({up for row in found for up in by_print[row["step"]]["upstream"]})
    sql = f"{_JOINED} WHERE list_contains(?::VARCHAR[], o.step) AND list_contains(?::VARCHAR[], o.example_id)"
    ids = [row["example_id"] for row in found]
    earlier: dict[tuple[str, str], Example] = {}
    for row in store.query(sql, [upstream, ids]) if upstream and ids else ():
        if (example := outcome(row).example) is not None:
            earlier[row["step"], row["example_id"]] = example
    return [_view(by_print[row["step"]], row, earlier) for row in found]


def _view(step: Row, row: Row, earlier: dict[tuple[str, str], Example]) -> Shown:
    result = outcome(row)
    came = next((earlier[up, row["example_id"]] for up in step["upstream"] if (up, row["example_id"]) in earlier), None)
    example = result.example or came
    return Shown(
        step=step["name"],
        op=step["op"],
        id=result.example_id,
        action=result.action,
        reason=result.reason,
        transient=result.transient,
        detail=result.detail,
        scores=result.scores,
        question=example.question if example else None,
        reference=example.answer if example else None,
        before=came.response if came else None,
        response=result.example.response if result.example else None,
        candidates=list(result.example.candidates) if result.example else [],
        parents=list(result.example.parents) if result.example else [],
    )

"""What the thresholds of a graph decided: every row's score at each gate, what it let through, what lies beside it."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refinery.checks import Check, compare
from refinery.errors import RowError
from refinery.records import digest
from refinery.rows import Row
from refinery.spec import Spec
from refinery.store import Store
from refinery.templates import render

POINTS = 41
"""Thresholds of a sweep, over the range of the scores."""
CHECKED = 2000
"""Rows of a gate that a checker is run on, at most."""


@dataclass(frozen=True, slots=True)
class Reference:
    """How an answer is checked, and against what: a template over the row's columns."""

    check: Check
    of: str = "{{ answer }}"

    @property
    def identity(self) -> str:
        return digest([repr(self.check), self.of])

    def target(self, columns: dict[str, Any]) -> str:
        """Empty where the template fails on these columns: nothing agrees with an empty reference."""
        try:
            return render(self.of, columns)
        except RowError:
            return ""

    def agrees(self, candidate: str, reference: str) -> bool | None:
        """None where the rule cannot tell."""
        return compare(self.check, candidate, reference).agrees


def reference_of(steps: Sequence[Row], spec: Spec | None) -> Reference | None:
    """How a graph's answers are checked: by its first check_answer, else as validation answers are."""
    for step in steps:
        if step["op"] == "check_answer" and (check := Check.of_params(step["params"])):
            return Reference(check, step["params"]["of"])
    select = spec.train.select if spec and spec.train else None
    return Reference(Check(select.check), select.of or "{{ answer }}") if select else None


@dataclass(frozen=True)
class Gate:
    """One threshold of one step: rows whose `score` is at least (`param` max_...: at most) `threshold` pass."""

    step: str
    fingerprint: str
    reads: str
    """Fingerprint of the step it reads, whose responses it decided on; empty where that is not known."""
    param: str
    score: str
    threshold: float
    values: list[tuple[float, str]] = field(repr=False)
    """(score, example id) of every row decided on, lowest first."""

    @cached_property
    def scores(self) -> list[float]:
        return [value for value, _ in self.values]

    def passed(self, threshold: float) -> int:
        """Rows that a threshold would let through. Each row goes by its best candidate."""
        if self.param.startswith("max_"):
            return bisect.bisect_right(self.scores, threshold)
        return len(self.scores) - bisect.bisect_left(self.scores, threshold)

    def accepts(self, score: float) -> bool:
        return score <= self.threshold if self.param.startswith("max_") else score >= self.threshold

    def sweep(self) -> list[tuple[float, int]]:
        """(threshold, rows that pass) over the range of the scores, the gate's own threshold among them."""
        low, high = min(self.scores[0], self.threshold), max(self.scores[-1], self.threshold)
        grid = {round(low + (high - low) * i / (POINTS - 1), 6) for i in range(POINTS)}
        return [(at, self.passed(at)) for at in sorted({*grid, self.threshold})]

    def nearest(self, count: int) -> tuple[list[str], list[str]]:
        """Ids of the rows just below and just above the threshold, nearest first."""
        at = bisect.bisect_left(self.scores, self.threshold)
        below, above = self.values[max(0, at - count) : at], self.values[at : at + count]
        return [i for _, i in reversed(below)], [i for _, i in above]


REMOVES_NEAR = (("deduplicate", "min_cosine"), ("synthesize", "min_cosine"))
"""(op, parameter) of what takes rows out for being near to another row, which is no gate that a row passes alone."""


def find_gates(store: Store, steps: Sequence[Row]) -> list[Gate]:
    """The thresholds of `steps` (rows of the table): parameters min_x and max_x of steps that stored a score x."""
    found = []
    for step in steps:
        for param, threshold in step["params"].items():
            if not param.startswith(("min_", "max_")) or isinstance(threshold, bool | str | list | dict | None):
                continue
            if (step["op"], param) in REMOVES_NEAR:
                continue
            path = f"$.{param[4:]}"
            sql = """SELECT (scores->>?)::DOUBLE AS score, example_id FROM outcomes
                     WHERE step = ? AND json_type(scores, ?) IN ('DOUBLE', 'BIGINT', 'UBIGINT')
                     ORDER BY score, md5(example_id), example_id"""
            rows = store.query(sql, [path, step["fingerprint"], path])
            values = [(row["score"], row["example_id"]) for row in rows]
            if values:
                reads = step["upstream"][0] if len(step["upstream"]) == 1 else ""
                own = (step["name"], step["fingerprint"], reads, param, param[4:])
                found.append(Gate(*own, float(threshold), values))
    return found


def judged(store: Store, gate: Gate, reference: Reference) -> list[tuple[bool, bool]]:
    """(accepted, right) for every candidate of the gate's rows (CHECKED of them at most) that the rule can tell of."""
    ids = [example_id for _, example_id in sorted(gate.values, key=lambda value: digest(value[1]))[:CHECKED]]
    found = []
    for row in rows_at(store, gate, ids):
        candidates = row["candidates"] or [row["response"]]
        scores = row["scores"].get(f"{gate.score}s") or [row["scores"][gate.score]]
        if len(scores) != len(candidates):
            continue
        target = reference.target({**row["meta"], "answer": row["answer"]})
        for candidate, score in zip(candidates, scores, strict=True):
            right = reference.agrees(candidate, target) if score is not None else None
            if right is not None:
                found.append((gate.accepts(score), right))
    return found


def rows_at(store: Store, gate: Gate, ids: Sequence[str]) -> list[Row]:
    """What the gate decided on, for these rows in their order: scores, and the texts as they came in."""
    sql = """SELECT g.example_id, g.scores, o.response, o.candidates, e.answer, e.prompt, e.meta
             FROM outcomes g JOIN outcomes o ON o.step = ? AND o.example_id = g.example_id
             JOIN examples e ON e.body = o.body
             WHERE g.step = ? AND list_contains(?::VARCHAR[], g.example_id)"""
    rows = {row["example_id"]: row for row in store.query(sql, [gate.reads, gate.fingerprint, list(ids)])}
    return [rows[each] for each in ids if each in rows]


def best_candidate(gate: Gate, row: Row) -> str:
    """The text that the row's score belongs to."""
    scores = row["scores"].get(f"{gate.score}s") or []
    if len(scores) != len(row["candidates"] or ()):
        return row["response"]
    known = [i for i, score in enumerate(scores) if score is not None]
    pick = min if gate.param.startswith("max_") else max
    return row["candidates"][pick(known, key=lambda i: scores[i])] if known else row["response"]


@dataclass(frozen=True)
class Judged:
    """What a rule says of each gate's decisions: (step, parameter, threshold, verdicts as `judged` gives them)."""

    judged: list[tuple[str, str, float, list[tuple[bool, bool]]]]

    @property
    def identity(self) -> str:
        return digest(self.judged)


def judge_gates(store: Store, gates: Sequence[Gate], reference: Reference) -> Judged:
    told = [(g.step, g.param, g.threshold, judged(store, g, reference)) for g in gates if g.reads]
    return Judged([each for each in told if each[3]])


EXAMPLES = 3
"""Rows shown on each side of a threshold."""


def examples_near(
    store: Store, gate: Gate, reference: Reference | None, count: int = EXAMPLES
) -> tuple[list[Row], list[Row]]:
    """The rows just below and just above the threshold, nearest first: id, score, question, reference, candidate, and
    whether a rule says that they agree (None where it cannot or there is none)."""
    return tuple([_example(gate, row, reference) for row in rows_at(store, gate, ids)] for ids in gate.nearest(count))  # type: ignore[return-value]


def _example(gate: Gate, row: Row, reference: Reference | None) -> Row:
    text = best_candidate(gate, row)
    question = next((turn["content"] for turn in reversed(row["prompt"]) if turn["role"] == "user"), "")
    target = reference.target({**row["meta"], "answer": row["answer"]}) if reference else ""
    found = {"id": row["example_id"], "score": row["scores"][gate.score], "question": question}
    agrees = reference.agrees(text, target) if reference else None
    return {**found, "reference": row["answer"], "candidate": text, "agrees": agrees}

"""What became of the rows: how many of a source's the last step hands on refined, and how many came in beside them.

A step's own rows are those of its trunk, the source that one comes to by following the first step that each step reads.
Rows of other sources (replay, mixed in) and rows that a step made are counted apart: nobody refined them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refinery.rows import Row
from refinery.spec import SOURCE, Spec
from refinery.store import Store


@dataclass(frozen=True, slots=True)
class Fate:
    """The rows of one step by what became of them. of = refined + unchanged + fell_back + held_out + dropped."""

    step: str
    of: int
    """Train rows of the trunk."""
    refined: int = 0
    """Handed on with another response than the reference."""
    unchanged: int = 0
    """Handed on with the reference as response, though no step gave up."""
    fell_back: int = 0
    held_out: int = 0
    """Moved to validation or test."""
    dropped: int = 0
    made: int = 0
    """Rows made on the way, from the trunk's or from nothing."""
    mixed_in: dict[str, int] = field(default_factory=dict)
    """Other source to its rows, copies among them."""

    def words(self) -> str:
        """ "60 of 70 rows refined (4 unchanged, 3 fell back, 3 dropped), 25 mixed in from general"."""
        parts = [(self.unchanged, "unchanged"), (self.fell_back, "fell back"), (self.dropped, "dropped")]
        parts += [(self.held_out, "held out")]
        others = ", ".join(f"{n:,} {word}" for n, word in parts if n)
        said = f"{self.refined:,} of {self.of:,} rows refined" if self.of else "no rows to refine"
        said += f" ({others})" if others else ""
        beside = [f"{n:,} mixed in from {name}" for name, n in self.mixed_in.items()]
        return ", ".join([said, *beside, *([f"{self.made:,} made"] if self.made else [])])


@dataclass(frozen=True, slots=True)
class Origins:
    """Where a step's rows can be from."""

    trunk: str
    """Fingerprint of a source."""
    others: dict[str, str]
    """Fingerprint to name of the other sources that it reads, directly or not."""
    copies: dict[str, str]
    """Ids of made rows all of whose ancestors are of one other source, to its name."""
    chain: list[str]
    """Fingerprints of the step and of all that it reads, directly or not."""


def final_steps(spec: Spec) -> list[str]:
    """The steps whose rows are trained on; without training, those that no other step reads. Never a source."""
    if spec.train is None:
        read = {up for step in spec.graph.values() for up in step.upstream}
        return [name for name in spec.graph if name not in read]
    named = [stage.data for stage in spec.train.stages] or [each.data for each in spec.train.methods.values()]
    return [name for name in dict.fromkeys(named) if name in spec.graph]


def fates(store: Store, spec: Spec, steps: Sequence[Row]) -> list[Fate]:
    """Of the spec's final steps that are complete; `steps` as looking.latest gives them."""
    known = {row["name"]: row for row in steps if row["status"] == "complete"}
    return [fate(store, known[name]) for name in final_steps(spec) if name in known]


def fate(store: Store, step: Row) -> Fate:
    found = origins(store, step["fingerprint"])
    counts: Counter[str] = Counter()
    mixed: Counter[str] = Counter()
    alone = not found.others and not store.query(_MAKES, [found.chain])
    which = [] if alone else [list(found.others)]
    for row in store.query(_OWN if alone else _COUNTS, [found.trunk, *which, step["fingerprint"]]):
        if row["source"] == found.trunk:
            kept = "unchanged" if row["same"] else "refined"
            counts["held_out" if not row["train"] else "fell_back" if row["fell_back"] else kept] += row["n"]
        elif row["train"]:
            counts["others"] += row["n"]
            mixed[found.others.get(row["source"], "")] += row["n"]
    for name, n in _copies(store, step["fingerprint"], found):
        mixed[name] += n
        mixed[""] -= n
    of = store.query(_TRAIN, [found.trunk])[0]["n"]
    own = sum(counts[word] for word in ("refined", "unchanged", "fell_back", "held_out"))
    made = mixed.pop("", 0)
    return Fate(
        step["name"],
        of,
        counts["refined"],
        counts["unchanged"],
        counts["fell_back"],
        counts["held_out"],
        of - own,
        made,
        {name: n for name, n in mixed.items() if n},
    )


def _copies(store: Store, fingerprint: str, found: Origins) -> list[tuple[str, int]]:
    """How many of a step's train rows are copies of another source's, by its name."""
    if not found.copies:
        return []
    sql = "SELECT example_id FROM outcomes WHERE step = ? AND split = 'train'"
    there = {row["example_id"] for row in store.query(sql, [fingerprint])}
    return list(Counter(name for example_id, name in found.copies.items() if example_id in there).items())


def origins(store: Store, fingerprint: str) -> Origins:
    """Of a step (or of a source, which is its own trunk)."""
    chain: dict[str, Row] = {}
    waiting = [fingerprint]
    while waiting:
        row = store.step(current := waiting.pop())
        if row is not None and current not in chain:
            chain[current] = row
            waiting += row["upstream"]
    trunk = fingerprint
    while trunk in chain and chain[trunk]["upstream"]:
        trunk = chain[trunk]["upstream"][0]
    named = {row["fingerprint"]: row["name"] for row in store.last_steps()}
    others = {each: str(named.get(each) or row["name"]) for each, row in chain.items() if row["op"] == SOURCE}
    others.pop(trunk, None)
    copies = _rooted_elsewhere(store, chain, trunk, others) if others else {}
    return Origins(trunk, others, copies, list(chain))


def _rooted_elsewhere(store: Store, chain: Iterable[str], trunk: str, others: Mapping[str, str]) -> dict[str, str]:
    made = store.query(_MADE, [list(chain)])
    if not made:
        return {}
    parents = {row["example_id"]: row["parents"] for row in made}
    sources: dict[str, str] = {}
    wanted = list({parent for found in parents.values() for parent in found} - set(parents))
    for row in store.query(_SOURCES, [[trunk, *others], wanted]):
        if sources.get(row["example_id"]) != trunk:
            sources[row["example_id"]] = row["step"]
    found = {}
    for example_id in parents:
        roots = {sources.get(root, "") for root in _roots(example_id, parents)}
        if len(roots) == 1 and (root := roots.pop()) in others:
            found[example_id] = others[root]
    return found


def _roots(example_id: str, parents: Mapping[str, Any]) -> set[str]:
    """Ids of the rows that were not made, from which it comes; a row made from nothing is its own."""
    found, waiting, seen = set(), [example_id], set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        above = parents.get(current) or []
        waiting += above
        found |= set() if above else {current}
    return found


_COUNTS = """
    WITH own AS (SELECT DISTINCT example_id FROM outcomes WHERE step = $1),
         other AS (SELECT example_id, min(step) AS step FROM outcomes
                   WHERE list_contains($2::VARCHAR[], step) GROUP BY example_id)
    SELECT CASE WHEN own.example_id IS NOT NULL THEN $1 ELSE coalesce(other.step, '') END AS source,
           o.split = 'train' AS train, o.fell_back, o.as_given AS same, count(*) AS n
    FROM outcomes o LEFT JOIN own ON own.example_id = o.example_id
    LEFT JOIN other ON other.example_id = o.example_id
    WHERE o.step = $3 AND o.split IS NOT NULL GROUP BY ALL
"""
_OWN = """
    SELECT ? AS source, split = 'train' AS train, fell_back, as_given AS same, count(*) AS n
    FROM outcomes WHERE step = ? AND split IS NOT NULL GROUP BY ALL
"""
"""Where all rows are of the trunk: `_COUNTS` without a join of ids, which takes memory with their number."""
_MAKES = "SELECT 1 AS one FROM outcomes WHERE list_contains(?::VARCHAR[], step) AND action = 'created' LIMIT 1"
_TRAIN = "SELECT count(*) AS n FROM outcomes WHERE step = ? AND split = 'train'"
_MADE = """SELECT DISTINCT o.example_id, e.parents FROM outcomes o JOIN examples e USING (body)
           WHERE list_contains(?::VARCHAR[], o.step) AND o.action = 'created'"""
_SOURCES = """SELECT example_id, step FROM outcomes
              WHERE list_contains(?::VARCHAR[], step) AND list_contains(?::VARCHAR[], example_id)"""

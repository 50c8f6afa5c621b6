"""Two steps' texts side by side, row by row, read from the store once and kept on disk rather than in memory."""

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import numpy as np

from refinery.fates import origins
from refinery.store import Store

RAW = ""
"""Stands for the raw side where it is not a step: each row's own reference answer."""

CHUNK = 2000
"""Pairs held at a time while a set is read."""
PAGE, PAGES = 20_000, 10
"""The store is asked for a tenth of the rows at a time (PAGE of them at least): a page has to look through all texts,
so that a fixed number of pages keeps reading linear in the rows."""
IN_MEMORY = 32 << 20
"""Bytes up to which the spool is not written to disk."""


class Pair(NamedTuple):
    id: str
    raw: str
    refined: str
    reference: str
    """What an answer is checked against: the reference answer, unless the spec names something shorter."""
    fell_back: bool


class Pairs:
    """Pairs of texts, iterated in the step's order as often as needed.

    `digest` names the texts: equal digests mean the same pairs, in whatever order. `left_out` counts the rows of the
    step that the other step does not have (made later, or dropped there), `mixed_in` those that other sources gave and
    that stayed as they were read: they are no pairs, as nobody refined them.
    """

    def __init__(self, chunks: Callable[[], Iterable[list[Pair]]], keys: np.ndarray, fell_back: np.ndarray, name: str):
        self._chunks, self._keys, self._fell_back = chunks, keys, fell_back
        self._keep: np.ndarray | None = None
        self._samples: dict[tuple[int, int], list[Pair]] = {}
        self.digest, self.left_out, self.mixed_in = name, 0, 0

    def __len__(self) -> int:
        return len(self._keys) if self._keep is None else int(self._keep.sum())

    def __iter__(self) -> Iterator[Pair]:
        at = 0
        for chunk in self._chunks():
            for pair in chunk:
                if self._keep is None or self._keep[at]:
                    yield pair
                at += 1

    @property
    def is_part(self) -> bool:
        """True where the pairs that fell back are left out."""
        return self._keep is not None

    @property
    def fell_back(self) -> int:
        """How many of the pairs fell back to their reference answer."""
        return int(self._fell_back.sum() if self._keep is None else (self._fell_back & self._keep).sum())

    def refined_only(self) -> "Pairs":
        """The pairs whose row did not fall back, over the same spool."""
        part = Pairs(self._chunks, self._keys, self._fell_back, self.digest)
        part._keep = ~self._fell_back
        return part

    def sample(self, limit: int, seed: int = 0) -> list[Pair]:
        """At most `limit` pairs in their order, drawn by a digest of their ids: the same rows at every step that has
        them, so that texts need not be encoded or asked about again, and a smaller sample is part of a larger one."""
        if (limit, seed) not in self._samples:
            wanted = np.ones(len(self._keys), dtype=bool) if self._keep is None else self._keep.copy()
            if wanted.sum() > limit:
                drawn = np.where(wanted, _mixed(self._keys, seed), np.uint64(2**64 - 1))
                wanted[:] = False
                wanted[np.argsort(drawn, kind="stable")[:limit]] = True
            everything = (pair for chunk in self._chunks() for pair in chunk)
            self._samples[limit, seed] = [pair for pair, use in zip(everything, wanted, strict=True) if use]
        return self._samples[limit, seed]


def paired(raw: Sequence[str], refined: Sequence[str], fell_back: Sequence[bool] | None = None) -> Pairs:
    """Pairs of texts in memory, their places standing for ids."""
    fell_back = fell_back or [False] * len(raw)
    pairs = [Pair(str(i), a, b, a, f) for i, (a, b, f) in enumerate(zip(raw, refined, fell_back, strict=True))]
    return spooled(pairs)


def spooled(pairs: Iterable[Pair]) -> Pairs:
    """Pairs as they come, put aside in a temporary file where they are many."""
    spool = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)
    keys, fell_back, total, chunk = bytearray(), bytearray(), 0, []
    for pair in pairs:
        keys += hashlib.blake2b(pair.id.encode("utf-8", "replace"), digest_size=8).digest()
        fell_back.append(pair.fell_back)
        text = "\x1f".join((pair.id, pair.raw, pair.refined, str(pair.fell_back)))
        total ^= int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest(), "big")
        chunk.append(pair)
        if len(chunk) == CHUNK:
            pickle.dump(chunk, spool, pickle.HIGHEST_PROTOCOL)
            chunk = []
    pickle.dump(chunk, spool, pickle.HIGHEST_PROTOCOL)
    made = np.frombuffer(bytes(keys), dtype=np.uint64), np.frombuffer(bytes(fell_back), dtype=bool)
    return Pairs(lambda: _read(spool), *made, f"{len(fell_back)}:{total:032x}")


def _read(spool: IO[bytes]) -> Iterator[list[Pair]]:
    """Chunk by chunk; each reader keeps its own place, so that two may read in turns."""
    place, end = 0, spool.seek(0, 2)
    while place < end:
        spool.seek(place)
        chunk = pickle.load(spool)
        place = spool.tell()
        yield chunk


def read_pairs(
    store: Store, step: str, against: str = RAW, reference: Callable[[dict[str, Any]], str] | None = None
) -> Pairs:
    """The train rows that both steps hand on (fingerprints; `against` RAW: the rows' reference answers), by id.

    `reference` makes of a row's columns (and question, answer) what its answer is checked against.
    """
    mixed = _mixed_in(store, step) if against == RAW else set()
    pairs = spooled(pair for pair in _pages(store, step, against, reference) if pair.id not in mixed)
    total = store.query(_COUNT, [step])[0]["n"]
    pairs.mixed_in = len(mixed)
    pairs.left_out = total - len(pairs) - len(mixed)
    return pairs


def _mixed_in(store: Store, step: str) -> set[str]:
    """Ids of the train rows that are of other sources than the step's trunk, as they were read, and of their copies."""
    found = origins(store, step)
    if not found.others:
        return set()
    rows = store.query(_MIXED, [step, list(found.others), found.trunk, list(found.copies)])
    return {row["id"] for row in rows}


def _pages(store: Store, step: str, against: str, reference: Callable[[dict[str, Any]], str] | None) -> Iterator[Pair]:
    span = store.query("SELECT min(position) AS low, max(position) AS high FROM outcomes WHERE step = ?", [step])[0]
    if span["low"] is None:
        return
    size = max(PAGE, (span["high"] - span["low"]) // PAGES + 1)
    raw, join = ("e.answer", "") if against == RAW else ("a.response", _JOIN)
    columns = f"o.example_id AS id, {raw} AS raw, o.response AS refined, e.answer, o.fell_back"
    columns += ", e.meta" if reference else ""
    sql = _ROWS.format(columns=columns, join=join)
    for start in range(span["low"], span["high"] + 1, size):
        params = [*([against] if join else []), step, start, start + size - 1]
        for row in store.query(sql, params):
            target = reference({**row["meta"], "answer": row["answer"]}) if reference else row["answer"]
            yield Pair(row["id"], row["raw"], row["refined"], target, row["fell_back"])


def _mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """Keys in an order of their own for each seed (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


_JOIN = "JOIN outcomes a ON a.step = ? AND a.example_id = o.example_id AND a.response IS NOT NULL"
_ROWS = """
    SELECT {columns} FROM outcomes o JOIN examples e USING (body) {join}
    WHERE o.step = ? AND o.position BETWEEN ? AND ? AND o.split = 'train' ORDER BY o.position
"""
_MIXED = """
    SELECT o.example_id AS id FROM outcomes o
    WHERE o.step = $1 AND o.split = 'train' AND NOT o.fell_back AND o.as_given
    AND (list_contains($4::VARCHAR[], o.example_id)
         OR o.example_id IN (SELECT example_id FROM outcomes WHERE list_contains($2::VARCHAR[], step))
         AND o.example_id NOT IN (SELECT example_id FROM outcomes WHERE step = $3))
"""
_COUNT = "SELECT count(*) AS n FROM outcomes WHERE step = ? AND split = 'train'"

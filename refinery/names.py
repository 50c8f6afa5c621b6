"""Large sets of names, each 32 hexadecimal digits, in sixteen bytes a name."""

from collections.abc import Sequence

import numpy as np


class Names:
    """A set that only grows. It is kept in sorted arrays, each more than twice as long as the next, so that adding a
    batch moves little and looking for one takes few searches."""

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._sorted))

    def add(self, names: Sequence[str]) -> list[bool]:
        """For each whether it is new. ValueError for what is no name."""
        if not names:
            return []
        if any(len(name) != 32 for name in names):
            raise ValueError("a name has 32 hexadecimal digits")
        given = np.frombuffer(bytes.fromhex("".join(names)), dtype="S16")
        found, first = np.unique(given, return_index=True)
        fresh = np.ones(len(found), dtype=bool)
        for known in self._sorted:
            fresh &= ~_among(found, known)
        is_new = np.zeros(len(names), dtype=bool)
        is_new[first[fresh]] = True
        self._merge(found[fresh])
        return is_new.tolist()  # type: ignore[no-any-return]

    def _merge(self, found: np.ndarray) -> None:
        rest = self._sorted
        while rest and len(rest[-1]) <= 2 * len(found):
            found, rest = np.sort(np.concatenate([rest[-1], found])), rest[:-1]
        self._sorted = [*rest, found] if len(found) else rest


def _among(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of `found` are in `known`, both sorted."""
    at = np.minimum(np.searchsorted(known, found), len(known) - 1)
    return np.asarray(known[at] == found)

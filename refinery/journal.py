"""The journal: what was answered since the store was last written, so that a killed run loses nothing answered.

Each row is appended to a JSONL file beside the store and reaches the kernel before `append` returns; once a second, or
where much has gathered, one thread writes it to the store in one transaction and deletes the file it stood in. A run
first replays whatever files a killed one left. A row that stands in both is written over itself, so replaying twice
changes nothing. (A power cut may lose the last rows: they are not forced to disk one by one. They are asked again.)
"""

import contextlib
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from refinery.errors import RowError, UserError
from refinery.records import Example, Outcome
from refinery.rows import GENERATION_KEYS, LIKELIHOOD_KEYS, Part, Row, json_bytes, outcome_parts
from refinery.store import Store

KEYS = {"generations": GENERATION_KEYS, "likelihoods": LIKELIHOOD_KEYS, "outcomes": ("step", "example_id")}
"""The tables that are journaled, and what makes a row of each the same row."""

_Noted = tuple[Row, bool]
"""A row, and whether the store surely has none of its key."""

REPLAY_BATCH = 5000
MUCH = 4000
"""Rows that are written to the store before the second is over, so that memory does not grow with the pace."""


class _Digests:
    """Which digests the store may hold, by their first 64 bits: a first run need not open it for each to find none.
    Eight bytes each, in sorted arrays of which each is longer than the next; only the latest stand in a set."""

    LATEST = 8192

    def __init__(self, new: Iterable[str]):
        self._latest: set[int] = set()
        self._sorted: list[array[int]] = []
        for name in new:
            self.add(name)

    def was_there(self, old: np.ndarray) -> None:
        """Those the store held at first, uint64."""
        self._sorted = [_in_order(old), *self._sorted]

    def add(self, name: str) -> None:
        self._latest.add(int(name[:16], 16))
        if len(self._latest) >= self.LATEST:
            found, rest = np.fromiter(self._latest, dtype=np.uint64), self._sorted
            while rest and len(rest[-1]) <= 2 * len(found):
                found, rest = np.concatenate([np.asarray(rest[-1]), found]), rest[:-1]
            self._sorted = [*rest, _in_order(found)]  # before the set is emptied: another thread may look
            self._latest = set()

    def __contains__(self, name: str) -> bool:
        number = int(name[:16], 16)
        return number in self._latest or any(_holds(each, number) for each in self._sorted)


def _in_order(numbers: np.ndarray) -> "array[int]":
    """As an array, in which `bisect` is four times as fast as NumPy for a single number."""
    return array("Q", np.sort(numbers).tobytes())


def _holds(numbers: "array[int]", number: int) -> bool:
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


class Journal:
    """`with Journal(store) as journal:` replays, then writes every `every` seconds, or MUCH rows, until the block ends.

    Use it under `store.run_lock()`: there is one journal a store. Any thread may append. Where the store cannot be
    written (disk full, held by another program), the next `append` raises that UserError; its row and
    all before it stay in the journal for the next run.
    """

    def __init__(self, store: Store, *, every: float = 1.0):
        self.store, self.every = store, every
        self._rows: dict[str, dict[Any, _Noted]] = {table: {} for table in KEYS}
        self._writing: dict[str, dict[Any, _Noted]] = {table: {} for table in KEYS}
        self._sure = True
        self._counts: dict[str, int] = {}
        """Rows of the tables whose digests are known, as of the last write. One may be added while a flush counts."""
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._digests: dict[str, _Digests] = {}
        self._file: FileIO | None = None
        self._number = 0
        self._failure: UserError | None = None
        self._gathered = 0
        self._due = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def __enter__(self) -> "Journal":
        self.replay()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._stop = True
        self._due.set()
        self._thread.join()
        try:
            if self._failure:
                raise self._failure
            self.flush()
        except UserError:
            if error is None:
                raise  # else the block's own error says more, and the rows wait in the journal
        finally:
            if self._file:
                self._file.close()

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Note a row of `generations` or `likelihoods`, every column present and JSON-able.

        RowError invalid_text where it holds text that is not valid Unicode.
        """
        row = dict(row)
        new = table in self._counts and row["digest"] not in self._digests[table]
        self._append(table, tuple(row[key] for key in KEYS[table]), row, row, new)

    def outcome(self, step: str, position: int, outcome: Outcome, *, new: bool = False) -> None:
        """Note what the step of that fingerprint did to its example at `position`. RowError as for `append`. `new`
        where the store surely has no outcome of it, so that none is looked for."""
        line = {"step": step, "position": position, "outcome": outcome}
        self._append("outcomes", (step, outcome.example_id), line, {"triple": (step, position, outcome)}, new)

    def find(self, table: str, key: tuple[Any, ...]) -> Row | None:
        """A row that is noted but may not be in the store yet. Ask here before asking the store."""
        with self._lock:
            noted = self._rows[table].get(key) or self._writing[table].get(key)
            return noted[0] if noted else None

    def may_be_stored(self, table: str, digest: str) -> bool:
        """False where the store surely has no row of that digest: neither found there at first nor noted since."""
        if table not in self._digests:
            with self._lock:  # what is noted from here on is added, so that what is flushed meanwhile is not missed
                self._digests[table] = _Digests(key[0] for key in (*self._rows[table], *self._writing[table]))
            known = self.store.known(table)
            self._digests[table].was_there(known)
            self._counts[table] = len(known)
        return digest in self._digests[table]

    def flush(self) -> None:
        """Write what has gathered to the store. On UserError nothing is lost: it is written by the next flush."""
        with self._flushing:
            with self._lock:
                if not any(self._rows.values()) and not any(self._writing.values()):
                    return
                for table, rows in self._rows.items():
                    self._writing[table].update(rows)
                self._rows = {table: {} for table in KEYS}
                self._gathered = 0
                written = self._number
                if self._file:
                    self._file.close()
                    self._file = None
            with self.store.together():
                sure, self._sure = self._sure and self._alone(), False  # what fails may have been done all the same
                self.store.replace_all(_parts(self._writing, sure))
                self._counts |= {table: self.store.count(table) for table in list(self._counts)}
            self._sure = sure
            with self._lock:
                self._writing = {table: {} for table in KEYS}
            for path in self._files():
                if int(path.suffix[1:]) <= written:
                    path.unlink(missing_ok=True)

    def _alone(self) -> bool:
        """Whether nobody else (a preview beside the run) has written to the tables whose digests are known."""
        return all(self.store.count(table) == n for table, n in list(self._counts.items()))

    def replay(self) -> int:
        """Write what a killed run left to the store; the number of rows. A torn line (its last) is passed over."""
        count = 0
        rows: dict[str, dict[Any, _Noted]] = {table: {} for table in KEYS}
        paths = self._files()
        for path in paths:
            for line in path.read_bytes().splitlines():
                if (parsed := _parsed(line)) is None:
                    continue
                table, key, row = parsed
                rows[table][key] = row, False
                count += 1
                if count % REPLAY_BATCH == 0:
                    self.store.replace_all(_parts(rows))
                    rows = {table: {} for table in KEYS}
        self.store.replace_all(_parts(rows))
        for path in paths:
            path.unlink()
        return count

    def _append(self, table: str, key: tuple[Any, ...], line: Row, row: Row, new: bool) -> None:
        try:
            text = json_bytes([table, line])
        except UnicodeEncodeError as error:
            raise RowError("invalid_text", str(error)) from None
        with self._lock:
            self._rows[table][key] = row, new  # the store may have room where the journal has none
            self._gathered += 1
            if self._gathered == MUCH:
                self._due.set()
            if table in self._digests:
                self._digests[table].add(key[0])
            try:
                if self._file is None:
                    self._number += 1
                    self._file = self._path(self._number).open("ab", buffering=0)
                _write_whole(self._file, text + b"\n")
            except OSError as error:
                raise UserError(f"{self.store.path}: cannot write its journal ({error.strerror})") from error
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        while True:
            self._due.wait(self.every)
            self._due.clear()
            if self._stop:
                return
            try:
                self.flush()
            except UserError as error:
                self._failure = error
                return

    def _path(self, number: int) -> Path:
        return self.store.path.with_name(f"{self.store.path.name}.journal.{number}")

    def _files(self) -> list[Path]:
        found = self.store.path.parent.glob(f"{self.store.path.name}.journal.*")
        return sorted((path for path in found if path.suffix[1:].isdigit()), key=lambda path: int(path.suffix[1:]))


def _write_whole(file: FileIO, line: bytes) -> None:
    """All of it or, where the disk is full, nothing: a line behind a torn one would be lost with it."""
    left = memoryview(line)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(os.fstat(file.fileno()).st_size - (len(line) - len(left)))
        raise


def _parts(noted: dict[str, dict[Any, _Noted]], sure: bool = True) -> list[Part]:
    """What is noted as new apart from what may be there. Unless `sure`, nothing is taken for new."""
    parts: list[Part] = []
    for table, rows in noted.items():
        for new in (False, True):
            some = [row for row, is_new in rows.values() if (is_new and sure) == new]
            if some and table == "outcomes":
                parts += outcome_parts([row["triple"] for row in some], new=new)
            elif some:
                parts.append((table, some, () if new else KEYS[table]))
    return parts


def _parsed(line: bytes) -> tuple[str, tuple[Any, ...], Row] | None:
    """(table, key, row) of a journal line; None for one that was torn off."""
    try:
        table, row = orjson.loads(line)
        if table != "outcomes":
            return table, tuple(row[key] for key in KEYS[table]), row
        outcome = _outcome(row["outcome"])
        return table, (row["step"], outcome.example_id), {"triple": (row["step"], row["position"], outcome)}
    except (ValueError, KeyError, TypeError):
        return None


def _outcome(row: Row) -> Outcome:
    example = row["example"]
    if example is not None:
        tuples = {name: tuple(example[name]) for name in ("candidates", "parents")}
        example = Example(**{**example, **tuples})
    return Outcome(**{**row, "example": example})

"""Rows kept on disk for a while, so that memory does not grow with their number."""

import pickle
import tempfile
import threading
from collections.abc import Iterator
from typing import Any


class Spool:
    """Rows on disk, in order, a thousand at a time; our own objects, in a file that has no name."""

    CHUNK = 1000

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._waiting: list[Any] = []
        self._turn = threading.Lock()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def add(self, row: Any) -> None:
        self._waiting.append(row)
        if len(self._waiting) == self.CHUNK:
            self._write()

    def _write(self) -> None:
        self._file.seek(0, 2)
        pickle.dump(self._waiting, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._waiting = []

    def __iter__(self) -> Iterator[Any]:
        """May be gone through several times at once, in several threads, when all rows are added."""
        at = 0
        while True:
            with self._turn:
                if self._waiting:
                    self._write()
                self._file.seek(at)
                try:
                    chunk = pickle.load(self._file)
                except EOFError:
                    return
                at = self._file.tell()
            yield from chunk

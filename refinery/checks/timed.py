"""Work with a time limit, wherever it is asked from: done in helper processes that are killed when time is up.

Signals only reach the main thread and a thread cannot be stopped, while a comparison of two expressions, or a schema's
pattern on a text, can take for ever. A helper (refinery/checks/worker.py) starts when first asked, is kept, and ends
with this process.
"""

import json
import os
import subprocess
import sys
import threading
from typing import Any

LIMIT = 10.0
"""Seconds for one question. A question that takes longer has no answer, and none is guessed."""
START = 120.0
"""Seconds for a helper to start."""
HELPERS = max(1, min(4, os.cpu_count() or 1))

_idle: list["_Helper"] = []
_lock = threading.Lock()
_free = threading.BoundedSemaphore(HELPERS)


def ask(work: str, *texts: str) -> tuple[Any, dict[str, float | None], str]:
    """(answer, {}, "") or (None, {}, reason) where there is none: timed_out, crashed (out of memory, too deep).

    Blocks; safe from several threads, `HELPERS` of which are served at a time.
    """
    with _free:
        with _lock:
            helper = _idle.pop() if _idle else None
        helper = helper or _Helper()
        answer, reason = helper.ask([work, *texts])
        if helper.alive:
            with _lock:
                _idle.append(helper)
    return answer, {}, reason


class _Helper:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "refinery.checks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if self._line(START)[0] != '"ready"\n':
            raise RuntimeError("the helper process for timed checks does not start: python -m refinery.checks.worker")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, request: list[str]) -> tuple[Any, str]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line, late = self._line(LIMIT)
        except BrokenPipeError:
            line, late = "", False
        if not line.endswith("\n"):
            self.process.kill()
            self.process.wait()
            return None, "timed_out" if late else "crashed"
        found = json.loads(line)
        return found["answer"], found["reason"]

    def _line(self, limit: float) -> tuple[str, bool]:
        """The next line, "" where the helper ended, and whether it was killed for being late."""
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(limit, stop)
        timer.daemon = True
        timer.start()
        assert self.process.stdout is not None
        try:
            return self.process.stdout.readline(), late.is_set()
        finally:
            timer.cancel()

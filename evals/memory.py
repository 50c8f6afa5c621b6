"""Answers of a benchmark under way, written down as they come, so that one that was stopped goes on after its last.

lm-eval has a cache of its own, but its keys do not name the weights, and it reads pickles. This one is a file of JSON
lines for one checkpoint and one fingerprint, gone once the benchmark is in the store.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from refinery.records import digest


class Memory:
    """An lm-eval model that answers what `path` holds and asks `lm` the rest. `tick` is told requests done, and of
    how many. Use it as a context; everything but the three kinds of request is the model's own."""

    def __init__(self, lm: Any, path: Path, tick: Callable[[int, int], None] | None = None):
        self._lm, self._path, self._tick = lm, path, tick
        self._known: dict[str, list[Any]] = {}
        self._cut: dict[tuple[str, str], bool] = {}
        self._done = self._total = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> "Memory":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8")
        self._file.seek(0)
        whole, _, cut = self._file.read().rpartition("\n")
        for line in whole.splitlines():
            key, answer, *cut_off = json.loads(line)
            self._known.setdefault(key, []).append(tuple(answer) if isinstance(answer, list) else answer)
            if cut_off and cut_off[0] is not None:
                self._cut[key, answer] = cut_off[0]
        if cut:  # stopped in the middle of a line
            self._file.truncate(len((whole + "\n").encode()) if whole else 0)
        self._lm.set_cache_hook(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        self._lm.set_cache_hook(_Nothing())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return self._answers("generate_until", requests)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        return self._answers("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def _answers(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        """Equal requests (several samples of one prompt) have an answer each: the n-th asked is the n-th known."""
        times: Counter[str] = Counter()
        answers: list[Any] = [None] * len(requests)
        missing = []
        for number, request in enumerate(requests):
            key = _key(kind, request.args)
            if times[key] < len(known := self._known.get(key, [])):
                answers[number] = known[times[key]]
            else:
                missing.append(number)
            times[key] += 1
        self._total, self._done = self._total + len(requests), self._done + len(requests) - len(missing)
        if missing:
            found = getattr(self._lm, kind)([requests[number] for number in missing])
            for number, answer in zip(missing, found, strict=True):
                answers[number] = answer
        return answers

    def was_cut(self, args: Iterable[Any], answer: str) -> bool | None:
        """Whether an answer in words stopped at its limit; None where the model did not tell."""
        return self._cut.get((_key("generate_until", args), str(answer)))

    def add_partial(self, kind: str, args: Iterable[Any], answer: Any) -> None:
        """lm-eval's cache hook: called with each answer as it comes."""
        assert self._file is not None
        key, line = _key(kind, args), [answer]
        if kind == "generate_until" and (tell := getattr(self._lm, "was_cut", None)):
            line.append(tell(answer))
            if line[1] is not None:
                self._cut[key, answer] = line[1]
        self._file.write(json.dumps([key, *line], default=float) + "\n")
        self._file.flush()
        self._done += 1
        if self._tick:
            self._tick(self._done, max(self._total, self._done))


class _Nothing:
    def add_partial(self, *_: Any) -> None: ...


def _key(kind: str, args: Iterable[Any]) -> str:
    return digest([kind, list(args)])

"""Answers survive, in their order, and nothing is asked twice."""

from pathlib import Path
from typing import Any

import pytest

from evals.memory import Memory


class Request:
    def __init__(self, *args: Any):
        self.args = args


class Model:
    """Numbers its answers; forgets to go on after `patience` of them."""

    rank = 7

    def __init__(self, patience: int = 99):
        self.patience, self.asked, self.hook = patience, 0, None

    def set_cache_hook(self, hook: Any) -> None:
        self.hook = hook

    def loglikelihood(self, requests: list[Request]) -> list[tuple[float, bool]]:
        found = []
        for request in requests:
            if self.asked == self.patience:
                raise KeyboardInterrupt
            self.asked += 1
            found.append((-self.asked / 3, True))
            self.hook.add_partial("loglikelihood", request.args, found[-1])
        return found


def test_equal_requests_keep_an_answer_each(tmp_path: Path) -> None:
    requests = [Request("q", "a"), Request("q", "b"), Request("q", "a"), Request("q", "a")]
    path = tmp_path / "deep" / "notes.jsonl"
    with pytest.raises(KeyboardInterrupt), Memory(Model(3), path) as lm:
        lm.loglikelihood(requests)
    second, seen = Model(), []
    with Memory(second, path, lambda *each: seen.append(each)) as lm:
        assert lm.loglikelihood(requests) == [(-1 / 3, True), (-2 / 3, True), (-3 / 3, True), (-1 / 3, True)]
        assert lm.rank == 7
    assert second.asked == 1 and seen == [(4, 4)]
    with Memory(Model(0), path) as lm:
        assert lm.loglikelihood(requests)[3] == (-1 / 3, True)


def test_a_cut_line_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    with Memory(Model(), path) as lm:
        lm.loglikelihood([Request("q", "a"), Request("q", "b")])
    path.write_bytes(path.read_bytes()[:-5])
    for asked in (1, 0):
        with Memory(Model(), path) as lm:
            lm.loglikelihood([Request("q", "a"), Request("q", "b")])
            assert lm._lm.asked == asked

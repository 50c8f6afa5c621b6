"""What is asked again after a change: exactly what a fresh run asks and the store has no answer to, as `plan` foretold.

The changes, and how each is counted, are those of tests/bench/reuse.py, which prints them as a table.
"""

import pytest

from tests.bench import reuse

ROWS = 60
OFTEN = {
    reuse.ROWS: ["one row edited", "the gate: max 5"],
    reuse.TABLES: ["ten rows appended to the second source"],
}
"""Run with every test run; the others with the slow ones."""


def cases(*graphs):
    for graph in graphs:
        kind = {reuse.ROWS: "rows", reuse.ENCODED: "encoder", reuse.TABLES: "tables"}[graph]
        for name in reuse.changes(graph):
            marks = [] if name in OFTEN.get(graph, []) else [pytest.mark.slow]
            yield pytest.param(graph, name, id=f"{kind}: {name}", marks=marks)


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    opened, waiting = {}, []

    def get(graph):
        if graph not in opened:
            context = reuse.bench(tmp_path_factory.mktemp("reuse"), graph, ROWS)
            opened[graph] = context.__enter__()
            waiting.append(context)
        return opened[graph]

    yield get
    for context in waiting:
        context.__exit__(None, None, None)


@pytest.fixture
def result(benches, graph, name):
    return benches(graph).after(reuse.changes(graph)[name])


def check(result):
    assert result.unforeseen == []
    assert result.asked == result.needed, "what a fresh run asks, less what the store has answers to"
    for step, each in result.plans.items():
        assert each.at_least <= result.asked[step] <= each.requests, step
        if each.status == "stands":
            assert result.asked[step] == 0
    assert result.rows.keys() == result.fresh_rows.keys() and result.equal


@pytest.mark.parametrize(("graph", "name"), [*cases(reuse.ROWS, reuse.TABLES)])
def test_a_change_asks_what_is_new_and_ends_with_the_rows_of_a_fresh_run(result, name, graph):
    check(result)
    asked, exact = dict(result.asked), EXPECTED.get(name)
    if exact is not None:
        assert {step: asked.get(step, 0) for step in exact} == exact
    if name in NOTHING:
        assert asked == {} and result.at_most == 0


NOTHING = {
    "nothing",
    "rows in another order",
    "another address",
    "another concurrency and timeout",
    "another spec with the same steps",
    "a step renamed",
}
EXPECTED = {
    "one row edited": {"rewritten": 1},
    "ten rows appended": {"rewritten": 10},
    "ten rows taken out": {"rewritten": 0},
    "the check: contains": {"rewritten": 0},
    "rewrite's prompt": {"rewritten": ROWS},
    "fuse's prompt": {"rewritten": 0},
    "fuse's system prompt": {"rewritten": 0},
    "rewrite's temperature": {"rewritten": ROWS},
    "two samples of each rewrite": {"rewritten": ROWS},
    "a third round": {"rewritten": 0},
    "another judge": {"rewritten": 0},
    "another model": {"rewritten": ROWS},
    "another seed": {"rewritten": ROWS},
    "the gate: max 5": {"rewritten": 0},
    "the gate: max 3": {"rewritten": 0},
    "a step added behind": {"rewritten": 0, "fused": 0},
    "a step added between": {"rewritten": 0},
    "a step taken out": {"rewritten": 0},
    "a duplicate appended": {},
    "the share: 0.6": {"rewritten": 0},
    "one row of the second source edited": {"rewritten": 0, "fused": 0, "said": 1},
    "ten rows appended to the second source": {"rewritten": 0, "fused": 0, "said": 10},
    "the sources mixed in another order": {"rewritten": 0, "fused": 0, "said": 0},
}  # fmt: skip
"""Where the number follows from the change alone."""


@pytest.mark.slow
@pytest.mark.parametrize(("graph", "name"), [*cases(reuse.ENCODED)])
def test_with_the_encoder_as_the_gate(result, name, graph):
    check(result)


def test_only_rows_that_had_been_cut_are_asked_again(benches):
    found = benches(reuse.ROWS)
    cut = [body for body in found.base if len(reuse.answer(body, "wordy").split()) > body["max_tokens"]]
    assert 0 < len(cut) < ROWS
    result = found.after(reuse.changes(reuse.ROWS)["rewrite's max_tokens, 6 to 50"])
    assert result.asked["rewritten"] == result.plans["rewritten"].requests == len(cut)

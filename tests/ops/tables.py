"""Tables at hand for table operations, and a check of what every one of them owes its rows."""

import asyncio

from refinery.records import Example
from refinery.tableops import Table


class Rows:
    """A Table over a list."""

    def __init__(self, name, rows):
        self.name, self.rows = name, list(rows)

    @property
    def ids(self):
        return [row.id for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)


def example(row_id, question="", answer="", response=None, **more):
    prompt = [{"role": "user", "content": question or f"Question {row_id}?"}]
    answer = answer or f"Answer {row_id}."
    return Example(row_id, prompt, answer, answer if response is None else response, **more)


def examples(count, prefix="r", **more):
    return [example(f"{prefix}{number}", **more) for number in range(count)]


class Seeded:
    """A context of which nothing is asked but its seed."""

    seed = 0
    step = "step"

    def __init__(self, seed=0):
        self.seed = seed


def apply(op, *tables: Table, ctx=None, **params):
    """The outcomes, as a list, after checking that every id that went in has exactly one and made ones are new."""
    outcomes = list(asyncio.run(op.apply_all(tables, op.Params(**params), ctx or Seeded())))
    went_in = {row_id for table in tables for row_id in table.ids}
    old = [outcome.example_id for outcome in outcomes if outcome.action != "created"]
    assert sorted(old) == sorted(went_in)
    new = [outcome.example_id for outcome in outcomes if outcome.action == "created"]
    assert len(new) == len(set(new))
    assert not set(new) & went_in
    for outcome in outcomes:
        assert (outcome.example is None) == (outcome.action == "dropped")
        assert outcome.example is None or outcome.example.id == outcome.example_id
        assert outcome.action != "created" or set(outcome.example.parents) <= went_in
    return outcomes


def stay(outcomes):
    """Ids of the rows that the step hands on, in order."""
    return [outcome.example_id for outcome in outcomes if outcome.action != "dropped"]

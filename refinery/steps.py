"""A spec's steps as the store sees them: what each reads, which of its rows are answered, and what depends on it."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from refinery import catalog, models, sources
from refinery.errors import UserError
from refinery.records import Example, Outcome, digest
from refinery.sources import Reading
from refinery.spec import Spec, fingerprints, model_identity, order
from refinery.spec_types import marked
from refinery.store import Store

BATCH = 2000
"""Rows of one write."""


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph, resolved."""

    name: str
    op: str
    module: ModuleType
    params: BaseModel
    fingerprint: str
    upstream: list[str]
    """Names of the steps and sources it reads."""
    reads: list[str]
    """Their fingerprints."""
    models: dict[str, str]
    """Name in the spec to identity, for every model it names."""

    @property
    def is_table(self) -> bool:
        return hasattr(self.module, "apply_all")

    @property
    def needs_all(self) -> bool:
        """Whether one row's outcome hangs on the others: then all rows are done again when any is."""
        return self.is_table or (hasattr(self.module, "needs_all") and self.module.needs_all(self.params))


@contextmanager
def readings(spec: Spec, store: Store) -> Iterator[dict[str, Reading | str]]:
    """Source name to what was read, or to the fingerprint where the store knows the files already."""
    with ExitStack() as stack:
        found: dict[str, Reading | str] = {}
        for name, source in spec.all_sources.items():
            key = sources.reading_key(source)
            known = store.reading(key) if key else None
            if known and is_complete(store, known):
                found[name] = known
            else:
                found[name] = stack.enter_context(Reading(source, name, key))
        yield found


def source_fingerprints(spec: Spec, store: Store) -> dict[str, str]:
    """Source name to fingerprint; reads what the store has not read."""
    with readings(spec, store) as found:
        return {name: each if isinstance(each, str) else each.fingerprint() for name, each in found.items()}


def batches(rows: Iterable[tuple[int, Outcome]]) -> Iterator[list[tuple[int, Outcome]]]:
    """Outcomes with their positions, so many at a time as one write takes."""
    rest = iter(rows)
    while batch := list(islice(rest, BATCH)):
        yield batch


def resolve(spec: Spec, source: Mapping[str, str], *, fetch: bool = False) -> list[Step]:
    """The spec's steps in running order, given the sources' fingerprints.

    A hub model that is not on this machine goes by its name; `fetch` downloads it, so that it goes by its weights as
    it will from then on. UserError for a step that reads more or fewer steps than its op takes, or that asks a server
    for likelihoods which it does not give.
    """
    identity = functools.partial(models.identity, fetch=fetch)
    known = fingerprints(spec, identity, source)
    steps = []
    for name in order(spec):
        step = spec.graph[name]
        module = catalog.module(catalog.OPS, step.op)
        if message := catalog.wrong_reads(module, step.op, len(step.upstream)):
            raise UserError(f"step {name}: {message}")
        named = {model: model_identity(spec, model, identity, known) for _, model in marked(step.params, "model")}
        _check_scoring(name, module, step.params, spec)
        reads = [known[upstream] for upstream in step.upstream]
        steps.append(Step(name, step.op, module, step.params, known[name], list(step.upstream), reads, named))
    return steps


def _check_scoring(name: str, module: ModuleType, params: BaseModel, spec: Spec) -> None:
    """Not every model gives likelihoods: said before hours of rewriting, not after."""
    for model in module.scored_by(params) if hasattr(module, "scored_by") else []:
        if not spec.models[model].scores_text:
            raise UserError(
                f"step {name}: judging by likelihood needs a model that scores text, and models.{model} is a server; "
                "name one with backend: transformers or vllm as judge_model, say how the server scores text "
                "(likelihood: prompt_logprobs), or let models judge: judges: [{model: ...}]"
            )


# --- what the store has of a step


@dataclass(frozen=True, slots=True)
class Tally:
    """A step's outcomes, counted."""

    rows: int
    transient: int
    """Rows with a transient failure, to be asked again."""
    counts: Counter[tuple[str, str]]
    """(action, reason) to rows."""


def tally(store: Store, fingerprint: str) -> Tally:
    counts: Counter[tuple[str, str]] = Counter()
    transient = 0
    for row in store.funnel(fingerprint):
        counts[row["action"], row["reason"]] += row["n"]
        transient += row["n"] if row["transient"] else 0
    return Tally(counts.total(), transient, counts)


HANDED_ON = """SELECT example_id, position FROM outcomes
               WHERE list_contains(?::VARCHAR[], step) AND split = 'train'"""
"""The rows that later steps get: of the train split, not dropped. Positions are the source's own in row steps, whatever
was dropped on the way, so that a row that comes back has its old place."""


def handed_on(store: Store, fingerprints: Sequence[str]) -> int:
    """How many distinct rows the steps hand on together."""
    return _count(store, fingerprints, "")


def answered(store: Store, step: Step) -> int:
    """Rows handed on to the step that have an outcome, transient or not."""
    if (given := _alike(store, step)) is not None:
        return given
    sql = "WHERE example_id IN (SELECT example_id FROM outcomes WHERE step = ? AND action <> 'created')"
    return _count(store, step.reads, sql, step.fingerprint)


def not_done(store: Store, step: Step) -> int:
    """Rows handed on to the step that have no outcome yet, or a transient one."""
    known = tally(store, step.fingerprint)
    if not known.rows:
        return handed_on(store, step.reads)
    if _alike(store, step) is not None:
        return known.transient
    sql = "WHERE example_id NOT IN (SELECT example_id FROM outcomes WHERE step = ? AND NOT transient)"
    return _count(store, step.reads, sql, step.fingerprint)


def _count(store: Store, fingerprints: Sequence[str], which: str, *params: str) -> int:
    what = "*" if len(fingerprints) == 1 else "DISTINCT example_id"  # within a step ids are distinct already
    sql = f"SELECT count({what}) AS n FROM ({HANDED_ON}) {which}"
    return int(store.query(sql, [list(fingerprints), *params])[0]["n"])


def _alike(store: Store, step: Step) -> int | None:
    """How many rows the step is given, where its outcomes are of exactly these; None where they are not, or where it
    reads several steps. Sums of hashes tell it, which take no memory, as a join of ids would."""
    if len(step.reads) != 1:
        return None
    sums = "SELECT count(*) AS n, sum(hash(example_id)) AS hashes FROM"
    (given,) = store.query(f"{sums} ({HANDED_ON})", [list(step.reads)])
    (mine,) = store.query(f"{sums} outcomes WHERE step = ? AND action <> 'created'", [step.fingerprint])
    return int(given["n"]) if given == mine else None


def again(store: Store, step: Step) -> list[str]:
    """Ids of the step's outcomes that cannot stay: transient ones, and those of rows it is not given any more."""
    known = tally(store, step.fingerprint)
    if not known.rows or (not known.transient and _alike(store, step) is not None):
        return []
    sql = f"""SELECT example_id FROM outcomes WHERE step = ? AND action <> 'created'
              AND (transient OR example_id NOT IN (SELECT example_id FROM ({HANDED_ON})))"""
    return [row["example_id"] for row in store.query(sql, [step.fingerprint, step.reads])]


def lost(step: Step) -> list[str]:
    """What a step that writes files no longer finds (an op's `missing`): it must run again, finished or not."""
    return step.module.missing(step.params, step.reads) if hasattr(step.module, "missing") else []


def is_complete(store: Store, fingerprint: str) -> bool:
    step = store.step(fingerprint)
    return step is not None and step["status"] == "complete"


def stands(store: Store, fingerprint: str) -> bool:
    """Whether the step is complete and no row of it waits to be asked again."""
    return is_complete(store, fingerprint) and not tally(store, fingerprint).transient


def forget_downstream(store: Store, fingerprint: str, example_ids: Iterable[str]) -> None:
    """Before rows of a step are made anew: delete what every later step in the store made of them, of other specs
    too, and mark those steps as running, so that they ask for these rows again and never pass for complete. What a
    table step made of them stays until it runs: it does all of its rows again."""
    ids = list(dict.fromkeys(example_ids))
    if not ids:
        return
    rows = store.query("SELECT * FROM steps")
    stale, grew = {fingerprint}, True
    while grew:
        later = {row["fingerprint"] for row in rows if stale & set(row["upstream"])} - stale
        stale |= later
        grew = bool(later)
    for row in rows:
        if row["fingerprint"] in stale - {fingerprint}:  # without outcomes of these rows, too: it may get them now
            store.replace("steps", [{**row, "status": "running", "finished_at": None}], ["fingerprint"])
            if not _is_table(row["op"]):
                store.delete_outcomes(row["fingerprint"], ids)


def start(store: Store, step: Step, run_id: str) -> None:
    """Mark the step as running; what it has stays."""
    version, params = catalog.version(step.op, step.params), recorded(step)
    store.start_step(step.fingerprint, run_id, step.name, step.op, version, params, step.reads, step.models)


def _is_table(op: str) -> bool:
    return op in catalog.names(catalog.OPS) and hasattr(catalog.module(catalog.OPS, op), "apply_all")


def data_fingerprint(store: Store, fingerprint: str) -> str:
    """Digest of the rows a step hands on: ids, prompts and responses in order. It changes where a step's fingerprint
    does not: when rows that a server failed to answer are asked again."""
    return digest([[e.id, e.prompt, e.response, e.split] for e in store.examples(fingerprint)])


def recorded(step: Step) -> dict[str, Any]:
    """What the store notes of a step's parameters: every one, defaults included."""
    return step.params.model_dump(mode="json")


class StoredTable:
    """The train rows of a stored step, as a table operation sees them (refinery/tableops.py)."""

    def __init__(self, name: str, store: Store, fingerprint: str):
        self.name = name
        self.store, self.fingerprint = store, fingerprint

    @functools.cached_property
    def ids(self) -> list[str]:
        rows = self.store.query(f"{HANDED_ON} ORDER BY position", [[self.fingerprint]])
        return [row["example_id"] for row in rows]

    @functools.cached_property
    def _length(self) -> int:
        return handed_on(self.store, [self.fingerprint])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Example]:
        for _, outcome in self.store.stream(self.fingerprint, split="train"):
            assert outcome.example is not None
            yield outcome.example

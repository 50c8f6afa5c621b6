"""Read what a report shows from the store, once: the rows' side here, the models' side in reports/gather_models.py."""

from collections.abc import Mapping, Sequence

from refinery import models
from refinery.diagnostics._gates import examples_near, find_gates, reference_of
from refinery.errors import UserError
from refinery.models.whole import named_base
from refinery.spec import SOURCE, Spec, fingerprints, order
from refinery.store import Row, Store
from reports import gather_models as trained
from reports.data import RAW, Compared, Gate, ReportData, RowShown, Step, Swept
from reports.gather_items import explorer
from reports.gather_stages import stages

ROWS_SHOWN = 3
"""Refined rows that the examples section shows; of every other fate it shows one."""


def gather(store: Store, spec: Spec) -> ReportData:
    """Read the store once. Raises UserError where the spec has not been run on it at all."""
    notes: list[str] = []
    steps = _steps(store, spec, notes)
    if not steps and spec.source:
        raise UserError(f"{store.path} holds no step of the spec {spec.name} yet: run the refine stage first")
    final = _final(spec, steps)
    base, checkpoints = trained.checkpoints(store, spec, notes)
    notes += _other_bases(spec, checkpoints)
    panels, comparison = trained.comparison(store, spec, base, checkpoints, notes)
    return ReportData(
        spec=spec,
        store=store,
        runs=[run for run in store.runs() if run["name"] == spec.name],
        steps=steps,
        final=final,
        gates=[gate for step in steps if (gate := _gate(store, step)) is not None],
        compared=_compared(store, steps),
        sweeps=_sweeps(store, spec, steps),
        rows=_rows(store, steps, final) if final else [],
        base=base,
        checkpoints=checkpoints,
        metrics={
            row["fingerprint"]: trained.metrics(store, row["fingerprint"])
            for rows in checkpoints.values()
            for row in rows
        },
        panels=panels,
        comparison=comparison,
        items=trained.items(store, comparison, panels, base, checkpoints) if comparison else [],
        trials=trained.trials(store, spec, checkpoints),
        requests=store.query(_REQUESTS),
        notes=notes,
        stages=stages(store, spec, base),
        explorer=explorer(store, panels, base, checkpoints),
        rewriters=trained.rewriters(store, spec, {step.name: step.row["fingerprint"] for step in steps}),
    )


def _other_bases(spec: Spec, checkpoints: Mapping[str, Sequence[Row]]) -> list[str]:
    """Of adapters that name another base than the one they were put on."""
    pairs = [(name, row["params"].get("trained_on")) for name, rows in checkpoints.items() for row in rows]
    return [f"{named_base(name, named, spec.model)}." for name, named in dict.fromkeys(pairs) if named]


# ---- refinement


def _steps(store: Store, spec: Spec, notes: list[str]) -> list[Step]:
    """The source and the graph's steps under their present fingerprints; steps that have not run are noted."""
    found = []
    for name, fingerprint in _fingerprints(store, spec, notes).items():
        row = store.step(fingerprint)
        if row is None:
            notes.append(f"The step {name} has not run as the spec now describes it.")
            continue
        if row["status"] != "complete":
            notes.append(f"The step {name} is not complete: its counts are of the rows answered so far.")
        funnel = store.funnel(fingerprint)
        counts: dict[tuple[str, str], int] = {}
        for part in funnel:
            counts[part["action"], part["reason"]] = counts.get((part["action"], part["reason"]), 0) + part["n"]
        ordered = [
            (action, reason, n) for (action, reason), n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        ]
        reads = spec.graph[name].upstream if name in spec.graph else []
        transient = sum(part["n"] for part in funnel if part["transient"])
        found.append(Step(name, row["op"], fingerprint, reads, row, ordered, transient))
    return found


def _fingerprints(store: Store, spec: Spec, notes: list[str]) -> dict[str, str]:
    """Step name to fingerprint, source first. The source itself is not read again: of those in the store, the last one
    that was read as the spec says."""
    source: dict[str, str] = {}
    for name, described in spec.all_sources.items():
        settings = described.model_dump(mode="json")
        rows = store.query("SELECT * FROM steps WHERE op = ? ORDER BY started_at DESC", [SOURCE])
        rows = [row for row in [store.last_step(name)] if row] + rows
        same = [row for row in rows if row["params"] == settings]
        read = [row for row in rows if row["name"] == name] or same
        if not read:
            return {}
        if not same:
            which = "source" if name == SOURCE else f"source {name}"
            notes.append(
                f"The {which} has not been read as the spec now describes it: what is shown is from the last run."
            )
        source[name] = (same or read)[0]["fingerprint"]
    try:
        return fingerprints(spec, models.identity, source)
    except UserError as error:
        notes.append(f"Steps are shown as they last ran, since their models cannot be identified now: {error}")
        last = {name: store.last_step(name) for name in order(spec)}
        return {**source, **{name: row["fingerprint"] for name, row in last.items() if row}}


def _final(spec: Spec, steps: Sequence[Step]) -> Step | None:
    by_name = {step.name: step for step in steps}
    if spec.train and spec.train.data in spec.graph:
        return by_name.get(spec.train.data)
    refined = [step for step in steps if step.op != SOURCE]
    return refined[-1] if refined else None


def _gate(store: Store, step: Step) -> Gate | None:
    if step.op != "semantic_filter":
        return None
    sql = """SELECT (scores->>'cosine')::DOUBLE AS cosine, (scores->>'min_cosine')::DOUBLE AS used
             FROM outcomes WHERE step = ? ORDER BY position"""
    rows = [row for row in store.query(sql, [step.fingerprint]) if row["cosine"] is not None]
    threshold = step.row["params"]["min_cosine"]
    if threshold is None:  # a quantile of the rows, which each row notes, or no lower bound at all
        threshold = next((row["used"] for row in rows if row["used"] is not None), None)
    cosines = [row["cosine"] for row in rows]
    return Gate(step.name, float(threshold), cosines) if cosines and threshold is not None else None


def _compared(store: Store, steps: Sequence[Step]) -> list[Compared]:
    found = []
    for step in steps:
        for against, name in [("", RAW), *((other.fingerprint, other.name) for other in steps)]:
            if rows := store.diagnostics(step.fingerprint, against):
                found.append(Compared(name, step.name, rows))
    return found


def _sweeps(store: Store, spec: Spec, steps: Sequence[Step]) -> list[Swept]:
    rows = [step.row for step in steps]
    reference = reference_of(rows, spec)
    gates = [gate for gate in find_gates(store, rows) if gate.reads]
    return [Swept(gate, *examples_near(store, gate, reference)) for gate in gates]


def _rows(store: Store, steps: Sequence[Step], final: Step) -> list[RowShown]:
    """Rows of each fate. Which ones is decided by the digest of their ids, so nobody chose them."""
    fates: dict[str, list[str]] = {}
    wheres = {s.fingerprint: s.name for s in steps}
    sql = """SELECT example_id, step, action, reason FROM outcomes
             WHERE list_contains(?::VARCHAR[], step) AND reason <> 'fell_back_earlier'
               AND (action IN ('fell_back', 'dropped') OR (step = ? AND NOT fell_back))
             ORDER BY md5(example_id), example_id"""
    lineage = _lineage(steps, final)
    for row in store.query(sql, [[s.fingerprint for s in lineage], final.fingerprint]):
        given_up = row["action"] in ("fell_back", "dropped")
        verb = "dropped" if row["action"] == "dropped" else "fell back"
        fate = f"{verb} at {wheres[row['step']]}: {row['reason']}" if given_up else "refined"
        chosen = fates.setdefault(fate, [])
        if len(chosen) < (ROWS_SHOWN if fate == "refined" else 1):
            chosen.append(row["example_id"])
    ordered = sorted(fates.items(), key=lambda pair: (pair[0] != "refined", pair[0]))
    return [shown for fate, ids in ordered for i in ids if (shown := _row(store, lineage, i, fate)) is not None]


def _lineage(steps: Sequence[Step], final: Step) -> list[Step]:
    """`final` and what it reads, directly or not, without the source, in the order of the graph."""
    by_name, wanted, waiting = {s.name: s for s in steps}, set(), [final.name]
    while waiting:
        name = waiting.pop()
        if name in by_name and by_name[name].op != SOURCE and name not in wanted:
            wanted.add(name)
            waiting += by_name[name].reads
    return [step for step in steps if step.name in wanted]


def _row(store: Store, lineage: Sequence[Step], example_id: str, fate: str) -> RowShown | None:
    named = {step.fingerprint: step.name for step in lineage}
    pairs = store.lineage(example_id)
    example = next((outcome.example for _, outcome in pairs if outcome.example is not None), None)
    if example is None:
        return None
    own = sorted(
        ((list(named).index(row["fingerprint"]), outcome) for row, outcome in pairs if row["fingerprint"] in named),
        key=lambda pair: pair[0],
    )
    before, rejected, response = example.answer, "", example.answer
    for _, outcome in own:
        if outcome.action in ("fell_back", "dropped") and before != example.answer:
            rejected = before
        response = outcome.example.response if outcome.example is not None else ""
        before = response
    scores = {lineage[at].name: outcome.scores for at, outcome in own if outcome.scores}
    return RowShown(example_id, example.question, example.answer, rejected, response, fate, scores)


_REQUESTS = """
    SELECT model, count(*) AS n, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
           count(*) FILTER (finish_reason = 'length') AS cut
    FROM generations GROUP BY model ORDER BY model
"""

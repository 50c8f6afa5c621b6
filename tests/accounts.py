"""What must hold of a store after every run: each row that goes into a step has exactly one outcome."""

from refinery.graph import step_fingerprints
from refinery.steps import resolve, source_fingerprints


def check_accounts(spec, store):
    """Every step's outcomes against the rows that its upstream steps hand on; the counts as {step: {"action reason":
    n}}."""
    with store.held():
        return _check(spec, store)


def _check(spec, store):
    found = {}
    for step in resolve(spec, source_fingerprints(spec, store)):
        given = {e.id for reads in step.reads for e in store.examples(reads) if e.split == "train"}
        rows = store.query("SELECT * FROM outcomes WHERE step = ?", [step.fingerprint])
        answered = [row["example_id"] for row in rows if row["action"] != "created"]
        made = [row["example_id"] for row in rows if row["action"] == "created"]
        assert len(answered) == len(set(answered)) and set(answered) == given, step.name
        assert len(made) == len(set(made)) and not given & set(made), step.name
        assert all((row["body"] is None) == (row["action"] == "dropped") for row in rows), step.name
        assert all(row["reason"] for row in rows), step.name
        assert store.step(step.fingerprint)["status"] == "complete", step.name
        counts = found[step.name] = {}
        for row in rows:
            key = f"{row['action']} {row['reason']}"
            counts[key] = counts.get(key, 0) + 1
    drafts = store.query("SELECT count(*) AS n FROM outcomes WHERE step NOT IN (SELECT fingerprint FROM steps)")
    assert drafts[0]["n"] == 0, "outcomes of no step"
    return found


def rows_of(spec, store):
    """Step name, sources included, to its outcomes in order."""
    with store.held():
        return {name: store.outcomes(found) for name, found in step_fingerprints(spec, store).items()}

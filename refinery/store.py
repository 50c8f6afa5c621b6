"""The store: one DuckDB file that holds everything a project made, with typed reads and writes."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np

from refinery.database import Database
from refinery.lock import exclusive
from refinery.records import Example, Outcome, Sample, Score
from refinery.rows import GENERATION_KEYS, LIKELIHOOD_KEYS, Row, as_json, outcome, outcome_parts

ELSEWHERE = "elsewhere"
"""The method of weights that Refinery did not train."""
READ_PAGE = 1000
"""Rows with texts that are read at a time."""
SPANS = 50
"""Pages whose bodies are looked for at a time."""

__all__ = ["Row", "Store", "now"]


class Store(Database):
    """Typed reads and writes on one store file; see refinery/database.py for how it is shared and what it raises."""

    def run_lock(self) -> AbstractContextManager[None]:
        """Held by whatever runs or trains on this store; the second gets a UserError naming the first."""
        return exclusive(self.path.with_name(self.path.name + ".lock"), f"the store {self.path.name}")

    # ---- runs

    def start_run(self, name: str, spec_text: str, spec_digest: str, versions: Mapping[str, Any]) -> str:
        """Record a run and return its id. `spec_text` must not hold a key."""
        run: Row = {"id": uuid.uuid4().hex, "name": name, "spec": spec_text, "spec_digest": spec_digest}
        run |= {"versions": dict(versions), "status": "running", "started_at": now(), "finished_at": None}
        self.replace("runs", [run], ["id"])
        return run["id"]

    def finish_run(self, run_id: str, status: str) -> None:
        """`status`: complete, failed or interrupted."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET status = ?, finished_at = ? WHERE id = ?", [status, now(), run_id])

    @contextmanager
    def finishing(self, run_id: str) -> Iterator[None]:
        """The run ends with the block, as the block ends."""
        status = "failed"
        try:
            yield
            status = "complete"
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C, SIGTERM
            status = "interrupted"
            raise
        finally:
            self.finish_run(run_id, status)

    def runs(self) -> list[Row]:
        """Newest first."""
        return self.query("SELECT * FROM runs ORDER BY started_at DESC")

    # ---- steps and their outcomes

    def step(self, fingerprint: str) -> Row | None:
        return _only(self.query("SELECT * FROM steps WHERE fingerprint = ?", [fingerprint]))

    def last_step(self, name: str) -> Row | None:
        """The step that the last run had under that name, whatever its fingerprint."""
        return next((row for row in self.last_steps() if row["name"] == name), None)

    def last_steps(self) -> list[Row]:
        """Of each name the step that the last run had under it; oldest first. A step may stand for
        several names; then the one it was made under comes first."""
        sql = """SELECT s.* REPLACE (n.name AS name) FROM names n JOIN steps s ON s.fingerprint = n.step
                 ORDER BY s.started_at, n.name <> s.name, n.name"""
        return self.query(sql)

    def name_step(self, name: str, fingerprint: str) -> None:
        """A run found the step under that name as it should be."""
        row = {"name": name, "step": fingerprint}
        if not self.query("SELECT 1 AS found FROM names WHERE name = ? AND step = ?", [name, fingerprint]):
            self.replace("names", [row], ["name"])

    def start_step(
        self,
        fingerprint: str,
        run_id: str,
        name: str,
        op: str,
        version: int,
        params: Mapping[str, Any],
        upstream: Sequence[str],
        models: Mapping[str, str],
    ) -> None:
        """Mark a step as running. Outcomes it already has stay: a step is resumed row by row."""
        row: Row = {"fingerprint": fingerprint, "run_id": run_id, "name": name, "op": op, "version": version}
        row |= {"params": dict(params), "upstream": list(upstream), "models": dict(models)}
        row |= {"status": "running", "started_at": now(), "finished_at": None}
        named = {"name": name, "step": fingerprint}
        self.replace_all([("steps", [row], ["fingerprint"]), ("names", [named], ["name"])])

    def finish_step(self, fingerprint: str) -> None:
        with self._transaction() as connection:
            sql = "UPDATE steps SET status = 'complete', finished_at = ? WHERE fingerprint = ?"
            connection.execute(sql, [now(), fingerprint])

    def add_outcomes(self, fingerprint: str, outcomes: Sequence[tuple[int, Outcome]], *, new: bool = False) -> None:
        """Write (position, outcome) pairs of a step, each over any outcome of the same example under it; `new` where
        there surely is none."""
        self.replace_all(outcome_parts([(fingerprint, position, each) for position, each in outcomes], new=new))

    def delete_outcomes(self, fingerprint: str, example_ids: Sequence[str]) -> None:
        if not example_ids:
            return
        with self._transaction() as connection:
            rows = [{"step": fingerprint, "example_id": example_id} for example_id in example_ids]
            self._delete(connection, "outcomes", rows, ["step", "example_id"])

    def drop_outcomes(self, fingerprint: str) -> None:
        """All of a step's."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM outcomes WHERE step = ?", [fingerprint])

    def rename_outcomes(self, draft: str, fingerprint: str) -> None:
        """Those of `draft` become the step's, in place of all it had."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM outcomes WHERE step = ?", [fingerprint])
            connection.execute("UPDATE outcomes SET step = ? WHERE step = ?", [fingerprint, draft])

    def outcomes(self, fingerprint: str) -> list[Outcome]:
        """Every outcome of a step, dropped rows included, in the step's order."""
        return [found for _, found in self.stream(fingerprint)]

    def examples(self, fingerprint: str) -> list[Example]:
        """The examples a step hands on, in order."""
        return [found.example for _, found in self.stream(fingerprint) if found.example is not None]

    def stream(
        self, fingerprint: str, *, split: str | None = None, todo: str | None = None
    ) -> Iterator[tuple[int, Outcome]]:
        """(position, outcome) in the step's order, a page at a time, the file free between pages.

        `split`: only rows of that split, which are never dropped ones. `todo`: only rows of which the step of that
        fingerprint, a row step on this one, has no outcome yet: looked for where a row step leaves them, at their own
        positions, so that a page does not cost more the more there are.
        """
        where = "o.step = ? AND o.position BETWEEN ? AND ?"
        more: list[Any] = []
        if split is not None:
            where, more = f"{where} AND o.split = ?", [*more, split]
        if todo is not None:
            done = "SELECT d.example_id FROM outcomes d WHERE d.step = ? AND d.position BETWEEN ? AND ?"
            where = f"{where} AND o.example_id NOT IN ({done})"
        (span,) = self.query(
            "SELECT min(position) AS first, max(position) AS last FROM outcomes WHERE step = ?", [fingerprint]
        )
        if span["last"] is None:
            return
        spans: dict[int, list[int]] = {}
        for number, start in enumerate(range(span["first"], span["last"] + 1, READ_PAGE)):
            page = [start, start + READ_PAGE - 1]
            wanted = [fingerprint, *page, *more, *([todo, *page] if todo is not None else [])]
            with self._open(write=False):
                if number % SPANS == 0:
                    spans = self._spans(fingerprint, start, SPANS)
                rows = self.query(_PAGE.format(where), [*spans.get(start, [0, -1]), *wanted])
                if any(row["body"] is not None and row["prompt"] is None for row in rows):  # written since
                    rows = self.query(_PAGE.format(where), [*self._spans(fingerprint, start, 1)[start], *wanted])
            for row in rows:
                yield row["position"], outcome(row)

    def _spans(self, fingerprint: str, start: int, pages: int) -> dict[int, list[int]]:
        """First position of each of so many pages to between which rows of `examples` its bodies stand. To find them
        all names of bodies are looked through, whatever their number."""
        found = self.query(_SPANS, [start, READ_PAGE, fingerprint, start, start + pages * READ_PAGE - 1])
        return {row["page"]: [row["low"], row["high"]] for row in found}

    def reading(self, key: str) -> str | None:
        """The fingerprint of the source that was read under this key (sources.reading_key), where it is here."""
        row = _only(self.query("SELECT fingerprint FROM readings WHERE key = ?", [key]))
        return row["fingerprint"] if row else None

    def add_reading(self, key: str, fingerprint: str) -> None:
        self.replace("readings", [{"key": key, "fingerprint": fingerprint}], ["key"])

    def lineage(self, example_id: str) -> list[tuple[Row, Outcome]]:
        """Every (step, outcome) of one example, oldest step first."""
        found = self.query(_OUTCOMES.format("o.example_id = ?"), [example_id])
        steps = {row["fingerprint"]: row for row in self.query("SELECT * FROM steps ORDER BY started_at")}
        pairs = [(steps[row["step"]], outcome(row)) for row in found if row["step"] in steps]
        return sorted(pairs, key=lambda pair: list(steps).index(pair[0]["fingerprint"]))

    def funnel(self, fingerprint: str) -> list[Row]:
        """Counts of a step: rows of action, reason, transient, n."""
        sql = "SELECT action, reason, transient, count(*) AS n FROM outcomes WHERE step = ? GROUP BY ALL ORDER BY ALL"
        return self.query(sql, [fingerprint])

    # ---- the request cache

    def add_generations(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with every column of the table; see refinery/models/cache.py for what a digest covers."""
        self.replace("generations", rows, GENERATION_KEYS)

    def generations(self, digests: Sequence[str]) -> dict[str, list[Row]]:
        """The stored answers of each digest that has any; several where it was asked with several max_tokens."""
        found: dict[str, list[Row]] = {}
        columns = "digest, max_tokens, text, finish_reason, prompt_tokens, completion_tokens"
        sql = f"SELECT {columns} FROM generations WHERE digest IN (SELECT unnest(?::VARCHAR[]))"
        for row in self.query(sql, [list(digests)]) if digests else []:
            found.setdefault(row["digest"], []).append(row)
        return found

    def has_answers(self, model: str) -> bool:
        """Whether any answer of the model of that identity is stored."""
        return bool(self.query("SELECT 1 AS found FROM generations WHERE model = ? LIMIT 1", [model]))

    def known(self, table: str) -> np.ndarray:
        """The first 64 bits of each digest in `generations` or `likelihoods`, uint64, in no order."""
        with self._open(write=False) as connection:
            sql = f"SELECT ('0x' || left(digest, 16))::UBIGINT AS short FROM {table}"
            return np.asarray(connection.execute(sql).fetchnumpy()["short"], dtype=np.uint64)

    def count(self, table: str) -> int:
        return int(self.query(f"SELECT count(*) AS n FROM {table}")[0]["n"])

    def add_likelihoods(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.replace("likelihoods", rows, LIKELIHOOD_KEYS)

    def likelihoods(self, digests: Sequence[str]) -> dict[str, Row]:
        """The stored score of each digest that has one: rows of digest and logprobs."""
        sql = "SELECT digest, logprobs FROM likelihoods WHERE digest IN (SELECT unnest(?::VARCHAR[]))"
        return {row["digest"]: row for row in (self.query(sql, [list(digests)]) if digests else [])}

    def add_embeddings(self, encoder: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """(n, d) float32 for the n digests of texts (refinery/vectors.py)."""
        rows = [{"encoder": encoder, "text": t, "vector": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
        self.replace("embeddings", rows, ["encoder", "text"])

    def embeddings(self, encoder: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Of these digests of texts, those that are here, each with its (d,) float32 vector."""
        found: dict[str, np.ndarray] = {}
        sql = "SELECT text, vector FROM embeddings WHERE encoder = ? AND text IN (SELECT unnest(?::VARCHAR[]))"
        if not texts:
            return found
        with self._open(write=False) as connection:
            columns = connection.execute(sql, [encoder, list(texts)]).fetchnumpy()
        for text, vector in zip(columns["text"], columns["vector"], strict=True):
            found[text] = np.asarray(vector, dtype=np.float32)
        return found

    # ---- training

    def start_checkpoint(
        self,
        fingerprint: str,
        run_id: str,
        name: str,
        method: str,
        params: Mapping[str, Any],
        seed: int,
        data_fingerprint: str,
        base: str,
        path: str,
        role: str,
    ) -> None:
        """Record weights about to be made. `role`: final, tuning, stage, part, rewriter, former or base."""
        row: Row = {"fingerprint": fingerprint, "run_id": run_id, "name": name, "method": method, "role": role}
        row |= {"seed": seed, "params": dict(params), "data_fingerprint": data_fingerprint, "base": base}
        row |= {"path": str(path), "status": "running", "manifest": None, "started_at": now(), "finished_at": None}
        self.replace("checkpoints", [row], ["fingerprint"])

    def finish_checkpoint(self, fingerprint: str, manifest: Mapping[str, Any]) -> None:
        with self._transaction() as connection:
            sql = "UPDATE checkpoints SET status = 'complete', manifest = ?, finished_at = ? WHERE fingerprint = ?"
            connection.execute(sql, [as_json(dict(manifest)), now(), fingerprint])

    def fail_checkpoint(self, fingerprint: str, detail: Mapping[str, Any]) -> None:
        """Its training could not go on; `detail` stands where the manifest would. The next run takes it up again."""
        with self._transaction() as connection:
            sql = "UPDATE checkpoints SET status = 'failed', manifest = ?, finished_at = ? WHERE fingerprint = ?"
            connection.execute(sql, [as_json(dict(detail)), now(), fingerprint])

    def mark_final(self, fingerprints: Sequence[str], stages: Sequence[str] = ()) -> None:
        """Exactly these checkpoints are what the spec now asks for, and `stages` what it trains on the way to them;
        others that were so become "former"."""
        with self._transaction() as connection:
            sql = "UPDATE checkpoints SET role = 'former' WHERE role IN ('final', 'stage') AND method <> ?"
            connection.execute(sql, [ELSEWHERE])
            connection.execute(
                "UPDATE checkpoints SET role = 'stage' WHERE list_contains(?, fingerprint)", [list(stages)]
            )
            connection.execute(
                "UPDATE checkpoints SET role = 'final' WHERE list_contains(?, fingerprint)", [list(fingerprints)]
            )

    def keep_elsewhere(self, fingerprints: Sequence[str]) -> None:
        """Of the weights trained elsewhere exactly these are what the spec now names; others become "former"."""
        with self._transaction() as connection:
            sql = """UPDATE checkpoints SET role = 'former'
                     WHERE method = ? AND NOT list_contains(?::VARCHAR[], fingerprint)"""
            connection.execute(sql, [ELSEWHERE, list(fingerprints)])

    def checkpoint(self, fingerprint: str) -> Row | None:
        return _only(self.query("SELECT * FROM checkpoints WHERE fingerprint = ?", [fingerprint]))

    def checkpoints(self, run_id: str | None = None) -> list[Row]:
        """Of one run, or all; oldest first."""
        sql = "SELECT * FROM checkpoints WHERE run_id = coalesce(?, run_id) ORDER BY started_at, fingerprint"
        return self.query(sql, [run_id])

    def set_cells(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """What the spec trains now, in place of what it trained before."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM cells")
            if rows:
                self._insert(connection, "cells", rows)

    def cells(self, point: str | None = None) -> list[Row]:
        """Of one point of the matrix, or all."""
        return self.query("SELECT * FROM cells WHERE point = coalesce(?, point) ORDER BY point, method, seed", [point])

    def cell_scores(self) -> list[Row]:
        """Every score of every cell: rows of point, keys (what the matrix set), method, seed and the table `scores`;
        of one cell and benchmark in the order of writing."""
        sql = """SELECT c.point, c.keys, c.method, c.seed, s.* FROM cells c JOIN scores s USING (checkpoint)
                 ORDER BY c.point, c.method, c.seed, s.benchmark, s.rowid"""
        return self.query(sql)

    def add_training_metrics(self, checkpoint: str, rows: Sequence[tuple[int, str, float]]) -> None:
        """(step, name, value) triples; a resumed training logs over what it had logged."""
        values = {(step, name): value for step, name, value in rows}
        self.replace(
            "training_metrics",
            [{"checkpoint": checkpoint, "step": s, "name": n, "value": float(v)} for (s, n), v in values.items()],
            ["checkpoint", "step", "name"],
        )

    def training_metrics(self, checkpoint: str) -> list[Row]:
        """Rows of step, name, value in the order of steps."""
        sql = "SELECT step, name, value FROM training_metrics WHERE checkpoint = ? ORDER BY step, name"
        return self.query(sql, [checkpoint])

    # ---- evaluation and diagnostics

    def add_scores(self, scores: Sequence[Score]) -> None:
        """Those that stand already are written anew, which makes them the newest of their benchmark."""
        rows = [asdict(score) for score in scores]
        self.replace("scores", rows, ["checkpoint", "benchmark", "metric", "fingerprint"])

    def scores(self, checkpoint: str | None = None, benchmark: str | None = None) -> list[Score]:
        """Of one checkpoint and benchmark in the order of writing: of several evaluations the newest stands last."""
        return [Score(**row) for row in self._of("scores", checkpoint, benchmark, "checkpoint, benchmark, rowid")]

    def add_samples(self, samples: Sequence[Sample]) -> None:
        rows = [{f.name: getattr(sample, f.name) for f in fields(Sample)} for sample in samples]
        self.replace("samples", rows, ["checkpoint", "benchmark", "metric", "item", "fingerprint"])

    def samples(self, checkpoint: str | None = None, benchmark: str | None = None) -> list[Sample]:
        order = "checkpoint, benchmark, metric, item"
        return [Sample(**row) for row in self._of("samples", checkpoint, benchmark, order)]

    def _of(self, table: str, checkpoint: str | None, benchmark: str | None, order: str) -> list[Row]:
        where = "checkpoint = coalesce(?, checkpoint) AND benchmark = coalesce(?, benchmark)"
        return self.query(f"SELECT * FROM {table} WHERE {where} ORDER BY {order}", [checkpoint, benchmark])

    def add_diagnostics(self, step_fingerprint: str, rows: Sequence[Mapping[str, Any]], against: str = "") -> None:
        """Rows of family, name, value, n, low, high, detail; they replace all that the families had. `against`: the
        fingerprint of the step that the measures compare with, empty for the reference answers."""
        rows = [{"step": step_fingerprint, "against": against, **row} for row in rows]
        self.replace("diagnostics", rows, ["step", "against", "family"])

    def diagnostics(self, step_fingerprint: str, against: str = "") -> list[Row]:
        sql = """SELECT * EXCLUDE (step, against) FROM diagnostics WHERE step = ? AND against = ?
                 ORDER BY family, name"""
        return self.query(sql, [step_fingerprint, against])

    def add_preferences(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Judgements with every column of the table; a rater's later one in the same order replaces the earlier."""
        self.replace("preferences", rows, ["step", "against", "example_id", "rater", "kind", "first"])

    def preferences(self, step_fingerprint: str, against: str = "") -> list[Row]:
        sql = "SELECT * FROM preferences WHERE step = ? AND against = ? ORDER BY kind, rater, example_id, first"
        return self.query(sql, [step_fingerprint, against])


_OUTCOMES = """
    SELECT o.*, e.prompt, e.answer, e.parents, e.meta
    FROM outcomes o LEFT JOIN examples e USING (body) WHERE {} ORDER BY o.step, o.position
"""

_SPANS = """
    SELECT $1 + (o.position - $1) // $2 * $2 AS page, min(e.rowid) AS low, max(e.rowid) AS high
    FROM outcomes o JOIN examples e USING (body)
    WHERE o.step = $3 AND o.position BETWEEN $4 AND $5 GROUP BY page
"""
_PAGE = _OUTCOMES.replace("JOIN examples e", "JOIN (SELECT * FROM examples WHERE rowid BETWEEN ? AND ?) e")
"""Bodies stand in the order in which their rows came, so that a page's lie close together: without saying so the engine
reads all of them, and from some size on holds them in memory at once."""


def now() -> datetime:
    """UTC without a zone, as the store's TIMESTAMP columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _only(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None

"""The store's layout, as numbered migrations. Every table and column carries its meaning as a COMMENT in DuckDB.

A released migration is never edited: a change of layout is a new function at the end of `MIGRATIONS`. Names are
recorded in the table `migrations` when applied; a store that records a name this list lacks was made by a newer
Refinery and is refused.

No table has a primary key or an index: an index makes small appends slower as the table grows, and every large lookup
here is a scan that DuckDB prunes by the min/max of its row groups.
"""

from datetime import UTC, datetime
from typing import Any

Columns = list[tuple[str, str, str]]
"""(name, DuckDB type, meaning)."""


def create(connection: Any, table: str, meaning: str, columns: Columns) -> None:
    """Create a table and comment on it and on each of its columns."""
    connection.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind, _ in columns)})")
    connection.execute(f"COMMENT ON TABLE {table} IS {_quoted(meaning)}")
    for name, _, words in columns:
        connection.execute(f"COMMENT ON COLUMN {table}.{name} IS {_quoted(words)}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def initial(connection: Any) -> None:
    """Everything from a run of the graph to the scores of a checkpoint."""
    for part in (_runs, _refinement, _requests, _training, _evaluation):
        part(connection)


def _runs(connection: Any) -> None:
    create(
        connection,
        "runs",
        "One row per command that wrote to this store.",
        [
            ("id", "VARCHAR", "Random identifier, made when the run started."),
            ("name", "VARCHAR", "The spec's name."),
            ("spec", "VARCHAR", "The spec as it was run, as YAML text. API keys stand as ${VARIABLE} only."),
            ("spec_digest", "VARCHAR", "Digest of the resolved spec, defaults included."),
            ("versions", "JSON", "Python, Refinery and library versions, and the hardware: name to text."),
            ("status", "VARCHAR", "running, complete, failed or interrupted; a killed run stays running."),
            ("started_at", "TIMESTAMP", "UTC."),
            ("finished_at", "TIMESTAMP", "UTC; NULL while running and after a kill."),
        ],
    )


def _refinement(connection: Any) -> None:
    create(
        connection,
        "steps",
        "One row per step fingerprint of the refinement graph. The source is a step too, with op 'source'.",
        [
            ("fingerprint", "VARCHAR", "Digest of resolved parameters, op version, models and upstream fingerprints."),
            ("run_id", "VARCHAR", "The run that last worked on it (runs.id)."),
            ("name", "VARCHAR", "The step's name in the spec."),
            ("op", "VARCHAR", "The operation: a file name under refinery/ops, or 'source'."),
            ("version", "INTEGER", "The operation's VERSION."),
            ("params", "JSON", "Every parameter, defaults included."),
            ("upstream", "VARCHAR[]", "Fingerprints of the steps it reads, in order."),
            ("models", "JSON", "Model name in the spec to identity: weights digest, or served model and provider."),
            ("status", "VARCHAR", "running or complete; a step that was interrupted stays running."),
            ("started_at", "TIMESTAMP", "UTC."),
            ("finished_at", "TIMESTAMP", "UTC; NULL until complete."),
        ],
    )
    create(
        connection,
        "examples",
        "What row steps leave alone of an example, stored once however many steps it passed.",
        [
            ("body", "VARCHAR", "Digest of the other columns; outcomes.body names it."),
            ("prompt", "JSON", "Chat messages before the answer: a list of {role, content}."),
            ("answer", "VARCHAR", "The reference answer, never changed by a step."),
            ("split", "VARCHAR", "train, validation or test."),
            ("parents", "VARCHAR[]", "Ids of the examples this one was made from; empty for source rows."),
            ("meta", "JSON", "The source row's columns."),
        ],
    )
    create(
        connection,
        "outcomes",
        "What one step did to one example: exactly one row for each example that went in or was made.",
        [
            ("step", "VARCHAR", "steps.fingerprint."),
            ("position", "BIGINT", "Order of the example within the step, from 0."),
            ("example_id", "VARCHAR", "Stable id of the example; joins the same example across row steps."),
            ("action", "VARCHAR", "kept, changed, fell_back, dropped or created."),
            ("reason", "VARCHAR", "A fixed snake_case word: ok, below_threshold, server_error."),
            ("detail", "VARCHAR", "More about the reason, for people."),
            ("transient", "BOOLEAN", "True where running the step again may succeed."),
            ("scores", "JSON", "Every number that decided the outcome."),
            ("body", "VARCHAR", "examples.body of the example after the step; NULL where dropped."),
            ("response", "VARCHAR", "The supervision after the step; NULL where dropped."),
            ("candidates", "VARCHAR[]", "Samples that response was or will be chosen from; NULL where dropped."),
            ("fell_back", "BOOLEAN", "True once this or an earlier step put the reference back; NULL where dropped."),
        ],
    )
    create(
        connection,
        "diagnostics",
        "Measures of how a step's responses differ from the raw answers.",
        [
            ("step", "VARCHAR", "steps.fingerprint."),
            ("family", "VARCHAR", "The kind of measure: embedding, length, ngram."),
            ("name", "VARCHAR", "The measure."),
            ("value", "DOUBLE", "Its value."),
            ("n", "BIGINT", "Rows it was computed on."),
            ("low", "DOUBLE", "Lower end of the 95% interval; NULL where there is none."),
            ("high", "DOUBLE", "Upper end of the 95% interval; NULL where there is none."),
            ("detail", "JSON", "Histograms, percentiles and settings behind the value."),
        ],
    )


def _requests(connection: Any) -> None:
    asked = [
        ("digest", "VARCHAR", "Digest of everything that shapes the answer; see refinery/models/cache.py."),
        ("model", "VARCHAR", "Identity of the model asked: weights digest, or served model and provider."),
        ("request", "JSON", "What was asked: messages and, for text, sampling and sample index; never a key."),
    ]
    create(
        connection,
        "generations",
        "The request cache: each answered request for text. A digest may stand for several max_tokens.",
        [
            *asked,
            ("max_tokens", "INTEGER", "Limit in force; outside the digest: an answer that ended itself is reused."),
            ("text", "VARCHAR", "The answer."),
            ("finish_reason", "VARCHAR", "stop: ended by itself; length: cut at max_tokens or at the context's end."),
            ("prompt_tokens", "INTEGER", "Tokens of the rendered prompt; 0 where the server did not say."),
            ("completion_tokens", "INTEGER", "Tokens of the answer; 0 where the server did not say."),
            ("created_at", "TIMESTAMP", "UTC."),
        ],
    )
    create(
        connection,
        "likelihoods",
        "The request cache: each scored continuation.",
        [
            *asked,
            ("logprobs", "DOUBLE[]", "Log-probability of each token of the continuation, in nats."),
            ("created_at", "TIMESTAMP", "UTC."),
        ],
    )


def _training(connection: Any) -> None:
    create(
        connection,
        "checkpoints",
        "One row per set of weights: trained, tried while tuning, or the base they started from.",
        [
            ("fingerprint", "VARCHAR", "Digest of method, parameters, seed, data fingerprint and base weights."),
            ("run_id", "VARCHAR", "The run that last worked on it (runs.id)."),
            ("name", "VARCHAR", "The method's name in the spec."),
            ("method", "VARCHAR", "The method: a file name under trainers/methods; empty for the base."),
            ("role", "VARCHAR", "final, tuning, stage, part, former (final in an earlier spec) or base."),
            ("seed", "BIGINT", "Training seed."),
            ("params", "JSON", "Every parameter, defaults included."),
            ("data_fingerprint", "VARCHAR", "steps.fingerprint of the rows it was trained on."),
            ("base", "VARCHAR", "Identity of the weights it started from."),
            ("path", "VARCHAR", "Folder of the weights, as given to the run."),
            ("status", "VARCHAR", "running, complete or failed."),
            ("manifest", "JSON", "The manifest written beside the weights when they were complete; or why it failed."),
            ("started_at", "TIMESTAMP", "UTC."),
            ("finished_at", "TIMESTAMP", "UTC; NULL until complete."),
        ],
    )
    create(
        connection,
        "training_metrics",
        "What training logged.",
        [
            ("checkpoint", "VARCHAR", "checkpoints.fingerprint."),
            ("step", "BIGINT", "Optimizer step, from 1."),
            ("name", "VARCHAR", "The metric: loss, learning_rate, grad_norm."),
            ("value", "DOUBLE", "Its value."),
        ],
    )


def _evaluation(connection: Any) -> None:
    create(
        connection,
        "scores",
        "One metric of one checkpoint on one benchmark.",
        [
            ("checkpoint", "VARCHAR", "checkpoints.fingerprint."),
            ("benchmark", "VARCHAR", "The benchmark's name."),
            ("metric", "VARCHAR", "The metric's name."),
            ("value", "DOUBLE", "Mean over the items."),
            ("low", "DOUBLE", "Lower end of the 95% interval."),
            ("high", "DOUBLE", "Upper end of the 95% interval."),
            ("n", "BIGINT", "Items."),
            ("fingerprint", "VARCHAR", "Digest of what must be equal for two scores to be comparable."),
            ("higher_is_better", "BOOLEAN", "Direction of the metric."),
            ("settings", "JSON", "What the fingerprint digests, readable."),
        ],
    )
    create(
        connection,
        "samples",
        "One benchmark item as one checkpoint answered it.",
        [
            ("checkpoint", "VARCHAR", "checkpoints.fingerprint."),
            ("benchmark", "VARCHAR", "The benchmark's name."),
            ("metric", "VARCHAR", "The metric's name."),
            ("item", "VARCHAR", "The item's id; joins the same item across checkpoints."),
            ("value", "DOUBLE", "The item's value of the metric."),
            ("prompt", "VARCHAR", "The rendered prompt."),
            ("target", "VARCHAR", "The expected answer."),
            ("response", "VARCHAR", "What the checkpoint answered."),
            ("fingerprint", "VARCHAR", "scores.fingerprint."),
        ],
    )


def readings(connection: Any) -> None:
    """A source whose files and settings are known need not be parsed again to know its rows."""
    create(
        connection,
        "readings",
        "Which source rows came of which files and settings.",
        [
            ("key", "VARCHAR", "Digest of the files' bytes and the source's settings."),
            ("fingerprint", "VARCHAR", "steps.fingerprint of the source they gave."),
        ],
    )


def preferences(connection: Any) -> None:
    """Measures of any two steps, and who preferred which side's answers."""
    connection.execute("ALTER TABLE diagnostics ADD COLUMN against VARCHAR DEFAULT ''")
    words = "steps.fingerprint of the raw side; empty where it is the reference answers."
    connection.execute(f"COMMENT ON COLUMN diagnostics.against IS {_quoted(words)}")
    create(
        connection,
        "preferences",
        "One blind judgement of which of two answers to a question is better.",
        [
            ("step", "VARCHAR", "steps.fingerprint of the refined side."),
            ("against", "VARCHAR", words),
            ("example_id", "VARCHAR", "The row."),
            ("rater", "VARCHAR", "A person's name, or a model's name in the spec."),
            ("kind", "VARCHAR", "human or model."),
            ("first", "VARCHAR", "Which side was shown first: raw or refined."),
            ("choice", "VARCHAR", "raw, refined or tie."),
            ("texts", "VARCHAR", "Digest of the two texts judged; a judgement of other texts does not count."),
            ("model", "VARCHAR", "Identity of the model that judged; empty for a person."),
            ("created_at", "TIMESTAMP", "UTC."),
        ],
    )


def embeddings(connection: Any) -> None:
    """A text is embedded once."""
    create(
        connection,
        "embeddings",
        "Vectors of texts.",
        [
            ("encoder", "VARCHAR", "Identity of the encoder: its weights, window and chunking."),
            ("text", "VARCHAR", "Digest of the text."),
            ("vector", "FLOAT[]", "Unit vector."),
        ],
    )


def cells(connection: Any) -> None:
    """A matrix trains one method under many settings, and one training may stand for several of them."""
    create(
        connection,
        "cells",
        "One method with one seed at one point of the spec's matrix, as the last training run left it.",
        [
            ("point", "VARCHAR", "Digest of keys; empty where the spec has no matrix."),
            ("keys", "JSON", "What the matrix set: key to value."),
            ("method", "VARCHAR", "The method's name in the spec; empty where the point as a whole failed."),
            ("seed", "BIGINT", "Training seed; NULL where the point as a whole failed."),
            ("checkpoint", "VARCHAR", "checkpoints.fingerprint of its weights; empty where they have no name yet."),
            ("status", "VARCHAR", "complete or failed."),
            ("error", "VARCHAR", "Why it failed."),
        ],
    )


def names(connection: Any) -> None:
    """A step that stands when a run comes back to it is what its name means again, though others were made since."""
    create(
        connection,
        "names",
        "Which step each name of a spec stands for, as the last run had it.",
        [
            ("name", "VARCHAR", "The step's name in the spec."),
            ("step", "VARCHAR", "steps.fingerprint."),
        ],
    )
    connection.execute("INSERT INTO names SELECT name, arg_max(fingerprint, started_at) FROM steps GROUP BY name")


def passed(connection: Any) -> None:
    """Rows that go on are counted without a look at their examples."""
    columns = [
        ("split", "VARCHAR", "examples.split of the example after the step; NULL where dropped."),
        ("as_given", "BOOLEAN", "Whether the response is the reference answer; NULL where dropped."),
    ]
    for name, kind, words in columns:
        connection.execute(f"ALTER TABLE outcomes ADD COLUMN {name} {kind}")
        connection.execute(f"COMMENT ON COLUMN outcomes.{name} IS {_quoted(words)}")
    connection.execute("""
        UPDATE outcomes SET split = e.split, as_given = (response = e.answer)
        FROM examples e WHERE e.body = outcomes.body
    """)


MIGRATIONS = [initial, readings, preferences, embeddings, cells, names, passed]


def pending(connection: Any) -> list[Any]:
    """The migrations this store still lacks; ValueError says why it is not a store that this Refinery can use."""
    tables = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if tables and "migrations" not in tables:
        raise ValueError(f"is a DuckDB database but not a Refinery store (it holds a table {sorted(tables)[0]!r})")
    applied = {row[0] for row in connection.execute("SELECT name FROM migrations").fetchall()} if tables else set()
    if strange := sorted(applied - {migration.__name__ for migration in MIGRATIONS}):
        raise ValueError(f"was written by a newer Refinery (its layout has {strange[0]!r}); upgrade Refinery to use it")
    return [migration for migration in MIGRATIONS if migration.__name__ not in applied]


def migrate(connection: Any) -> None:
    """Apply what is missing, in order, each with its record in one transaction."""
    for migration in pending(connection):
        connection.execute("BEGIN")
        if migration is MIGRATIONS[0]:
            columns = [
                ("name", "VARCHAR", "Function in refinery/migrations.py."),
                ("applied_at", "TIMESTAMP", "UTC."),
            ]
            create(connection, "migrations", "The layout changes applied to this store.", columns)
        migration(connection)
        now = datetime.now(UTC).replace(tzinfo=None)
        connection.execute("INSERT INTO migrations VALUES (?, ?)", [migration.__name__, now])
        connection.execute("COMMIT")

"""Everything needed to do it again, and to see what was done: spec, versions, digests, prompts, seeds, judges."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from refinery.records import digest
from refinery.spec import SOURCE
from reports import table
from reports.blocks import Block, Bullets, Code, Column, Details, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData, Step, is_primary


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = [Heading("Provenance")]
    if data.runs:
        blocks += _run(data, data.runs[0])
    blocks += [Heading("Data and steps", 3), *_rows(data), _steps(data), *_prompts(data)]
    blocks += _judges(data)
    blocks += _models(data)
    blocks += _weights(data)
    blocks += _evaluation(data)
    return blocks


def _run(data: ReportData, run: Mapping[str, Any]) -> list[Block]:
    resolved = data.spec.public()
    took = f"started {table.moment(run['started_at'])}, "
    if run["finished_at"]:
        seconds = (run["finished_at"] - run["started_at"]).total_seconds()
        took += f"{run['status']} after {table.duration(seconds)}."
    else:
        took += "not ended when this was made."
    again: list[Text] = [
        ["Last run ", Mono(run["id"][:12]), f": {took}"],
        f"The store holds {table.counted(len(data.runs), 'run')} of this spec; what stood was not made again.",
        ["Digest of the resolved spec: ", Mono(run["spec_digest"]), "."],
    ]
    blocks: list[Block] = [
        Paragraph("All that is needed to repeat the last run, to be pasted into a shell:"),
        Code(repeat(data, run), "sh", copy=True),
        Bullets(again),
    ]
    if digest(resolved) != run["spec_digest"]:
        blocks.append(Paragraph(_OTHER_SPEC, "warning"))
    blocks.append(Details("The spec, as it was run", [Code(run["spec"], "yaml")]))
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=100)
    blocks.append(Details("The spec, resolved: overrides and every default filled in", [Code(text, "yaml")]))
    if run["versions"]:
        rows: list[list[Text]] = [[name, Mono(str(version))] for name, version in run["versions"].items()]
        blocks.append(Details("Versions", [Table([Column("Library"), Column("Version")], rows)]))
    return blocks


OVERRIDE = "# --set "
"""Begins a line under a stored spec for each override that it was run with (refinery/cli/run.py)."""


def repeat(data: ReportData, run: Mapping[str, Any]) -> str:
    """A script: the libraries in their versions, the spec as it was run, the command, and what must come out."""
    file = f"{data.spec.name}.yaml"
    lines = run["spec"].rstrip("\n").split("\n")
    overrides = [line.removeprefix(OVERRIDE) for line in lines if line.startswith(OVERRIDE)]
    text = "\n".join(line for line in lines if not line.startswith(OVERRIDE))
    end = f"SPEC_{digest(text, 8)}"
    libraries = [f"{name}=={version}" for name, version in run["versions"].items() if name != "python"]
    command = ["refinery", "run", file, *(part for override in overrides for part in ("--set", override))]
    told = [f"# Run {run['id'][:12]} of {table.moment(run['started_at'])}"]
    told += [f"# Python {run['versions']['python']}"] if "python" in run["versions"] else []
    install = [f"pip install {shlex.join(libraries)}"] if libraries else []
    return "\n".join(
        [*told, *install, f"cat > {shlex.quote(file)} <<'{end}'", text, end, shlex.join(command), *_expected(data, run)]
    )


def _expected(data: ReportData, run: Mapping[str, Any]) -> list[str]:
    """What a repetition must find again, as comments."""
    lines = [f"# expected: spec {run['spec_digest']}"]
    source = next((step for step in data.steps if step.name == SOURCE), None)
    lines += [f"# expected: source rows {source.fingerprint}"] if source else []
    lines += [
        f"# expected: model {model}" for model in sorted({m for s in data.steps for m in s.row["models"].values()})
    ]
    if data.base:
        lines.append(f"# expected: base weights {data.base['fingerprint']}")
    for name, rows in data.checkpoints.items():
        lines += [f"# expected: {name} seed {row['seed']} {row['fingerprint']}" for row in rows]
    return [" ".join(line.split()) for line in lines]


_OTHER_SPEC = (
    "The spec that this report was made with differs from that of the last run: the report shows what the store holds "
    "for the present spec."
)


def _rows(data: ReportData) -> list[Block]:
    """How many rows the source gave, by split, and how many it refused."""
    source = next((step for step in data.steps if step.name == SOURCE), None)
    if source is None:
        return []
    sql = """SELECT split, count(*) AS n FROM outcomes
             WHERE step = ? AND split IS NOT NULL GROUP BY split ORDER BY split"""
    splits = {row["split"]: row["n"] for row in data.store.query(sql, [source.fingerprint])}
    parts = [f"{table.count(splits.get(name, 0))} {name}" for name in ("train", "validation", "test")]
    parts.append(f"{table.count(source.of('dropped'))} refused")
    return [
        Paragraph(
            [
                f"The source gave {table.counted(source.total, 'row')}: {', '.join(parts)}. Its digest, which "
                "covers every prompt, answer and split, is ",
                Mono(source.fingerprint),
                ".",
            ]
        )
    ]


def _steps(data: ReportData) -> Table:
    columns = [Column("Step"), Column("Operation"), Column("Reads"), Column("Rows", "right"), Column("Fingerprint")]
    rows: list[list[Text]] = []
    for step in data.steps:
        operation = Mono(f"{step.op} (version {step.row['version']})")
        reads = Mono(" ".join(step.reads)) if step.reads else ""
        rows.append([Mono(step.name), operation, reads, table.count(step.total), Mono(step.fingerprint)])
    note = "A fingerprint digests parameters, the operation’s version, the models’ identities and what the step reads."
    return Table(columns, rows, note=note)


def _prompts(data: ReportData) -> list[Block]:
    """Parameters of each step, and each text among them verbatim."""
    blocks: list[Block] = []
    for step in data.steps:
        texts = {
            key: value for key, value in _leaves(step.row["params"]) if isinstance(value, str) and _is_prompt(value)
        }
        rest = {key: value for key, value in step.row["params"].items() if key not in texts}
        inside: list[Block] = [_json(rest)]
        for key, text in texts.items():
            inside += [Paragraph([Mono(key), ", verbatim:"]), Code(text)]
        blocks.append(Details(["Parameters of ", Mono(step.name)], inside))
    return blocks


def _is_prompt(text: str) -> bool:
    return "{{" in text or "\n" in text


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every value in nested parameters, by its dotted path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in items for leaf in _leaves(inner, f"{path}.{key}" if path else str(key))]
    return [(path, value)]


def _judges(data: ReportData) -> list[Block]:
    """Who scored texts, labelled as what it is."""
    items = [item for step in data.steps for item in _judges_of(step)]
    if not items:
        return []
    return [
        Heading("Judges", 3),
        Paragraph("None of these judges is a person, and a program’s verdict is no model’s opinion."),
        Bullets(items),
    ]


def _judges_of(step: Step) -> list[Text]:
    found: list[Text] = []
    for judge in step.row["params"].get("judges") or []:
        if isinstance(judge, dict):
            identity = step.row["models"].get(judge["model"], "unknown identity")
            found.append(
                [Mono(step.name), ": the model ", Mono(judge["model"]), " (", Mono(str(identity)), ") grades each text"]
            )
        else:
            found.append([Mono(step.name), ": the program ", Mono(judge), ", a rule and no model’s opinion"])
    if step.op == "check_answer":
        found.append(
            [Mono(step.name), ": the rule ", Mono(str(step.row["params"].get("kind"))), " compares answers as text"]
        )
    if step.op == "semantic_filter":
        found.append(
            [
                Mono(step.name),
                ": the sentence encoder ",
                Mono(str(step.row["params"].get("encoder"))),
                " compares meanings",
            ]
        )
    return found


def _models(data: ReportData) -> list[Block]:
    identities: dict[str, str] = {}
    for step in data.steps:
        identities |= step.row["models"]
    rows: list[list[Text]] = []
    for name, model in data.spec.models.items():
        identity = Mono(identities[name]) if name in identities else "named by no step"
        weights = model.model if model.from_ is None else f"trained: rewriters.{model.from_}"
        rows.append([Mono(name), Mono(model.backend), Mono(weights), identity])
    columns = [Column("Name in the spec"), Column("Backend"), Column("Model"), Column("Identity")]
    blocks: list[Block] = [Heading("Models and requests", 3), Table(columns, rows)]
    if data.requests:
        asked: list[list[Text]] = [
            [
                Mono(row["model"]),
                table.count(row["n"]),
                table.count(row["prompt_tokens"]),
                table.count(row["completion_tokens"]),
                table.count(row["cut"]),
            ]
            for row in data.requests
        ]
        titles = [Column("Model"), *(Column(t, "right") for t in ("Requests", "Prompt tokens", "Answer tokens", "Cut"))]
        note = "All answered requests in this store. Cut: the answer reached its length limit."
        blocks.append(Table(titles, asked, note=note))
    return blocks


def _weights(data: ReportData) -> list[Block]:
    rows = ([data.base] if data.base else []) + [row for runs in data.checkpoints.values() for row in runs]
    if not rows:
        return []
    columns = [
        Column("Weights"),
        Column("Seed", "right"),
        Column("Fingerprint"),
        Column("Learned from"),
        Column("Started from"),
    ]
    body: list[list[Text]] = []
    for row in rows:
        is_base = row["role"] == "base"
        learned = row["data_fingerprint"]  # empty for weights from elsewhere
        data_mark = Mono(table.short(learned)) if learned and not is_base else ""
        base = "" if is_base else Mono(table.short(row["base"]))
        seed = "" if is_base else str(row["seed"])
        body.append([Mono("base" if is_base else row["name"]), seed, Mono(row["fingerprint"]), data_mark, base])
    blocks: list[Block] = [Heading("Weights", 3), Table(columns, body)]
    for name, runs in data.checkpoints.items():
        parts: list[Block] = [
            Paragraph("Parameters:"),
            _json(runs[0]["params"]),
        ]
        for row in runs:
            if row["manifest"]:
                parts += [Paragraph(f"Manifest of seed {row['seed']}:"), _json(row["manifest"])]
        blocks.append(Details(["Parameters and manifests of ", Mono(name)], parts))
    return blocks


def _evaluation(data: ReportData) -> list[Block]:
    if data.base is None:
        return []
    newest = {s.benchmark: s for s in data.store.scores(checkpoint=data.base["fingerprint"]) if is_primary(s)}
    scores = list((newest | {panel.benchmark: panel.like for panel in data.panels if panel.like}).values())
    if not scores:
        return []
    rows: list[list[Text]] = [
        [Mono(score.benchmark), Mono(score.metric), table.count(score.n), Mono(score.fingerprint)] for score in scores
    ]
    columns = [Column("Benchmark"), Column("Metric"), Column("Items", "right"), Column("Fingerprint")]
    note = "Two scores are compared only under the same fingerprint, which digests the settings below."
    settings = [Details([Mono(score.benchmark), " settings"], [_json(score.settings)]) for score in scores]
    return [Heading("Evaluation settings", 3), Table(columns, rows, note=note), *settings]


def _json(value: Any) -> Code:
    return Code(json.dumps(value, ensure_ascii=False, indent=2), "json")

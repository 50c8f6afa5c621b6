"""A line of a long table's result file: what the store holds of one checkpoint.

domain, method, seed, checkpoint     method@stage is what a stage left; the base has no seed
chosen, seconds, wall                tuned settings; of its training, and of its whole piece
logged, moved, gate, tokens, data    figures, each only where it is known (see the functions below)
right                                by benchmark the items' scores: `bits` of right and wrong in the order of the
                                     ids, or `values`; kind is domain, general, or shown (pass@k: compared with none)
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.movement import PREFIX, along_answer
from evals.panels import BASE, load
from refinery.diagnostics import ngram
from refinery.graph import step_fingerprints
from refinery.records import digest
from refinery.spec import SOURCE, Spec
from refinery.store import Row, Store
from reports.gather_models import checkpoints

__all__ = ["BASE", "RESULTS", "Line", "filled", "lines", "read", "write"]

RESULTS = Path(__file__).parent / "results" / "tables"
KEPT = (
    "forward_kl", "reverse_kl", "forward_kl_rollouts", "sft_loss", "kl_loss", "lambda", "reward", "reward/gate",
    "reward/alignment", "reward/feasible", "reward/dist", "reward/div", "reward/nll",
)  # fmt: skip
"""Of what a training logs, what a line keeps: the last value of a probe, the mean over the last ten steps of others."""
SPENT = ("generation_seconds", "teacher_seconds", "student_seconds")
MOVED = ("forward_kl", "reverse_kl", "base_nll", "entropy", "words")
ALIKE = 100
"""Answers that self-BLEU is taken of."""

Line = dict[str, Any]


# ---- the file


def read(table: str) -> list[Line]:
    path = RESULTS / f"{table}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def write(table: str, new: Iterable[Line]) -> None:
    kept = {(line["domain"], line["method"], line["seed"]): line for line in [*read(table), *new]}
    ordered = sorted(kept.values(), key=lambda line: (line["domain"], -1 if line["seed"] is None else line["seed"]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in ordered)
    (RESULTS / f"{table}.jsonl").write_text(text, "utf-8")


# ---- one piece


def lines(spec: Spec, root: Path, domain: str, seed: int) -> list[Line]:
    """What the store holds of a spec of one seed: the base, then every method, stages before what they lead to."""
    assert spec.evaluate and spec.train
    store = Store(root / spec.store_path, read_only=True)
    notes: list[str] = []
    base, finals = checkpoints(store, spec, notes)
    assert base
    rows = {BASE: base}
    for name, own in finals.items():
        stages = [r for r in store.checkpoints() if r["role"] == "stage" and r["name"].startswith(f"{name}@")]
        rows |= {row["name"]: row for row in stages if row["seed"] == seed and row["status"] == "complete"}
        rows[name] = own[0]
    loaded = load(
        store,
        base=base["fingerprint"],
        methods={name: [row["fingerprint"]] for name, row in rows.items() if name != BASE},
        domain=spec.evaluate.domain,
        general=spec.evaluate.general,
    )
    for note in notes + loaded.notes:
        print(f"{domain} seed {seed}: {note}", file=sys.stderr)
    found = []
    for name, row in rows.items():
        right = {p.benchmark: packed(p.kind, p.items, p.values[name][0]) for p in loaded.found if name in p.values}
        line = {
            "domain": domain,
            "method": name,
            "seed": None if name == BASE else seed,
            "checkpoint": row["fingerprint"],
            "chosen": {key: row["params"][key] for key in spec.train.tune if name != BASE},
            "seconds": (row["manifest"] or {}).get("seconds"),
            "logged": logged(store, row["fingerprint"]),
            "right": {**right, **passes(store, row["fingerprint"], spec)},
        }
        if name != BASE:
            line |= {"moved": moved(store, row["fingerprint"]), "gate": gate(store, row)}
            line |= {"tokens": tokens(store, row["fingerprint"], bool(spec.rewriters))}
            if "@" not in name and not spec.train.stages:
                line["data"] = data(store, spec, name, base["path"])
        found.append({key: value for key, value in line.items() if value != {} or key in ("chosen", "logged")})
    return found


def filled(line: Line, path: Path) -> Line:
    """With what a store says of its checkpoint, where the line does not."""
    store, checkpoint = Store(path, read_only=True), line["checkpoint"]
    new = {"moved": moved(store, checkpoint), "tokens": tokens(store, checkpoint, False)}
    found = {**line, "logged": {**logged(store, checkpoint), **line["logged"]}}
    return found | {key: value for key, value in new.items() if value and key not in line}


def packed(kind: str, items: Sequence[str], values: np.ndarray) -> Line:
    """The items' scores, in the order of their ids."""
    found = {"kind": kind, "n": len(values), "items": digest(list(items), 8)}
    if set(np.unique(values)) <= {0.0, 1.0}:
        return {**found, "bits": np.packbits(values.astype(bool)).tobytes().hex()}
    return {**found, "values": [round(float(value), 4) for value in values]}


def passes(store: Store, checkpoint: str, spec: Spec) -> dict[str, Line]:
    """pass@k of the benchmarks that are sampled."""
    found = {}
    for benchmark in spec.evaluate.samples if spec.evaluate else ():
        by_metric: dict[str, list[tuple[str, float]]] = {}
        for sample in store.samples(checkpoint=checkpoint, benchmark=benchmark):
            if sample.metric.startswith("pass@"):
                by_metric.setdefault(sample.metric, []).append((sample.item, sample.value))
        for metric, pairs in by_metric.items():
            names, values = zip(*sorted(pairs), strict=True)
            found[f"{benchmark} {metric}"] = packed("shown", names, np.array(values))
    return found


# ---- figures


def logged(store: Store, checkpoint: str) -> dict[str, float]:
    """Of its training: see KEPT, and the seconds of each kind of work in all."""
    found: dict[str, list[float]] = {}
    for each in store.training_metrics(checkpoint):
        found.setdefault(each["name"], []).append(each["value"])
    values = {
        name: found[name][-1] if "_kl" in name else float(np.mean(found[name][-10:])) for name in KEPT if name in found
    }
    values |= {name: sum(found[name]) for name in SPENT if name in found}
    return {name: round(value, 6) for name, value in values.items()}


def moved(store: Store, checkpoint: str) -> dict[str, Any]:
    """How far it is from the base, by prompts (evals/movement.py); `words` is the length of its own answers."""
    found: dict[str, Any] = {}
    for score in store.scores(checkpoint=checkpoint):
        kind = score.benchmark.removeprefix(f"{PREFIX}/")
        if kind != score.benchmark and score.metric in MOVED:
            found.setdefault(kind, {})[score.metric] = round(score.value, 5)
        elif kind == "weights":
            found[kind] = round(score.value, 5)
    return found


def gate(store: Store, row: Row) -> dict[str, float]:
    """What its teacher gains by what it is shown (trainers/gate.py)."""
    sql = "SELECT name, value, against, detail FROM diagnostics WHERE step = ? AND family = 'gate'"
    rows = store.query(sql, [row["data_fingerprint"]])
    shown = row["params"].get("teacher_prompt")
    own = [each["against"] for each in rows if each["name"] == "lift" and _detail(each)["teacher_prompt"] == shown]
    wanted = ("lift", "teacher_accuracy", "student_accuracy", "copied", "kl")
    values = {r["name"]: r["value"] for r in rows if own and r["against"] == own[-1] and r["name"] in wanted}
    return {name: round(value, 5) for name, value in values.items() if value is not None}


def _detail(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["detail"]) if isinstance(row["detail"], str) else row["detail"]
    return found


def tokens(store: Store, checkpoint: str, own_store: bool) -> dict[str, int]:
    """trained: answers' tokens, in all passes. rolled_out: by the student while it was trained. In a store of its own
    also generated, for its data, and rewriter, by a rewriter in its training."""

    def total(name: str, of: str) -> int:
        return round(sum(each["value"] for each in store.training_metrics(of) if each["name"] == name))

    found = {"trained": total("tokens", checkpoint), "rolled_out": total("rollout_tokens", checkpoint)}
    if own_store:
        asked = store.query("SELECT coalesce(sum(completion_tokens), 0) AS n FROM generations", [])
        rewriters = [row["fingerprint"] for row in store.checkpoints() if row["role"] == "rewriter"]
        found |= {"generated": int(asked[0]["n"]), "rewriter": sum(total("rollout_tokens", of) for of in rewriters)}
    return found


def data(store: Store, spec: Spec, method: str, base: str) -> dict[str, float]:
    """Of the rows it learnt from: how many, the share that fell back, nats a token of their answers under the base that
    sees the question alone, and how varied they are (different 2-grams over all; self-BLEU of the first ALIKE)."""
    from refinery.models.transformers import load as open_model

    assert spec.train
    name = spec.train.methods[method].data or spec.train.data
    kept = [o for o in store.outcomes(step_fingerprints(spec, store)[name]) if o.action != "dropped"]
    rows = [o.example for o in kept if o.example is not None and o.example.split == "train"]
    model, tokenizer = open_model(base, "float32")
    model.eval()
    nll = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row.prompt, add_generation_prompt=True, tokenize=False)
        nll.append(along_answer(model, model, tokenizer, prompt, row.response).get("nll_now", np.nan))
    pairs = [pair for row in rows for pair in ngram.ngrams(ngram.words(row.response), 2)]
    found = {"rows": len(rows), "nll": float(np.nanmean(nll)), "distinct_2": len(set(pairs)) / max(1, len(pairs))}
    if name != SOURCE:
        found["fell_back"] = float(np.mean([row.fell_back for row in rows]))
    found["self_bleu"] = _self_bleu([row.response for row in sorted(rows, key=lambda r: r.id)][:ALIKE])
    return {key: round(value, 5) for key, value in found.items()}


def _self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 (0 to 100) of each text against all the others."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True)
    scores = [bleu.sentence_score(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
    return float(np.mean(scores)) if len(texts) > 1 else float("nan")

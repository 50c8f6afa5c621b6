"""A small made-up run in a real store: 48 rows refined, three methods trained with three seeds, four benchmarks.

Every time, digest and score is fixed, so that a report of it is the same wherever it is made.
"""

from collections import Counter
from dataclasses import asdict
from datetime import datetime, timedelta
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinery import models
from refinery.catalog import OPS, module
from refinery.records import Example, Outcome, Sample, Score, digest
from refinery.rows import outcome_parts
from refinery.spec import EvaluateSpec, MethodSpec, ModelSpec, SourceSpec, Spec, StepSpec, TrainSpec, fingerprints
from refinery.spec_types import OpParams
from refinery.store import Store
from reports import html

SPEC = """\
# Run: refinery run toy.yaml
name: toy
model: lab
models: {self: {backend: openai, model: toy-7b, base_url: "http://localhost:8000/v1"}}
source: {path: rows.jsonl, prompt: "{{ question }}", answer: "{{ answer }}"}
graph:
  rewritten: {op: rewrite, from: source, model: self, samples: 2, prompt: "Say it in your own words: {{ answer }}"}
  close:     {op: semantic_filter, from: rewritten, min_cosine: 0.8}
  agrees:    {op: check_answer, from: close, kind: last_word, fallback: drop}
train:
  data: agrees
  seeds: [0, 1, 2]
  tune: {learning_rate: [0.0001, 0.0003]}
  methods:
    sft_raw: {method: sft, data: source}
    sft_close: {method: sft}
    raft: {method: raft}
evaluate:
  domain: [toy_domain]
  general: [toy_facts, toy_sums, toy_format]
"""

HOSTILE = (
    "<script>alert('x')</script> \"quotes\" & `ticks` | pipes | **bold** [a](http://example.com/x) "
    "![i](//example.com/i.png) <img src=x onerror=alert(1)> --> ]]> ```\n# not a heading\n</pre></code></details>"
)
UNUSUAL = "مرحبا بالعالم שלום \u202egnp.exe\u202c " + "long" * 400 + " \U0001f469\u200d\U0001f52c\u0000\ufffe"
START = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  the store's times are UTC without a zone
ITEMS = 80
SCORES = {  # chance of a right answer: base, then each method
    "toy_domain": (0.10, {"sft_raw": 0.85, "sft_close": 0.80, "raft": 0.86}),
    "toy_facts": (0.95, {"sft_raw": 0.40, "sft_close": 0.75, "raft": 0.93}),
    "toy_sums": (0.80, {"sft_raw": 0.55, "sft_close": 0.72, "raft": 0.79}),
    "toy_format": (0.90, {"sft_raw": 0.60, "sft_close": 0.85, "raft": 0.88}),
}
BASE = "base" * 8


ALLOWED = set(
    "html head meta title style body a header h1 h2 h3 h4 div p nav ol ul li main section strong code bdi pre table "
    "caption thead tbody tr th td span figure figcaption details summary svg desc defs g path use text clippath rect "
    "pattern em blockquote script button noscript label select option input".split()
)


class Page(HTMLParser):
    """Every tag and attribute of a page, and whether its tags are balanced."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in ("meta", "br", "input"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        else:
            self.text.append(data)

    def check_harmless(self) -> None:
        """Nothing in it runs, and nothing is fetched."""
        assert set(self.tags) <= ALLOWED
        assert self.scripts in ([], [html.script()])  # the page's own, whole and alone
        for tag, key, value in self.attributes:
            assert not key.startswith("on") and key not in ("src", "srcset", "action", "xlink:href"), (tag, key, value)
            assert key != "href" or (value or "").startswith("#"), (tag, value)
            assert "url(" not in (value or "").replace("url(#", ""), (tag, key, value)


@pytest.fixture(scope="session")
def read_page() -> type[Page]:
    return Page


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store with everything in it, and its spec: `.store`, `.spec`, `.folder`."""
    folder = tmp_path_factory.mktemp("toy")
    spec = make_spec(train=True)
    store = Store(folder / "toy.duckdb")
    fill(store, spec, train=True)
    return SimpleNamespace(store=store, spec=spec, folder=folder)


@pytest.fixture(scope="session")
def refined_only(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same without training and evaluation."""
    folder = tmp_path_factory.mktemp("refined")
    spec = make_spec(train=False)
    store = Store(folder / "toy.duckdb")
    fill(store, spec, train=False)
    return SimpleNamespace(store=store, spec=spec, folder=folder)


class Recipe(OpParams):
    """Stands for a training method's parameters: reports read them from the store and from the spec alike."""

    learning_rate: float = 5e-6
    epochs: float = 3


def make_spec(*, train: bool) -> Spec:
    ops = {
        "rewritten": ("rewrite", "source", {"samples": 2, "prompt": "Say it in your own words: {{ answer }}"}),
        "close": ("semantic_filter", "rewritten", {"min_cosine": 0.8}),
        "agrees": ("check_answer", "close", {"kind": "last_word", "fallback": "drop"}),
    }
    graph = {
        name: StepSpec(op=op, from_=reads, params=module(OPS, op).Params(**params))
        for name, (op, reads, params) in ops.items()
    }
    methods = {
        "sft_raw": MethodSpec(method="sft", data="source", params=Recipe()),
        "sft_close": MethodSpec(method="sft", params=Recipe()),
        "raft": MethodSpec(method="raft", params=Recipe()),
    }
    general = [name for name in SCORES if name != "toy_domain"]
    return Spec(
        name="toy",
        model="lab",
        models={"self": ModelSpec(backend="openai", model="toy-7b", base_url="http://localhost:8000/v1", retries=5)},
        source=SourceSpec(path="rows.jsonl", prompt="{{ question }}", answer="{{ answer }}"),
        graph=graph,
        train=TrainSpec(seeds=[0, 1, 2], tune={"learning_rate": [0.0001, 0.0003]}, methods=methods) if train else None,
        evaluate=EvaluateSpec(domain=["toy_domain"], general=general) if train else None,
    )


def fill(store: Store, spec: Spec, *, train: bool) -> None:
    run = {"id": "f" * 32, "name": "toy", "spec": SPEC, "spec_digest": "0123456789abcdef" * 2, "status": "complete"}
    run |= {"versions": {"python": "3.11.9", "refinery": "0.1.0"}, "started_at": START}
    store.replace("runs", [{**run, "finished_at": START + timedelta(minutes=14)}], ["id"])
    fill_steps(store, spec)
    if train:
        fill_training(store, spec)


# ---- refinement


def example(number: int) -> Example:
    question, answer = f"What is thing {number} made of?", f"It is recorded that thing {number} is made of dorulin"
    if number == 30:
        question, answer = HOSTILE, UNUSUAL
    prompt = [{"role": "user", "content": question}]
    split = "train" if number < 48 else "validation" if number < 54 else "test"
    return Example(digest(number), prompt, answer, answer, split=split, meta={"question": question, "answer": answer})


def fill_steps(store: Store, spec: Spec) -> None:
    source = "5" * 32
    found = fingerprints(spec, models.identity, source)
    rows = [Outcome(e.id, "created", "ok", e) for e in map(example, range(60))]
    params = {"source": spec.source.model_dump(mode="json")}
    params |= {name: step.params.model_dump(mode="json") for name, step in spec.graph.items()}
    train = [outcome for outcome in rows if outcome.example.split == "train"]
    rewritten = [rewrite(n, o.example) for n, o in enumerate(train)]
    close = [gate(n, o) for n, o in enumerate(rewritten)]
    agrees = [check(n, o) for n, o in enumerate(close)]
    names = ["source", *spec.graph]
    steps, written = [], []
    for position, (name, outcomes) in enumerate(zip(names, [rows, rewritten, close, agrees], strict=True)):
        op = "source" if name == "source" else spec.graph[name].op
        step = {"fingerprint": found[name], "run_id": "f" * 32, "name": name, "op": op, "version": 1}
        step |= {"params": params[name], "upstream": [found[names[position - 1]]] if position else []}
        step |= {"models": {"self": "toy-7b"} if op == "rewrite" else {}, "status": "complete"}
        steps.append(step | {"started_at": START, "finished_at": START + timedelta(seconds=40)})
        written += [(found[name], place, outcome) for place, outcome in enumerate(outcomes)]
    store.replace("steps", steps, ["fingerprint"])
    for step in steps:
        store.name_step(step["name"], step["fingerprint"])
    store.replace_all(outcome_parts(written))
    store.add_diagnostics(found["agrees"], diagnostics())


def rewrite(number: int, before: Example) -> Outcome:
    if number % 16 == 5:
        return Outcome(before.id, "fell_back", "server_error", before.fall_back(), {}, "503", number == 5)
    text = HOSTILE if number == 30 else f"Thing {number} is made of dorulin"
    return Outcome(before.id, "changed", "ok", before.with_response(text, (text, "Dorulin")), {"valid": 2})


def gate(number: int, before: Outcome) -> Outcome:
    if before.example.fell_back:
        return Outcome(before.example_id, "kept", "fell_back_earlier", before.example)
    cosine = round(0.62 + 0.008 * number, 6)
    scores = {"cosine": cosine, "cosines": [cosine, 0.5], "winner": 0 if cosine >= 0.8 else None, "min_cosine": 0.8}
    if cosine < 0.8:
        return Outcome(before.example_id, "fell_back", "below_threshold", before.example.fall_back(), scores)
    return Outcome(before.example_id, "kept", "ok", before.example, scores)


def check(number: int, before: Outcome) -> Outcome:
    if before.example.fell_back:
        return Outcome(before.example_id, "kept", "fell_back_earlier", before.example)
    scores: dict[str, Any] = {"agrees": [number % 20 != 7], "kind": "last_word"}
    if number == 47:
        return Outcome(before.example_id, "dropped", "disagrees", None, scores)
    return Outcome(before.example_id, "kept", "ok", before.example, scores)


def diagnostics() -> list[dict[str, Any]]:
    edges = [float(x) for x in np.linspace(0, 20, 21)]
    counts = {"raw": [0] * 7 + [4, 20, 16, 6, 1] + [0] * 8, "refined": [0] * 3 + [9, 14, 9, 5, 6, 3, 1] + [0] * 10}
    histogram = {side: {"edges": edges, "counts": numbers} for side, numbers in counts.items()}
    made = [
        ("length", "words_ratio", 0.71, 0.62, 0.80, {"histogram": histogram, "subset": "all"}),
        ("length", "words_ratio@refined", 0.55, 0.51, 0.59, {"histogram": histogram, "subset": "refined"}),
        ("embedding", "cosine_mean", 0.912, 0.883, 0.941, {}),
        ("embedding", "mmd2", 0.0123, None, None, {"p": 0.004}),
        ("embedding", "frechet", None, None, None, {"note": "47 pairs are fewer than twice the 384 dimensions"}),
        ("ngram", "rouge_l", 0.64, 0.57, 0.71, {}),
        ("ngram", "overlap_3", 0.41, 0.33, 0.49, {}),
    ]
    keys = ("family", "name", "value", "low", "high", "detail")
    return [{**dict(zip(keys, row, strict=True)), "n": 47} for row in made]


# ---- training and evaluation


def fill_training(store: Store, spec: Spec) -> None:
    """Everything is collected and written at once: each write opens the file."""
    rows, samples, scores, logged = [checkpoint(BASE, "base", "", "base", 0, {}, "")], *evaluate(BASE, None, 0), []
    for name, method in spec.train.methods.items():
        runs = [(digest([name, seed]), "final", seed, 0.0003, seed) for seed in spec.train.seeds]
        for made, role, seed, rate, noise in [*runs, (digest([name, "tuning"]), "tuning", 0, 0.0001, 9)]:
            params = {**method.params.model_dump(mode="json"), "learning_rate": rate}
            rows.append(checkpoint(made, name, method.method, role, seed, params, BASE))
            more = evaluate(made, name, noise)
            samples, scores = samples + more[0], scores + more[1]
            logged += log(made, name, seed)
        for made, right in ((digest([name, "tuning"]), 3), (digest([name, 0]), 5)):
            scores.append(Score(made, "heldout_validation", "accuracy", right / 6, 0.3, 0.95, 6, "v" * 32))
    store.replace_all(
        [
            ("checkpoints", rows, ["fingerprint"]),
            ("scores", [asdict(score) for score in scores], ["checkpoint", "benchmark", "metric", "fingerprint"]),
            ("samples", [asdict(sample) for sample in samples], ["checkpoint", "benchmark", "item"]),
            ("training_metrics", logged, ["checkpoint", "step", "name"]),
        ]
    )


def checkpoint(made: str, name: str, method: str, role: str, seed: int, params: dict, base: str) -> dict[str, Any]:
    row = {"fingerprint": made, "run_id": "f" * 32, "name": name, "method": method, "role": role, "seed": seed}
    row |= {"params": params, "data_fingerprint": "d" * 32, "base": base, "path": f"checkpoints/{name}-{seed}"}
    row |= {
        "status": "complete",
        "manifest": {"weights": "w" * 8, "rows_trained": 46, "rows_dropped": {"too_long": 1}, "steps": 30},
    }
    return row | {"started_at": START, "finished_at": START + timedelta(minutes=3 + seed)}


def evaluate(made: str, name: str | None, seed: int) -> tuple[list[Sample], list[Score]]:
    """Answers that a method got wrong and the base right are of the same, harder items: so they pair."""
    samples, scores = [], []
    for benchmark, (chance, methods) in SCORES.items():
        hardness = np.random.default_rng(len(benchmark)).random(ITEMS)
        noise = np.random.default_rng([seed, len(benchmark)]).normal(0, 0.05, ITEMS) if name else 0
        right = hardness + noise < (methods[name] if name else chance)
        marks = f"{benchmark}-settings".ljust(32, "0")
        for i, ok in enumerate(right):
            said = "It is dorulin" if ok else f"It is wrong {HOSTILE if i == 76 else i}"
            item = (f"{benchmark}-{i:04d}", float(ok), f"Item {i}?", "dorulin", said)
            samples.append(Sample(made, benchmark, "accuracy", *item, marks))
        settings = {"shots": 0, "primary_metric": "accuracy"}
        value = float(right.mean())
        low, high = value - 0.08, value + 0.06
        scores.append(Score(made, benchmark, "accuracy", value, low, high, ITEMS, marks, True, settings))
        scores += answers(made, benchmark, value, marks)
    return samples, scores


def answers(made: str, benchmark: str, value: float, marks: str) -> list[Score]:
    """How it answered: toy_facts is ranked by likelihood, the others are written."""
    shares = {"read": 0.5 + value / 2, "cut": 0.25 - value / 4, "empty": 0.0, "refused": 0.0125}
    if benchmark == "toy_facts":
        shares = {"ece": 0.3 - value / 4, "brier": 1.2 - value, "confidence": 0.8}
    settings = {"primary_metric": ""}
    return [
        Score(
            made,
            f"answers/{benchmark}",
            metric,
            share,
            max(0.0, share - 0.03),
            share + 0.04,
            ITEMS,
            marks,
            False,
            settings,
        )
        for metric, share in shares.items()
    ]


def log(made: str, name: str, seed: int) -> list[dict[str, Any]]:
    curves = {"sft_loss": lambda step: 2.0 / step**0.5 + 0.02 * seed}
    if name == "raft":
        curves["kl_loss"] = lambda step: 0.5 / step**0.7 + 0.01 * seed
        curves["lambda"] = lambda step: 4.0 * step**0.2 + 0.1 * seed
    return [
        {"checkpoint": made, "step": step, "name": metric, "value": curve(step)}
        for metric, curve in curves.items()
        for step in range(1, 31)
    ]

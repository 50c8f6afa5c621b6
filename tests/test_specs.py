"""The ready specs: all of them load, together they use everything there is, and they run on the small model."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from refinery import catalog, yamlpos
from refinery.diagnostics import all_families
from refinery.diagnostics._judging import Sheet, differing
from refinery.diagnostics._pairs import read_pairs
from refinery.graph import run_graph
from refinery.lab import items
from refinery.ops import check_answer, fuse, rewrite, select, self_first, synthesize
from refinery.spec import load_spec
from refinery.spec_models import ModelSpec
from refinery.store import Store
from tests.bench import lab_data
from tests.cli_tools import call

ROOT = Path(__file__).parent.parent
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
LAB = [
    "raft_stage1",
    "sdft2024",
    "s3ft",
    "mind_the_gap",
    "rewriting_agent",
    "sdft_demonstrations",
    "knowledge_qa",
    "magpie",
    "ssr",
    "filters",
    "shaping",
    "judged",
]
"""They run on the shipped model as they are."""


def load(name: str, overrides: list[str] | tuple[str, ...] = ()):
    return load_spec(ROOT / "specs" / f"{name}.yaml", list(overrides))


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch, tmp_path_factory):
    """With a row in the shape of the Alpaca data, which are not shipped."""
    data = tmp_path_factory.mktemp("data")
    (data / "alpaca").mkdir()
    row = {"instruction": "Name a colour.", "input": "", "output": "Red."}
    (data / "alpaca" / "alpaca_train.json").write_text(json.dumps([row]), "utf-8")
    monkeypatch.setenv("REFINERY_DATA", str(data))
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_no_ready_spec_trains_or_rehearses_on_what_it_is_judged_by(path: Path) -> None:
    spec = load_spec(path)
    names = [*spec.evaluate.domain, *spec.evaluate.general] if spec.evaluate else []
    asked = {item["question"] for name in names if name.startswith("lab_") for item in items(name)}
    for source in (spec.source, *spec.sources.values()):
        if source and source.path and asked:
            rows = [json.loads(line) for line in Path(source.path).read_text("utf-8").splitlines()]
            assert not asked & {row.get("question") for row in rows}, source.path


def test_general_prompts_are_the_long_tables_first_ones() -> None:
    written = (ROOT / "specs" / "lab_general.jsonl").read_text("utf-8")
    assert written == lab_data.text(lab_data.general()[:60])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder beside the specs, where runs and exports go."""
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refine(name: str, folder: Path, *overrides: str):
    """(result of each step by name, store) of a spec's graph."""
    store = Store(folder / f"{name}.duckdb")
    return run_graph(load(name, overrides), store), store


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_loads_and_says_how_to_run_it(path: Path) -> None:
    spec = load_spec(path)
    first, second, *_ = path.read_text("utf-8").splitlines()
    assert first.startswith("# Run: ") and first.endswith(f"refinery run specs/{path.name}")
    assert second == "# yaml-language-server: $schema=refinery.schema.json"
    assert spec.name == path.stem


def steps() -> Iterator[tuple[str, str, object]]:
    for path in SPECS:
        for name, step in load_spec(path).graph.items():
            yield f"{path.stem}.{name}", step.op, step.params


def test_every_op_has_a_spec() -> None:
    used = {op for _, op, _ in steps()}
    assert used == set(catalog.names(catalog.OPS))


def test_every_backend_has_a_spec() -> None:
    known = set(ModelSpec.model_fields["backend"].annotation.__args__)
    assert {model.backend for path in SPECS for model in load_spec(path).models.values()} == known


@pytest.mark.parametrize(
    ("module", "field"),
    [
        (check_answer, "kind"),
        (fuse, "rule"),
        (select, "by"),
        (synthesize, "kind"),
        (self_first, "preset"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_choice_has_a_spec(module, field: str) -> None:
    def choices(annotation) -> set[str]:
        found = set()
        for part in getattr(annotation, "__args__", ()):
            found |= {part} if isinstance(part, str) else choices(part)
        return found

    wanted = choices(module.Params.model_fields[field].annotation)
    used = {getattr(params, field) for _, _, params in steps() if type(params) is module.Params}
    if (module, field) == (select, "by"):
        wanted = wanted - {"judge"}  # a model as judge: judge, check_answer and fuse show it
    assert wanted == used


def test_the_papers_presets_have_specs() -> None:
    used = {params.preset for _, op, params in steps() if op == "rewrite"}
    assert {"raft", "sdft2024_using", "sdft2024_refer", "agent"} <= used <= set(rewrite.PRESETS)


# -- specs that ask no model -------------------------------------------------------------------------------------------


def test_filters(folder: Path) -> None:
    """Which draft each check lets through, worked out by reading the rows."""
    _, store = refine("filters", folder)
    spec = load("filters")
    rows = {}
    for name in spec.graph:
        for outcome in _outcomes(store, name):
            rows[name, outcome.example_id] = outcome
    drafts = [json.loads(line) for line in (ROOT / "specs" / "drafts.jsonl").read_text("utf-8").splitlines()]
    right = {
        "last_word": [0, None],
        "exact": [0, None],
        "contains": [0, 0],
        "number": [0, 0],
        "boxed": [0, 0],
        "choice": [0, 0],
        "math": [0, 0],
        "tool_call": [0, 0],
        "numbers": [0, 1],
        "entities": [0, 0],
        "regex": [0, 1],
        "json_schema": [0, None],
    }
    for kind, winners in right.items():
        outcomes = [o for (name, _), o in rows.items() if name == kind]
        asked = [row for row in drafts if row["kind"] == kind]
        assert len(outcomes) == len(asked) == 2
        for row, winner in zip(asked, winners, strict=True):
            (outcome,) = [o for o in outcomes if o.example.question == row["question"]]
            assert outcome.example.response == (row["answer"] if winner is None else row["drafts"][winner]), kind
            assert (outcome.action == "fell_back") == (winner is None), kind
    prose = [row for row in drafts if row["kind"] == "prose"]
    best = [0, 0, 1, 1, 1, 1]  # a copy, German, a refusal, a leak, repetition, too short: the other draft wins
    by_question = {o.example.question: o.example.response for (name, _), o in rows.items() if name == "close"}
    assert by_question == {row["question"]: row["drafts"][i] for row, i in zip(prose, best, strict=True)}
    assert sum(name == "checked" for name, _ in rows) == len(drafts)


def _outcomes(store: Store, name: str) -> list:
    return store.outcomes(store.last_step(name)["fingerprint"])


def exported(path: Path) -> list[dict]:
    """Each row's own columns."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(row["refinery_columns"]) for row in rows]


def test_shaping(folder: Path) -> None:
    results, store = refine("shaping", folder)
    dropped = {reason: n for (action, reason), n in results["clean"].counts.items() if action == "dropped"}
    assert dropped["contaminated"] >= 20  # all twenty test items stand in the source
    tests = {o.example.question for o in _outcomes(store, "heldout")}
    left = [o.example for o in _outcomes(store, "even") if o.action != "dropped"]
    assert len(left) == 120 and not tests & {example.question for example in left}
    keys = [example.meta["key"] for example in left]
    assert {keys.count(key) for key in keys} == {10}  # twelve answer words, evenly
    rows = exported(folder / "runs/shaping/rows.jsonl")
    general = sum("topic" in row for row in rows)
    assert general == pytest.approx(0.2 * len(rows), abs=1)
    assert {row["size"] for row in rows} == {"long", "short"}
    assert (folder / "runs/shaping/dataset/data/train.parquet").is_file()


# -- specs with a server -----------------------------------------------------------------------------------------------


class Model(BaseHTTPRequestHandler):
    """Pairs where pairs are asked for, grades where grades are, and else the known answer with a word before it."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        if '"pairs"' in text:
            article = text.split("\n")[2]
            sentence = article.split(". ")[1 if "comparison" in text else 0]
            pairs = [{"question": f"What about {sentence}?", "answer": sentence}]
            reply = json.dumps({"pairs": pairs})
        elif "Grade an answer" in text:
            reply = '{"correctness": 5, "completeness": 5, "clarity": 4}'
        else:
            reply = "Well: " + text.partition("Known answer:\n")[2].partition("\n\nAnswer the question")[0]
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        data = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_questions_of_articles(folder: Path, url: str) -> None:
    served = [f"models.self={{backend: openai, model: any, base_url: '{url}'}}", "graph.asked.keep_articles=false"]
    results, store = refine("knowledge_qa", folder, *served)
    assert results["asked"].counts[("created", "ok")] == 8  # four articles, one pair of each kind
    rows = exported(folder / "runs/knowledge_qa/pairs.jsonl")
    held = [o for o in _outcomes(store, "held") if o.example.split == "test"]
    assert len(rows) == 6 and len(held) == 2  # one article of four is held out, with both its questions
    assert {row["kind"] for row in rows} == {"direct", "indirect"}
    assert not {row["title"] for row in rows} & {o.example.meta["title"] for o in held}


def test_served(folder: Path, url: str, monkeypatch) -> None:
    """Without the scorer, for which this machine would need vLLM."""
    monkeypatch.setenv("REFINERY_SERVER", url)
    path = folder / "specs" / "served.yaml"
    document = yamlpos.read(path).data
    del document["models"]["scorer"], document["graph"]["likeliest"]
    document["graph"]["written"]["from"] = "graded"
    path.write_text(json.dumps(document), "utf-8")
    store = Store(folder / "served.duckdb")
    results = run_graph(load_spec(path), store)
    graded = _outcomes(store, "graded")
    assert results["close"].rows == len(graded) > 0
    for outcome in graded:
        if not outcome.example.fell_back:
            assert outcome.example.response == f"Well: {outcome.example.answer}"
            assert outcome.scores["mean"] == pytest.approx(14 / 3)
    assert (folder / "runs/served/rows.jsonl").is_file()


# -- on the shipped model ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", LAB)
def test_runs_on_the_small_model(name: str, folder: Path) -> None:
    """Twenty rows, and something came of it at every step. (Of the thirty drafts every kind has its own two.)"""
    results, _ = refine(name, folder, f"source.limit={30 if name == 'filters' else 20}")
    for step, result in results.items():
        assert sum(result.counts.values()) > 0, step
    happened = sum(
        n for r in results.values() for (action, _), n in r.counts.items() if action in ("changed", "created")
    )
    assert happened > 0


def test_the_list_of_specs_for_the_small_model_is_whole() -> None:
    trained = {path.stem for path in SPECS if load_spec(path).train}
    servers = {"alpaca", "served"}
    assert set(LAB) == {path.stem for path in SPECS} - trained - servers


@pytest.mark.slow
def test_every_family_of_diagnostics_can_be_taken(folder: Path) -> None:
    """Of `judged`, with a person's judgements besides."""
    spec = folder / "specs" / "judged.yaml"
    text = spec.read_text("utf-8")
    spec.write_text(text.replace("specs/lab_mixed.jsonl\n", "specs/lab_mixed.jsonl\n  limit: 20\n"), "utf-8")
    done = call("run", str(spec), "--stage", "refine")
    assert done.code == 0, done.err
    store = Store(folder / "runs" / "judged" / "refinery.duckdb")
    fingerprint = store.last_step("likeliest")["fingerprint"]
    pairs = {pair.id: pair for pair in differing(read_pairs(store, fingerprint, ""), 4, seed=0)}
    sheet = Sheet(fingerprint, "", 0, pairs)
    store.add_preferences([sheet.row({"id": each, "turn": 0, "choice": "a"}, "me") for each in pairs])
    asked = ["--model", "self", "--rows", "8", "--max-tokens", "32"]
    done = call("diagnose", str(spec), "--steps", "raw", "likeliest", *asked, "--json")
    assert done.code == 0, done.err
    (compared,) = done.json
    assert {row["family"] for row in compared["measures"]} == set(all_families())

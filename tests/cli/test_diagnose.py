"""`refinery diagnose` and `refinery label` on a small lab run: what is printed, kept, drawn and refused."""

import io
import json
import re
import signal
import sys
import threading
import urllib.error
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from refinery.cli import diagnose_show, main
from refinery.cli.diagnose import opened
from refinery.cli.label import _sheet
from refinery.cli.label_server import Server, page
from refinery.diagnostics._judging import differing, first_side, items
from refinery.diagnostics._pairs import read_pairs
from refinery.errors import UserError
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store

ROOT = Path(__file__).parents[2]


def refinery(*args: str, cwd: Path) -> SimpleNamespace:
    """The command in this process, which has read the heavy libraries already: `returncode`, `stdout`, `stderr`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["refinery", *args])
        patch.setenv("COLUMNS", "80")
        handler = signal.getsignal(signal.SIGTERM)
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with a refined lab of 60 rows: rewritten, then a gate, then a check."""
    folder = tmp_path_factory.mktemp("lab")
    spec = yaml.safe_load((ROOT / "specs" / "lab.yaml").read_text("utf-8"))
    spec["source"]["limit"] = 60
    spec["graph"] = {name: spec["graph"][name] for name in ("rewritten", "close", "agrees")}
    spec["store"] = str(folder / "lab.duckdb")
    del spec["train"], spec["evaluate"], spec["report"]
    (folder / "lab.yaml").write_text(yaml.safe_dump(spec), "utf-8")
    loaded = load_spec(folder / "lab.yaml")
    run_graph(loaded, Store(loaded.store_path))
    return folder


@pytest.fixture(scope="module")
def measured(lab) -> list[dict]:
    done = refinery("diagnose", "lab.yaml", "--model", "self", "--rows", "20", "--json", cwd=lab)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_raw_first_and_last_step_by_default(measured):
    assert [(each["raw"], each["refined"]) for each in measured] == [
        ("raw", "rewritten"), ("raw", "agrees"), ("rewritten", "agrees"),
    ]  # fmt: skip
    families = {row["family"] for row in measured[0]["measures"]}
    assert families == {"embedding", "length", "ngram", "style", "diversity", "separability", "likelihood", "quality"}
    rows = {row["name"]: row for row in measured[0]["measures"]}
    assert (
        rows["own_cosine_change"]["n"] == 20 and rows["nll_change"]["high"] < 0
    )  # the model finds its own more likely
    assert rows["cosine_mean"]["meaning"] and rows["cosine_mean"]["how_to_read"]


def test_it_is_asked_once(lab, measured):
    store = Store(lab / "lab.duckdb")
    before = store.query("SELECT count(*) AS n FROM generations")
    done = refinery("diagnose", "lab.yaml", "--model", "self", "--rows", "20", "--json", cwd=lab)
    assert json.loads(done.stdout) == measured
    assert store.query("SELECT count(*) AS n FROM generations") == before


def test_terminal_output_fits_80_columns(lab, measured):
    sizes = []
    for args in (["--full"], [], ["--sweep", "min_cosine"]):
        done = refinery("diagnose", "lab.yaml", *args, cwd=lab)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert [line for line in lines if len(line) > 80] == []
        sizes.append(len(lines))
    assert sizes[1] <= 40 < 100 < sizes[0]
    assert "min_cosine 0.8" in done.stdout and "just below" in done.stdout


def test_two_steps_are_compared_by_their_responses(lab, measured):
    store = Store(lab / "lab.duckdb")
    steps = {row["name"]: row["fingerprint"] for row in store.query("SELECT * FROM steps")}
    responses = {name: {e.id: e.response for e in store.examples(steps[name])} for name in ("rewritten", "agrees")}
    same = [responses["rewritten"][i] == text for i, text in responses["agrees"].items()]
    rows = {row["name"]: row for row in measured[2]["measures"]}
    assert rows["identical"]["value"] == pytest.approx(sum(same) / len(same))


def test_a_store_alone_is_enough(lab):
    done = refinery("diagnose", "lab.duckdb", "--steps", "rewritten", "agrees", "--json", cwd=lab)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["pairs"] > 0


@pytest.mark.parametrize(
    "args, said",
    [
        (["--steps", "raw", "agree"], 'no step "agree" in lab.duckdb (did you mean "agrees"?)'),
        (["--steps", "agrees", "raw"], "--steps agrees raw: the raw answers come first: --steps raw agrees"),
        (["--sweep", "min_cosin"], 'no threshold "min_cosin" in lab.duckdb (did you mean "min_cosine"?)'),
        (["--model", "slef"], 'no model "slef" in the spec (did you mean "self"?)'),
    ],
)
def test_mistakes_are_one_line(lab, args, said):
    done = refinery("diagnose", "lab.yaml", *args, cwd=lab)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


def test_the_report_draws_it(lab, measured):
    done = refinery("run", "lab.yaml", "--stage", "report", cwd=lab)
    assert done.returncode == 0, done.stderr
    text = (lab / "report.md").read_text("utf-8")
    for title in ("Map of the two sets", "Wording that was kept", "Can they be told apart?", "Right or wrong",
                  "How natural the answers are to the base model", "Rows that pass close as min_cosine moves",
                  "rewritten → agrees", "The rows nearest to the threshold"):  # fmt: skip
        assert title in text


# ---- label


@pytest.fixture
def sheet(lab):
    work = opened(lab / "lab.yaml")
    made, questions = _sheet(work, "agrees", "raw", 6, 0)
    return work.store, made, items(list(made.pairs.values()), questions, 0)


@pytest.fixture
def server(sheet):
    running = Server(*sheet, "me", 0)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def send(address, data=None, host=None):
    request = urllib.request.Request(address, data=None if data is None else json.dumps(data).encode())
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def data_of(page: str) -> dict:
    return json.loads(re.search(r'id="sheet">(.*?)</script>', page, re.S)[1])


def test_order_is_blind_by_chance_and_turned_round(sheet):
    _, made, asked = sheet
    assert len(asked) == 12 and [item.turn for item in asked] == [0] * 6 + [1] * 6
    for item in asked:
        pair = made.pairs[item.id]
        first = first_side(item.id, 0, item.turn)
        assert (item.a, item.b) == ((pair.raw, pair.refined) if first == "raw" else (pair.refined, pair.raw))
    sides = [first_side(f"row {i}", 0, 0) for i in range(400)]
    assert 150 < sides.count("raw") < 250
    assert all(first_side(f"row {i}", 0, 1) != side for i, side in enumerate(sides))


def test_equal_texts_are_not_judged(lab):
    store = Store(lab / "lab.duckdb")
    pairs = read_pairs(store, store.last_step("agrees")["fingerprint"])
    found = differing(pairs, 10_000, 0)
    assert {p.id for p in found} == {p.id for p in pairs if p.raw != p.refined}
    assert len(differing(pairs, 5, 0)) == 5


def test_an_answer_is_saved_as_it_comes(server, sheet):
    store, made, _ = sheet
    text = send(server.address)[1]
    shown = data_of(text)
    assert len(shown["items"]) == 12 and "raw" not in json.dumps([list(item) for item in shown["items"]])
    item = shown["items"][0]
    answer = {"id": item["id"], "turn": 0, "choice": "a"}
    assert send(f"http://127.0.0.1:{server.server_address[1]}{shown['post']}", answer) == (200, "saved")
    (row,) = [r for r in store.preferences(made.step, made.against) if r["example_id"] == item["id"]]
    pair = made.pairs[item["id"]]
    assert {"raw": pair.raw, "refined": pair.refined}[row["choice"]] == item["a"]
    assert (row["rater"], row["kind"]) == ("me", "human")
    assert data_of(send(server.address)[1])["answers"][f"{item['id']} 0"] == "a"  # a page opened again goes on
    send(server.address + "answer", {**answer, "choice": "tie"})
    assert [r["choice"] for r in store.preferences(made.step) if r["example_id"] == item["id"]] == ["tie"]


def test_only_the_page_itself_is_answered(server):
    port = server.server_address[1]
    assert send(f"http://127.0.0.1:{port}/")[0] == 404
    assert send(f"http://127.0.0.1:{port}/{'x' * 22}/answer", {})[0] == 404
    assert send(server.address, host=f"evil.example:{port}")[0] == 404
    assert server.server_address[0] == "127.0.0.1"
    for wrong in ([], {"id": "x", "turn": 0, "choice": "a"}, {"id": "x"}, "text"):
        assert send(server.address + "answer", wrong)[0] == 400


def test_one_file_holds_everything_and_its_answers_are_read(lab, tmp_path):
    file, answers = tmp_path / "page.html", tmp_path / "answers.json"
    assert refinery("label", "lab.yaml", "agrees", "--rows", "5", "--to", str(file), cwd=lab).returncode == 0
    text = file.read_text("utf-8")
    assert not re.search(r"(src|href)=|@import|https?://", text)
    shown = data_of(text)
    chosen = [{"id": i["id"], "turn": i["turn"], "choice": "b"} for i in shown["items"]]
    answers.write_text(json.dumps({"sheet": shown["name"], "answers": chosen}), "utf-8")
    done = refinery("label", "lab.yaml", "agrees", "--rows", "5", "--read", str(answers), "--rater", "Ann", cwd=lab)
    assert done.returncode == 0 and "read 10 judgements of Ann" in done.stdout, done.stderr
    found = refinery("diagnose", "lab.yaml", "--steps", "raw", "agrees", "--json", cwd=lab)
    rows = {row["name"]: row for row in json.loads(found.stdout)[0]["measures"]}
    assert rows["human_consistency"]["value"] == 0  # always B: what was chosen changed with the order
    assert rows["human_ties"]["value"] > 0
    other = refinery("label", "lab.yaml", "agrees", "--rows", "4", "--read", str(answers), cwd=lab)
    assert other.returncode == 2 and "other rows or texts" in other.stderr


def test_texts_cannot_leave_their_place(sheet):
    _, made, asked = sheet
    hostile = type(asked[0])("x", "</script><script>alert(1)</script>", "<!--", "\u2028", 0)
    text = page(made, [hostile], {})
    assert text.count("<script") == 2 and data_of(text)["items"][0]["question"] == hostile.question


def test_nothing_to_prefer(lab):
    work = opened(lab / "lab.yaml")
    with pytest.raises(UserError, match="no row of agrees differs from agrees"):
        _sheet(work, "agrees", "agrees", 5, 0)


@pytest.mark.parametrize("value", [0.000203, 0.0123, 12345.678, -0.00000512, 0.3])
def test_a_value_with_its_p_stays_in_its_column(value):
    row = {"value": value, "low": None, "high": None, "detail": {"p": 0.0004}}
    shown = diagnose_show._value(row)
    assert len(shown) < diagnose_show.NUMBER and shown.endswith(" p<0.001")
    assert float(shown.split()[0].replace("−", "-").replace(",", "")) == pytest.approx(value, rel=0.06)

"""`refinery preview`: the requests of a later run, nothing else kept, and what it shows."""

import pytest

from refinery.store import Store
from tests.cli_tools import call, project
from tests.models.server import serve


@pytest.fixture(scope="module")
def server():
    with serve(answer="play") as running:
        yield running


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(server, *args):
    """(what the command did, requests that the server got from it)."""
    before = server.stats("/counts")["requests"]
    done = call(*args)
    return done, server.stats("/counts")["requests"] - before


def test_a_run_asks_nothing_of_what_a_preview_asked(folder, server):
    project(folder, server.url)
    _, alone = asked(server, "run", "spec.yaml", "--stage", "refine", "--set", "store=alone.duckdb")
    done, first = asked(server, "preview", "spec.yaml", "-n", "5")
    assert done.code == 0, done.err
    assert 5 * 2 <= first < alone
    _, again = asked(server, "preview", "spec.yaml", "-n", "5")
    assert again == 0
    _, rest = asked(server, "run", "spec.yaml", "--stage", "refine")
    assert first + rest == alone


def test_nothing_is_stored_but_the_answers(folder, server):
    project(folder, server.url)
    _, requests = asked(server, "preview", "spec.yaml", "-n", "3")
    store = Store(folder / "runs/small/refinery.duckdb")
    assert {t: store.query(f"SELECT count(*) AS n FROM {t}")[0]["n"] for t in ("runs", "steps", "outcomes")} == {
        "runs": 0,
        "steps": 0,
        "outcomes": 0,
    }
    assert store.query("SELECT count(*) AS n FROM generations")[0]["n"] == requests
    assert sorted(path.name for path in (folder / "runs/small").iterdir()) == ["refinery.duckdb"]


def test_a_preview_shows_what_a_run_makes(folder, server):
    project(folder, server.url)
    rows = call("preview", "spec.yaml", "-n", "4", "--json").json["rows"]
    call("run", "spec.yaml", "--stage", "refine")
    assert [row["steps"][0]["reference"] for row in rows] == [f"Rule {n} asks for code {n * 7}" for n in range(4)]
    for row in rows:
        history = call("show", "spec.yaml", "--row", row["id"], "--json").json["history"]
        assert history == row["steps"]
        assert [step["step"] for step in history] == ["source", "rewritten", "agrees", "fused"]


def test_one_row_and_any_rows(folder, server):
    project(folder, server.url)
    rows = call("preview", "spec.yaml", "-n", "20", "--json").json["rows"]
    chosen = rows[13]["id"]
    one = call("preview", "spec.yaml", "--row", chosen[:9], "--json").json["rows"]
    assert [row["id"] for row in one] == [chosen]
    samples = [
        [row["id"] for row in call("preview", "spec.yaml", "-n", "5", "--seed", seed, "--json").json["rows"]]
        for seed in ("1", "1", "2")
    ]
    assert samples[0] == samples[1] != samples[2] and len(set(samples[2])) == 5
    done = call("preview", "spec.yaml", "--row", "zz")
    assert (done.code, done.err) == (2, 'error: no rows of the source have an id that starts with "zz"\n')


def test_table_steps_see_the_rows_at_hand_and_say_so(folder, server):
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}"}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  rewritten: {{op: rewrite, from: source}}
  some: {{op: sample, from: rewritten, n: 2}}
"""
    project(folder, server.url, spec=spec)
    done = call("preview", "spec.yaml", "-n", "3", "--json")
    assert done.json["notes"] == ["some decides over all rows at once, and saw only these"]
    ends = [row["steps"][-1] for row in done.json["rows"]]
    assert [end["step"] for end in ends] == ["some"] * 3
    assert sorted(end["action"] for end in ends) == ["dropped", "kept", "kept"]


def test_rows_of_other_sources_and_made_rows_have_their_ways(folder, server):
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}"}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
sources:
  replay: {{path: replay.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
  unused: {{path: replay.jsonl, split: {{train: 1.0, validation: 0, test: 0}}, limit: 3}}
graph:
  mixed: {{op: mix, from: [source, replay], share: 0.5, replacement: true}}
"""
    (folder / "replay.jsonl").write_text('{"question": "Who is there?", "answer": "Nobody"}')
    project(folder, server.url, spec=spec)
    rows = call("preview", "spec.yaml", "-n", "3", "--json").json["rows"]
    ways = [[(step["step"], step["action"]) for step in row["steps"]] for row in rows]
    assert ways[:3] == [[("source", "kept"), ("mixed", "kept")]] * 3
    assert ways[3] == [("replay", "kept"), ("mixed", "kept")]
    assert ways[4:] == [[("mixed", "created")]] * 2
    assert rows[4]["steps"][0]["parents"] == [rows[3]["id"]]
    assert call("run", "spec.yaml", "--stage", "refine").code == 0
    copy = call("show", "spec.yaml", "mixed", "--action", "created", "-n", "1", "--json").json["rows"][0]
    way = call("show", "spec.yaml", "--row", copy["id"], "--json").json["history"]
    assert [(step["step"], step["id"]) for step in way][-1] == ("mixed", copy["id"])
    assert ("replay", copy["parents"][0]) in [(step["step"], step["id"]) for step in way]
    made = call("show", "spec.yaml", "--row", copy["parents"][0], "--json").json["made_from_it"]
    assert copy["id"] in made and len(made) == 19


def test_steps_that_make_rows_make_no_more_than_are_looked_at(folder, server):
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}"}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  more: {{op: synthesize, from: source, kind: rehearsal, n: 500, clusters: 1}}
"""
    project(folder, server.url, spec=spec)
    done, requests = asked(server, "preview", "spec.yaml", "-n", "2", "--json")
    assert done.code == 0 and requests < 40
    assert "more makes 500 rows in a run, and was asked for 2" in done.json["notes"]


def test_a_mix_that_a_run_could_fill_takes_what_there_is(folder, server):
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}"}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
sources:
  replay: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  mixed: {{op: mix, from: [source, replay], share: 0.6}}
"""
    project(folder, server.url, spec=spec)
    assert call("preview", "spec.yaml", "-n", "3").code == 0


def test_it_fits_a_narrow_terminal(folder, server):
    project(folder, server.url)
    done = call("preview", "spec.yaml", "-n", "3")
    assert max(len(line) for line in done.out.splitlines()) <= 80
    assert done.out.count("question") == 3 and "changed: ok" in done.out


def test_files_that_a_step_writes_stay_as_they_are(folder, server):
    """An export of all rows must not become one of the few that were looked at."""
    spec = project(folder, server.url)
    spec.write_text(spec.read_text() + "  out: {op: export, from: fused, to: out.jsonl}\n")
    assert call("preview", "spec.yaml", "-n", "2").code == 0
    assert not (folder / "out.jsonl").exists()
    assert call("run", "spec.yaml", "--stage", "refine").code == 0
    whole = (folder / "out.jsonl").read_bytes()
    assert len(whole.splitlines()) > 2
    assert call("preview", "spec.yaml", "-n", "2").code == 0
    assert (folder / "out.jsonl").read_bytes() == whole

"""`refinery doctor`: what is missing is found, cured in words, and no key is shown."""

import contextlib
import http.server
import json
import threading
from unittest import mock

import pytest

from tests.cli_tools import call, project
from tests.tiny import make_tiny_model

KEY = "sk-very-secret"


@contextlib.contextmanager
def listing(names, key="", **more):
    """A server of GET /v1/models alone; yields its base_url."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wrong = key and self.headers.get("Authorization") != f"Bearer {key}"
            self.send_response(401 if wrong else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": [{"id": name, **more} for name in names]}).encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def findings(level, *args):
    done = call("doctor", "spec.yaml", "--json", *args)
    found = done.json
    assert done.code == (0 if found["ok"] else 2)
    return [each for each in found["findings"] if each["level"] == level]


def test_all_well(folder):
    with listing(["writer", "judge"], max_model_len=4096) as url:
        project(folder, url)
        assert findings("fail") == []
        (said,) = [
            each for each in findings("ok") if "longest prompt" in each["message"] and each["what"] == "models.self"
        ]
        assert "the context is 4,096" in said["message"]
        assert not (folder / "runs").exists()


def test_a_server_that_is_not_there_or_lacks_the_model(folder):
    project(folder, "http://127.0.0.1:1/v1")
    found = findings("fail")
    assert [each["what"] for each in found] == ["models.self", "models.judge"]
    assert "cannot be reached" in found[0]["message"] and "start the server" in found[0]["cure"]
    with listing(["writer", "other"]) as url:
        project(folder, url)
        (found,) = findings("fail")
        assert found["what"] == "models.judge" and "it lists: writer, other" in found["cure"]
    assert call("doctor", "spec.yaml").code == 2


def test_keys_are_named_and_never_shown(folder, monkeypatch):
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}", api_key: "${{MY_KEY:-}}"}}}}
source: {{path: rows.jsonl}}
graph: {{rewritten: {{op: rewrite, from: source}}}}
"""
    with listing(["writer"], key=KEY) as url:
        project(folder, url, spec=spec)
        assert "MY_KEY is not in the environment" in findings("warn")[0]["message"]
        assert "refuses the key (HTTP 401)" in findings("fail")[0]["message"]
        monkeypatch.setenv("MY_KEY", KEY)
        assert findings("fail") == []
        done = call("doctor", "spec.yaml")
        assert "the key MY_KEY is in the environment" in done.out and KEY not in done.out + done.err


def test_prompts_longer_than_the_context(folder):
    with listing(["writer", "judge"], max_model_len=60) as url:
        project(folder, url)
        tight = [each for each in findings("warn") if "the context is 60" in each["message"]]
        assert tight and all("lower max_tokens" in each["cure"] for each in tight)
        rows = (folder / "rows.jsonl").read_text().replace("What does rule 3", "What does rule 3" + " really" * 400)
        (folder / "rows.jsonl").write_text(rows)
        found = findings("fail")
        assert [each["what"] for each in found] == ["models.self", "models.judge"]
        assert all("the context is 60" in each["message"] for each in found)


def test_a_folder_without_a_chat_template_or_weights(folder):
    spec = """
model: {url}
source: {{path: rows.jsonl}}
graph: {{rewritten: {{op: rewrite, from: source}}}}
"""
    path = make_tiny_model(folder / "tiny", template=False)
    project(folder, str(path), spec=spec)
    (found,) = findings("fail")
    assert (found["what"], "no chat template" in found["message"]) == ("models.self", True)
    make_tiny_model(folder / "whole")
    project(folder, str(folder / "whole"), spec=spec)
    assert findings("fail") == []
    assert any("the context is 512" in each["message"] for each in findings("warn") + findings("ok"))
    (folder / "whole" / "model.safetensors").unlink()
    assert [each["what"] for each in findings("fail")] == ["graph", "models.self"]
    assert "holds no .safetensors" in findings("fail")[1]["message"]


def test_missing_libraries_name_the_extra(folder):
    project(folder, "http://127.0.0.1:1/v1")
    with mock.patch("refinery.checkup.find_spec", return_value=None):
        found = [each for each in findings("fail") if each["what"] == "libraries"]
    assert found and 'pip install "refinery[' in found[0]["cure"]


def test_mistakes_of_the_spec_are_findings(folder):
    path = project(folder, "http://127.0.0.1:1/v1")
    path.write_text(path.read_text().replace("op: fuse", "op: fuze"))
    (found,) = findings("fail")
    assert found["what"] == "spec" and 'did you mean "fuse"?' in found["message"]

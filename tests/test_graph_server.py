"""The graph against a server that misbehaves: what becomes of the rows."""

import json
import socket
import time

import pytest

from refinery.errors import UserError
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store
from tests.models.server import serve

SPEC = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}", retries: 0, timeout: 20}}}}
source: {{path: "{rows}", split: {{train: 1.0, validation: 0, test: 0}}}}
store: "{store}"
graph: {{rewritten: {{op: rewrite, from: source, prompt: "{{{{ question }}}}"}}}}
"""


def refine(folder, url, rows=30, extra_words=0):
    """The run's counts; every third question is longer by `extra_words`."""
    questions = [f"Number {n}" + " more" * (extra_words if n % 3 == 0 else 0) for n in range(rows)]
    lines = [json.dumps({"question": question, "answer": "It is one"}) for question in questions]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    text = SPEC.format(url=url, rows=folder / "rows.jsonl", store=folder / "s.duckdb")
    (folder / "spec.yaml").write_text(text)
    spec = load_spec(folder / "spec.yaml")
    return run_graph(spec, Store(spec.store_path))["rewritten"]


def test_no_server_is_one_line_soon(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"models.self: cannot reach http://127.0.0.1:{port}/v1") as error:
        refine(tmp_path, f"http://127.0.0.1:{port}/v1")
    assert "\n" not in str(error.value) and time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("options", "reason", "transient"),
    [
        ({"garbage_every": 3}, "bad_response", False),
        ({"garbage_every": 3, "garbage": "surrogate"}, "invalid_text", False),
        ({"garbage_every": 3, "garbage": "empty"}, "empty_response", False),
        ({"error_every": 3}, "server_error", True),
        ({"context": 100}, "prompt_too_long", False),
    ],
)
def test_a_third_of_the_rows_fall_back_with_the_reason(tmp_path, options, reason, transient):
    with serve(**options) as server:
        result = refine(tmp_path, server.url, extra_words=200 if "context" in options else 0)
        assert result.counts == {("changed", "ok"): 20, ("fell_back", reason): 10}
        assert result.transient == (10 if transient else 0)
        again = refine(tmp_path, server.url, extra_words=200 if "context" in options else 0)
        assert again.ran == (10 if transient else 0)
        assert server.stats()["requests"] == 30 + again.ran

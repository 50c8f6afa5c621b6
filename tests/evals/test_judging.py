"""The judge of a spec is asked through the store: once for each answer, whatever runs again."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from evals import judging
from refinery.spec import load_spec
from refinery.store import Store


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            asked.append(text)
            ended = "length" if "long" in text else "stop"
            choice = {"index": 0, "message": {"role": "assistant", "content": text.upper()}, "finish_reason": ended}
            reply = json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode()
            refused = "refuse" in text
            self.send_response(400 if refused else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}/v1", asked
    running.shutdown()
    running.server_close()


def test_each_answer_is_judged_once(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    text = f"""\
source: {{lab: clinic}}
models:
  grader: {{backend: openai, model: any, base_url: "{url}"}}
evaluate: {{domain: [lab_clinic], judge: grader}}
"""
    path = tmp_path / "judged.yaml"
    path.write_text(text, "utf-8")
    spec, store = load_spec(path), Store(tmp_path / "store.duckdb")
    judge = judging.of(spec, store)
    assert judge is not None
    questions = [[{"role": "user", "content": word}] for word in ("one", "long", "two", "refuse", "one")]
    with store.run_lock():
        replies = judge(questions)
        assert replies == ["ONE", None, "TWO", None, "ONE"]
        assert sorted(each for each in asked if each != "refuse") == ["long", "one", "two"]
        before = len(asked)
        assert judging.Judge(spec, store, "grader")(questions[:3]) == ["ONE", None, "TWO"]
        assert len(asked) == before
    assert judge.identity == judging.Judge(spec, store, "grader").identity


def test_a_spec_without_a_judge_has_none(tmp_path: Path) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text("source: {lab: clinic}\nevaluate: {domain: [lab_clinic]}\n", "utf-8")
    assert judging.of(load_spec(path), Store(tmp_path / "store.duckdb")) is None

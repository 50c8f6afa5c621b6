"""The judging page, and the server on the loopback interface that hands it out and saves each answer as it comes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refinery.errors import UserError

if TYPE_CHECKING:
    from refinery.diagnostics._judging import Item, Sheet
    from refinery.store import Store

LARGEST = 1 << 16
"""Bytes of a request that is read, at most."""


def page(sheet: Sheet, asked: Sequence[Item], answers: dict[str, str], post: str = "") -> str:
    """One self-contained page. Texts reach it as JSON that cannot end its script element."""
    data = {"name": sheet.name, "items": [asdict(item) for item in asked], "answers": answers, "post": post}
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    whole = Path(__file__).with_name("label.html").read_text("utf-8").replace("@NONCE@", secrets.token_urlsafe(16))
    return whole.replace("@SHEET@", text.replace("\u2029", "\\u2029"))


class Server(ThreadingHTTPServer):
    """The page on the loopback interface. Its address holds a secret, and a request that names another host is
    refused, so that no web page open in the same browser can read or answer it."""

    daemon_threads = True

    def __init__(self, store: Store, sheet: Sheet, asked: Sequence[Item], rater: str, port: int):
        self.store, self.sheet, self.asked, self.rater = store, sheet, asked, rater
        self.path = f"/{secrets.token_urlsafe(16)}/"
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    def answers(self) -> dict[str, str]:
        """What this rater has judged of the sheet so far: "id turn" to choice."""
        from refinery.diagnostics._judging import first_side
        from refinery.diagnostics.preference import texts_digest

        found = {}
        for row in self.store.preferences(self.sheet.step, self.sheet.against):
            pair = self.sheet.pairs.get(row["example_id"])
            if pair is None or (row["rater"], row["kind"]) != (self.rater, "human"):
                continue
            if row["texts"] == texts_digest(pair.raw, pair.refined):
                turn = 0 if row["first"] == first_side(pair.id, self.sheet.seed, 0) else 1
                choice = "tie" if row["choice"] == "tie" else "a" if row["choice"] == row["first"] else "b"
                found[f"{pair.id} {turn}"] = choice
        return found


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if not self._ours():
            return
        text = page(self.server.sheet, self.server.asked, self.server.answers(), self.server.path + "answer")
        self._send(200, text, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        if not self._ours("answer"):
            return
        try:
            size = int(self.headers.get("Content-Length", ""))
            if not 0 < size <= LARGEST:
                raise ValueError
            answer = json.loads(self.rfile.read(size))
            self.server.store.add_preferences([self.server.sheet.row(answer, self.server.rater)])
        except (ValueError, UserError) as error:
            return self._send(400, str(error) or "not a judgement")
        self._send(200, "saved")

    def _ours(self, rest: str = "") -> bool:
        port = self.server.server_address[1]
        known = self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}")
        if known and secrets.compare_digest(self.path.encode(), (self.server.path + rest).encode()):
            return True
        self._send(404, "nothing here")
        return False

    def _send(self, code: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(code)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The address holds a secret: nothing of it is printed."""

"""`refinery label`: ask people, or judge models, blind, which of two steps' answers they prefer.

People judge on a page: served on this machine alone, each answer saved as it comes, or written as one file to be sent
to somebody and read back. Both turn every pair round for a second look.
"""

from __future__ import annotations

import json
import secrets
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refinery.errors import UserError

if TYPE_CHECKING:
    from refinery.cli.diagnose import Work
    from refinery.diagnostics._judging import Item, Sheet
    from refinery.store import Store

LARGEST = 1 << 16
"""Bytes of a request that is read, at most."""


def label(
    spec: Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.", show_default=False)],
    step: Annotated[str, typer.Argument(help="The step whose answers are judged.", show_default=False)],
    against: Annotated[
        str, typer.Option("--against", help="Compared with this step, or with the raw answers.")
    ] = "raw",
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many rows.")] = 100,
    rater: Annotated[str, typer.Option("--rater", help="Who judges: a name of your choice.")] = "me",
    judge: Annotated[list[str], typer.Option("--judge", help="Ask this model of the spec instead. Repeatable.")] = [],  # noqa: B006
    once: Annotated[
        bool, typer.Option("--once", help="Show each row once, not again with the answers swapped.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Write one HTML file to judge anywhere.")] = None,
    read: Annotated[Path | None, typer.Option("--read", help="Read the answers.json that such a file gave.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Which rows, and in which order.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Judge blind which of two steps' answers are better; `refinery diagnose` then tells who preferred what."""
    from refinery.cli.diagnose import opened
    from refinery.diagnostics._judging import items

    work = opened(spec)
    sheet, questions = _sheet(work, step, against, rows, seed)
    asked = items(list(sheet.pairs.values()), questions, seed, both=not once)
    if judge:
        return _ask(work, judge, sheet, asked)
    if read:
        return _read(work.store, sheet, read, rater)
    if to:
        to.write_text(page(sheet, asked, {}), "utf-8")
        typer.echo(
            f"wrote {to}: judge there, download answers.json, then run the same command with --read answers.json"
        )
        return None
    server = Server(work.store, sheet, asked, rater, port)
    typer.echo(f"judge {len(sheet.pairs)} rows at {server.address}\nanswers are saved as they come; Ctrl-C ends")
    if browser:
        webbrowser.open(server.address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo(f"\n{len(server.answers())} of {len(asked)} judged; the same command goes on")
    finally:
        server.server_close()


def _sheet(work: Work, step: str, against: str, rows: int, seed: int) -> tuple[Sheet, dict[str, str]]:
    """The rows to judge, and their questions by id."""
    from refinery.diagnostics._asked import prompts_of
    from refinery.diagnostics._judging import Sheet, differing
    from refinery.diagnostics._pairs import read_pairs

    refined, raw = work.fingerprint(step), work.fingerprint(against)
    if not refined:
        raise UserError("name a refined step: the raw answers are what it is compared with")
    found = differing(read_pairs(work.store, refined, raw), rows, seed)
    if not found:
        raise UserError(f"no row of {step} differs from {against}: there is nothing to prefer")
    questions = {}
    for example_id, prompt in prompts_of(work.store, refined, [pair.id for pair in found]).items():
        turns = [turn for turn in prompt if turn["role"] != "system"]
        questions[example_id] = (
            turns[0]["content"] if len(turns) == 1 else "\n\n".join(f"{t['role']}: {t['content']}" for t in turns)
        )
    return Sheet(refined, raw, seed, {pair.id: pair for pair in found}), questions


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


def _read(store: Store, sheet: Sheet, path: Path, rater: str) -> None:
    try:
        found = json.loads(path.read_text("utf-8"))
        answers = found["answers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the answers of a judged page ({error})") from error
    if found.get("sheet") != sheet.name:
        raise UserError(
            f"{path}: these answers are to other rows or texts; use the --rows, --seed and --against that wrote it"
        )
    store.add_preferences([sheet.row(answer, rater) for answer in answers])
    typer.echo(f"read {len(answers)} judgements of {rater}")


def _ask(work: Work, judges: Sequence[str], sheet: Sheet, asked: Sequence[Item]) -> None:
    """Each judge in every order; a model of the writer's own family likes its own, so name another."""
    import asyncio

    from refinery.context import Context
    from refinery.diagnostics._judging import judge
    from refinery.errors import did_you_mean
    from refinery.journal import Journal
    from refinery.services import Services

    if work.spec is None:
        raise UserError("--judge needs the spec, which names the models; this is a store")
    spec = work.spec
    for name in judges:
        if name not in spec.models:
            raise UserError(f'no model "{name}" in the spec{did_you_mean(name, spec.models)}')

    async def run(journal: Journal) -> None:
        services = Services(spec.models, work.store, journal)
        try:
            for name in judges:
                identity = (await services.model(name)).identity
                rows, failures = await judge(Context("label", spec.seed, services), name, identity, sheet, asked)
                work.store.add_preferences(rows)
                failed = "".join(f", {n} gave none ({reason})" for reason, n in failures.items())
                typer.echo(f"{name}: {len(rows)} of {len(asked)} judgements{failed}")
        finally:
            await services.close()

    with work.store.run_lock(), Journal(work.store) as journal:
        asyncio.run(run(journal))

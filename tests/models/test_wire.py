"""The HTTP client against real sockets: which failure is which, certificates, and answers without end."""

import asyncio
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from refinery.models import wire
from refinery.models.wire import Answer, Failure, Wire


def post(url: str, timeout: float = 5.0, key: str = "") -> Answer:
    async def ask() -> Answer:
        client = Wire([url], key=key, timeout=timeout)
        try:
            return await client.post(url, b"{}")
        finally:
            await client.close()

    return asyncio.run(ask())


def failure(url: str, timeout: float = 5.0) -> tuple[str, str]:
    with pytest.raises(Failure) as error:
        post(url, timeout)
    return error.value.reason, error.value.detail


@contextmanager
def raw_server(reply: bytes | None) -> Iterator[str]:
    """Takes each request and sends those bytes; closes then, or stays silent for None."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                kept.append(connection)
                connection.recv(65536)
                if reply is not None:
                    connection.sendall(reply)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        for connection in kept:
            connection.close()


def test_an_answer_and_its_headers() -> None:
    with raw_server(b"HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\nno") as url:
        assert post(url) == Answer(429, "7", b"no")


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    reason, detail = failure(f"http://127.0.0.1:{port}/v1")
    assert reason == "unreachable" and "refused" in detail


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "timeout"),
        (b"", "server_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "server_error"),
        (b"220 mail.example ESMTP\r\n", "server_error"),
    ],
)
def test_what_a_broken_server_does_is_no_lack_of_a_server(reply: bytes | None, reason: str) -> None:
    with raw_server(reply) as url:
        assert failure(url, timeout=0.5)[0] == reason


@pytest.mark.parametrize("head", [b"Content-Length: 3000", b"Connection: close"])
def test_an_answer_that_is_too_long(monkeypatch: pytest.MonkeyPatch, head: bytes) -> None:
    monkeypatch.setattr(wire, "LONGEST_BODY", 2000)
    with raw_server(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + bytes(3000)) as url:
        assert failure(url) == ("bad_response", "an answer of more than 2000 bytes")


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://127.0.0.1/v1", "http://[::zz]/v1"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        post(url)


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = self.headers["Authorization"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_certificate_must_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own authority is named by SSL_CERT_FILE, as everywhere."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_port}/v1"
        reason, detail = failure(url)
        assert reason == "unreachable" and "certificate" in detail
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert post(url, key="secret") == Answer(200, None, b"Bearer secret")
        server.shutdown()

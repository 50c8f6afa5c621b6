"""The wire below `servers.py`: one POST, its answer whole or the reason why there is none.

pyreqwest (Rust's reqwest) sends and reads outside the interpreter's lock, a third of the time a request takes in
aiohttp; the official client caps one process near 950 requests a second. The key travels in the Authorization header
and nowhere else: it is not in a digest, a log, a message or the store.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import urlsplit

from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError, RequestError, RequestTimeoutError
from pyreqwest.response import Response

LONGEST_BODY = 1 << 26
"""Bytes of an answer, at most."""
IDLE = 4.0
"""Seconds for which a connection is kept for the next request; many servers close theirs after five."""
CONNECT = 10.0
"""Seconds to connect, at most."""
CONNECTING = "(Connect)"
"""In a cause where there was no connection yet; the exception's class does not tell that from a reset later on."""
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Failure(Exception):
    """One try that failed. `retry`: another may not. `wait`: seconds until then that the server asked for."""

    def __init__(self, reason: str, detail: str, *, retry: bool = True, wait: float | None = None):
        super().__init__(reason, detail)
        self.reason, self.detail, self.retry, self.wait = reason, detail, retry, wait


class Answer(NamedTuple):
    status: int
    retry_after: str | None
    content: bytes


class Wire:
    """Connections to some servers. `timeout`: seconds for a request from connecting to the end of its answer."""

    def __init__(self, urls: Sequence[str], *, key: str, timeout: float):
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self.timeout = timeout
        builder = ClientBuilder().default_headers(headers).follow_redirects(False)
        builder = builder.timeout(timedelta(seconds=timeout)).pool_idle_timeout(timedelta(seconds=IDLE))
        builder = builder.connect_timeout(timedelta(seconds=min(CONNECT, timeout)))
        if {urlsplit(url).hostname for url in urls} <= LOOPBACK:
            builder = builder.no_proxy()
        self._client = builder.build()

    async def post(self, url: str, body: bytes, timeout: float | None = None) -> Answer:
        """Failure where no whole answer came; ValueError for what is no http address."""
        try:
            request = self._client.post(url).body_bytes(body)
            if timeout is not None:
                request = request.timeout(timedelta(seconds=timeout))
            async with request.build_streamed() as response:
                content = await _whole(response)
                return Answer(response.status, response.get_header("retry-after"), content)
        except BuilderError as error:
            raise ValueError(f"{url} is not an http address ({_causes(error)[-1]})") from None
        except RequestError as error:
            raise self._failure(error, url, timeout or self.timeout) from None

    def _failure(self, error: RequestError, url: str, timeout: float) -> Failure:
        causes = _causes(error)
        connecting = any(CONNECTING in cause for cause in causes)
        if isinstance(error, RequestTimeoutError):
            if connecting:
                return Failure("unreachable", f"no connection to {url} in time")
            return Failure("timeout", f"no answer within {timeout:g} s")
        return Failure("unreachable" if connecting else "server_error", causes[-1])  # else: reset, torn, no HTTP

    async def close(self) -> None:
        await self._client.close()


def _causes(error: PyreqwestError) -> list[str]:
    """From the outermost to the innermost, which says what happened; the outer ones repeat the address."""
    details = getattr(error, "details", None) or {}
    return [str(error.message), *(str(cause["message"]) for cause in details.get("causes") or ())]


async def _whole(response: Response) -> bytes:
    length = response.get_header("content-length")
    if length is not None and length.isdigit() and int(length) <= LONGEST_BODY:
        return bytes(await response.bytes())
    parts, size = [], 0
    while (part := await response.body_reader.read_chunk()) is not None:
        parts.append(bytes(part))
        size += len(part)
        if size > LONGEST_BODY:
            raise Failure("bad_response", f"an answer of more than {LONGEST_BODY} bytes")
    return b"".join(parts)

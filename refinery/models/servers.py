"""The HTTP client of every served model: several servers of one model, slots, tries, patience. It knows no bodies."""

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from refinery.errors import RowError, UserError
from refinery.models.base import Counts
from refinery.models.pace import Pace, seconds_asked, wait_before
from refinery.models.wire import Answer, Failure, Wire

Found = TypeVar("Found")

HOPELESS = 20
"""Requests that fail for good, none having ever succeeded, after which the run is stopped."""
NEVER_REACHED_TRIES = 3
"""Tries at servers of which none has answered once: a wrong address should be told soon."""
FIRST_AWAY, LONGEST_AWAY = 0.5, 10.0
"""Seconds for which a server that cannot be reached is left alone; half as long again each time."""
UNWELL, REST = 5, 5.0
"""A server that fails so many requests in a row is left alone for so many seconds while others can be asked."""

TOO_LONG = re.compile(r"context.length|maximum context|max_model_len|too long|context window", re.IGNORECASE)
NO_MODEL = re.compile(r"model\b.*(not found|does not exist|not a valid model)|no such model", re.IGNORECASE)
NO_MONEY = re.compile(r"insufficient_quota|exceeded your current quota|insufficient (credits|balance)", re.IGNORECASE)


class Server:
    """One address, what it is doing, and when it may be asked again."""

    __slots__ = ("answered", "away_for", "away_since", "bad", "base", "in_flight", "pace", "rest_until", "urls")

    def __init__(self, base: str, concurrency: int):
        self.base, self.pace = base.rstrip("/"), Pace(concurrency)
        self.urls: dict[str, str] = {}
        self.in_flight = self.bad = 0
        self.answered = False
        self.away_since: float | None = None
        """When it was first found unreachable, if it has not been reached since."""
        self.away_for = FIRST_AWAY
        self.rest_until = 0.0

    @property
    def room(self) -> int:
        """One request at a time finds out whether a server is back."""
        return self.pace.room if self.away_since is None else 1

    def url(self, path: str) -> str:
        if path not in self.urls:
            self.urls[path] = self.base + path
        return self.urls[path]

    def reached(self) -> None:
        self.answered = True
        if self.away_since is not None:
            self.away_since, self.away_for, self.rest_until = None, FIRST_AWAY, 0.0

    def unreachable(self, now: float) -> None:
        if self.away_since is None:
            self.away_since = now
        if self.rest_until <= now:
            self.rest_until = now + self.away_for
            self.away_for = min(1.5 * self.away_for, LONGEST_AWAY)


class Servers:
    """All servers of one model. `ask` raises RowError for a request that failed for good and UserError where all would.

    At most `concurrency` requests are on the wire at each server, fewer while its pace says so; one that waits to be
    tried again is not among them. The least loaded server is asked first.
    """

    def __init__(
        self,
        urls: Sequence[str],
        place: str,
        *,
        model: str = "",
        key: str = "",
        concurrency: int = 64,
        timeout: float = 120.0,
        total_timeout: float | None = None,
        retries: int = 8,
        patience: float = 120.0,
    ):
        self.concurrency = concurrency
        self.servers = [Server(url, concurrency) for url in urls]
        self.place, self.model, self.key, self.counts = place, model, key, Counts()
        self.timeout, self.total_timeout, self.retries, self.patience = timeout, total_timeout, retries, patience
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[asyncio.Future[Server]] = deque()
        self._answered = self._failed = 0
        self.trusted = False
        """Set where an earlier run had answers: then a refused request tells of itself alone."""
        self._stop: UserError | None = None
        self._idle: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, path: str, body: bytes, read: Callable[[bytes], Found]) -> Found:
        """What `read` makes of the answer to `body`, posted to `path` below a base address. `read` may raise Failure,
        for an answer to ask for again, and RowError."""
        wire = self._open()
        tries, avoid, began = 0, None, 0.0
        while True:
            server = self._free(avoid) or await self._slot(first=tries > 0)
            if self._stop:
                self._leave(server)
                raise await self._stopped()
            start = time.perf_counter()
            began = began or start
            try:
                status, retry_after, content = await self._post(wire, server.url(path), body, began)
                server.reached()
                if status != 200:
                    detail = self.clean(content.decode("utf-8", "replace"))
                    raise self.refusal(status, detail, retry_after, server.base)
                found = read(content)
            except Failure as failure:
                self._leave(server, failure)
                tries = self._count(server, failure, tries)
                wait = 0.0 if failure.reason == "unreachable" else wait_before(tries, failure.wait)
                late = self.total_timeout and time.perf_counter() + wait - began > self.total_timeout
                if late and failure.reason != "unreachable":
                    detail = f"no answer within {self.total_timeout:g} s and {tries} tries; the last: {failure.detail}"
                    failure = Failure("timeout", detail, retry=False)
                if self._stop or not failure.retry or tries > self._allowed(failure):
                    raise await self._given_up(failure, tries) from None
                self.counts.retries += 1
                avoid = server if len(self.servers) > 1 else None
                await asyncio.sleep(wait)
            except RowError:
                self._answered += 1
                self._leave(server)
                raise
            except BaseException:
                self._leave(server)
                raise
            else:
                self._answered += 1
                self._leave(server)
                return found

    def move(self, urls: Sequence[str]) -> None:
        """Ask at these addresses from now on."""
        self.servers = [Server(url, self.concurrency) for url in urls]

    def halt(self, error: UserError) -> None:
        """Send nothing more: requests on the wire are awaited, all others raise `error`."""
        self._stop = self._stop or error
        self._idle = self._idle or asyncio.Event()
        if not self.counts.in_flight:
            self._idle.set()
        self._wake()

    async def close(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._wire:
            await self._wire.close()
            self._wire = None

    def clean(self, text: str) -> str:
        """A server's words as one short line, without the key that it may repeat."""
        if self.key:
            text = text.replace(self.key, "***")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        return " ".join(text.split())[:300]

    # ---- slots

    def _free(self, avoid: Server | None = None) -> Server | None:
        """The least loaded server with room, its slot taken. None while others wait for one."""
        return None if self._waiting else self._take(avoid)

    def _take(self, avoid: Server | None = None) -> Server | None:
        best, least = None, 2.0
        now = time.perf_counter()
        for server in self.servers:
            room = server.room
            if server.in_flight >= room or server.rest_until > now:
                server.pace.full = True
                continue
            load = server.in_flight / room + (server is avoid)
            if load < least:
                best, least = server, load
        if best:
            best.in_flight += 1
            self.counts.in_flight += 1
        return best

    async def _slot(self, first: bool) -> Server:
        assert self._loop
        future: asyncio.Future[Server] = self._loop.create_future()
        (self._waiting.appendleft if first else self._waiting.append)(future)
        self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._leave(future.result())
            raise

    def _wake(self) -> None:
        """Give free slots to those who wait, and look again when a server that is left alone may be asked."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif self._stop:
                server = self.servers[0]
                server.in_flight += 1
                self.counts.in_flight += 1
                self._waiting.popleft().set_result(server)
            elif server := self._take():  # type: ignore[assignment]
                self._waiting.popleft().set_result(server)
            else:
                break
        if self._waiting and not self._timer and self._loop:
            now = time.perf_counter()
            if resting := [server.rest_until for server in self.servers if server.rest_until > now]:
                self._timer = self._loop.call_later(min(resting) - now + 0.01, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._wake()

    def _leave(self, server: Server, failure: Failure | None = None) -> None:
        server.in_flight -= 1
        self.counts.in_flight -= 1
        if failure is None:
            server.bad = 0
        if failure is None or failure.reason == "rate_limited":
            server.pace.reply(failure is not None)
        if self._waiting:
            self._wake()
        if self._idle and not self.counts.in_flight:
            self._idle.set()

    # ---- failures

    def _count(self, server: Server, failure: Failure, tries: int) -> int:
        """How often the request has failed, this time included. A server that is away does not count against it, once
        one has answered: there the patience decides."""
        now = time.perf_counter()
        if failure.reason != "unreachable":
            server.bad += failure.reason in ("server_error", "timeout")
            if server.bad >= UNWELL and len(self.servers) > 1:
                server.rest_until, server.bad = now + REST, 0
            return tries + 1
        server.unreachable(now)
        if not any(each.answered for each in self.servers):
            return tries + 1
        away = [each.away_since for each in self.servers]
        if all(since is not None and now - since > self.patience for since in away):
            self._stop = self._stop or UserError(
                f"{self.place}: cannot reach {self._addresses()} for {self.patience:g} s ({failure.detail}); "
                "run the same command again when it is back"
            )
            self._wake()
        return tries

    def _allowed(self, failure: Failure) -> int:
        if failure.reason == "unreachable" and not self._answered:
            return min(self.retries, NEVER_REACHED_TRIES - 1)
        return self.retries

    def _addresses(self) -> str:
        return ", ".join(server.base for server in self.servers)

    async def _given_up(self, failure: Failure, tries: int) -> Exception:
        """What a request that failed for good raises; a UserError stops the others too."""
        if not (self.trusted and failure.reason == "bad_request"):
            self._failed += 1
        if not self._stop and failure.reason == "unreachable":
            self._stop = UserError(f"{self.place}: cannot reach {self._addresses()} ({failure.detail}, {tries} tries)")
        elif not self._stop and not self._answered and self._failed >= HOPELESS:
            self._stop = UserError(f"{self.place}: no answer to {self._failed} requests; the last: {failure.detail}")
        if self._stop:
            self._wake()
            return await self._stopped()
        transient = failure.reason in ("server_error", "timeout", "rate_limited", "unfinished")
        return RowError(failure.reason, failure.detail, transient=transient)

    async def _stopped(self) -> UserError:
        """The error that stops all, when the requests on the wire at a halt have been answered and noted."""
        if self._idle:
            await self._idle.wait()
            await asyncio.sleep(0.02)
        assert self._stop
        return self._stop

    def refusal(self, status: int, detail: str, retry_after: str | None = None, base: str = "") -> Exception:
        """What a status other than 200 means."""
        detail = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
        where = base or self._addresses()
        if status in (401, 403):
            return UserError(f"{self.place}: the server refused the api_key (HTTP {status})")
        if status == 402 or (status == 429 and NO_MONEY.search(detail)):
            return UserError(f"{self.place}: the account at {where} has nothing left to spend ({detail})")
        if status == 404 or (status == 400 and NO_MODEL.search(detail)):
            return UserError(f"{self.place}: no model {self.model!r} at {where} ({detail})")
        if status == 429:
            return Failure("rate_limited", detail, wait=seconds_asked(retry_after))
        if status in (408, 409, 425) or status >= 500:
            return Failure("server_error", detail, wait=seconds_asked(retry_after))
        if status in (400, 413, 422) and TOO_LONG.search(detail):
            return RowError("prompt_too_long", detail)
        return Failure("bad_request", detail, retry=False)

    # ---- the wire

    def _open(self) -> Wire:
        """Made on first use, since it belongs to the event loop that is running then."""
        if self._wire is None:
            try:
                self._wire = Wire([server.base for server in self.servers], key=self.key, timeout=self.timeout)
            except ValueError as error:
                raise UserError(f"{self.place}: base_url {self._addresses()}: {error}") from None
            self._loop, self._waiting, self._timer = asyncio.get_running_loop(), deque(), None
            self._idle = asyncio.Event() if self._idle else None
            self.counts.in_flight = 0
            for server in self.servers:
                server.in_flight = 0
        return self._wire

    async def _post(self, wire: Wire, url: str, body: bytes, began: float) -> Answer:
        timeout = None
        if self.total_timeout:
            left = max(0.001, self.total_timeout - (time.perf_counter() - began))
            timeout = left if left < self.timeout else None
        try:
            return await wire.post(url, body, timeout)
        except Failure as failure:
            failure.detail = self.clean(failure.detail)
            raise
        except ValueError as error:
            raise UserError(f"{self.place}: base_url {error}") from None

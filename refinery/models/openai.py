"""Any server that speaks the OpenAI chat API, over aiohttp: the official client caps one process near 950 requests/s.

The key travels in the Authorization header and nowhere else: it is not in a digest, a log, a message or the store.
"""

import asyncio
import contextlib
import email.utils
import json
import random
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from refinery.errors import RowError, UserError
from refinery.models.base import Likelihood, Prompt, Reply, Sampling, check_text, continues, texts_of
from refinery.models.cache import generation_digest
from refinery.records import Message

if TYPE_CHECKING:
    from refinery.spec import ModelSpec

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before the first and at most before any further try; doubled each time, with jitter."""
LONGEST_ASKED_WAIT = 120.0
"""Seconds of a server's Retry-After that are honoured."""
HOPELESS = 20
"""Requests that fail for good, none having ever succeeded, after which the run is stopped."""
NEVER_REACHED_TRIES = 3
"""Tries at a server that has not answered once: a wrong address should be told soon."""

TOO_LONG = re.compile(r"context.length|maximum context|max_model_len|too long|context window", re.IGNORECASE)


class _Failure(Exception):
    """One try that failed. `retry`: another may not. `wait`: seconds until then that the server asked for."""

    def __init__(self, reason: str, detail: str, *, retry: bool = True, wait: float | None = None):
        super().__init__(reason, detail)
        self.reason, self.detail, self.retry, self.wait = reason, detail, retry, wait


class OpenAIModel:
    """A served model. At most `concurrency` requests are on the wire; one that waits to be tried again is not.

    Raises RowError for a request that failed for good and UserError where all would: a wrong key, model or address,
    a server that is down, or one that has failed HOPELESS requests and answered none.
    """

    def __init__(self, spec: "ModelSpec", identity: str, name: str = ""):
        if not spec.base_url:
            raise UserError(f"{_place(spec, name)}: backend openai needs a base_url, such as http://localhost:8000/v1")
        self.spec, self.identity, self.place = spec, identity, _place(spec, name)
        self.url = spec.base_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._slots: asyncio.Semaphore | None = None
        self._answered = self._failed = 0
        self._stop: UserError | None = None

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        check_text(*texts_of(prompt))
        url = self.url + ("/completions" if isinstance(prompt, str) else "/chat/completions")
        body = json.dumps(self._body(prompt, sampling, sample)).encode("ascii")
        session, slots = self._open()
        tries = 0
        while True:
            try:
                async with slots:
                    if self._stop:
                        raise self._stop
                    reply = await self._try(session, url, body)
                self._answered += 1
                return reply
            except _Failure as failure:
                tries += 1
                allowed = self.spec.retries
                if failure.reason == "unreachable" and not self._answered:
                    allowed = min(allowed, NEVER_REACHED_TRIES - 1)
                if not failure.retry or tries > allowed:
                    raise self._given_up(failure, tries) from None
                await asyncio.sleep(_wait(tries, failure.wait))

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        raise UserError(f"{self.place}: scoring text needs a backend that scores text (transformers)")

    async def user_slot(self) -> str:
        raise UserError(f"{self.place}: the chat template is the server's own; name a model with backend: transformers")

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    def _body(self, prompt: Prompt, sampling: Sampling, sample: int) -> dict[str, Any]:
        """Parameters at their neutral value are left out: not every server knows each of them."""
        key = "prompt" if isinstance(prompt, str) else "messages"
        body: dict[str, Any] = {"model": self.spec.model, key: prompt, "max_tokens": sampling.max_tokens}
        body["temperature"] = sampling.temperature
        if continues(prompt):
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if sampling.temperature > 0:
            name = generation_digest(self.identity, prompt, sampling, sample)
            body["seed"] = int(name[:8], 16) >> 1  # 31 bits: one for each request, so that samples differ
            if sampling.top_p < 1:
                body["top_p"] = sampling.top_p
            if sampling.top_k > 0:
                body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.schema is not None:
            answer = {"name": "answer", "schema": sampling.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        body |= self.spec.extra_body
        return {key: value for key, value in body.items() if value is not None}

    async def _try(self, session: aiohttp.ClientSession, url: str, body: bytes) -> Reply:
        try:
            async with session.post(url, data=body, allow_redirects=False) as response:
                content = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ConnectionTimeoutError:
            raise _Failure("unreachable", f"no connection to {url} in time") from None
        except TimeoutError:
            raise _Failure("timeout", f"no answer within {self.spec.timeout:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise _Failure("unreachable", self._clean(str(error.os_error))) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise UserError(f"{self.place}: base_url {error} is not an http address") from None
        except (aiohttp.ClientError, OSError) as error:  # reset, closed early, torn payload
            raise _Failure("server_error", self._clean(f"{type(error).__name__} {error}")) from None
        if status == 200:
            return self._parsed(content)
        raise self._refusal(status, headers.get("Retry-After"), self._clean(content.decode("utf-8", "replace")))

    def _open(self) -> tuple[aiohttp.ClientSession, asyncio.Semaphore]:
        """Made on first use, since both belong to the event loop that is running then."""
        if not self._session or not self._slots:
            headers = {"Content-Type": "application/json"}
            if key := self._key():
                headers["Authorization"] = f"Bearer {key}"
            timeout = aiohttp.ClientTimeout(total=self.spec.timeout, sock_connect=min(10.0, self.spec.timeout))
            proxied = urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1")
            self._session = aiohttp.ClientSession(
                headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0), trust_env=proxied
            )
            self._slots = asyncio.Semaphore(self.spec.concurrency)
        return self._session, self._slots

    def _key(self) -> str:
        return self.spec.api_key.get_secret_value() if self.spec.api_key else ""

    def _clean(self, text: str) -> str:
        """A server's words as one short line, without the key that it may repeat."""
        if key := self._key():
            text = text.replace(key, "***")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            error = json.loads(text)["error"]
            text = str(error["message"] if isinstance(error, dict) else error)
        return " ".join(text.split())[:300]

    def _refusal(self, status: int, retry_after: str | None, detail: str) -> Exception:
        """What a status other than 200 means."""
        detail = f"HTTP {status}: {detail}" if detail else f"HTTP {status}"
        if status in (401, 403):
            return UserError(f"{self.place}: the server refused the api_key (HTTP {status})")
        if status == 404:
            return UserError(f"{self.place}: no model {self.spec.model!r} at {self.spec.base_url} ({detail})")
        if status == 429:
            return _Failure("rate_limited", detail, wait=_seconds(retry_after))
        if status in (408, 409, 425) or status >= 500:
            return _Failure("server_error", detail, wait=_seconds(retry_after))
        if status in (400, 413, 422) and TOO_LONG.search(detail):
            return RowError("prompt_too_long", detail)
        return _Failure("bad_request", detail, retry=False)

    def _parsed(self, content: bytes) -> Reply:
        try:
            data = json.loads(content)
            choice = data["choices"][0]
            message = {"content": choice["text"]} if "text" in choice else choice["message"]
            text, reason = message["content"], choice.get("finish_reason")
            usage = data.get("usage") or {}
            tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise _Failure("bad_response", self._clean(content.decode("utf-8", "replace"))) from None
        if message.get("refusal") or reason == "content_filter":
            raise RowError("refused", self._clean(str(message.get("refusal") or reason)))
        if text is None or (isinstance(text, str) and not text.strip()):
            self._answered += 1
            raise RowError("empty_response", f"finish_reason {reason}")
        if not isinstance(text, str):
            raise _Failure("bad_response", "content is not text")
        check_text(text)
        return Reply(text, "length" if reason == "length" else "stop", *tokens)

    def _given_up(self, failure: _Failure, tries: int) -> Exception:
        """What a request that failed for good raises; a UserError stops the others too."""
        self._failed += 1
        if self._stop:
            return self._stop
        if failure.reason == "unreachable":
            self._stop = UserError(f"{self.place}: cannot reach {self.spec.base_url} ({failure.detail}, {tries} tries)")
        elif not self._answered and self._failed >= HOPELESS:
            self._stop = UserError(f"{self.place}: no answer to {self._failed} requests; the last: {failure.detail}")
        if self._stop:
            return self._stop
        transient = failure.reason in ("server_error", "timeout", "rate_limited")
        return RowError(failure.reason, failure.detail, transient=transient)


def _place(spec: "ModelSpec", name: str) -> str:
    return f"models.{name}" if name else f"model {spec.model}"


def _wait(tries: int, asked: float | None) -> float:
    """Seconds before the next try: what the server asked for, else doubling from FIRST_WAIT; jitter spreads a crowd."""
    if asked is not None:
        return min(asked, LONGEST_ASKED_WAIT) + random.uniform(0, 0.1)
    return min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT) * random.uniform(0.5, 1.0)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, in seconds or as a date, as seconds from now; None where it is neither."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None

"""Any server that speaks the OpenAI chat API: what is sent, what an answer means, what it costs."""

import asyncio
import json
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from refinery.errors import RowError, UserError
from refinery.models import tokens
from refinery.models.base import Likelihood, Prompt, Reply, Sampling, check_text, continues, texts_of
from refinery.models.cache import canonical_messages, generation_digest
from refinery.models.servers import Failure, Servers
from refinery.records import Message

if TYPE_CHECKING:
    from refinery.spec import ModelSpec


class OpenAIModel:
    """A served model. Raises RowError for a request that failed for good and UserError where all would: a wrong key,
    model or address, a server that is down or only fails, a budget that is spent (see servers.Servers)."""

    def __init__(self, spec: "ModelSpec", identity: str, name: str = "", urls: list[str] | None = None):
        self.place = f"models.{name}" if name else f"model {spec.model}"
        urls = urls or spec.urls
        if not urls:
            raise UserError(f"{self.place}: backend openai needs a base_url, such as http://localhost:8000/v1")
        self.spec, self.identity = spec, identity
        self.served = spec.model
        """The model's name at the server."""
        self.servers = Servers(
            urls,
            self.place,
            model=spec.model,
            key=spec.api_key.get_secret_value() if spec.api_key else "",
            concurrency=spec.concurrency,
            timeout=spec.timeout,
            total_timeout=spec.total_timeout,
            retries=spec.retries,
            patience=spec.patience,
        )
        self.counts = self.servers.counts
        self._tails: dict[Sampling, tuple[Any, str | None]] = {}
        self._loading = threading.Lock()
        self._tokenizer: Any = None

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        check_text(*texts_of(prompt))
        drawn = sampling.temperature > 0
        name = generation_digest(self.identity, prompt, sampling, sample) if drawn else ""
        return await self.generate_named(prompt, sampling, name)

    async def generate_named(self, prompt: Prompt, sampling: Sampling, name: str) -> Reply:
        """`generate` where the texts have been checked and the request's digest is known."""
        path = "/completions" if isinstance(prompt, str) else "/chat/completions"
        if isinstance(prompt, str) and self.spec.tokenizer and self._tokenizer is None:
            await asyncio.to_thread(self._tokens)
        found = await self.servers.ask(path, self._body(prompt, sampling, name), self._reply)
        return found

    def trust(self) -> None:
        """Answers of this model are stored."""
        self.servers.trusted = True

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        """By a completion of no words whose prompt is scored; UserError unless the entry says how (`likelihood`)."""
        check_text(continuation, *texts_of(messages))
        how = self.spec.likelihood
        if how is None:
            raise UserError(
                f"{self.place}: scoring text needs a backend that scores text (transformers, vllm), or a server that "
                "returns the log-probabilities of a prompt: say how with likelihood: prompt_logprobs (vLLM) or echo"
            )
        prompt, target = await asyncio.to_thread(self._ids, messages, continuation)
        return Likelihood([logprob for logprob, _ in await self.score_ids(prompt, target)])

    async def score_ids(self, prompt: list[int], target: list[int]) -> list[tuple[float, bool | None]]:
        """Of each token of `target` after `prompt`: its log-probability, and whether none was likelier (None where the
        server does not show). The entry says how (`likelihood`)."""
        if not target:
            return []
        how = self.spec.likelihood or "echo"
        body: dict[str, Any] = {"model": self.served, "prompt": [*prompt, *target], "temperature": 0.0}
        body |= {"max_tokens": 1, "prompt_logprobs": 0} if how == "prompt_logprobs" else {}
        body |= {"max_tokens": 0, "echo": True, "logprobs": 1} if how == "echo" else {}
        read = partial(self._logprobs, how, len(prompt), target)
        return await self.servers.ask("/completions", orjson.dumps(body), read)

    async def complete_ids(self, ids: list[int], sampling: Sampling, name: str = "") -> Reply:
        """What follows these tokens. `name` is the request's digest, where text is drawn."""
        seed = {"seed": int(name[:8], 16) >> 1} if name and sampling.temperature > 0 else {}
        body = {"prompt": ids, **seed, **self._tail(sampling)[0]}
        body.pop("chat_template_kwargs", None)
        return await self.servers.ask("/completions", orjson.dumps(body), self._reply)

    async def user_slot(self) -> str:
        if not self.spec.tokenizer:
            raise UserError(f"{self.place}: the chat template is the server's own: name its tokenizer (tokenizer:)")
        return await asyncio.to_thread(lambda: tokens.user_slot(self._tokens(), self.spec.template_options, self.place))

    async def close(self) -> None:
        await self.servers.close()

    # ---- what is sent

    def _body(self, prompt: Prompt, sampling: Sampling, name: str) -> bytes:
        """The messages as JSON, between what is the same for all requests of one sampling and a seed of their own."""
        if sampling not in self._tails:
            self._tails[sampling] = self._tail(sampling)
        more, tail = self._tails[sampling]
        seed = int(name[:8], 16) >> 1 if name and sampling.temperature > 0 else None
        if tail is None or continues(prompt) or isinstance(prompt, str):
            return self._whole(prompt, sampling, seed, more)
        drawn = f',"seed":{seed}' if seed is not None else ""
        return f'{{"messages":{canonical_messages(prompt)}{drawn},{tail}}}'.encode("ascii")

    def _tail(self, sampling: Sampling) -> tuple[dict[str, Any], str | None]:
        """(fields that follow from the sampling, the same as JSON), without the JSON where extra_body overrides a
        request's own fields. Parameters at their neutral value are left out: not every server knows each of them."""
        body: dict[str, Any] = {"model": self.served, "max_tokens": sampling.max_tokens}
        body["temperature"] = sampling.temperature
        if sampling.temperature > 0:
            if sampling.top_p < 1:
                body["top_p"] = sampling.top_p
            if sampling.top_k > 0:
                body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.schema is not None:
            answer = {"name": "answer", "schema": sampling.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": answer}
        body = {key: value for key, value in (body | self.spec.extra_body).items() if value is not None}
        own = {"messages", "seed"} & self.spec.extra_body.keys()
        return body, None if own else json.dumps(body)[1:-1]

    def _whole(self, prompt: Prompt, sampling: Sampling, seed: int | None, more: dict[str, Any]) -> bytes:
        body: dict[str, Any] = {}
        if isinstance(prompt, str):
            body["prompt"] = self._raw(prompt)
        else:
            body["messages"] = prompt
        if continues(prompt):
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        if seed is not None:
            body["seed"] = seed
        body |= more
        if isinstance(prompt, str):
            body.pop("chat_template_kwargs", None)
        if "seed" in self.spec.extra_body and self.spec.extra_body["seed"] is None:
            del body["seed"]
        return json.dumps(body).encode("ascii")

    def _raw(self, text: str) -> str | list[int]:
        """With the tokenizer at hand the ids, so that no server adds special tokens of its own."""
        if not self.spec.tokenizer:
            return text
        return tokens.prompt_ids(self._tokens(), text, {})

    def _ids(self, messages: list[Message], continuation: str) -> tuple[list[int], list[int]]:
        tokenizer = self._tokens()
        prompt = tokens.prompt_ids(tokenizer, messages, self.spec.template_options)
        return prompt, tokens.continuation_ids(tokenizer, continuation)

    def _tokens(self) -> Any:
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = tokens.load(self.spec.tokenizer or self.spec.model, self.spec, self.place)
            return self._tokenizer

    # ---- what comes back

    def _reply(self, content: bytes) -> Reply:
        data = self._parsed(content)
        try:
            choice = data["choices"][0]
            message = choice.get("message") or {"content": choice["text"]}
            text, reason = message["content"], choice.get("finish_reason")
            usage = data.get("usage")
        except (KeyError, TypeError, IndexError, AttributeError):
            self._refused(data, content)
        prompt_tokens, completion_tokens = self._spent(usage)
        if message.get("refusal") or reason == "content_filter":
            raise RowError("refused", self.servers.clean(str(message.get("refusal") or reason)))
        if reason in ("error", "abort"):
            raise Failure("server_error", f"finish_reason {reason}")
        if text is None or (isinstance(text, str) and not text.strip()):
            raise RowError("empty_response", f"finish_reason {reason}")
        if not isinstance(text, str):
            raise Failure("bad_response", "content is not text")
        if reason is None:
            raise Failure("unfinished", f"no finish_reason after {len(text)} characters")
        return Reply(text, "length" if reason == "length" else "stop", prompt_tokens, completion_tokens)

    def _parsed(self, content: bytes) -> Any:
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            try:
                check_text(json.dumps(json.loads(content), ensure_ascii=False))  # half a surrogate pair?
            except ValueError:
                pass
            raise Failure("bad_response", self.servers.clean(content.decode("utf-8", "replace"))) from None

    def _refused(self, data: Any, content: bytes) -> NoReturn:
        """An answer without a choice: some gateways pass a provider's failure on with HTTP 200."""
        error = data.get("error") if isinstance(data, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        detail = self.servers.clean(content.decode("utf-8", "replace"))
        if isinstance(code, int) and 400 <= code < 600:
            raise self.servers.refusal(code, detail) from None
        raise Failure("bad_response", detail) from None

    def _spent(self, usage: Any) -> tuple[int, int]:
        """(prompt, completion) tokens of an answer, charged to the budget; 0 where the server does not say."""
        usage = usage if isinstance(usage, dict) else {}
        try:
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (TypeError, ValueError):
            spent = 0, 0
        if self.spec.price:
            self._charge(spent)
        return spent

    def _charge(self, spent: tuple[int, int]) -> None:
        counts, budget = self.counts, self.spec.budget
        counts.cost += self.spec.cost(*spent) or 0.0
        if budget is None:
            return
        if spent == (0, 0):
            self.servers.halt(
                UserError(f"{self.place}: the server does not say how many tokens it used, so a budget cannot be kept")
            )
        elif counts.cost >= budget:
            self.servers.halt(
                UserError(
                    f"{self.place}: the budget of ${budget:g} is spent (${counts.cost:.4g}); all answers are kept: "
                    f"run the same command again to spend as much again, or raise budget"
                )
            )

    def _logprobs(self, how: str, start: int, target: list[int], content: bytes) -> list[tuple[float, bool | None]]:
        """Those of the tokens `target`, which stand in the scored prompt from place `start` on, each with whether it
        was the likeliest."""
        data = self._parsed(content)
        try:
            choice = data["choices"][0]
            found = (_echoed if how == "echo" else _ranked)(choice, start, target)
        except (KeyError, TypeError, IndexError, ValueError):
            if isinstance(data, dict) and "choices" not in data:
                self._refused(data, content)
            raise UserError(f"{self.place}: the server's answer holds no log-probabilities of the prompt") from None
        self._spent(data.get("usage"))
        if len(found) != len(target):
            raise UserError(f"{self.place}: the server scored {len(found)} tokens where {len(target)} were sent")
        return found


def _echoed(choice: Any, start: int, target: list[int]) -> list[tuple[float, bool | None]]:
    """From the log-probabilities of an echoed prompt."""
    rows = slice(start, start + len(target))
    logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"][rows]]
    likeliest = (choice["logprobs"].get("top_logprobs") or [None] * (start + len(target)))[rows]
    tops = [max(each.values()) <= own if each else None for own, each in zip(logprobs, likeliest, strict=True)]
    return list(zip(logprobs, tops, strict=True))


def _ranked(choice: Any, start: int, target: list[int]) -> list[tuple[float, bool | None]]:
    """From vLLM's prompt_logprobs, which give each token's rank."""
    scored = [place[str(token)] for place, token in zip(choice["prompt_logprobs"][start:], target, strict=True)]
    return [(float(each["logprob"]), each["rank"] == 1 if "rank" in each else None) for each in scored]

"""A model behind a server as lm-eval sees it: any OpenAI-compatible one, or a `vllm serve` of our own for a checkpoint.

lm-eval's own classes for such servers are not used: they know one address, ask the server's tokenizer, send likelihood
tasks to servers that cannot score, and take a failed request for an empty answer. Here the tokenizer is at hand
wherever likelihoods are asked for, prompts go as token ids, the very ones that a model in this process would be given,
and the client is the one that steps use (refinery/models): several servers, tries, patience, budgets. A server whose
tokenizer is not at hand is sent chats as chats, in a template that only it knows, and text as text.
"""

import asyncio
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from evals.comparable import UNKNOWN
from evals.subjects import longest
from refinery.errors import RowError, UserError
from refinery.models import open_model
from refinery.models.base import Reply, Sampling
from refinery.models.weights import resolve, shaping
from refinery.records import Message, digest
from refinery.spec_models import ModelSpec

T = TypeVar("T")

STOPS = 4
"""Texts that end an answer which servers of the OpenAI kind take; the answer is cut at the others here."""

OF_THE_SERVER = "the server's own"
"""The chat template of a server whose tokenizer is not at hand."""


class Served:
    """A checkpoint behind a server: nothing is started or asked before a benchmark asks."""

    batch_size: int | None = None
    backend: str

    def __init__(self, entry: ModelSpec, name: str = "", adapter: str | None = None):
        """`entry`: how it is reached or started; `name` is its name under `models:`, for messages. `adapter`: of
        backend vllm, LoRA weights that are merged into `entry.model` first, since vLLM scores no text with an adapter.
        UserError without a tokenizer where one is needed."""
        self.entry, self.name, self.adapter = entry, name, adapter
        self.place = f"models.{name}" if name else f"model {entry.model}"
        self.backend, ours = entry.backend, entry.backend == "vllm"
        self.dtype, self.device = (entry.dtype, _device()) if ours else (UNKNOWN, UNKNOWN)
        self.scores_text = ours or entry.likelihood is not None
        self.tokenizer = _tokenizer(entry, self.place)
        self.chat_template = OF_THE_SERVER if self.tokenizer is None else self.tokenizer.chat_template
        declared = {"args": shaping(entry.args) if ours else None, "max_context": entry.max_context}
        self.generation = {key: value for key, value in declared.items() if value}
        self._merged: tempfile.TemporaryDirectory[str] | None = None

    @cached_property
    def context(self) -> int | None:
        if self.entry.max_context or self.tokenizer is None:
            return self.entry.max_context
        from transformers import AutoConfig

        try:
            return longest(AutoConfig.from_pretrained(_files(self.entry)), self.tokenizer)
        except (OSError, ValueError):  # a tokenizer alone
            return None

    @cached_property
    def lm(self) -> "ServedLM":
        entry = self.entry
        if self.adapter is not None:
            self._merged = tempfile.TemporaryDirectory(prefix="refinery-merged-")
            entry = entry.model_copy(update={"model": _merge(entry, self.adapter, self._merged.name)})
        model = open_model(entry, self.name, known=entry.model)
        return ServedLM(model, self.tokenizer, self.context, self.place, entry.template_options)

    def close(self) -> None:
        if lm := self.__dict__.pop("lm", None):
            lm.close()
        if self._merged is not None:
            self._merged.cleanup()
            self._merged = None


class ServedLM(TemplateLM):
    """`model`: what is asked (refinery/models). Answers are told to the cache hook as they come, so that an evaluation
    that was stopped keeps them; a request that failed for good stops the evaluation when all others are answered, for
    it is no wrong answer."""

    def __init__(self, model: Any, tokenizer: Any, context: int | None, place: str, options: dict[str, Any]):
        """`options` go to the chat template."""
        super().__init__()
        self.model, self.tokenizer, self.context, self.place = model, tokenizer, context, place
        self.options = options
        self._cut: bool | None = None
        self._chats: dict[str, list[Message]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.model.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- text and tokens

    @property
    def tokenizer_name(self) -> str:
        return self.place

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if self.tokenizer is None:
            text = "".join(f"{turn['role']}: {turn['content']}\n" for turn in chat_history)
            self._chats[text] = list(chat_history)
            return text
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self.options,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """As lm-eval's class for transformers does it: a text that begins with the special token gets no second."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    # ---- likelihoods

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(sum of the continuation's log-probabilities, was it the greedy one) each; lm-eval asks for the second where
        a task's score is that alone."""

        async def score(request: tuple[tuple[str, str], list[int], list[int]]) -> tuple[float, bool]:
            texts, prompt, target = request
            if self.context:  # one place is for the word that a server must write
                prompt = prompt[max(0, len(prompt) + len(target) + 1 - self.context) :]
            found = await self.model.score_ids(prompt, target)
            answer = sum(logprob for logprob, _ in found), all(top is True for _, top in found)
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
            return answer

        return self._each(score, requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        if not self.context:
            raise UserError(f"{self.place}: a perplexity needs max_context, the tokens that the server takes")
        found = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.context - 1, 1)
            parts: list[Any] = [(None, *make_disjoint_window(window)) for window in windows]
            found.append(sum(logprob for logprob, _ in self._loglikelihood_tokens(parts)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    # ---- text

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        times: Counter[str] = Counter()
        asked = []
        for request in requests:
            times[key := digest(list(request.args))] += 1
            asked.append((request.args, times[key] - 1))

        async def answer(one: tuple[tuple[str, dict[str, Any]], int]) -> str:
            (prompt, options), sample = one
            sampling, until = _sampling(options)
            reply = await self._reply(prompt, sampling, sample)
            text = str(postprocess_generated_text(reply.text, until, None))
            self._cut = reply.finish_reason == "length" and text == reply.text
            self.cache_hook.add_partial("generate_until", (prompt, options), text)
            return text

        return self._each(answer, asked)

    def was_cut(self, answer: str) -> bool | None:
        """Of the answer that the cache hook is told: did it stop at its limit?"""
        return self._cut

    async def _reply(self, prompt: str, sampling: Sampling, sample: int) -> Reply:
        try:
            if prompt in self._chats:
                return await self.model.generate(self._chats[prompt], sampling, sample)
            if self.tokenizer is None:
                return await self.model.generate(prompt, sampling, sample)
            ids = self.tok_encode(prompt)
            if self.context:
                ids = ids[-(self.context - sampling.max_tokens) :]
            name = digest([self.model.identity, prompt, repr(sampling), sample])
            return await self.model.complete_ids(ids, sampling, name)
        except RowError as error:
            if error.reason in ("empty_response", "refused"):
                return Reply("", "length" if "length" in error.detail else "stop", 0, 0)
            raise

    # ---- many at once

    def _each(self, ask: Callable[[Any], Awaitable[T]], requests: Sequence[Any]) -> list[T]:
        """Answers in order. Other than a wrong address or a spent budget, which end all at once, failures are told when
        everything else has its answer."""

        async def work() -> list[T | BaseException]:
            tasks = [asyncio.ensure_future(_coroutine(ask(request))) for request in requests]
            try:
                for done in asyncio.as_completed(tasks):
                    try:
                        await done
                    except RowError:
                        continue
                return await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            found = future.result()
        except BaseException:
            future.cancel()
            raise
        failed = [each for each in found if isinstance(each, RowError)]
        if failed:
            raise UserError(self._failed(failed, len(found)))
        return found  # type: ignore[return-value]

    def _failed(self, failed: Sequence[RowError], asked: int) -> str:
        first = failed[0]
        cure = "what was answered is kept: run the same command again"
        if first.reason == "prompt_too_long":
            cure = "say max_context, the tokens that it takes, and prompts are cut at their beginning as elsewhere"
        return f"{self.place}: {len(failed)} of {asked} requests failed ({first.reason}: {first.detail}); {cure}"


async def _coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _sampling(options: dict[str, Any]) -> tuple[Sampling, list[str]]:
    """(how text is drawn, where it is cut) of a task's generation settings."""
    given = normalize_gen_kwargs(dict(options))
    until = [each for each in given["until"] if each]
    drawn = bool(given.get("do_sample")) and float(given.get("temperature") or 0) > 0
    sampling = Sampling(
        temperature=float(given.get("temperature", 1.0)) if drawn else 0.0,
        top_p=float(given.get("top_p", 1.0)) if drawn else 1.0,
        top_k=int(given.get("top_k", 0)) if drawn else 0,
        max_tokens=int(given["max_gen_toks"]),
        stop=tuple(until[:STOPS]),
    )
    return sampling, until


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _files(entry: ModelSpec) -> str:
    return resolve(entry.model if entry.backend == "vllm" else entry.tokenizer or entry.model)


def _tokenizer(entry: ModelSpec, place: str) -> Any:
    """None where the entry of a server names none, and needs none for likelihoods."""
    if entry.backend == "openai" and entry.tokenizer is None and entry.likelihood is None:
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(_files(entry), trust_remote_code=entry.trust_remote_code)
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{place}: no tokenizer of {entry.model} (name it with tokenizer:): {line}") from error


def _merge(entry: ModelSpec, adapter: str, folder: str) -> str:
    """Write base and adapter as one, for a server to read."""
    from refinery.models.transformers import load

    dtype = "bfloat16" if entry.dtype == "auto" else entry.dtype
    model, tokenizer = load(entry.model, dtype=dtype, device="cpu", adapter=adapter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(Path(folder))

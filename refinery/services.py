"""The models and encoders of one run: each opened when first asked, shared by all steps, closed at the end."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields

import numpy as np

from refinery import models
from refinery.encoder import Encoder
from refinery.journal import Journal
from refinery.models.batcher import Batcher
from refinery.models.cache import CachedModel, Counts
from refinery.models.counting import TokenCounter
from refinery.spec import ModelSpec
from refinery.store import Store
from refinery.vectors import StoredEncoder

ENCODER_BATCH = 256
"""Rows embedded together, at most."""


class Services:
    """The Provider of a running step's Context."""

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        store: Store,
        journal: Journal,
        identities: Mapping[str, str] | None = None,
    ):
        """`identities`: of models whose own entry does not say what they are asked as (rewriters)."""
        self.specs, self.store, self.journal = specs, store, journal
        self._identities = identities or {}
        self._models: dict[str, CachedModel] = {}
        self._encoders: dict[str, Batcher[list[str], np.ndarray]] = {}
        self._counters: dict[str, TokenCounter] = {}
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def model(self, name: str) -> CachedModel:
        """The model of that name in the spec, opened in a thread, since weights may have to be read."""
        if opened := self._models.get(name):
            return opened
        if (first := self._same(name)) != name:
            self._models[name] = await self.model(first)
            return self._models[name]
        async with self._opening[name]:
            if name not in self._models:
                known = self._identities.get(name, "")
                model = await asyncio.to_thread(models.open_model, self.specs[name], name, known)
                self._models[name] = CachedModel(model, self.store, self.journal)
        return self._models[name]

    def _same(self, name: str) -> str:
        """The first name of an equal entry: two names for one model load its weights once."""
        return next(other for other, spec in self.specs.items() if spec == self.specs[name])

    async def embed(self, encoder: str, texts: list[str]) -> np.ndarray:
        """(n, d) float32 unit vectors."""
        async with self._opening[encoder]:
            if encoder not in self._encoders:
                opened = StoredEncoder(await asyncio.to_thread(Encoder, encoder), self.store)
                run = lambda rows: _embed(opened, rows)  # noqa: E731
                self._encoders[encoder] = Batcher(run, max_batch=ENCODER_BATCH, name="encoder")
        return await self._encoders[encoder](texts)

    async def count_tokens(self, model: str, texts: list[str]) -> list[int]:
        """By the model's tokenizer; its weights stay where they are."""
        counter = self._counters.setdefault(model, TokenCounter(self.specs[model], model))
        return await asyncio.to_thread(counter.count, texts)

    def counts(self) -> Counts:
        """What all models were asked so far."""
        every = [model.counts for model in self._opened()]
        return Counts(*(sum(getattr(counts, f.name) for counts in every) for f in fields(Counts)))

    def _opened(self) -> list[CachedModel]:
        return list({id(model): model for model in self._models.values()}.values())

    async def close(self) -> None:
        for model in self._opened():
            await model.close()
        for encoder in self._encoders.values():
            encoder.close()


def _embed(encoder: StoredEncoder, rows: list[list[str]]) -> list[np.ndarray]:
    """One pass over the distinct texts of many rows."""
    index = {text: i for i, text in enumerate(dict.fromkeys(text for row in rows for text in row))}
    vectors = encoder.encode(list(index))
    return [vectors[[index[text] for text in row]] for row in rows]

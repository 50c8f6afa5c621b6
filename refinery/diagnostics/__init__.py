"""What a step did to the answers as a body of text: raw (the reference answers) against refined (the responses).

A family of measures is a file here with a `VERSION`, the tools it NEEDS and those it USES where they are given (of
"encoder" and "tokenizer"), and `measure(raw, refined, <tools>) -> rows`. A row is a dict of family, name, value, n,
low, high (a 95% interval, or None) and detail (histograms, p values, notes). Adding a family is adding a file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refinery.catalog import module, names
from refinery.diagnostics._numbers import Row
from refinery.encoder import Encoder
from refinery.errors import UserError
from refinery.records import Example, digest
from refinery.store import Store

PACKAGE = "refinery.diagnostics"
REFINED_ONLY = "@refined"
"""Suffix of a measure's name over the rows that did not fall back to their reference answer."""


class Remembering:
    """An encoder that encodes each text once: steps of one graph share most of their texts."""

    def __init__(self, encoder: Encoder):
        self.identity = encoder.identity
        self._encoder = encoder
        self._vectors: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """As Encoder.encode."""
        new = [t for t in dict.fromkeys(texts) if t not in self._vectors]
        self._vectors.update(zip(new, self._encoder.encode(new), strict=True))
        return np.array([self._vectors[t] for t in texts])


def run(
    store: Store, fingerprint: str, *, encoder: Encoder | Remembering | None = None, tokenizer: Any = None
) -> list[Row]:
    """Measure the step stored under `fingerprint`, keep the rows in the store and return all that it now holds.

    Each measure is taken twice: over the step's train rows that were not dropped (detail "subset": "all"), and over
    those of them that did not fall back to the reference answer ("subset": "refined", name ending in REFINED_ONLY),
    since rows that fell back are equal by construction and hide what rewriting did. A value is None where no row is
    left to measure. Without an encoder the embedding measures are left out, without a tokenizer the lengths in tokens.
    What is stored already for the same rows, the same version of the family and the same tools is not computed again.
    UserError for a step that is not in the store.
    """
    if store.step(fingerprint) is None:
        raise UserError(f"the store {store.path} holds no step {fingerprint}")
    examples = [e for e in store.examples(fingerprint) if e.split == "train"]
    rows_digest = digest([[e.answer, e.response, e.fell_back] for e in examples])
    stored = {row["family"]: row["detail"]["by"] for row in store.diagnostics(fingerprint)}
    tools = {"encoder": Remembering(encoder) if isinstance(encoder, Encoder) else encoder, "tokenizer": tokenizer}
    for name in names(PACKAGE):
        family = module(PACKAGE, name)
        given = {key: tools[key] for key in (*family.NEEDS, *family.USES) if tools[key] is not None}
        by = {"version": family.VERSION, "rows": rows_digest, **_identities(given)}
        if all(key in given for key in family.NEEDS) and not _stands(stored.get(name), by):
            store.add_diagnostics(fingerprint, _both_subsets(family.measure, examples, given, by))
    return store.diagnostics(fingerprint)


def _both_subsets(measure: Any, examples: list[Example], given: dict[str, Any], by: dict[str, Any]) -> list[Row]:
    rows = []
    for subset, suffix in (("all", ""), ("refined", REFINED_ONLY)):
        members = [e for e in examples if subset == "all" or not e.fell_back]
        for row in measure([e.answer for e in members], [e.response for e in members], **given):
            rows.append({**row, "name": row["name"] + suffix, "detail": {**row["detail"], "subset": subset, "by": by}})
    return rows


def _identities(given: dict[str, Any]) -> dict[str, str]:
    return {key: tool.identity if key == "encoder" else str(tool.name_or_path) for key, tool in given.items()}


def _stands(stored: dict[str, Any] | None, by: dict[str, Any]) -> bool:
    """True where the stored rows were made with all that is given now (they may have had a tokenizer besides)."""
    return stored is not None and all(stored.get(key) == value for key, value in by.items())

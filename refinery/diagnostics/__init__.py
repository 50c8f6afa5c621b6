"""What a step did to the answers as a body of text: one side ("raw") against the other ("refined"), row by row.

A family of measures is a file here with a `VERSION`, the tools it NEEDS and those it USES where they are given, the
LIBRARIES of the extra `diagnose` that it uses, `MEANINGS` (name of a measure -> what it is called, how to read it) and
`measure(pairs, <tools>) -> rows`. A row is a dict of family, name, value, n, low, high (a 95% interval, or None) and
detail (histograms, p values, notes). Adding a family is adding a file.

Tools: encoder (sentence vectors), tokenizer, own (the base model's free answers), likelihoods (of both sides under the
base model), check (how answers are compared), gates (what filters decided), labels (who preferred what).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refinery.catalog import module, names
from refinery.diagnostics._numbers import Row, missing_extra
from refinery.diagnostics._pairs import RAW, Pairs, read_pairs
from refinery.encoder import Encoder
from refinery.errors import UserError
from refinery.store import Store

PACKAGE = "refinery.diagnostics"
REFINED_ONLY = "@refined"
"""Suffix of a measure's name over the rows that did not fall back to their reference answer."""

AFTER_REFINE = ("embedding", "length", "ngram")
"""The families that a run takes of every step by itself; `refinery diagnose` takes all."""


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
    store: Store,
    fingerprint: str,
    *,
    against: str = RAW,
    families: Sequence[str] = AFTER_REFINE,
    pairs: Pairs | None = None,
    **tools: Any,
) -> list[Row]:
    """Measure the step stored under `fingerprint`, keep the rows in the store and return all that it now holds of it.

    The raw side is each row's reference answer, or the response of the step `against` (a fingerprint) for rows that
    both steps have. `pairs` may be given where they have been read already.

    Each measure is taken twice: over the step's train rows that were not dropped (detail "subset": "all"), and over
    those of them that did not fall back to the reference answer ("subset": "refined", name ending in REFINED_ONLY),
    since rows that fell back are equal by construction and hide what rewriting did. A value is None where no row is
    left to measure. A family without its tools is left out. What is stored already for the same rows, the same
    version of the family and the same tools is not computed again. UserError for a step that is not in the store.
    """
    for wanted in (fingerprint, *([against] if against != RAW else [])):
        if store.step(wanted) is None:
            raise UserError(f"the store {store.path} holds no step {wanted}")
    pairs = pairs or read_pairs(store, fingerprint, against)
    stored = {row["family"]: row["detail"].get("by") for row in store.diagnostics(fingerprint, against)}
    given = {name: tool for name, tool in tools.items() if tool is not None}
    if isinstance(given.get("encoder"), Encoder):
        given["encoder"] = Remembering(given["encoder"])
    for name in families:
        family = module(PACKAGE, name)
        if not all(key in given for key in family.NEEDS):
            continue
        own = {key: given[key] for key in (*family.NEEDS, *family.USES) if key in given}
        by = {"version": family.VERSION, "rows": pairs.digest, **_identities(own)}
        by |= {"libraries": [each for each in family.LIBRARIES if not missing_extra(each)]} if family.LIBRARIES else {}
        if not _stands(stored.get(name), by):
            store.add_diagnostics(fingerprint, _both_subsets(family.measure, pairs, own, by), against)
    return store.diagnostics(fingerprint, against)


def all_families() -> list[str]:
    return names(PACKAGE)


def meaning(family: str, name: str) -> tuple[str, str] | None:
    """(what a measure is called, how to read it) for those that a person should look at first."""
    if family not in names(PACKAGE):
        return None
    known = module(PACKAGE, family).MEANINGS
    base = name.removesuffix(REFINED_ONLY)
    return known.get(base) or known.get(base.split(":")[0])


def _both_subsets(measure: Any, pairs: Pairs, given: dict[str, Any], by: dict[str, Any]) -> list[Row]:
    everything = measure(pairs, **given)
    part = measure(pairs.refined_only(), **given) if pairs.fell_back else everything
    rows = []
    for subset, suffix, measured in (("all", "", everything), ("refined", REFINED_ONLY, part)):
        for row in measured:
            rows.append({**row, "name": row["name"] + suffix, "detail": {**row["detail"], "subset": subset, "by": by}})
    return rows


def _identities(given: dict[str, Any]) -> dict[str, str]:
    return {key: tool.identity if hasattr(tool, "identity") else str(tool.name_or_path) for key, tool in given.items()}


def _stands(stored: dict[str, Any] | None, by: dict[str, Any]) -> bool:
    """True where the stored rows were made with all that is given now (they may have had a tokenizer besides)."""
    return stored is not None and all(stored.get(key) == value for key, value in by.items())

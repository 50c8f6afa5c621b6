"""Keep a rewrite only where it means what the reference means, by the cosine of sentence embeddings (RAFT Eqs 2 and 3).

    s = cos(phi(y), phi(y~));   y~ stays if s >= min_cosine, else the reference y comes back

A cosine does not see a flipped number or a negation: put check_answer behind this step where answers can be compared.
"""

import numpy as np
from pydantic import Field

from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams, give_up, settle
from refinery.spec_types import EncoderName, Template
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()


class Params(RowParams):
    min_cosine: float = Field(0.8, ge=-1, le=1)
    encoder: EncoderName = "all-MiniLM-L6-v2"
    against: Template = "{{ answer }}"
    """The text that candidates are compared with."""
    fallback: Fallback = "answer"


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates at or above the threshold stay, best first; the best becomes the response.

    scores: `cosine` (the best), `cosines` (every candidate, in the order it came), `winner` (index into them, None
    below the threshold), `min_cosine`. Reasons: below_threshold, and empty_reference where there is nothing to compare.
    """
    candidates = example.candidates or (example.response,)
    reference = render(params.against, example.fields())
    if not reference.strip():
        raise RowError("empty_reference")
    vectors = np.asarray(await ctx.embed(params.encoder, [reference, *candidates]), dtype=np.float64)
    cosines = [cosine(vectors[0], vector) for vector in vectors[1:]]
    order = sorted(range(len(candidates)), key=lambda i: -cosines[i])
    passed = [i for i in order if cosines[i] >= params.min_cosine]
    scores = {
        "cosine": cosines[order[0]],
        "cosines": cosines,
        "winner": passed[0] if passed else None,
        "min_cosine": params.min_cosine,
    }
    if not passed:
        return give_up(example, params.fallback, "below_threshold", scores)
    return settle(example, candidates[passed[0]], [candidates[i] for i in passed], scores)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """In [-1, 1], to six decimals: float32 encoders give 0.99999994 for a text and itself, which must pass at 1."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / size, 6) if size > 0 else 0.0

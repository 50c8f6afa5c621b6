"""Keep a rewrite only where its answer agrees with the reference, by a rule on plain text (refinery/checks.py)."""

from refinery.checks import Kind, agrees, reference_value
from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams, give_up, settle
from refinery.spec_types import Template
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()


class Params(RowParams):
    kind: Kind = "last_word"
    of: Template = "{{ answer }}"
    """The reference: a column that holds the bare answer, or the whole reference text."""
    fallback: Fallback = "answer"


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates that agree stay in their order (best cosine first behind a semantic_filter); the first one wins.

    scores: `agrees` (every candidate, in the order it came), `winner` (index, None where none agrees), `kind`.
    Reasons: disagrees, and unreadable_reference where the rule finds nothing to compare in the reference itself.
    """
    candidates = example.candidates or (example.response,)
    reference = render(params.of, example.fields())
    if reference_value(params.kind, reference) is None:
        raise RowError("unreadable_reference", f"no {params.kind} in {reference[:80]!r}")
    verdicts = [agrees(params.kind, candidate, reference) for candidate in candidates]
    right = [candidate for candidate, verdict in zip(candidates, verdicts, strict=True) if verdict]
    scores = {"agrees": verdicts, "winner": verdicts.index(True) if right else None, "kind": params.kind}
    if not right:
        return give_up(example, params.fallback, "disagrees", scores)
    return settle(example, right[0], right, scores)

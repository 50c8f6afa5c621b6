"""Which of our methods is which row of a paper: by what it is and what it learnt from, not by its name."""

from reports.data import ReportData
from reports.published import RAFT_1, RAFT_2, Published


def arm(data: ReportData, name: str) -> str | None:
    """What the papers call this method of ours, or None where they have no such thing."""
    if data.spec.train is None or name not in data.spec.train.methods:
        return None
    described = data.spec.train.methods[name]
    ops = _ops(data, described.data or data.spec.train.data)
    fused, rewritten = "fuse" in ops, "rewrite" in ops
    match described.method:
        case "sft":
            return "Fused + SFT" if fused else "SDFT-2024" if rewritten else "SFT"
        case "raft":
            conditioned = described.params.model_dump().get("teacher_prompt", "") is not None
            return "RAFT" if fused and conditioned and not getattr(described.params, "teacher_shuffle", False) else None
        case "reinvoke":
            return "SFT + re-invoke" if not ops else None
        case "sdft" | "dft" | "cpt" if not ops:
            return {"sdft": "SDFT-2026", "dft": "DFT", "cpt": "CPT"}[described.method]
        case "opd":
            return "On-policy"
        case "fapm":
            return "FAPM"
    return None


def _ops(data: ReportData, name: str) -> set[str]:
    """The operations behind a step that write text."""
    found, waiting = set(), [name]
    while waiting:
        step = data.spec.graph.get(waiting.pop())
        if step is not None:
            found.add(step.op)
            waiting += step.upstream
    return found & {"rewrite", "fuse", "generate", "self_first", "demonstrate"}


def row_of(published: Published, ours: str) -> str:
    """Our arm as this table calls it: both papers say SDFT and mean two things."""
    if published is RAFT_2:
        return {"SFT": "Raw + SFT"}.get(ours, ours)
    return {"SDFT-2024": "SDFT"}.get(ours, ours) if published is RAFT_1 else {"SDFT-2026": "SDFT"}.get(ours, ours)

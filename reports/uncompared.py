"""Why nothing could be compared although everything is scored: the settings in which the scores differ from the base's,
and what to do about it."""

from collections.abc import Mapping, Sequence

from evals.comparable import judge
from refinery.store import Row, Store
from reports.data import is_primary

TEMPLATE = "where its template was only lost, put the base's chat_template.jinja into the checkpoint's folder"


def settings(store: Store, base: Row, finals: Mapping[str, Sequence[Row]]) -> list[str]:
    """Those that are refused, of any checkpoint and benchmark."""
    like = {score.benchmark: score for score in store.scores(base["fingerprint"]) if is_primary(score)}
    found: dict[str, None] = {}
    for row in (row for rows in finals.values() for row in rows):
        for score in store.scores(row["fingerprint"]):
            if is_primary(score) and score.benchmark in like:
                found |= dict.fromkeys(judge(score, like[score.benchmark]).refused)
    return list(found)


def way_out(store: Store, differing: Sequence[str]) -> str:
    """A sentence's end; "" where no setting differs."""
    if not differing:
        return ""
    accepted = " ".join(f"--accept {key}" for key in differing)
    cures = [f"`refinery compare {store.path} {accepted}` compares all the same"]
    return "; ".join([*cures, *([TEMPLATE] if "chat_template" in differing else [])])

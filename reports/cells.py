"""What was trained, as settings: so that a report finds by itself which methods differ in one key, or cross several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports import table
from reports.data import called

if TYPE_CHECKING:
    from evals.forgetting import MethodResult
    from evals.panels import Panel
    from reports.data import ReportData

IGNORED = ("save_every", "report_to", "probe_every", "probe_prompts", "probe_rows", "micro_batch_size")
"""Parameters that shape no weights."""

ABSENT = "–"
"""The value of a key that a method does not have."""


@dataclass(frozen=True)
class Cell:
    """One method of one spec: all that shaped its weights but the seed."""

    name: str
    """The method's name; with the spec's before it where several specs are shown."""
    method: str
    spec: str
    series: int
    settings: Mapping[str, Any]
    """Setting to value: method, data, every training parameter, and, of several specs, model, source and the
    parameters of the steps behind the data. Nested parameters by their dotted path."""
    result: MethodResult | None
    panels: Sequence[Panel]

    def value(self, key: str) -> Any:
        return self.settings.get(key, ABSENT)


def cells(reports: Sequence[ReportData]) -> list[Cell]:
    """Every trained method of every spec, in their order."""
    several = len(reports) > 1
    found: list[Cell] = []
    for data in reports:
        if data.spec.train is None or data.spec.train.stages:
            continue
        for name, rows in data.trained.items():
            settings = _settings(data, name, rows[0]["params"], several)
            result = data.comparison.methods.get(name) if data.comparison else None
            label = f"{called(data, reports)}/{name}" if several else name
            series = len(found) if several else data.series(name)
            found.append(Cell(label, name, data.label, series, settings, result, data.panels))
    return found


def _settings(data: ReportData, name: str, params: Mapping[str, Any], several: bool) -> dict[str, Any]:
    assert data.spec.train is not None
    described = data.spec.train.methods[name]
    tuned = set(data.spec.train.tune)
    source = described.data or data.spec.train.data or "source"
    found: dict[str, Any] = {"method": described.method, "data": source}
    if several:
        origin = data.spec.source
        assert origin is not None
        read = origin.lab or origin.path or (origin.hub and origin.hub.id) or "a query"
        found |= {"model": data.spec.model, "source": read}
        for step in _behind(data, source):
            found |= {f"{step}.{key}": value for key, value in _flat(data.spec.graph[step].params.model_dump())}
    own = {key: value for key, value in params.items() if key not in IGNORED and key not in tuned}
    return found | dict(_flat(own))


def _behind(data: ReportData, name: str) -> list[str]:
    """The step and all that it reads, directly or not."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        step = waiting.pop()
        if step in data.spec.graph and step not in found:
            found.append(step)
            waiting += data.spec.graph[step].upstream
    return sorted(found)


def _flat(params: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted path; lists as they are written."""
    found: list[tuple[str, Any]] = []
    for key, value in params.items():
        at = f"{path}{key}"
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{at}.")
        else:
            found.append((at, tuple(map(str, value)) if isinstance(value, list | tuple | set) else value))
    return found


def shown(value: Any) -> str:
    """A setting as a label of a chart or a table; a long text by its end, where prompts differ."""
    if isinstance(value, tuple):
        text = ", ".join(value) or "none"
    elif isinstance(value, bool) or value is None or isinstance(value, int | float):
        text = table.plain_number(value)
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"…{text[-39:]}"


def numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

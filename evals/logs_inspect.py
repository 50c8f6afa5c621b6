"""inspect_ai's logs: a .eval file (a zip of a header and one JSON a sample), or the same as one .json."""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals import stats
from evals.comparable import NO_SETTINGS, UNKNOWN
from evals.importing import Evaluation, beginning, json_of, members
from refinery.errors import UserError
from refinery.records import Sample, Score, digest

LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""inspect_ai's correct, incorrect, partial and no answer, at the values that its own accuracy gives them."""

ZSTANDARD = 93
NAME_LENGTH = 26
"""Where a zip member's own header has the lengths of what stands before its data (APPNOTE 4.3.7)."""


def is_log(path: Path) -> bool:
    if path.suffix == ".eval":
        return True
    return bool(re.match(r'\{"version":\d+,"status":"\w+","eval":\{', beginning(path)))


def read(path: Path) -> list[Evaluation]:
    """One evaluation. UserError where the log is not one of a run that came to its end."""
    header, samples = _zip(path) if path.suffix == ".eval" else _json(path)
    if header.get("status") != "success":
        raise UserError(f"{path}: the run did not come to its end (status {header.get('status')})")
    spec = header["eval"]
    benchmark = str(spec["task"]).rpartition("/")[2]
    settings = _settings(header)
    fingerprint = digest({key: value for key, value in settings.items() if key not in NO_SETTINGS})
    values: dict[str, dict[str, list[float]]] = {}
    texts: dict[str, tuple[str, str, str]] = {}
    unscored = 0
    for sample in samples:
        item = digest([sample.get("id"), sample.get("input")], 24)
        texts.setdefault(item, (_text(sample.get("input")), _text(sample.get("target")), _answer(sample)))
        numbers = _numbers(sample)
        unscored += not numbers
        for metric, value in numbers.items():
            values.setdefault(metric, {}).setdefault(item, []).append(value)
    settings["primary_metric"] = next(iter(values), UNKNOWN)
    notes = [f"{unscored} samples have no score that is a number and were left out"] if unscored else []
    scores, rows = [], []
    for metric, by_item in values.items():
        means = {item: math.fsum(some) / len(some) for item, some in by_item.items()}
        scores.append(_score(benchmark, metric, list(means.values()), fingerprint, settings))
        for item, value in means.items():
            shown = texts[item] if metric == settings["primary_metric"] else ("", "", "")
            rows.append(Sample("", benchmark, metric, item, value, *shown, fingerprint))
    about = {"tool": "inspect_ai", "model_args": spec.get("model_args"), "base_url": spec.get("model_base_url")}
    return [Evaluation(str(spec["model"]), about, benchmark, str(spec["created"]), str(path), scores, rows, notes)]


def _zip(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    archive = members(path)
    names = archive.namelist()
    if "header.json" not in names:
        raise UserError(f"{path}: a log without its header, of a run that did not come to its end")
    parts = [name for name in names if name.startswith("samples/") and name.endswith(".json")]
    return json.loads(_member(archive, "header.json")), (json.loads(_member(archive, name)) for name in parts)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Newer logs are packed with Zstandard, which this language's own zip reader learns in 3.14."""
    about = archive.getinfo(name)
    if about.compress_type != ZSTANDARD:
        return archive.read(name)
    try:
        import pyarrow
    except ImportError as error:
        cure = 'pip install "refinery[eval]", or `inspect log convert --to json`'
        raise UserError(f"{archive.filename}: packed with Zstandard: {cure}") from error
    assert archive.fp is not None
    archive.fp.seek(about.header_offset + NAME_LENGTH)
    name_length, more_length = struct.unpack("<HH", archive.fp.read(4))
    archive.fp.seek(name_length + more_length, io.SEEK_CUR)
    packed = archive.fp.read(about.compress_size)
    return pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd").read()


def _json(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    found = json_of(path)
    return found, iter(found.get("samples") or [])


def _settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """In the words of evals/fingerprints.py, what means the same there. Which template a served model was asked with,
    and how it was run, no log says."""
    spec, plan = header["eval"], header.get("plan") or {}
    config = spec.get("config") or {}
    asked = {k: v for k, v in (plan.get("config") or {}).items() if v is not None}
    asked |= {k: v for k, v in (spec.get("model_generate_config") or {}).items() if v is not None}
    steps = [{key: step.get(key) for key in ("solver", "params")} for step in plan.get("steps") or []]
    scorers = [{key: each.get(key) for key in ("name", "options")} for each in spec.get("scorers") or []]
    shaping = {k: v for k, v in asked.items() if k in ("top_p", "top_k", "stop_seqs", "seed", "num_choices")}
    settings = {
        "imported": "inspect_ai",
        "harness": f"inspect_ai {(spec.get('packages') or {}).get('inspect_ai') or UNKNOWN}",
        "backend": str(spec["model"]).partition("/")[0],
        "task": UNKNOWN,
        "task_config": digest([spec.get("task_args"), steps, scorers]),
        "task_version": str(spec.get("task_version")),
        "chat_template": UNKNOWN,
        "shots": UNKNOWN,
        "dtype": UNKNOWN,
        "device": UNKNOWN,
        "batch_size": UNKNOWN,
        "limit": config.get("limit"),
        "epochs": config.get("epochs") or 1,
        "max_tokens": asked.get("max_tokens", UNKNOWN),
        "generation": UNKNOWN,
    }
    if asked.get("temperature") != 0:
        settings["sampling"] = {**shaping, "temperature": asked["temperature"]} if "temperature" in asked else UNKNOWN
    return settings


def _numbers(sample: Mapping[str, Any]) -> dict[str, float]:
    """Scorer to its value; a scorer that gives several, by name."""
    found: dict[str, float] = {}
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, Mapping) else score
        parts = (
            {f"{scorer}/{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {scorer: value}
        )
        for name, each in parts.items():
            if (number := _number(each)) is not None:
                found[name] = number
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if value in LETTERS:
            return LETTERS[value]
        words = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
        if value.lower() in words:
            return words[value.lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def _score(
    benchmark: str, metric: str, values: Sequence[float], fingerprint: str, settings: Mapping[str, Any]
) -> Score:
    mean = math.fsum(values) / len(values)
    if set(values) <= {0.0, 1.0}:
        low, high = stats.wilson(sum(values), len(values))
    else:
        interval = stats.t_mean(values)
        low, high = interval.low, interval.high
    return Score("", benchmark, metric, mean, low, high, len(values), fingerprint, True, dict(settings))


def _text(value: Any) -> str:
    """An input (text, or chat messages) or a target (text, or several)."""
    if isinstance(value, list):
        return "\n".join(_text(each.get("content") if isinstance(each, Mapping) else each) for each in value)
    if isinstance(value, Mapping):
        return str(value.get("text", ""))
    return "" if value is None else str(value)


def _answer(sample: Mapping[str, Any]) -> str:
    output = sample.get("output") or {}
    if output.get("completion") is not None:
        return str(output["completion"])
    choices = output.get("choices") or []
    return _text((choices[0].get("message") or {}).get("content")) if choices else ""

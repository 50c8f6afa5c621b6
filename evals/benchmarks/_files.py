"""A benchmark's own files, where `evaluate.data` says that they are: read as they were released, nothing fetched."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refinery.errors import UserError
from refinery.spec_models import EvaluateSpec

Rows = list[dict[str, Any]]
ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".parquet")


def splits(
    settings: EvaluateSpec, dataset: str, patterns: Mapping[str, str], optional: tuple[str, ...] = ()
) -> dict[str, Rows]:
    """Rows of each split, {} where the hub's are meant.

    `evaluate.data` is a folder that has one folder for each data set, or names a folder or file for some of them.
    `patterns` has a glob for each split; a file that stands there itself is its only split. UserError where a split
    that is not `optional` has no file, or several that are not numbered parts of one (…-00000-of-00002…).
    """
    place = root(settings, dataset)
    if place is None:
        return {}
    if place.is_file():
        return {next(iter(patterns)): read(place)}
    found = {}
    for split, pattern in patterns.items():
        files = sorted(path for path in place.rglob(pattern) if path.name.endswith(ENDINGS) and path.is_file())
        if len(files) > 1 and not all("-of-" in path.name for path in files):
            raise UserError(
                f"evaluate.data: {place} has several files for the {split} split of {dataset} "
                f"({', '.join(path.name for path in files[:3])}); name the one meant: data: {{{dataset}: FILE}}"
            )
        if files:
            found[split] = [row for path in files for row in read(path)]
        elif split not in optional:
            raise UserError(f"evaluate.data: {place} has no {pattern} ({' '.join(ENDINGS)}), the {split} of {dataset}")
    return found


def root(settings: EvaluateSpec, dataset: str) -> Path | None:
    """The folder or file of a data set, None where the hub's is meant. UserError where it is not there: what was to be
    read here is not fetched instead."""
    data = settings.data
    if isinstance(data, str):
        place = Path(data).expanduser() / dataset
        cure = "to take others from the hub, name those that are here: data: {DATA SET: FOLDER}"
    elif data and dataset in data:
        place, cure = Path(data[dataset]).expanduser(), "a folder, or one file"
    else:
        return None
    if not place.exists():
        raise UserError(f"evaluate.data: there is no {place} ({cure})")
    return place


def read(path: Path) -> Rows:
    """The objects of a JSON list, of JSON lines (also under the name .json), gzipped or not, or of Parquet."""
    if path.name.endswith(".parquet"):
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode("utf-8-sig")
    try:
        rows = json.loads(text) if text.lstrip().startswith("[") else _lines(text)
    except ValueError as error:
        raise UserError(f"{path} is neither a JSON list nor JSON lines: {error}") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no rows: a JSON object for each item")
    return rows


def _lines(text: str) -> Rows:
    return [json.loads(line) for line in text.split("\n") if line.strip()]

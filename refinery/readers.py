"""Files and datasets as raw rows, each with the place where it stands; a row that cannot be read is a row too."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from refinery.errors import UserError, did_you_mean

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
PEEK = 100
"""Rows looked at to learn which columns a file has, where it does not say."""
HEAD = 4_000_000
"""Bytes of a JSON array looked at for the same purpose."""


@dataclass(frozen=True, slots=True)
class Raw:
    place: str
    """For people: "data.jsonl:4"."""
    values: dict[str, Any] | None
    """The row, or None where `reason` says why it cannot be read."""
    reason: str = ""
    detail: str = ""


def read_path(path: Path) -> Iterator[Raw]:
    """Every row of a file or of a folder written by save_to_disk. UserError where there is no such thing to read."""
    if message := unreadable(path):
        raise UserError(message)
    if path.is_dir():
        return read_saved(path)
    return {
        ".jsonl": read_jsonl,
        ".json": read_json,
        ".csv": read_csv,
        ".tsv": read_csv,
        ".parquet": read_parquet,
    }[path.suffix.lower()](path)


def unreadable(path: Path, spec: Path | None = None) -> str | None:
    """Why `path` cannot be a source, or None; looks at the name alone. `spec`: the file that names it."""
    if not path.exists():
        if spec and not path.is_absolute() and (there := spec.parent / path).exists():
            return (
                f"there is no file {path} (seen from the current folder); there is one beside the spec: {there}; "
                "run from there"
            )
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"there is no file {path}{did_you_mean(path.name, beside)} (seen from the current folder)"
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return None
        return f"{path} is a folder, but not one that save_to_disk of datasets has written"
    if path.suffix.lower() not in SUFFIXES:
        return f"{path} is none of {', '.join(SUFFIXES)}, nor a folder written by save_to_disk"
    return None


def columns(path: Path) -> list[str]:
    """The columns of a readable path: from its header, or from its first rows. Reads no more than it must."""
    if path.is_dir():
        info = next((file for file in sorted(path.rglob("dataset_info.json"))), None)
        return list(json.loads(info.read_text("utf-8")).get("features") or {}) if info else []
    if path.suffix.lower() == ".parquet":
        from refinery import sql

        return sql.parquet_columns(path)
    partial = path.suffix.lower() == ".json" and path.stat().st_size > HEAD
    found: dict[str, None] = {}
    try:
        for raw in islice(read_json(path, HEAD) if partial else read_path(path), PEEK):
            found.update(dict.fromkeys(raw.values or ()))
    except UserError:
        if not partial:  # else it may be the head's end that is wrong
            raise
    return list(found)


# -- formats ----------------------------------------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_jsonl(path: Path) -> Iterator[Raw]:
    """One JSON object a line; blank lines are passed over."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    yield _row(place, _DECODER.decode(text))
            except UnicodeDecodeError:
                yield Raw(place, None, "invalid_text", "not UTF-8")
            except (ValueError, RecursionError) as error:
                yield Raw(place, None, "bad_json", str(error) or "nested too deeply")


def read_json(path: Path, head: int | None = None) -> Iterator[Raw]:
    """A JSON array of objects; `head` reads only so many bytes of it, and then fails somewhere behind the last row."""
    text = _text(path, head)
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        raise UserError(f"{path}: a .json file must be an array of rows; one object a line is .jsonl")
    at, line, seen = _skip(text, at + 1), 1, 0
    while text[at : at + 1] != "]":
        line += text.count("\n", seen, at)
        seen = at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{line}: not JSON: {error}") from None
        yield _row(f"{path}:{line}", value)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise UserError(f"{path}:{line + text.count(chr(10), seen, at)}: not JSON: expected , or ] after a row")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _text(path: Path, head: int | None) -> str:
    with path.open("rb") as file:
        raw = file.read(head)
    try:
        return raw.decode("utf-8-sig", "strict" if head is None else "ignore")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}") from None


def _row(place: str, value: Any) -> Raw:
    if isinstance(value, dict):
        return Raw(place, value)
    return Raw(place, None, "wrong_type", f"a row is an object, this is {type(value).__name__}")


def read_csv(path: Path) -> Iterator[Raw]:
    """A header line, then rows; every value is text. A .tsv is split at tabs."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise UserError(f"{path}: {error}") from None


def _csv_rows(path: Path, reader: Any) -> Iterator[Raw]:
    header = next(reader, None)
    if not header:
        raise UserError(f"{path}: empty; the first line names the columns")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise UserError(f"{path}:1: the column {doubled[0]!r} is there twice")
    start = reader.line_num + 1
    for fields in reader:
        place = f"{path}:{start}"
        start = reader.line_num + 1
        if len(fields) == len(header):
            yield Raw(place, dict(zip(header, fields, strict=True)))
        elif fields:
            yield Raw(place, None, "wrong_columns", f"{len(fields)} values for {len(header)} columns")


def read_parquet(path: Path) -> Iterator[Raw]:
    from refinery import sql

    for number, values in enumerate(sql.read_parquet(path), 1):
        yield Raw(f"{path}, row {number}", values)


# -- Hugging Face datasets --------------------------------------------------------------------------------------------


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError('Hugging Face datasets need the extra "hub": pip install "refinery[hub]"') from None
    datasets.disable_progress_bars()
    return datasets


def read_saved(path: Path) -> Iterator[Raw]:
    """A Dataset saved to disk; of a DatasetDict its train split."""
    dataset = _datasets().load_from_disk(str(path))
    if isinstance(dataset, dict):
        if "train" not in dataset:
            raise UserError(f"{path}: no split train, only {', '.join(dataset)}: name the folder of one of them")
        dataset = dataset["train"]
    for number, values in enumerate(dataset, 1):
        yield Raw(f"{path}, row {number}", dict(values))


def read_hub(id_: str, config: str | None, split: str, revision: str | None) -> Iterator[Raw]:
    """A dataset of the hub, from the local cache where it is there. Never runs a dataset's own code."""
    datasets = _datasets()
    try:
        dataset = datasets.load_dataset(id_, config, split=split, revision=revision)
    except Exception as error:  # the hub's client raises a dozen kinds: none is ours, all are about this id
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise UserError(f"hub dataset {id_}: {type(error).__name__}: {first}") from None
    for number, values in enumerate(dataset, 1):
        yield Raw(f"{id_}, row {number}", dict(values))

"""From the spec's `source` to Outcome rows: read, understood, identified and split, or dropped with a reason.

A source is read once, in a stream, and kept on disk for as long as it is needed, so that memory does not grow with it:
what an id or a split hangs on (equal rows before it, all groups) is 32 bytes a row.
"""

import datetime
import decimal
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from refinery import readers, shapes
from refinery.errors import RowError, UserError, did_you_mean
from refinery.readers import Raw
from refinery.records import Example, Outcome, canonical, digest
from refinery.shapes import CHAT_COLUMNS
from refinery.spec import Spec
from refinery.spec_models import SourceSpec, SplitSpec
from refinery.spool import Spool

LAB_COLUMNS = ("question", "answer", "key", "case", "domain")
SHOWN = 5
"""Bad rows named in a refusal."""
VERSION = 2
SPLITS = ("train", "validation", "test")

unreadable_columns = shapes.unreadable


def load(spec: Spec) -> list[Outcome]:
    """Every row of the main source: see `Reading`."""
    assert spec.source is not None
    return read_source(spec.source)


def read_source(source: SourceSpec) -> list[Outcome]:
    with Reading(source) as reading:
        return list(reading.outcomes())


class Reading:
    """A source, read: one outcome for each row, in order, "kept" with its Example, or "dropped" with reason and place.

    The same content gives the same rows, ids and splits, wherever it stands. UserError where nothing can be read, where
    no row is left, and, under on_bad_row: refuse, where any row is bad. Close it, or use it in a `with`.
    """

    def __init__(self, source: SourceSpec, name: str = "source", key: str | None = None):
        """`key`: its `reading_key`, taken before it is read, so that a file edited later is another."""
        self.source, self.name, self.key = source, name, key
        self.rows = self.train_rows = 0
        raws = islice(_raw_rows(source), source.limit)
        with ExitStack() as stack:
            converted = stack.enter_context(Spool())
            if source.prompt is not None and source.answer is not None:
                self._convert(converted, raws, [])
            else:  # which columns ask and answer is known when all are
                spool, columns = _spooled(raws)
                with spool:
                    if columns and (message := unreadable_columns(source, columns)):
                        raise UserError(f"{name}: {message}")
                    self._convert(converted, (Raw(*row) for row in spool), columns)
            stack.pop_all()
        self._converted = converted

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._converted.close()

    def _convert(self, converted: Spool, raws: Iterable[Raw], columns: list[str]) -> None:
        contents, groups, good, rest = bytearray(), bytearray(), bytearray(), hashlib.sha256()
        split = self.source.split
        by = self.source.split.by
        bad: list[Any] = []
        for raw in raws:
            row = _converted(self.source, columns, raw)
            if len(row) == 2:
                content = digest(["bad", raw.values if raw.values is not None else raw.detail])
                if len(bad) < SHOWN:
                    bad.append(row)
            else:
                content = digest([row[0], row[1]])
            converted.add(row)
            contents += bytes.fromhex(content)
            groups += bytes.fromhex(digest(row[2][by])) if by is not None and len(row) == 3 else bytes(16)
            good.append(len(row) == 3)
            rest.update(canonical(row[2] if len(row) == 3 else row[0]) + b"\n")
        self.rows = len(good)
        kept = np.frombuffer(good, dtype=bool)
        wrong = int((~kept).sum())
        if wrong and self.source.on_bad_row == "refuse":
            raise UserError(f"{self.name}: {_refusal(bad, wrong, self.rows)}")
        if wrong == self.rows:
            shown = _shown(bad)
            raise UserError(f"{self.name}: no rows" if not wrong else f"{self.name}: all {wrong} rows are bad: {shown}")
        self._ids = _ids(bytes(contents))
        self._splits = np.full(self.rows, 255, dtype=np.uint8)
        if split.train == 1.0:
            self._splits[kept] = 0
        else:
            if by is None:
                groups = bytearray(b"".join(bytes.fromhex(digest(self._id(i))) for i in range(self.rows)))
            self._splits[kept] = _assigned(np.frombuffer(groups, dtype="S16")[kept], split)
        self.train_rows = int((self._splits == 0).sum())
        # prompts and answers are in the ids
        whole = [b"source %d\n" % VERSION, self._ids, self._splits.tobytes(), rest.digest()]
        self._fingerprint = hashlib.sha256(b"".join(whole)).hexdigest()[:32]

    def _id(self, row: int) -> str:
        """Appending, deleting or editing other rows leaves an id alone."""
        return self._ids[10 * row : 10 * row + 10].hex()

    def outcomes(self) -> Iterator[Outcome]:
        """One for each row, in order; may be called again."""
        for i, row in enumerate(self._converted):
            example_id = self._id(i)
            if len(row) == 2:
                yield Outcome(example_id, "dropped", row[0], None, {}, row[1])
                continue
            prompt, answer, meta = row
            split = SPLITS[self._splits[i]]
            example = Example(id=example_id, prompt=prompt, answer=answer, response=answer, split=split, meta=meta)
            yield Outcome(example_id, "kept", "ok", example)

    def fingerprint(self) -> str:
        """Digest of what was read and not where from: a file that moved, or a template that renders the same prompts,
        changes nothing downstream."""
        return self._fingerprint


def reading_key(source: SourceSpec) -> str | None:
    """Digest of the files and settings that a reading hangs on; None where only reading tells (the hub)."""
    files = [source.path] if source.path else list(source.sql.tables.values()) if source.sql else []
    if source.hub is not None or any(not Path(file).is_file() for file in files):
        return None
    found = [_file_digest(Path(file)) for file in files]
    return digest(
        {"version": [VERSION, 2] if source.sql else VERSION, "files": found, "settings": source.model_dump(mode="json")}
    )


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _spooled(raws: Iterable[Raw]) -> tuple[Spool, list[str]]:
    """All rows, on disk, and the columns that any of them has."""
    spool, columns = Spool(), dict[str, None]()
    try:
        for raw in raws:
            columns.update(dict.fromkeys(raw.values or ()))
            spool.add((raw.place, raw.values, raw.reason, raw.detail))
    except BaseException:
        spool.close()
        raise
    return spool, list(columns)


def peek(source: SourceSpec, spec: Path | None = None) -> tuple[list[str] | None, list[tuple[tuple[str, ...], str]]]:
    """(columns, mistakes) as far as they show without reading the whole source; columns are None where unknown.

    A mistake is (path below `source`, message). `spec` is the file that the source is written in.
    """
    if source.lab is not None:
        from refinery.lab import CALIBRATION, DOMAINS

        known = [*DOMAINS, *CALIBRATION]
        hint = did_you_mean(source.lab, known) or f" (there are: {', '.join(known)})"
        if source.lab in known:
            return list(LAB_COLUMNS), []
        return list(LAB_COLUMNS), [(("lab",), f'the lab has no domain "{source.lab}"{hint}')]
    if source.path is not None:
        if message := readers.unreadable(Path(source.path), spec):
            return None, [(("path",), message)]
        try:
            return readers.columns(Path(source.path)) or None, []
        except UserError as error:
            return None, [(("path",), str(error))]
    if source.sql is not None:
        tables = source.sql.tables
        found = [(("sql", "tables", name), readers.unreadable(Path(file), spec)) for name, file in tables.items()]
        return None, [(path, message) for path, message in found if message]
    return None, []


def _raw_rows(source: SourceSpec) -> Iterator[Raw]:
    if source.path is not None:
        yield from readers.read_path(Path(source.path))
    elif source.hub is not None:
        hub = source.hub
        yield from readers.read_hub(hub.id, hub.config, hub.split, hub.revision)
    elif source.sql is not None:
        from refinery import sql

        tables = {name: Path(file) for name, file in source.sql.tables.items()}
        for number, values in enumerate(sql.query(source.sql.query, tables), 1):
            yield Raw(f"sql, row {number}", values)
    elif source.lab is not None:
        from refinery.lab import source_rows

        for number, values in enumerate(source_rows(source.lab), 1):
            yield Raw(f"lab {source.lab}, row {number}", values)


# -- rows -------------------------------------------------------------------------------------------------------------


def _converted(source: SourceSpec, columns: Sequence[str], raw: Raw) -> tuple[Any, ...]:
    """(prompt, answer, meta), or (reason, detail with the place) of a bad row."""
    try:
        if raw.values is None:
            raise RowError(raw.reason, raw.detail)
        values = {name: value if type(value) is str else plain(value) for name, value in raw.values.items()}
        by = source.split.by
        if by is not None and values.get(by) is None:
            raise RowError("missing_column", by)
        prompt, answer = shapes.convert(source, columns, values)
    except RowError as error:
        detail = f"{raw.place}: {error.detail}" if error.detail else raw.place
        return error.reason, detail.encode("utf-8", "replace").decode("utf-8")
    return prompt, answer, {name: value for name, value in values.items() if name not in CHAT_COLUMNS}


def _ids(contents: bytes) -> bytes:
    """10 bytes a row: the digest of its content's digest (16 bytes) and of how many equal rows stand up to it."""
    keys = np.frombuffer(contents, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0]))
    new = np.ones(len(keys), dtype=bool)
    new[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    starts = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    number = np.empty(len(keys), dtype=np.int64)
    number[order] = np.arange(len(keys)) - starts + 1
    found = bytearray()
    for row, count in enumerate(number.tolist()):
        named = f'["{contents[16 * row : 16 * row + 16].hex()}",{count}]'  # as records.canonical writes it
        found += hashlib.sha256(named.encode("ascii")).digest()[:10]
    return bytes(found)


def plain(value: Any) -> Any:
    """A value as JSON has it: dates as text, decimals as numbers, bytes refused with RowError("wrong_type")."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        raise RowError("wrong_type", "a column holds bytes")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if isinstance(value, int | float | None) else str(value)


def _refusal(bad: list[Any], wrong: int, total: int) -> str:
    rest = f"; and {wrong - SHOWN} more" if wrong > SHOWN else ""
    cure = "mend them, or leave them out with on_bad_row: drop"
    return f"{wrong} of {total} rows are bad: {_shown(bad)}{rest} ({cure})"


def _shown(bad: Iterable[Any]) -> str:
    return "; ".join(f"{reason} at {detail}" for reason, detail in bad)


# -- splits -----------------------------------------------------------------------------------------------------------


def assign(groups: Sequence[Any], split: SplitSpec) -> dict[str, str]:
    """Digest of each group's value to its split.

    Groups stand in the order of a hash of (seed, value) and fill train, validation and test one after another; a group
    goes where its middle falls, so the shares are exact to half a group at each of the two cuts.
    """
    names = [digest(group) for group in groups]
    codes = _assigned(np.frombuffer(b"".join(map(bytes.fromhex, names)), dtype="S16"), split) if names else ()
    return {name: SPLITS[code] for name, code in zip(names, codes, strict=True)}


def _assigned(groups: np.ndarray, split: SplitSpec) -> np.ndarray:
    """(n,) index into SPLITS for each row, of (n,) digests of its group."""
    keys = groups.view(">u8").reshape(-1, 2)
    distinct, inverse, sizes = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    ranks = b"".join(bytes.fromhex(digest([split.seed or 0, key.tobytes().hex()])) for key in distinct)
    rank = np.frombuffer(ranks, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((rank[:, 1], rank[:, 0]))
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    train, validation = split.train or 0.0, split.validation or 0.0
    middle = middle / len(groups)
    codes = np.empty(len(distinct), dtype=np.uint8)
    codes[order] = np.where(middle < train, 0, np.where(middle < train + validation, 1, 2))
    return codes[inverse.reshape(-1)]

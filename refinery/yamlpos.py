"""YAML in which every key and value knows its place, read as people mean it.

Four things differ from PyYAML's safe loader: only true and false are booleans (`no` is text) and 2e-5 is a number, as
in YAML 1.2; a key written twice is an error; `${NAME}` in a value is the environment variable NAME (upper case; an
error where it is not set; `${NAME:-default}` has a default, `$${NAME}` is the text itself); and no tag, whatever it
names, constructs anything.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from refinery.errors import UserError
from refinery.problems import Place, Problem

KeyPath = tuple[str | int, ...]
"""Where a value stands in the document: ("graph", "close", "from", 0)."""

MAX_NODES = 50_000  # an alias may repeat a node: this is after expansion


@dataclass
class Document:
    """Plain data, and the place of each key and value in it."""

    file: str
    data: Any = None
    values: dict[KeyPath, Place] = field(default_factory=dict)
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)
    """Text with ${NAME} in it, as it stood before the environment was put in."""
    problems: list[Problem] = field(default_factory=list)
    unread: set[KeyPath] = field(default_factory=set)
    """Values that stand for nothing, because a problem with their YAML has been reported."""

    def place(self, path: KeyPath, *, key: bool = False) -> Place:
        """Where the value (or its key) stands; of a path that is not written, its nearest written parent's key."""
        places = self.keys if key else self.values
        if path in places:
            return places[path]
        while path:
            if path in self.keys:
                return self.keys[path]
            if path in self.values:
                return self.values[path]
            path = path[:-1]
        return self.values.get((), Place(self.file, 1, 1, ""))

    def add(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        self.problems.append(Problem(self.place(path, key=key), message))


class _Loader(yaml.SafeLoader):
    """Tells plain scalars from quoted ones; what they mean is decided in `plain_value`."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return "plain" if kind is yaml.ScalarNode and implicit[0] else super().resolve(kind, value, (False, True))


_SAFE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map")}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ENV = re.compile(r"\$?\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*))?\}")


def plain_value(text: str) -> Any:
    """What an unquoted scalar means: YAML 1.2's core schema."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text.lower() in ("true", "false") and text in (text.lower(), text.title(), text.upper()):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text) or text.lower().lstrip("+-") in (".inf", ".nan"):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


class _Reader:
    """One walk over the node tree: data, places, problems."""

    def __init__(self, document: Document, text: str):
        self.document, self.text, self.lines = document, text, text.split("\n")
        self.open: list[int] = []
        self.count = 0

    def at(self, index: int) -> Place:
        line = self.text.count("\n", 0, index)
        return self.place(line, index - (self.text.rfind("\n", 0, index) + 1))

    def place(self, line: int, column: int) -> Place:
        text = self.lines[line].rstrip("\r") if line < len(self.lines) else ""
        return Place(self.document.file, line + 1, column + 1, text)

    def problem(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        place = self.place(node.start_mark.line, node.start_mark.column)
        self.document.problems.append(Problem(place, message))
        self.document.unread.add(path)

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.document.values.setdefault(path, self.place(node.start_mark.line, node.start_mark.column))
        self.count += 1
        if id(node) in self.open:
            return self.problem(node, path, "an alias inside the very thing it names")
        if self.count > MAX_NODES:
            raise RecursionError
        if node.tag != "plain" and node.tag not in _SAFE_TAGS:
            name = node.tag.replace("tag:yaml.org,2002:", "!!")
            return self.problem(node, path, f"the tag {name} is not allowed: a spec holds only plain values")
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return self.scalar(node, path)
        finally:
            self.open.pop()

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, Place] = {}
        for key, value in _own_then_merged(node):
            place = self.place(key.start_mark.line, key.start_mark.column)
            if not isinstance(key, yaml.ScalarNode):
                self.problem(key, path, 'a key must be text (a template is written in quotes: "{{ question }}")')
                continue
            name = key.value
            if name in first:
                if key in (own for own, _ in node.value):
                    message = f'"{name}" is written twice (first at line {first[name].line})'
                    self.document.problems.append(Problem(place, message))
                continue
            first[name] = place
            self.document.keys.setdefault((*path, name), place)
            result[name] = self.value(value, (*path, name))
        return result

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text = node.value
        if "${" in text:
            self.document.written[path], text = text, self.expand(node, path)
        return plain_value(text) if node.tag == "plain" else text

    def expand(self, node: yaml.ScalarNode, path: KeyPath) -> str:
        seen = node.start_mark.index

        def one(match: re.Match[str]) -> str:
            nonlocal seen
            whole, name, default = match.group(0), match.group(1), match.group(2)
            if whole.startswith("$$"):
                return whole[1:]
            found = self.text.find(whole, seen)
            seen = found + 1 if found >= 0 else seen
            value = os.environ.get(name)
            if default is not None:
                return value or default
            if value is None:
                message = f"the environment variable {name} is not set (a default is written ${{{name}:-value}})"
                self.document.problems.append(Problem(self.at(max(found, node.start_mark.index)), message))
                self.document.unread.add(path)
            return value or ""

        return _ENV.sub(one, node.value)


def _own_then_merged(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The mapping's own entries, then those merged in by `<<: *anchor`, which never override."""
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == "plain" and key.value == "<<":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
        else:
            yield key, value
    for other in merged:
        if isinstance(other, yaml.MappingNode) and other is not node:
            yield from other.value


def parse(text: str, file: str) -> Document:
    """The document and everything wrong with it as YAML (in `problems`); data is None where it cannot be read."""
    document = Document(file)
    reader = _Reader(document, text)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.data = reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = reader.place(mark.line, mark.column) if mark else Place(file, 1, 1, "")
        if place.text[max(0, place.column - 2) : place.column] == "${":
            message = 'inside { } or [ ] an environment variable is written in quotes: "${NAME}"'
            document.problems.append(Problem(replace(place, column=place.column - 1), message))
        else:
            document.problems.append(Problem(place, _plainly(error)))
    except yaml.reader.ReaderError as error:
        document.problems.append(Problem(reader.at(error.position), f"a control character, {error.character:#x}"))
    except RecursionError:
        document.problems.append(Problem(Place(file, 1, 1, reader.lines[0]), "nested or repeated too deeply"))
    return document


def _plainly(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "not YAML"
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces"
    if "mapping values are not allowed" in problem:
        return 'a colon where YAML expects none (text with ": " in it is written in quotes; check the indentation)'
    if "expected a single document" in (error.context or ""):
        return "a second document begins here: a spec is one document"
    return f"not YAML: {problem}" + (f" ({error.context})" if error.context else "")


def read(path: Path) -> Document:
    """`parse` of a file. UserError where there is no such file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        return parse(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        text = raw.splitlines()[line - 1].decode("utf-8", "replace")
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        return Document(str(path), problems=[Problem(Place(str(path), line, column, text), "not UTF-8 text")])


def override(document: Document, assignments: Sequence[str]) -> None:
    """Put each `key.path=value` (the value is YAML) over what the file says; mistakes are placed in `--set`."""
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            place = Place("--set", 1, 1, text)
            document.problems.append(Problem(place, "written as key.path=value, for example train.seeds=[0,1]"))
            continue
        path: KeyPath = tuple(int(part) if part.isdigit() else part for part in name.strip().split("."))
        inner = parse(value, "--set")
        document.problems += [Problem(_moved(p.place, text, len(name) + 1), p.message) for p in inner.problems]
        if not inner.problems and _assign(document, path, inner.data, Place("--set", 1, 1, text)):
            known: tuple[dict[KeyPath, Any], ...] = (document.values, document.keys, document.written)
            for each in known:
                for stale in [p for p in each if p[: len(path)] == path]:
                    del each[stale]
            document.written |= {(*path, *p): raw for p, raw in inner.written.items()}
            for places, found in ((document.values, inner.values), (document.keys, inner.keys)):
                places.update({(*path, *p): _moved(place, text, len(name) + 1) for p, place in found.items()})
            for depth in range(1, len(path) + 1):
                document.keys.setdefault(path[:depth], Place("--set", 1, 1, text))


def _moved(place: Place, text: str, by: int) -> Place:
    return Place("--set", 1, place.column + by, text)


def _assign(document: Document, path: KeyPath, value: Any, place: Place) -> bool:
    if not isinstance(document.data, dict):
        return False
    target: Any = document.data
    for here, after in pairwise(path):
        if isinstance(target, dict) and target.get(str(here)) is None:
            target[str(here)] = {}
        target = _step(target, here)
        if not isinstance(target, (dict, list)):
            document.problems.append(Problem(place, f'"{here}" holds no keys, so it has no "{after}"'))
            return False
    if isinstance(target, dict):
        target[str(path[-1])] = value
    elif isinstance(path[-1], int) and path[-1] < len(target):
        target[path[-1]] = value
    else:
        document.problems.append(Problem(place, f'the list has no item "{path[-1]}"'))
        return False
    return True


def _step(target: Any, key: str | int) -> Any:
    if isinstance(target, dict):
        return target.get(str(key))
    return target[key] if isinstance(key, int) and key < len(target) else None

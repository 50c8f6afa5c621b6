"""The helper process behind refinery/checks/timed.py: one question a line on stdin, one answer a line on stdout."""

import json
import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from refinery.checks.texts import last_box

MEMORY = 4 << 30
"""Bytes of address space, so that 9^9^9 fails here and not on the whole machine."""

_DELIMITED = re.compile(r"\$|\\\(|\\\[|\\begin")
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp)(?=\W)")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}|\s[A-Za-z]{2,}")
"""Words of a language or units, that is: no product of symbols."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z .,'-]{2,}")


def main() -> None:
    logging.disable(logging.CRITICAL)
    for library in ("math_verify", "jsonschema"):  # now, and not on the time of the first question
        if find_spec(library):
            import_module(library)
    _limit_memory()
    functions: dict[str, Callable[..., Any]] = {"math": same, "read": read, "schema": follows}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        work, *texts = json.loads(line)
        answer, reason = None, ""
        try:
            answer = functions[work](*texts)
        except (MemoryError, RecursionError):
            reason = "crashed"
        print(json.dumps({"answer": answer, "reason": reason}), flush=True)


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):  # a platform without it
        pass


# --- mathematics


def same(candidate: str, reference: str) -> bool:
    """`reference` first, as the library asks: it reads x = 5 in a candidate as 5 where the reference is 5."""
    from math_verify import verify

    found, wanted = _expressions(candidate), _expressions(reference)
    return bool(found and wanted and verify(wanted, found, timeout_seconds=None))


def read(text: str) -> str | None:
    found = _expressions(text)
    return str(found[0]) if found else None


def _expressions(text: str) -> list[Any]:
    """What math-verify reads in the last box, else after the last "####", else in the text.

    It looks for delimiters; a bare expression, as answer columns hold it, is given them, unless it has words in it,
    which would be read as products of their letters.
    """
    from math_verify import parse

    if "\\boxed" in text:
        content = last_box(text)
        if content is None:
            return []
        text = f"$\\text{{{content}}}$" if _PLAIN.fullmatch(content) and _WORDS.search(content) else f"${content}$"
    text = text.rpartition("####")[2].strip()  # GSM8K's mark before the answer
    bare = _FUNCTION.sub(r"\\\1", text)
    if bare and not _DELIMITED.search(bare) and not _WORDS.search(bare) and "\n" not in bare:
        found = parse(f"${bare}$", parsing_timeout=None)
        if found:
            return found
    return parse(text, parsing_timeout=None)


# --- JSON


def follows(text: str, schema: str) -> bool:
    try:
        value = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return bool(_validator(schema).is_valid(value))


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(json.loads(schema), registry=Registry())


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


if __name__ == "__main__":
    main()

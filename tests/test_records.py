"""Digests: the bytes they are taken of are those of the standard library's encoder, whoever writes them."""

import datetime
import enum
import json
import random
import string
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from refinery.records import canonical


def plainly(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return text.encode("ascii")


class Colour(enum.StrEnum):
    RED = "red"


class Number(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        "", "plain", "é", "\x00\x1f\x7f\x80", "\u2028\u2029", "😀", "\ud800", ["\udfff"], {"\ud83d": 1}, "</script>",
        '"\\/',
        0, -1, 2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, True, False, None, Number(3),
        0.0, -0.0, 1.0, 0.1, 1e-4, 9.999999999999999e-05, 1e-5, 1e15, 9999999999999998.0, 1e16, 1e17, 1.5e300, 5e-324,
        float("nan"), float("inf"), -float("inf"),
        [], {}, (), [[], {}], ("a", ["b"], {"c": ("d",)}),
        {"b": 1, "a": 2, "B": 3, "é": 4, "": 5}, {1: "a", 2: "b"}, {None: 1}, {True: 1}, {1.5: "x"},
        Colour.RED, [Colour.RED], {"a": Colour.RED}, {Colour.RED: "key"},
        datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
        Decimal("1.50"), Path("a/b"), {"deep": {"deeper": [1e-7, "ü"]}},
    ],
    ids=ascii,
)  # fmt: skip
def test_canonical_is_the_standard_librarys(value: Any) -> None:
    assert canonical(value) == plainly(value)


def test_canonical_of_anything() -> None:
    rng = random.Random(0)
    alphabet = string.printable + "\x00\x01\x7f\x80éß漢😀\u2028"

    def text() -> str:
        return "".join(rng.choices(alphabet, k=rng.randrange(12)))

    def number() -> float:
        if rng.random() < 0.5:
            return float(struct.unpack("d", rng.randbytes(8))[0])
        return rng.choice([1, -1]) * 10 ** rng.uniform(-6, 18)

    def anything(depth: int) -> Any:
        kind = rng.randrange(8 if depth else 6)
        if kind == 6:
            return [anything(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 7:
            return {text(): anything(depth - 1) for _ in range(rng.randrange(4))}
        return [text, number, lambda: rng.randrange(-(2**70), 2**70), lambda: None, lambda: True, text][kind]()

    for _ in range(20_000):
        value = anything(3)
        assert canonical(value) == plainly(value)


def test_canonical_of_what_is_too_deep_for_one_encoder() -> None:
    value: Any = "a"
    for _ in range(300):
        value = [value]
    assert canonical(value) == plainly(value)

"""Sets of names against Python's own."""

import hashlib
import random

import pytest

from refinery.names import Names


def named(number):
    return hashlib.md5(str(number).encode()).hexdigest()


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_like_a_set(batch):
    chance, names, plain = random.Random(batch), Names(), set()
    for _ in range(60):
        given = [named(chance.randrange(8 * batch)) for _ in range(batch)]
        wanted = []
        for name in given:
            wanted.append(name not in plain)
            plain.add(name)
        assert names.add(given) == wanted
        assert len(names) == len(plain)
    assert sorted(map(len, names._sorted), reverse=True) == [len(each) for each in names._sorted]


def test_names_that_end_in_zeros_are_told_apart():
    names = Names()
    assert names.add(["ab" + "00" * 15, "ab" + "00" * 14 + "01", "00" * 16]) == [True] * 3
    assert names.add(["ab" + "00" * 15, "00" * 15 + "ab", "00" * 16]) == [False, True, False]


def test_nothing_and_no_names():
    names = Names()
    assert names.add([]) == [] and len(names) == 0
    with pytest.raises(ValueError, match="32 hexadecimal"):
        names.add(["abc"])

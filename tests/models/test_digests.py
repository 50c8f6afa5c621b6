"""Request digests: written by hand for speed, and for good: what old stores hold must be found again."""

import random
from typing import Any

import pytest

from refinery.models.base import Sampling
from refinery.models.cache import canonical_messages, generation_digest, likelihood_digest
from refinery.records import digest

ODD = ["", "é", '"quoted" \\ back', "line\nbreak\ttab", "\x7f\x00\x1f", "😀", "</script>", "\u2028", "half \ud83d"]


def shape(sampling: Sampling) -> dict[str, Any]:
    names = ("temperature", "top_p", "top_k", "seed")
    return {**{name: getattr(sampling, name) for name in names}, "stop": list(sampling.stop)}


def test_digests_are_those_of_canonical_json() -> None:
    chance = random.Random(0)
    for number in range(300):
        chat = [
            {"role": chance.choice(["system", "user"]), "content": chance.choice(ODD) + str(number)}
            for _ in range(chance.randint(1, 4))
        ]
        temperature: Any = chance.choice([0, 0.0, 1, 1.0, 0.7, 1e-5, 1e22])
        stop = tuple(chance.sample(ODD[:-1], chance.randint(0, 3)))
        sampling = Sampling(temperature, chance.choice([1, 1.0, 0.9]), chance.randint(0, 50), 512, stop, number)
        identity = chance.choice(["weights:abc+123", 'a "model" é', "provider/m"])
        wanted = {"kind": "generate", "model": identity, "messages": chat, "sampling": shape(sampling), "sample": 3}
        assert generation_digest(identity, chat, sampling, 3) == digest(wanted)


def test_digests_of_old_stores() -> None:
    chat = [{"role": "user", "content": "q é"}]
    assert generation_digest("m", chat, Sampling(), 0) == "02b592558b93dee649f359b8b17aeb00"
    assert generation_digest("m", chat, Sampling(0.7, 0.9, 5, 64, ("x",), 3), 2) == "0d1a003b03cf55d3478c94a1b1e44016"
    assert likelihood_digest("m", chat, "yes") == "beedb4397b6199a2b259b37c6ecac222"


def test_what_is_new_has_a_digest_of_its_own_and_changes_no_other() -> None:
    chat = [{"role": "user", "content": "q"}]
    begun = [*chat, {"role": "assistant", "content": "a"}]
    names = {
        generation_digest("m", chat, Sampling(), 0),
        generation_digest("m", chat, Sampling(schema={"type": "object"}), 0),
        generation_digest("m", chat, Sampling(schema={"type": "array"}), 0),
        generation_digest("m", begun, Sampling(), 0),
        generation_digest("m", "q", Sampling(), 0),
        digest({"kind": "generate", "model": "m", "messages": begun, "sampling": shape(Sampling()), "sample": 0}),
    }
    assert len(names) == 6


def test_messages_with_further_keys_are_written_whole() -> None:
    chat = [{"role": "user", "content": "q", "name": "n"}, {"role": "user", "content": "r"}]
    assert canonical_messages(chat) == '[{"content":"q","name":"n","role":"user"},{"content":"r","role":"user"}]'


@pytest.mark.parametrize("first", [1, 1.0])
def test_equal_numbers_of_different_kinds_keep_their_own(first: Any) -> None:
    chat = [{"role": "user", "content": "kinds"}]
    for value in (first, 1.0, 1):
        wanted = {"kind": "generate", "model": "m", "messages": chat, "sample": 0}
        wanted |= {"sampling": shape(Sampling(value))}
        assert generation_digest("m", chat, Sampling(value), 0) == digest(wanted)

"""Made-up words: two to four consonant-vowel syllables, all of the same making.

The answers of a domain must come from the very generator whose words fill base training: a
small model copies a word that it has never met only if it has copied many words built alike.
"""

from __future__ import annotations

from random import Random

CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)


def word(rng: Random, low: int = 2, high: int = 4) -> str:
    """One word of `low` to `high` syllables; `Random.choice` is stable across Python versions."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(low, high)))


def distinct_words(rng: Random, count: int, length: int, taken: set[str]) -> list[str]:
    """`count` new words of `length` syllables; no two begin alike, so that the first token decides."""
    words: list[str] = []
    starts: set[str] = set()
    while len(words) < count:
        candidate = word(rng, length, length)
        if candidate in taken or candidate[:2] in starts:
            continue
        words.append(candidate)
        taken.add(candidate)
        starts.add(candidate[:2])
    return words

import pytest

from refinery.lab import DOMAINS, SKILLS, items, score


@pytest.mark.parametrize(
    ("check", "target", "response", "expected"),
    [
        ("last_word", "The remedy is tavoli.", "Remedy allotted, per ledger: Tavoli", 1.0),
        ("last_word", "The remedy is tavoli.", "The remedy is tavoli, they say.", 0.0),
        ("last_word", "The remedy is tavoli.", "tavoli .", 1.0),
        ("last_word", "The remedy is tavoli.", "", 0.0),
        ("last_word", "The remedy is tavoli.", "...", 0.0),
        ("exact", "a, b, c", "a,  b, c\n", 1.0),
        ("exact", "TAVOLI", "tavoli", 0.0),
        ("exact", "tavoli!!!", "tavoli!!", 0.0),
        ("last_number", "7 + 5 = 12, so 42.", "It is 042.", 1.0),
        ("last_number", "so 42.", "42, or rather 41", 0.0),
        ("last_number", "so 42.", "none", 0.0),
        ("choice", "The fish is lire.", "lire", 1.0),
    ],
)
def test_score(check, target, response, expected):
    assert score({"check": check, "target": target}, response) == expected


def test_unknown_checks_are_errors():
    with pytest.raises(ValueError, match="unknown check 'fuzzy'"):
        score({"check": "fuzzy", "target": "x"}, "x")


@pytest.mark.parametrize("benchmark", [f"lab_{name}" for name in (*DOMAINS, *SKILLS)])
def test_every_target_scores_full_marks_and_silence_none(benchmark):
    for item in items(benchmark):
        assert score(item, item["target"]) == 1.0
        assert score(item, "") == 0.0
        if item["check"] == "choice":
            assert item["choices"][item["gold"]] == item["target"]
            assert sum(score(item, choice) for choice in item["choices"]) == 1.0

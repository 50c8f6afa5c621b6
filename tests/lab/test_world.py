"""The generator: same world every time, no leak between what is trained on and what is asked."""

import json
import subprocess
import sys
from hashlib import sha256
from random import Random

import pytest

from refinery.lab import BASE, CALIBRATION, DOMAINS, PROMPTS, SKILLS, items, source_rows
from refinery.lab.domains import answer_words, rule
from refinery.lab.mix import conversation
from refinery.lab.prompts import fill
from refinery.lab.skills import fact_table, is_test_sum, kind_table
from refinery.lab.topics import TOPICS, questions
from refinery.lab.words import SYLLABLES

ALL = DOMAINS + CALIBRATION
BENCHMARKS = [f"lab_{d}{kind}" for d in ALL for kind in ("", "_unseen")] + [f"lab_{s}" for s in SKILLS]


def test_the_world_is_the_frozen_one():
    world = {"source": [source_rows(d) for d in ALL], "items": [items(b) for b in BENCHMARKS], "prompts": PROMPTS}
    digest = sha256(json.dumps(world, sort_keys=True).encode()).hexdigest()
    assert digest == json.loads((BASE.parent / "frozen.json").read_text())["world_sha256"]


def test_importing_the_lab_is_cheap():
    heavy = "('torch', 'transformers', 'numpy', 'jinja2')"
    code = f"import sys, refinery.lab; print(*[m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_items_are_many_and_distinct(benchmark):
    questions = [item["question"] for item in items(benchmark)]
    assert len(questions) == len(set(questions)) >= 400


def test_unknown_benchmarks_are_named():
    with pytest.raises(ValueError, match=r"unknown lab benchmark 'lab_clinix'; there are lab_clinic, "):
        items("lab_clinix")
    with pytest.raises(ValueError, match="unknown lab benchmark 'clinic'"):
        items("clinic")


@pytest.mark.parametrize("domain", ALL)
def test_test_questions_share_nothing_with_the_source(domain):
    topic = TOPICS[domain]
    assert not set(questions(topic, "train")) & set(questions(topic, "test"))
    trained = {row["question"] for row in source_rows(domain)}
    asked = {item["question"] for kind in ("", "_unseen") for item in items(f"lab_{domain}{kind}")}
    assert len(trained) == 432
    assert not trained & asked


@pytest.mark.parametrize("domain", ALL)
def test_unseen_cells_are_unseen_and_follow_the_rule(domain):
    seen, unseen = rule(domain)
    assert (len(seen), len(unseen)) == (36, 12)
    assert not set(seen) & set(unseen)
    assert set(seen.values()) == set(unseen.values())
    phrases = [f"{trait} {thing}" for trait, thing in unseen]
    text = " ".join(row["question"].lower() + " " + row["answer"].lower() for row in source_rows(domain))
    assert not [phrase for phrase in phrases if f" {phrase} " in text]
    for item in items(f"lab_{domain}_unseen"):
        assert [phrase for phrase in phrases if phrase in item["question"]]


@pytest.mark.parametrize("domain", ALL)
def test_rows_answer_in_raw_style_and_end_with_the_key(domain):
    seen, _ = rule(domain)
    for row in source_rows(domain):
        trait, thing = row["case"].split("/")[1].split("-")
        assert row["key"] == seen[trait, thing]
        assert row["answer"].endswith(f" {row['key']}.")
        assert not row["answer"].startswith(("The ", "For "))


@pytest.mark.parametrize("domain", ALL)
def test_a_case_is_asked_twice(domain):
    rows = source_rows(domain)
    cases = [row["case"] for row in rows]
    assert all(cases.count(case) == 2 for case in cases)


def test_base_training_hides_the_answers_and_the_test_sums():
    hidden, rng = {word for domain in ALL for word in answer_words()[domain]}, Random(5)
    assert len(hidden) == 12 * len(ALL)
    assert not hidden & set(fact_table().values())
    assert not hidden & {member for members in kind_table().values() for member in members}
    for _ in range(5000):
        for question, answer in conversation(rng):
            if any(f" {TOPICS[domain].noun}" in question for domain in ALL):
                assert not hidden & set(answer.strip(".").split())
            if question.startswith("What is") and "+" in question:
                a, b = question.strip("?").split()[2::2]
                assert not is_test_sum(int(a), int(b))


def test_answer_words_come_from_the_word_generator():
    words = [word for made in answer_words().values() for word in made]
    assert len(words) == len(set(words))
    assert all(word[i : i + 2] in SYLLABLES for word in words for i in range(0, len(word), 2))


def test_filling_equals_jinja():
    sandbox = pytest.importorskip("jinja2.sandbox").SandboxedEnvironment()
    values = {"question": "Which one?", "answer": "Re it: {x}.", "rewrite": "It is so."}
    for template in PROMPTS.values():
        assert fill(template, **values) == sandbox.from_string(template).render(**values)

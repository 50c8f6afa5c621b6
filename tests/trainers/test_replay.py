"""Replay: exact shares over a pass, the same rows at the same steps, and MSSR's memory by hand."""

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.records import Example
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap
from tests.trainers.test_train import manifest
from trainers.data import Row, order, prepare
from trainers.job import fingerprint
from trainers.replay import Memory, mixed
from trainers.train import train

GENERAL = [
    Example(f"g{i}", [{"role": "user", "content": f"say {word}"}], word, f"{word} is said")
    for i, word in enumerate("apple bread cider dough".split())
]


def rows(count: int, name: str, tokens: Any = lambda i: 3) -> list[Row]:
    return [Row(f"{name}{i}", [1], [2] * tokens(i), []) for i in range(count)]


def params(**own: Any) -> Any:
    return SimpleNamespace(**{"ratio": 0.25, "by": "row", "epochs": 2, "batch_size": 4, "max_steps": None, **own})


@pytest.mark.parametrize("ratio", [0.05, 0.25, 0.5])
def test_share_of_rows_is_exact_in_every_pass(ratio: float) -> None:
    new, old = rows(60, "n"), rows(7, "o")
    plan = mixed(new, old, params(ratio=ratio, epochs=3, batch_size=1), seed=5)
    each = round(60 * ratio / (1 - ratio))
    assert plan.steps == 3 * (60 + each) == len(plan.places)
    for start in range(0, plan.steps, 60 + each):
        one = Counter(plan.rows[place].id for place in plan.places[start : start + 60 + each])
        assert all(one[row.id] == 1 for row in new)
        assert sum(one[row.id] for row in old) == each
    replayed = Counter(place for place in plan.places if place >= 60)
    assert max(replayed.values()) - min(replayed[60 + i] for i in range(7)) <= 1


def test_share_of_tokens_is_as_near_as_rows_allow() -> None:
    new, old = rows(40, "n", lambda i: 3 + i % 5), rows(30, "o", lambda i: 1 + i % 9)
    plan = mixed(new, old, params(by="token", ratio=0.3, epochs=1, batch_size=1), seed=1)
    tokens = Counter[str]()
    for place in plan.places:
        tokens[plan.rows[place].id[0]] += len(plan.rows[place].answer)
    wanted = sum(len(row.answer) for row in new) * 0.3 / 0.7
    assert tokens["n"] == sum(len(row.answer) for row in new)
    assert abs(tokens["o"] - wanted) <= 9 / 2


def test_plan_hangs_on_the_seed_alone() -> None:
    new, old = rows(20, "n"), rows(9, "o")
    assert mixed(new, old, params(), 1) == mixed(new, old, params(), 1)
    assert mixed(new, old, params(), 1).places != mixed(new, old, params(), 2).places
    short = mixed(new, old, params(max_steps=3), 1)
    assert short.steps == 3 and short.places == mixed(new, old, params(), 1).places[:12]
    half = mixed(new, old, params(epochs=0.5, batch_size=1), 1)
    assert half.steps == math.ceil(27 / 2)  # 20 new and 7 replayed rows a pass


def test_replayed_rows_are_part_of_the_identity_and_their_name_is_not(job: JobMaker) -> None:
    def one(name: str, examples: list[Example]) -> str:
        return fingerprint(job("sft_replay", replay=name, _extra={"replay": examples}))

    assert one("a", GENERAL) == one("b", GENERAL)
    assert one("a", GENERAL) != one("a", GENERAL[:3])
    folder = train(job("sft_replay", replay="a", ratio=0.5, max_steps=10, epochs=1, _extra={"replay": GENERAL}))
    said = manifest(folder)
    assert said["replay_rows"] == 4 and said["replayed"] == 20
    assert 0.3 < said["replayed_token_share"] < 0.6
    assert "replay" not in said["params"] and list(said["extra"]) == ["replay"]


def test_memory_by_hand() -> None:
    memory = Memory([20.0, 20.0, 5.0], [0, 4, 0], [2.0, 2.0, 1.0], interval=4, due=4)
    assert memory.forgotten(10) == pytest.approx([1 - math.exp(-0.5), 1 - math.exp(-0.3), 1 - math.exp(-2)])
    memory.replayed(10, {0: 0.5, 2: 3.0}, gain=0.5, growth=1.5)
    assert memory.strength == pytest.approx([20 * (1 + 0.5 * 0.75), 20.0, 5.0])
    assert memory.seen == [10, 4, 10] and memory.interval == 6 and memory.due == 10
    assert memory.forgotten(10)[0] == 0.0


def test_rows_are_drawn_in_proportion_to_what_is_forgotten() -> None:
    memory = Memory([10.0, 10.0, 10.0], [0, 50, 90])
    weights = memory.forgotten(100)
    drawn = Counter(memory.draw(100, 1, seed)[0] for seed in range(4000))
    for place, weight in enumerate(weights):
        expected = weight / sum(weights)
        assert abs(drawn[place] / 4000 - expected) < 5 * math.sqrt(expected / 4000)
    assert memory.draw(100, 3, 0) == [0, 1, 2] and memory.draw(100, 1, 7) == memory.draw(100, 1, 7)


@pytest.mark.parametrize("micro", [None, 2])
def test_a_due_replay_joins_the_step(job: JobMaker, micro: int | None) -> None:
    """The logged loss of step 1 is the mean over all answer tokens of its own rows and of the replayed ones."""
    one = job("mssr", replay="a", interval=1, replay_rows=4, micro_batch_size=micro, _extra={"replay": GENERAL})
    losses: list[float] = []
    folder = train(one, lambda step, total, loss: losses.append(loss))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    new = prepare(one.examples, tokenizer, max_length=1024).rows
    own = [new[place] for place in order(len(new), 4, 0)]
    surprises = []
    for row in [*own, *prepare(GENERAL, tokenizer, max_length=1024).rows]:
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0].log_softmax(-1)
        first = len(row.prompt) - 1
        surprises += [-float(log_p[first + i, token]) for i, token in enumerate(row.answer)]
    assert losses[0] == pytest.approx(sum(surprises) / len(surprises), abs=1e-4)
    memory = manifest(folder)["memory"]
    assert memory["seen"] == [3, 3, 3, 3] and memory["interval"] == pytest.approx(2.25)  # due at 1, at 2.5, at 4.75
    if micro:
        assert gap(folder, train(job("mssr", replay="a", interval=1, replay_rows=4, _extra={"replay": GENERAL}))) < 1e-3

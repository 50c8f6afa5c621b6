"""Continued pre-training: every token is trained, and no text is lost."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.errors import UserError
from refinery.records import Example
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker
from tests.trainers.test_train import manifest
from trainers.data import order
from trainers.methods import cpt
from trainers.train import train

TEXTS = [
    Example(str(i), [{"role": "user", "content": "x"}], "", "", meta={"text": "all of it " * i})
    for i in range(0, 30, 3)
]


def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(tiny_model())


@pytest.mark.parametrize("pack", [False, True])
def test_texts_are_cut_and_nothing_is_lost(job: JobMaker, pack: bool) -> None:
    one = job("cpt", text="{{ text }}", pack=pack, max_length=32, _examples=TEXTS)
    words = tokenizer()
    found = cpt.prepare(one, words)
    assert found.dropped == {"empty_text": 1}
    assert all(1 < len(row.answer) <= 32 and not row.prompt for row in found.rows)
    if pack:
        assert all(len(row.answer) == 32 for row in found.rows[:-1])
        everything = words.decode([token for row in found.rows for token in row.answer])
        assert everything == "".join(example.meta["text"] + words.eos_token for example in TEXTS[1:])
        return
    for example in TEXTS[1:]:
        parts = [row.answer for row in found.rows if row.id.split("/")[0] == example.id]
        assert words.decode([token for part in parts for token in part]) == example.meta["text"] + words.eos_token


def test_first_loss_is_the_mean_over_all_tokens(job: JobMaker) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    for one in (job("cpt"), job("cpt", text="{{ question }} {{ response }}", micro_batch_size=2)):
        rows = cpt.prepare(one, tokenizer()).rows
        surprises = []
        for place in order(len(rows), 4, 0):
            ids = torch.tensor(rows[place].prompt + rows[place].answer)
            with torch.no_grad():
                log_p = model(input_ids=ids[None]).logits[0].log_softmax(-1)
            surprises += (-log_p[:-1].gather(-1, ids[1:, None])[:, 0]).tolist()
        losses: list[float] = []
        folder = train(one, lambda step, total, loss, losses=losses: losses.append(loss))
        assert losses[0] == pytest.approx(sum(surprises) / len(surprises), abs=1e-4)
        assert manifest(folder)["rows_trained"] == 20


def test_no_text_at_all(job: JobMaker) -> None:
    with pytest.raises(UserError, match="no texts to train on: empty_text 1"):
        train(job("cpt", text="{{ text }}", _examples=TEXTS[:1]))

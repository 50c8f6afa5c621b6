"""What is trained is the response and its end token, whatever the chat template writes around them."""

from collections import Counter
from typing import Any

import pytest
from transformers import AutoTokenizer

from refinery.errors import UserError
from refinery.records import Example
from tests.tiny import TEMPLATE, tiny_model
from trainers.data import ending, order, prepare, steps
from trainers.methods.raft import TEACHER_PROMPT


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(tiny_model())


def row(response: str, prompt: str = "which?", **more: Any) -> Example:
    return Example(response, [{"role": "user", "content": prompt}], "raw", response, **more)


NEWLINE = TEMPLATE.replace("<|end|>", "<|end|>\n")
LEAD = TEMPLATE.replace("<|assistant|>", "<|assistant|>\n").replace(
    "<|{{ message['role'] }}|>", "<|{{ message['role'] }}|>{{ '\n' if message['role'] == 'assistant' }}"
)
THINK = TEMPLATE.replace(
    "{{ message['content'] }}", "{{ 'hm ' if message.role == 'assistant' }}{{ message['content'] }}"
)


@pytest.mark.parametrize(("template", "lead"), [(TEMPLATE, ""), (NEWLINE, ""), (LEAD, ""), (THINK, "hm ")])
def test_trained_tokens_are_response_and_end(tokenizer: Any, template: str, lead: str) -> None:
    tokenizer.chat_template = template
    responses = ["the answer", " spaced ", "two\nlines\n", "unseen: æøå ⊕ 🙂"]
    made = prepare([row(r) for r in responses], tokenizer, max_length=200)
    for one, response in zip(made.rows, responses, strict=True):
        assert tokenizer.decode(one.answer) == f"{lead}{response}<|end|>"
        whole = tokenizer.decode(one.prompt + one.answer)
        assert whole == f"{tokenizer.decode(one.prompt)}{lead}{response}<|end|>"
    assert made.ending.token == "<|end|>" and made.ending.lead == lead


def test_prompt_is_what_a_model_is_asked_with(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "which?"}]
    made = prepare([Example("a", messages, "raw", "this")], tokenizer, max_length=200)
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert made.rows[0].prompt == asked
    assert made.prompts["first_prompt"] == tokenizer.decode(asked)


def test_rows_that_cannot_be_trained_are_counted(tokenizer: Any) -> None:
    rows = [row("fine"), row("long " * 100), row(""), row("an <|end|> within")]
    made = prepare(rows, tokenizer, max_length=60)
    assert [one.id for one in made.rows] == ["fine"]
    assert made.dropped == Counter(too_long=1, empty_response=1, special_token=1)


def test_max_length_counts_prompt_answer_and_end(tokenizer: Any) -> None:
    one = prepare([row("fine")], tokenizer, max_length=200).rows[0]
    length = len(one.prompt) + len(one.answer)
    assert prepare([row("fine")], tokenizer, max_length=length).rows
    with pytest.raises(UserError, match="no rows to train on: too_long 1"):
        prepare([row("fine")], tokenizer, max_length=length - 1)


def test_no_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        prepare([row("fine")], tokenizer, max_length=100)


def test_template_that_closes_with_a_plain_word(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("<|end|>", " over")
    with pytest.raises(UserError, match="not an end token"):
        prepare([row("fine")], tokenizer, max_length=100)


def test_template_that_closes_with_nothing_ends_with_eos(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("<|end|>", "")
    assert ending(tokenizer).token_id == tokenizer.eos_token_id


def test_template_that_refuses_a_role(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system turn') if messages[0].role == 'system' }}" + TEMPLATE
    example = Example("a", [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}], "raw", "this")
    with pytest.raises(UserError, match=r"refuses \['system', 'user'\]: no system turn"):
        prepare([example], tokenizer, max_length=100)


def test_tokenizer_that_loses_text_is_refused(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match=r"trained tokens decode to 'shout<\|end\|>', not to 'SHOUT<\|end\|>'"):
        prepare([row("SHOUT")], tokenizer, max_length=100)


def test_teacher_sees_the_response_in_its_user_turn(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "which?"}]
    made = prepare([Example("a", messages, "raw", "fused")], tokenizer, max_length=200, teacher_prompt=TEACHER_PROMPT)
    expected = (
        "<|system|>be brief<|end|><|user|>Here is reference knowledge for the question below: fused\n"
        "Answer the question on the basis of that knowledge: which?<|end|><|assistant|>"
    )
    assert tokenizer.decode(made.rows[0].teacher_prompt) == made.prompts["first_teacher_prompt"] == expected
    assert made.prompts["teacher_prompt"] == TEACHER_PROMPT


def test_teacher_prompt_that_fails_on_a_row_drops_it(tokenizer: Any) -> None:
    rows = [row("a", meta={"hint": "h"}), row("b")]
    made = prepare(rows, tokenizer, max_length=100, teacher_prompt="{{ hint }} {{ question }}")
    assert [one.id for one in made.rows] == ["a"] and made.dropped == Counter(template_error=1)


def test_order_gives_every_row_its_turn() -> None:
    places = order(10, 35, seed=3)
    assert all(sorted(places[i : i + 10]) == list(range(10)) for i in (0, 10, 20))
    assert len(set(places[30:])) == 5
    assert places[:10] != places[10:20]
    assert order(10, 12, seed=3) == places[:12]
    assert order(10, 35, seed=4) != places


def test_steps() -> None:
    assert steps(100, 3, 16, None) == 19
    assert steps(96, 3, 16, None) == 18
    assert steps(100, 0.5, 16, None) == 4
    assert steps(100, 3, 16, 5) == 5
    assert steps(3, 1, 16, None) == 1

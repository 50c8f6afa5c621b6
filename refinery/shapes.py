"""What a row means: which of its columns ask, and which answer.

Templates in the spec come first; without them the names people use are understood: messages, conversations,
prompt/completion, instruction/input/output, question/answer, query/response, and `system` beside any of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from refinery.errors import RowError
from refinery.records import Message
from refinery.rows import json_bytes
from refinery.spec_models import SourceSpec
from refinery.templates import render, required

CHAT_COLUMNS = ("messages", "conversations")
PROMPTS = ("prompt", "instruction", "question", "query")
ANSWERS = ("completion", "output", "answer", "response")
"""Pairs that belong together stand at the same index; other combinations are tried after them, in this order."""
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
}


def pair(columns: Sequence[str]) -> tuple[str | None, str | None]:
    """The columns of prompt and answer: a pair of names that belong together, else the first of each kind."""
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        if prompt in columns and answer in columns:
            return prompt, answer
    return next((p for p in PROMPTS if p in columns), None), next((a for a in ANSWERS if a in columns), None)


def chat_column(columns: Sequence[str]) -> str | None:
    return next((column for column in CHAT_COLUMNS if column in columns), None)


def unreadable(source: SourceSpec, columns: Sequence[str]) -> str | None:
    """Why prompt or answer cannot be told from the columns and the spec's templates, or None."""
    if chat_column(columns):
        return None
    prompt, answer = pair(columns)
    lost = [
        word
        for word, template, column in (("prompt", source.prompt, prompt), ("answer", source.answer, answer))
        if template is None and column is None
    ]
    if not lost:
        return None
    template = " and ".join(f'{word}: "{{{{ column }}}}"' for word in lost)
    return f"cannot tell the {' and the '.join(lost)} from the columns {', '.join(columns)}: write {template}"


def convert(source: SourceSpec, columns: Sequence[str], row: Mapping[str, Any]) -> tuple[list[Message], str]:
    """(prompt messages, answer) of one row of a dataset with these columns.

    Raises RowError: missing_column, wrong_type, empty_prompt, empty_answer, no_answer (a chat without an assistant
    turn), unsupported_role, template_error, invalid_text (half of a surrogate pair, which no file can hold).
    """
    chat = chat_column(columns) if source.prompt is None or source.answer is None else None
    turns = _turns(_get(row, chat), chat) if chat else []
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=None)
    prompt_column, answer_column = pair(columns) if source.prompt is None or source.answer is None else (None, None)
    if source.prompt is not None:
        prompt = [{"role": "user", "content": _render(source.prompt, row, "prompt")}]
    elif chat:
        prompt = turns[:last]
    else:
        prompt = _prompt(row, prompt_column or "")
    if source.answer is not None:
        answer = _render(source.answer, row, "answer")
    elif chat:
        if last is None:
            raise RowError("no_answer", f"{chat} has no assistant turn")
        answer = turns[last]["content"]
    else:
        answer = _answer(_get(row, answer_column or ""), answer_column or "")
    prompt = _with_system(source, row, prompt)
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in prompt):
        raise RowError("empty_prompt")
    if not answer.strip():
        raise RowError("empty_answer")
    try:
        json_bytes((prompt, answer, row))
    except UnicodeEncodeError:
        raise RowError("invalid_text", "half of a surrogate pair") from None
    return prompt, answer


def _get(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise RowError("missing_column", column)
    return row[column]


def _render(template: str, row: Mapping[str, Any], what: str) -> str:
    if missing := required(template) - row.keys():
        raise RowError("missing_column", min(missing))
    try:
        return render(template, row)
    except RowError as error:
        raise RowError(error.reason, f"{what}: {error.detail}") from None


def _text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        hint = f' (a template makes it text: "{{{{ {column} }}}}")' if isinstance(value, int | float) else ""
        raise RowError("wrong_type", f"{column} is {type(value).__name__}, not text{hint}")
    return value


def _turns(value: Any, column: str | None) -> list[Message]:
    """A chat as {"role", "content"}, whether written so or as {"from", "value"}."""
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{column} is {type(value).__name__}, not a list of turns")
    turns = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError("wrong_type", f"a turn of {column} is {type(turn).__name__}, not an object")
        role = turn.get("role", turn.get("from"))
        if role not in ROLES:
            raise RowError("unsupported_role", f"{role!r} in {column}")
        turns.append({"role": ROLES[role], "content": _content(turn.get("content", turn.get("value")), column)})
    return turns


def _content(value: Any, column: str | None) -> str:
    """Text, or the parts [{"type": "text", "text": ...}] joined."""
    if isinstance(value, list | tuple):
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
            raise RowError("wrong_type", f"a turn of {column} holds more than text")
        return "".join(_text(part.get("text"), f"a part of {column}") for part in value)
    return _text(value, f"a turn of {column}")


def _prompt(row: Mapping[str, Any], column: str) -> list[Message]:
    value = _get(row, column)
    if isinstance(value, list | tuple):
        return _turns(value, column)
    text = _text(value, column)
    extra = row.get("input") if column == "instruction" else None
    return [{"role": "user", "content": f"{text}\n\n{extra}" if isinstance(extra, str) and extra.strip() else text}]


def _answer(value: Any, column: str) -> str:
    if isinstance(value, list | tuple):
        turns = _turns(value, column)
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise RowError("wrong_type", f"{column} must hold one assistant turn")
        return turns[0]["content"]
    return _text(value, column)


def _with_system(source: SourceSpec, row: Mapping[str, Any], prompt: list[Message]) -> list[Message]:
    """The spec's template, else the row's own system turn, else its column `system`."""
    if source.system is not None:
        prompt = [turn for turn in prompt if turn["role"] != "system"]
        text = _render(source.system, row, "system")
    elif any(turn["role"] == "system" for turn in prompt):
        return prompt
    else:
        text = _text(row.get("system"), "system")
    return [{"role": "system", "content": text}, *prompt] if text.strip() else prompt

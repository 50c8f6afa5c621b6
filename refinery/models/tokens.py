"""Token ids of what a model is asked: one way for every backend that has the tokenizer, so that all ask the same."""

from typing import TYPE_CHECKING, Any

from refinery.errors import UserError
from refinery.models.base import Prompt, continues
from refinery.models.weights import folder

if TYPE_CHECKING:
    from refinery.spec import ModelSpec


def load(name: str, spec: "ModelSpec", place: str) -> Any:
    """The tokenizer of a folder or hub id. UserError where it is not found."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(f'{place}: a tokenizer needs transformers: pip install "refinery[train]"') from None
    try:
        where = folder(name, spec.revision, fetch=True)
        found = AutoTokenizer.from_pretrained(str(where), trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, UserError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{place}: no tokenizer {name!r} (name it with tokenizer:): {line}") from error
    if not found.chat_template:
        raise UserError(f"{place}: the tokenizer of {name} has no chat template; use a chat model or add one")
    return found


MARK = "user-words-begin-here"


def prompt_ids(tokenizer: Any, prompt: Prompt, options: dict[str, Any]) -> list[int]:
    """Ids of chat messages in the tokenizer's template, ready for the assistant's words; of a last assistant turn,
    up to its last word; of a raw text, with the special tokens that the tokenizer puts around text unless it begins
    with them. `options` go to the template."""
    if isinstance(prompt, str):
        begun = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
        return list(tokenizer(prompt, add_special_tokens=not begun, verbose=False)["input_ids"])
    go_on = continues(prompt)
    if go_on and not prompt[-1]["content"].strip():
        prompt, go_on = prompt[:-1], False
    found = tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=not go_on,
        continue_final_message=go_on,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},  # whether a prompt is too long is said where it is asked
        **options,
    )
    return list(found)


def continuation_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenized by itself: the boundary between a prompt and its continuation is also one between tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def user_slot(tokenizer: Any, options: dict[str, Any], place: str) -> str:
    """The chat template's text up to where the words of a first user turn begin."""
    message = {"role": "user", "content": MARK}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=False, **options)
    before, mark, _ = str(text).partition(MARK)
    if not mark:
        raise UserError(
            f"{place}: its chat template does not show the user's words, so nothing can stand in their place"
        )
    return before

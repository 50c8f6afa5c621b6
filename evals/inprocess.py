"""lm-eval's class for weights in this process, which also says which answers stopped at the limit of their length."""

from typing import Any

from lm_eval.models.huggingface import HFLM


class InProcess(HFLM):
    """The calls that it listens to are made one after the other for each answer: a batch is written, then every row of
    it decoded and told to the cache hook."""

    _room = 0
    _full = False
    _text = ""

    def _model_generate(self, context: Any, max_length: int, stop: Any, **options: Any) -> Any:
        self._room = max_length - context.shape[1]
        return super()._model_generate(context, max_length, stop, **options)

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
        text = super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
        if skip_special_tokens and isinstance(tokens, list):
            ends = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
            ends |= set(_listed(self.model.generation_config.eos_token_id))
            self._full, self._text = len(tokens) >= self._room and not ends & set(tokens), text
        return text

    def was_cut(self, answer: str) -> bool | None:
        """Of the answer that the cache hook is told: did it stop at its limit, and at no stop text before it?"""
        return self._full and answer == self._text


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

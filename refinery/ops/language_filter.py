"""Keep a rewrite by its language, as py3langid tells it offline.

Its confidence is low on short texts rather than wrong: a language counts as known from `min_confidence` and
`min_letters` on. Naming the languages that may occur at all (`among`) makes short texts much surer.
"""

import re
from functools import lru_cache
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from refinery.context import Context
from refinery.errors import UserError
from refinery.filtering import candidates_of, sift
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams

VERSION = 1
VARIABLES: tuple[str, ...] = ()

NO_LANGUAGE = "zxx"
"""What the library calls code, numbers and the like."""


def _code(value: str) -> str:
    if not re.fullmatch(r"[a-z]{2,3}", value) or value == NO_LANGUAGE:
        raise ValueError(f'a language is a code such as "en", not "{value}"')
    return value


Code = Annotated[str, AfterValidator(_code)]
"""ISO 639: en, de, zh."""

_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)


class Params(RowParams):
    languages: tuple[Code, ...] = ()
    """The languages to keep, as two-letter codes."""
    same_as: Literal["question", "answer"] | None = None
    """In place of `languages`: the text whose language the candidates must have, the question or the reference."""
    among: tuple[Code, ...] = ()
    """The languages that may occur at all; all that the library knows where left out."""
    min_confidence: float = Field(0.5, gt=0, le=1)
    """Below it the language counts as not known."""
    min_letters: int = Field(20, ge=1)
    """Texts with fewer letters, less code, links and formulas, have no known language."""
    unknown: Literal["keep", "refuse"] = "keep"
    """What becomes of a candidate whose language, or that it should have, is not known."""
    fallback: Fallback = "answer"

    @model_validator(mode="after")
    def _goes_together(self) -> "Params":
        if bool(self.languages) == (self.same_as is not None):
            raise ValueError("give either languages, such as [en, de], or same_as: question")
        if self.among and (missing := [code for code in self.languages if code not in self.among]):
            raise ValueError(f"languages names {', '.join(missing)}, which among does not")
        named = (*self.languages, *self.among)
        if named and find_spec("py3langid") is not None:
            known = set(_identifier(()).labels) - {NO_LANGUAGE}
            for code in named:
                if code not in known:
                    raise ValueError(f'there is no language "{code}" (py3langid knows: {", ".join(sorted(known))})')
        return self


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates in a right language stay in their order; the first becomes the response.

    scores: `languages` (every candidate's, None where it is not known), `confidences` (of the likeliest language, also
    where that is too low; None where there are too few letters), `wanted` (the languages that pass, None where they
    are not known), `reasons`, `winner`. Reasons: wrong_language; unknown_language where it is not known, also of rows
    kept by `unknown: keep`.
    """
    found = [recognise(text, params) for text in candidates_of(example)]
    wanted: tuple[str, ...] | None = params.languages
    if params.same_as is not None:
        language, _ = recognise(example.question if params.same_as == "question" else example.answer, params)
        wanted = None if language is None else (language,)
    reasons = [_reason(language, wanted, params) for language, _ in found]
    scores = {
        "languages": [language for language, _ in found],
        "confidences": [confidence for _, confidence in found],
        "wanted": None if wanted is None else list(wanted),
    }
    first = next((i for i, why in enumerate(reasons) if why is None), 0)
    unknown = wanted is None or found[first][0] is None
    return sift(example, reasons, scores, params.fallback, "unknown_language" if unknown else "ok")


def _reason(language: str | None, wanted: tuple[str, ...] | None, params: Params) -> str | None:
    if language is None or wanted is None:
        return None if params.unknown == "keep" else "unknown_language"
    return None if language in wanted else "wrong_language"


def recognise(text: str, params: Params) -> tuple[str | None, float | None]:
    """(language or None, confidence in 0..1 or None where there are too few letters to ask)."""
    prose = _NOT_PROSE.sub(" ", text)
    if sum(char.isalpha() for char in prose) < params.min_letters:
        return None, None
    language, confidence = _identifier(params.among).classify(prose.encode("utf-8", "replace"))
    known = language != NO_LANGUAGE and confidence >= params.min_confidence
    return language if known else None, round(float(confidence), 4)


@lru_cache(maxsize=16)
def _identifier(among: tuple[str, ...]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError('language_filter needs py3langid: pip install "refinery[checks]"') from None
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if among:
        identifier.set_languages([*among])
    return identifier

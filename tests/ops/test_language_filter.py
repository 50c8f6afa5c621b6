import builtins

import pytest

from refinery.errors import UserError
from refinery.ops import language_filter

EN = "The clinic opens at nine in the morning and closes at five, on every day but Sunday."
DE = "Die Klinik öffnet um neun Uhr morgens und schließt um fünf, an jedem Tag außer Sonntag."
FR = "La clinique ouvre à neuf heures du matin et ferme à cinq heures, tous les jours sauf le dimanche."
ES = "La clínica abre a las nueve de la mañana y cierra a las cinco, todos los días excepto el domingo."
ZH = "诊所每天早上九点开门，下午五点关门，星期天除外。请提前打电话预约。"
RU = "Клиника открывается в девять утра и закрывается в пять, каждый день, кроме воскресенья."


@pytest.mark.parametrize(("text", "code"), [(EN, "en"), (DE, "de"), (FR, "fr"), (ES, "es"), (ZH, "zh"), (RU, "ru")])
def test_languages_are_told(text, code):
    language, confidence = language_filter.recognise(text, language_filter.Params(languages=["en"]))
    assert language == code and confidence > 0.5


def test_the_wrong_language_goes(fake, row, run):
    outcome = run(language_filter, row(response=DE, candidates=(DE, EN)), fake(), languages=["en", "fr"])
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", EN)
    assert outcome.scores["languages"] == ["de", "en"] and outcome.scores["wanted"] == ["en", "fr"]
    assert outcome.scores["reasons"] == ["wrong_language", None] and len(outcome.scores["confidences"]) == 2
    refused = run(language_filter, row(response=DE), fake(), languages=["en"])
    assert (refused.action, refused.reason) == ("fell_back", "wrong_language")


def test_the_same_as_the_question_or_the_reference(fake, row, run):
    example = row(question=DE, answer=FR, response=DE, candidates=(FR, DE))
    assert run(language_filter, example, fake(), same_as="question").example.response == DE
    assert run(language_filter, example, fake(), same_as="answer").example.response == FR


@pytest.mark.parametrize("text", ["Ja.", "42 + 1 = 43", "```python\nprint('the quick brown fox jumps')\n```", ""])
def test_short_texts_and_code_have_no_known_language(fake, row, run, text):
    kept = run(language_filter, row(response=text), fake(), languages=["en"])
    assert (kept.action, kept.reason) == ("kept", "unknown_language")
    assert kept.scores["languages"] == [None] and kept.scores["confidences"] == [None]
    refused = run(language_filter, row(response=text), fake(), languages=["en"], unknown="refuse")
    assert (refused.action, refused.reason) == ("fell_back", "unknown_language")


def test_an_unsure_language_is_unknown(fake, row, run):
    scores = run(language_filter, row(response=EN), fake(), languages=["de"], min_confidence=1).scores
    assert scores["languages"] == [None] and 0 < scores["confidences"][0] < 1


def test_an_unknown_question_decides_nothing(fake, row, run):
    outcome = run(language_filter, row(question="1 + 1?", response=DE), fake(), same_as="question")
    assert (outcome.action, outcome.reason, outcome.scores["wanted"]) == ("kept", "unknown_language", None)
    assert run(language_filter, row(question="1 + 1?", response=DE), fake(), same_as="question",
               unknown="refuse").reason == "unknown_language"  # fmt: skip


def test_fewer_languages_make_short_texts_surer():
    text = "Onde fica a biblioteca municipal?"
    among = [language_filter.recognise(text, language_filter.Params(languages=["pt"], among=codes))[1]
             for codes in ([], ["en", "pt", "de"])]  # fmt: skip
    assert among[1] > 0.9 > among[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give either languages"),
        ({"languages": ["en"], "same_as": "question"}, "give either languages"),
        ({"languages": ["english"]}, 'a language is a code such as "en", not "english"'),
        ({"languages": ["xx"]}, 'there is no language "xx"'),
        ({"languages": ["en"], "among": ["de", "fr"]}, "languages names en, which among does not"),
    ],
)
def test_parameters_that_make_no_sense(params, message):
    with pytest.raises(ValueError, match=message):
        language_filter.Params(**params)


def test_without_the_library(fake, row, run, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("py3langid"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    language_filter._identifier.cache_clear()
    monkeypatch.setattr(language_filter, "find_spec", lambda name: None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install "refinery\[checks\]"'):
        run(language_filter, row(response=EN), fake(), languages=["en"])

"""Templates render what they say, name what they need, and reach nothing else."""

import pytest

from refinery import templates
from refinery.errors import RowError, UserError


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ a }} and {{ b.c }}", "1 and two"),
        ("{{ nothing }}|", "|"),
        ("{{ absent | default('-') }}", "-"),
        ("a\n{% if a %}\nb\n{% endif %}\nc\n", "a\nb\nc"),
        ("{% for x in list %}{{ x }};{% endfor %}", "p;q;"),
        ("{{ text }}", "{{ a }} <b> ${HOME}"),
        ("{{ of.values.items }} {{ of.copy }} {{ of.keys() | list | length }}", "one two 2"),
    ],
)
def test_renders(template: str, text: str) -> None:
    fields = {"a": 1, "b": {"c": "two"}, "nothing": None, "list": ["p", "q"], "text": "{{ a }} <b> ${HOME}"}
    fields["of"] = {"values": {"items": "one"}, "copy": "two"}
    assert templates.render(template, fields) == text


@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("{{ questoin }}", "UndefinedError: 'questoin' is undefined"),
        ("{{ a / 0 }}", "ZeroDivisionError: division by zero"),
        (
            "{{ a.__class__.__mro__ }}",
            "SecurityError: access to attribute '__class__' of 'int' object is unsafe.",
        ),
        ("{{ list.append(1) }}", "SecurityError: access to attribute 'append' of 'list' object is unsafe."),
        ("{{ ''['__cla' ~ 'ss__'] }}", "SecurityError: access to attribute '__class__' of 'str' object is unsafe."),
        ("{% include '/etc/hostname' %}", "TypeError: no loader for this environment specified"),
        ("{{ lipsum() }}", "UndefinedError: 'lipsum' is undefined"),
    ],
)
def test_what_fails_is_the_rows_failure(template: str, detail: str) -> None:
    with pytest.raises(RowError) as caught:
        templates.render(template, {"a": 1, "list": []})
    assert (caught.value.reason, caught.value.detail) == ("template_error", detail)
    assert not caught.value.transient


def test_a_malformed_template_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"template, line 2: unexpected '}'"):
        templates.render("a\n{{ b }", {"b": 1})
    assert templates.check("{% if a %}") is not None
    assert templates.check("{{ a }}") is None
    assert templates.check("{{ a | random }}") == "template, line 1: No filter named 'random'."


def test_names_that_a_template_uses() -> None:
    template = (
        "{{ a }} {{ b.c }} {{ d | default('') }} {% for e in f %}{{ e }}{{ loop.index }}{% endfor %}{{ range(2) }}"
    )
    assert templates.variables(template) == {"a", "b", "d", "f"}
    assert templates.required(template + "{% if g is defined %}{{ g }}{% endif %}") == {"a", "b", "f"}
    with pytest.raises(UserError, match="unexpected end of template"):
        templates.required("{{ broken")

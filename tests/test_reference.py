"""The reference is what the code says, whole, and every link of the documents leads somewhere."""

import re
from pathlib import Path

import pytest

from refinery import catalog, markdown, reference
from refinery.diagnostics import PACKAGE
from refinery.spec import Spec

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "specs" / "REFERENCE.md"
TEXT = REFERENCE.read_text("utf-8")


def test_the_committed_reference_is_current() -> None:
    """If this fails: refinery schema --markdown > specs/REFERENCE.md"""
    assert TEXT == reference.markdown()


def section(heading: str) -> str:
    (text,) = re.findall(rf"^{re.escape(heading)}\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return text


def parameters(text: str) -> dict[str, list[str]]:
    """Key to its cells; a mapping's own parameters, which come behind, are left out."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("| `"):
            cells = re.split(r"(?<!\\)\|", line)
            rows.setdefault(cells[1].strip(" `"), cells)
    return rows


@pytest.mark.parametrize("package", [catalog.OPS, catalog.METHODS])
def test_every_parameter_is_there_with_its_default(package: str) -> None:
    """In the entry itself or, for a method, in the shared ones that it names, the nearest first."""
    for name in catalog.names(package):
        module, text = catalog.module(package, name), section(f"### {name}")
        named = re.findall(r"\[(\w+Params)\]", text)
        rows = [parameters(each) for each in (text, *(section(f"### {base}") for base in named))]
        for field, info in module.Params.model_fields.items():
            row = next((each[field] for each in rows if field in each), None)
            assert row, f"{name}.{field}"
            default = row[3].strip()
            if info.is_required():
                assert default == "required"
            elif isinstance(info.default, bool | int | float):
                plain = default.strip("`").replace("true", "1").replace("false", "0")
                assert float(plain) == float(info.default), f"{name}.{field}"


def test_op_parameters_have_a_meaning() -> None:
    for name in catalog.names(catalog.OPS):
        for line in section(f"### {name}").splitlines():
            if line.startswith("| `"):
                *_, meaning, _ = re.split(r"(?<!\\)\|", line)
                assert meaning.strip(), f"{name}: {line}"


def test_every_top_key_and_measure_is_there() -> None:
    whole = section("### the whole file")
    assert all(f"| `{info.alias or name}` |" in whole for name, info in Spec.model_fields.items())
    for family in catalog.names(PACKAGE):
        text = section(f"### {family} measures")
        assert all(f"| `{name}` |" in text for name in catalog.module(PACKAGE, family).MEANINGS)
    benchmarks = TEXT.partition("## Benchmarks\n")[2]
    assert all(f"`{name}`" in benchmarks for name in catalog.benchmarks())


def test_contents_lead_to_headings() -> None:
    outside = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    headings = [markdown.anchor(title) for title in re.findall(r"^##+ (.*)$", outside, re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    named = set(re.findall(r"\]\(#([^)]+)\)", outside))
    assert named <= set(headings) and len(named) == len(headings)


@pytest.mark.parametrize("file", [ROOT / "README.md", REFERENCE], ids=lambda file: file.name)
def test_relative_links_lead_to_files(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text("utf-8")):
        if "://" not in target:
            assert (file.parent / target).exists(), target


def test_a_meaning_with_a_bar_or_a_tag_stays_in_its_cell() -> None:
    assert markdown.grid(("a",), [("x | <b> `<c>`\n y",)])[-1] == r"| x \| \<b> `<c>` y |"

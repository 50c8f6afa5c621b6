"""The reference is what the code says, whole, and every link of the documents leads somewhere."""

import re
from pathlib import Path

import pytest

from refinery import catalog, reference
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


@pytest.mark.parametrize("package", [catalog.OPS, catalog.METHODS])
def test_every_parameter_is_there_with_its_default(package: str) -> None:
    for name in catalog.names(package):
        module, text = catalog.module(package, name), section(f"### {name}")
        rows: dict[str, list[str]] = {}
        for line in text.splitlines():
            if line.startswith("| `"):
                cells = re.split(r"(?<!\\)\|", line)
                rows.setdefault(cells[1].strip(" `"), cells)  # tables of nested models come behind
        for field, info in module.Params.model_fields.items():
            assert field in rows, f"{name}.{field}"
            default = rows[field][3].strip()
            if info.is_required():
                assert default == "required"
            elif isinstance(info.default, bool | int | float):
                assert float(default.strip("`").replace("true", "1").replace("false", "0")) == float(info.default)


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
    headings = [reference._anchor(title) for title in re.findall(r"^##+ (.*)$", outside, re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    named = set(re.findall(r"\]\(#([^)]+)\)", outside))
    assert named <= set(headings) and len(named) == len(headings)


@pytest.mark.parametrize("file", [ROOT / "README.md", REFERENCE], ids=lambda file: file.name)
def test_relative_links_lead_to_files(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", file.read_text("utf-8")):
        if "://" not in target:
            assert (file.parent / target).exists(), target


def test_a_meaning_with_a_bar_or_a_tag_stays_in_its_cell() -> None:
    assert reference._grid(("a",), [("x | <b> `<c>`\n y",)])[-1] == r"| x \| \<b> `<c>` y |"

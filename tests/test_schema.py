"""The schema for editors is current, accepts what the loader accepts, and refuses what shows without the data."""

import json
from pathlib import Path

import jsonschema
import pytest

from refinery import catalog, schema, yamlpos
from refinery.spec_models import ModelSpec

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "specs" / "refinery.schema.json"
BROKEN = Path(__file__).parent / "broken_specs"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    found = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_committed_schema_is_current() -> None:
    """If this fails: refinery schema > specs/refinery.schema.json"""
    assert SCHEMA.read_text("utf-8") == json.dumps(schema.json_schema(), indent=2) + "\n"


@pytest.mark.parametrize("file", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_ready_spec_fits(validator: jsonschema.Draft202012Validator, file: Path) -> None:
    assert [error.message for error in validator.iter_errors(yamlpos.read(file).data)] == []


@pytest.mark.parametrize(
    "name",
    [
        "a_list",
        "empty_seeds",
        "misspelt_from",
        "missing_op_and_from",
        "negative_margin",
        "no_methods",
        "no_source",
        "number_for_text",
        "step_name_with_slash",
        "thresholds_out_of_reach",
        "tune_not_shared",
        "two_sources",
        "unknown_default",
        "unknown_judge",
        "unknown_lab_domain",
        "unknown_method",
        "unknown_method_parameter",
        "unknown_nested_key",
        "unknown_op",
        "unknown_section",
        "unknown_step_parameter",
        "unknown_top_key",
        "wrong_choice",
        "wrong_types",
    ],
)
def test_broken_specs_do_not_fit(validator: jsonschema.Draft202012Validator, name: str) -> None:
    document = yamlpos.read(BROKEN / f"{name}.yaml")
    assert not document.problems and not validator.is_valid(document.data)


def test_every_parameter_of_every_op_and_method_is_offered(validator: jsonschema.Draft202012Validator) -> None:
    for package, key, name in ((catalog.OPS, "op", "StepSpec"), (catalog.METHODS, "method", "MethodSpec")):
        branches = validator.schema["$defs"][name]["allOf"]
        offered = {b["if"]["properties"][key]["const"]: set(b["then"]["properties"]) for b in branches}
        assert list(offered) == catalog.names(package)
        for choice, properties in offered.items():
            assert set(catalog.module(package, choice).Params.model_fields) < properties


def test_fields_carry_the_docstring_under_them() -> None:
    assert schema.field_docstrings(ModelSpec)["timeout"] == "Seconds per try."
    definition = json.loads(SCHEMA.read_text("utf-8"))["$defs"]["ModelSpec"]["properties"]["timeout"]
    assert definition["description"] == "Seconds per try." and "title" not in definition

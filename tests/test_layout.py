"""The shape of the tree: who may import whom, which files are light, and that one-file additions stay one file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"refinery": set(), "trainers": {"refinery"}, "evals": {"refinery"}, "reports": {"refinery", "evals"}}
HEAVY = {"torch", "transformers", "trl", "peft", "lm_eval", "datasets", "sentence_transformers", "faiss", "matplotlib",
         "pyarrow", "scipy"}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        if "cli" in path.relative_to(ROOT).parts[:2]:
            continue  # the command line is the one place that sees every package
        outside = imports(path) & set(PACKAGES) - PACKAGES[package] - {package}
        assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


def test_each_engine_is_imported_in_its_one_place() -> None:
    where: dict[str, set[str]] = {"duckdb": set(), "lm_eval": set()}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for engine in where:
                if engine in imports(path):
                    where[engine].add(str(path.relative_to(ROOT)))
    assert where["duckdb"] <= {"refinery/database.py", "refinery/sql.py"}
    assert where["lm_eval"] <= {f"evals/{name}.py" for name in ("harness", "tasks", "subjects", "served", "inprocess")}


def test_help_and_validate_import_nothing_heavy() -> None:
    code = (
        "import sys; from refinery.spec import load_spec; from pathlib import Path; import refinery.cli;"
        "load_spec(Path('specs/lab.yaml')); print(*{m.split('.')[0] for m in sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(out.split())


@pytest.mark.parametrize("folder", ["refinery/ops", "refinery/diagnostics", "trainers/methods"])
def test_every_one_file_addition_has_a_test(folder: str) -> None:
    tests = "\n".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for path in (ROOT / folder).glob("[a-z]*.py"):
        assert path.stem in tests, f"no test names {path.stem}"

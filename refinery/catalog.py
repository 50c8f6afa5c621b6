"""What there is to choose from: an op, a method, a benchmark and a report section is a file, found by its name."""

import importlib
import importlib.util
import pkgutil
from functools import lru_cache
from types import ModuleType

OPS, METHODS, BENCHMARKS, SECTIONS = "refinery.ops", "trainers.methods", "evals.benchmarks", "reports.sections"


def names(package: str) -> list[str]:
    """The public modules of a package, sorted, without importing them."""
    return list(_names(package))


@lru_cache
def _names(package: str) -> tuple[str, ...]:
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folders) if not m.name.startswith("_")))


def module(package: str, name: str) -> ModuleType:
    """The module; an error inside it is a bug and keeps its traceback."""
    return importlib.import_module(f"{package}.{name}")


def version(op: str, params: object) -> int:
    """Of an operation's results: its VERSION, and that of how the check in its parameters reads an answer."""
    own: int = module(OPS, op).VERSION
    check = getattr(params, "kind" if op == "check_answer" else "check", None)
    if not isinstance(check, str):
        return own
    from refinery.checks import READINGS

    return own + READINGS.get(check, 1) - 1


def wrong_reads(module: ModuleType, op: str, given: int) -> str | None:
    """What is wrong with the number of steps that an op reads, or None."""
    low, high = getattr(module, "READS", (1, 1))
    if given < low:
        return f"op {op} reads {low} steps or more, not {given}"
    if high is not None and given > high:
        return f"op {op} reads {'one step' if high == 1 else f'at most {high} steps'}, not {given}"
    return None


def suites() -> dict[str, tuple[str, ...]]:
    """Every suite's name and the benchmarks it stands for."""
    return dict(module(BENCHMARKS, "_suites").SUITES)


@lru_cache(maxsize=1)
def benchmarks() -> dict[str, str]:
    """Every benchmark's name and the module of evals/benchmarks that provides it (a module's `names()` lists its)."""
    found: dict[str, str] = {}
    for file in names(BENCHMARKS):
        for name in module(BENCHMARKS, file).names():
            if name in found:
                raise RuntimeError(f"benchmark {name} is in both {found[name]} and {file}")
            found[name] = file
    return dict(sorted(found.items()))

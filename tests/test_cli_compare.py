"""`refinery compare` and its gates, as a person types them."""

from pathlib import Path

import numpy as np
import pytest

from refinery.records import Sample, Score
from refinery.store import Store
from tests.cli_tools import call

ITEMS = [f"item{i:03d}" for i in range(300)]
SPEC = """
name: {name}
source: {{lab: clinic}}
train:
  data: source
  seeds: [0, 1, 2]
  methods: {{sft_raw: {{method: sft}}, sft_again_with_a_long_name: {{method: sft}}}}
evaluate: {{domain: [lab_clinic], general: [lab_facts, lab_sums]}}
"""
LONG = "sft_again_with_a_long_name"
SHARES = {"base": (0.1, 0.9, 0.8), "sft_raw": (0.9, 0.5, 0.6), LONG: (0.9, 0.7, 0.79)}


def put(store: Store, checkpoint: str, name: str, seed: int, role: str, shares: tuple, **settings: object) -> None:
    store.start_checkpoint(checkpoint, "run", name, "sft", {}, seed, "", "base", "", role)
    store.finish_checkpoint(checkpoint, {})
    known = {"batch_size": 64, "primary_metric": "acc", **settings}
    for benchmark, share in zip(("lab_clinic", "lab_facts", "lab_sums"), shares, strict=True):
        rng = np.random.default_rng([len(benchmark), seed, len(name)])
        ease = np.random.default_rng(len(benchmark)).random(300)
        values = ((0.7 * ease + 0.3 * rng.random(300)) < share).astype(float)
        fingerprint = f"fp{sorted(known.items())}"
        mean = float(values.mean())
        store.add_scores([Score(checkpoint, benchmark, "acc", mean, 0, 1, 300, fingerprint, True, known)])
        rows = [
            Sample(checkpoint, benchmark, "acc", i, float(v), "p", "t", "r", fingerprint)
            for i, v in zip(ITEMS, values, strict=True)
        ]
        store.add_samples(rows)


def made(folder: Path, name: str, batch_size: int = 64) -> None:
    (folder / f"{name}.yaml").write_text(SPEC.format(name=name))
    store = Store(folder / "runs" / name / "refinery.duckdb")
    store.start_run(name, (folder / f"{name}.yaml").read_text(), "d", {})
    for method, shares in SHARES.items():
        for seed in range(1 if method == "base" else 3):
            role = "base" if method == "base" else "final"
            put(store, f"{name}{method}{seed}", method, seed, role, shares, batch_size=batch_size)


@pytest.fixture(autouse=True, scope="module")
def _there(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made(folder, "one")
        made(folder, "two")
        made(folder, "eight", batch_size=8)
        yield


FORMS = [
    ("one.yaml",),
    ("one",),
    ("runs/one",),
    ("runs/one/refinery.duckdb",),
    ("one", LONG),
    ("one", "sft_raw", LONG),
    ("one", "two"),
    ("one:sft_raw", f"two:{LONG}"),
    ("one", "onesft_raw1", "onesft_raw2"),
]


@pytest.mark.parametrize("words", FORMS, ids=" ".join)
def test_every_form_fits_80_columns_and_is_valid_json(words: tuple[str, ...]) -> None:
    done = call("compare", *words)
    assert done.code == 0, done.err
    assert max(map(len, done.out.splitlines())) <= 80
    assert call("compare", *words, "--json").json["comparisons"]


def test_one_run_is_its_base_against_every_method() -> None:
    found = call("compare", "one", "--json").json["comparisons"]
    assert [(each["first"], each["second"]) for each in found] == [("base", "sft_raw"), ("base", LONG)]
    line = {each["name"]: each for each in found[0]["benchmarks"]}["lab_facts"]
    store = Store("runs/one/refinery.duckdb")
    means = {s.checkpoint: s.value for s in store.scores(benchmark="lab_facts")}
    by_hand = np.mean([means[f"onesft_raw{seed}"] for seed in range(3)]) - means["onebase0"]
    assert line["difference"]["value"] == pytest.approx(by_hand)
    assert line["difference"]["low"] < by_hand < line["difference"]["high"] < 0
    assert (line["n"], line["runs"], line["kind"], len(line["changes"])) == (300, 3, "general", 3)
    assert all(change["lost"] > 60 and change["gained"] == 0 for change in line["changes"])
    assert [each["name"] for each in found[0]["means"]] == ["domain_mean", "general_mean"]


def test_runs_are_compared_method_by_method() -> None:
    found = call("compare", "one", "two", "--json").json["comparisons"]
    assert [each["second"] for each in found] == ["two:base", "two:sft_raw", f"two:{LONG}"]
    assert all(each["difference"]["value"] == 0 for both in found for each in both["benchmarks"])


def test_a_null_result_says_what_it_could_have_found() -> None:
    done = call("compare", "one", "sft_raw", LONG, "--json").json["comparisons"][0]
    lines = {each["name"]: each for each in done["benchmarks"]}
    assert lines["lab_clinic"]["null"] and lines["lab_clinic"]["detectable"] > 0.01
    row = next(r for r in call("compare", "one", "sft_raw", LONG).out.splitlines() if r.startswith("lab_clinic"))
    assert row.split()[-1] == f"{100 * lines['lab_clinic']['detectable']:.1f}"


def test_other_settings_are_refused_by_name() -> None:
    done = call("compare", "one", "eight")
    assert done.code == 2
    assert "one:base" in done.err and "batch_size 8 instead of 64" in done.err and "--accept SETTING" in done.err
    done = call("compare", "one", "eight", "--accept", "batch_size")
    assert done.code == 0 and "batch_size 8 instead of 64 (accepted)" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "no spec, store or run of that name"),
        (("one", "sft_rwa"), 'no sft_rwa (did you mean "sft_raw"?); there are: base, sft_raw'),
        (("one:sft_raw",), "nothing to compare it with"),
        (("one", "sft_raw", "two:nothing"), "two: no nothing"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(words: tuple[str, ...], said: str) -> None:
    done = call("compare", *words)
    assert done.code == 2 and said in done.err and len(done.err.splitlines()) == 1


def test_points_of_a_matrix_are_methods_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.duckdb")
    put(store, "b", "base", 0, "base", SHARES["base"])
    cells = []
    for rate, share in ((0.1, 0.5), (0.2, 0.7)):
        for seed in range(2):
            put(store, f"c{rate}{seed}", "sft", seed, "final", (0.9, share, share))
            cells.append({"point": str(rate), "keys": {"train.defaults.learning_rate": rate}, "method": "sft",
                          "seed": seed, "checkpoint": f"c{rate}{seed}", "status": "complete", "error": ""})  # fmt: skip
    store.set_cells(cells)
    found = call("compare", str(store.path), "--json").json["comparisons"]
    assert [each["second"] for each in found] == ["sft[learning_rate=0.1]", "sft[learning_rate=0.2]"]
    assert found[0]["benchmarks"][0]["runs"] == 2
    assert call("compare", str(store.path), "--fail-if", "sft[learning_rate=0.1]:lab_facts < 0pp").code == 1


def test_status_does_not_average_scores_of_other_settings(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    put(store, "b0", "m", 0, "final", (0.0, 0.0, 0.0))
    put(store, "b1", "m", 1, "final", (1.1, 1.1, 1.1), batch_size=8)
    rows = [line.split() for line in call("status", str(store.path)).out.splitlines() if line.startswith("lab_facts")]
    assert [row[-1] for row in rows] == ["1.000", "0.000"] or [row[-1] for row in rows] == ["0.000", "1.000"]


# Gates. sft_raw loses some 35 points of general skill, the other one some 10 of facts.


@pytest.mark.parametrize(
    ("gate", "code"),
    [
        (("--fail-if", "general_mean < -2pp"), 1),
        (("--fail-if", "sft_raw:general_mean < -2pp"), 1),
        (("--fail-if", "general_mean < -60pp"), 0),
        (("--fail-if", "lab_clinic < 0pp"), 0),
        (("--fail-unless", "lab_clinic > 50pp"), 0),
        (("--fail-unless", "general_mean > -2pp"), 1),
        (("--fail-unless", "domain_mean > 0pp", "--fail-if", "lab_facts < -90pp"), 0),
        (("--fail-if", "lab_facts < 2"), 2),
        (("--fail-if", "lab_fact < 2pp"), 2),
        (("--fail-if", "dpo:lab_facts < 2pp"), 2),
    ],
    ids=str,
)
def test_gates_decide_the_exit_code(gate: tuple[str, ...], code: int) -> None:
    assert call("compare", "one", *gate).code == code


def test_an_undecided_gate_passes_fail_if_and_not_fail_unless() -> None:
    """A threshold inside the interval."""
    mean = call("compare", "one", "sft_raw", "--json").json["comparisons"][0]["benchmarks"][1]["difference"]["value"]
    gate = f"lab_facts < {100 * mean:.2f}pp"
    done = call("compare", "one", "sft_raw", "--fail-if", gate)
    assert done.code == 0 and "undecided" in done.out
    assert call("compare", "one", "sft_raw", "--fail-unless", gate).code == 1


def test_a_gate_on_what_was_refused_never_passes() -> None:
    done = call("compare", "one:sft_raw", "eight:sft_raw", "--fail-if", "lab_facts < -2pp")
    assert done.code == 2 and "batch_size" in done.err


def test_run_checks_its_gates_before_it_begins() -> None:
    for gate, said in (("general_mean < -2", "write [METHOD:]WHAT"), ("lab_fact < -2pp", 'did you mean "lab_facts"?')):
        done = call("run", "one.yaml", "--stage", "refine", "--fail-if", gate)
        assert done.code == 2 and said in done.err
    store = Store("runs/one/refinery.duckdb")
    assert len(store.runs()) == 1  # nothing was begun


def test_run_fails_its_gates_with_exit_code_1() -> None:
    before = len(Store("runs/two/refinery.duckdb").runs())
    done = call("run", "two.yaml", "--stage", "refine", "--fail-if", "general_mean < -2pp")
    assert done.code == 1 and "FAILED: --fail-if general_mean < -2pp (base -> sft_raw): met" in done.out
    assert len(Store("runs/two/refinery.duckdb").runs()) == before + 1
    assert call("run", "two.yaml", "--stage", "refine", "--fail-unless", "domain_mean > 10pp").code == 0


def test_suites_of_a_store_are_the_benchmarks_they_stand_for(tmp_path: Path) -> None:
    """Two of three lost everything: the mean is not of the third alone, and a spec's overrides count."""
    spec = "name: x\nevaluate: {domain: [tool_use], general: [lab_sums]}\n# --set evaluate.general=[math, lab_sums]\n"
    store = Store(tmp_path / "refinery.duckdb")
    run = store.start_run("x", spec, "d", {})
    known: dict = {"primary_metric": "acc"}
    for name, role, right in (("base", "base", 1.0), ("sft", "final", 0.0)):
        store.start_checkpoint(name, run, name, "sft", {}, 0, "", "base", "", role)
        store.finish_checkpoint(name, {})
        for benchmark in ("gsm8k", "math500", "lab_sums"):
            value = 1.0 if benchmark == "lab_sums" else right
            store.add_scores([Score(name, benchmark, "acc", value, 0, 1, 300, "f", True, known)])
            store.add_samples([Sample(name, benchmark, "acc", i, value, "p", "t", "r", "f") for i in ITEMS])
    (found,) = call("compare", str(store.path), "--json").json["comparisons"]
    assert {each["name"]: each["kind"] for each in found["benchmarks"]} == dict.fromkeys(
        ("gsm8k", "math500", "lab_sums"), "general"
    )
    assert [(m["name"], m["difference"]["value"]) for m in found["means"]] == [("general_mean", pytest.approx(-2 / 3))]
    assert set(found["refused"]) == {"toolalpaca_simulated", "toolalpaca_real", "openfunctions"}
    done = call("compare", str(store.path), "--fail-unless", "domain_mean > -5pp")
    assert done.code == 2 and "toolalpaca_real: neither base nor sft has a score on it" in done.err

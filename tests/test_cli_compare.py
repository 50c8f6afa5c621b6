"""`refinery compare` and its gates, as a person types them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evals.importing import Imported
from refinery.cli.import_ import following
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


def test_an_import_says_what_to_do_next(tmp_path: Path) -> None:
    """`next:` only where it can work, --accept where nothing can be compared without it."""
    unsure = {"imported": "lm-eval", "generation": "unknown"}
    score = Score("c", "lab_facts", "acc", 0.5, 0, 1, 9, "f", True, unsure)
    one, bare = Imported("one", "m", "c", [score], 9, []), Imported("bare", "m", "c", [score], 0, [])
    sure = replace(one, name="sure", scores=[replace(score, settings={})])
    store = Store(tmp_path / "n.duckdb")
    assert following(store, [one]) == "" and following(store, [one, sure, bare]) == "one sure"
    put(store, "base", "base", 0, "base", SHARES["base"])
    assert following(store, [bare]) == "" and following(store, [bare, sure]) == "sure"
    assert following(store, [one]) == "one --accept generation"


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


@pytest.fixture
def with_import(tmp_path: Path) -> str:
    """Two models trained here, and one from elsewhere whose facts and sums were written who knows how."""
    store = Store(tmp_path / "i.duckdb")
    spec = "evaluate: {domain: [lab_clinic], general: [lab_facts, lab_sums]}"
    store.start_run("r", spec, "d", {})
    put(store, "b", "base", 0, "base", SHARES["base"])
    for name in ("sft_raw", LONG):
        put(store, name, name, 0, "final", SHARES[name])
    put(store, "far", "far", 0, "imported", SHARES["base"], imported="lm-eval", generation="unknown")
    return str(store.path)


def test_an_imported_model_leaves_a_gate_open_and_the_others_are_judged(with_import: str) -> None:
    for gate, code in (("general_mean < -20pp", 1), ("general_mean < -60pp", 0)):
        words = (with_import, "--accept", "batch_size", "--fail-if", gate)
        done = call("compare", *words)
        assert done.code == code, done.err
        (line,) = [line for line in done.out.splitlines() if line.startswith("not decided for far")]
        assert "generation unknown on both sides" in line and gate in line
        assert sum(line.startswith(("passed:", "FAILED:")) for line in done.out.splitlines()) == 2
        found = call("compare", *words, "--json").json
        assert [each["comparison"] for each in found["gates"]] == ["base -> sft_raw", f"base -> {LONG}"]
        assert [each["model"] for each in found["gates_not_decided"]] == ["far"]


@pytest.mark.parametrize("words", [(), ("far",), ("sft_raw", "far")], ids=str)
def test_a_gate_of_which_nothing_is_decided_never_passes(with_import: str, words: tuple[str, ...]) -> None:
    gate = "general_mean < -60pp" if words else "far:general_mean < -60pp"
    done = call("compare", with_import, *words, "--fail-if", gate)
    assert done.code == 2 and "generation unknown" in done.err


def test_a_method_of_the_store_leaves_no_gate_open(with_import: str) -> None:
    """Only what was evaluated elsewhere may be passed over: a method whose benchmark is missing is no pass."""
    put(Store(Path(with_import)), "late", "late", 0, "final", SHARES["base"], batch_size=8)
    done = call("compare", with_import, "--fail-if", "general_mean < -60pp")
    assert done.code == 2 and "late has batch_size 8 instead of 64" in done.err


def test_a_gate_on_what_is_not_compared_says_what_is() -> None:
    for name in ("base", "foo"):
        done = call("compare", "one", "--fail-if", f"{name}:general_mean < -2pp")
        assert done.code == 2 and f"{name} is not compared here; there are: sft_raw, {LONG}" in done.err


# What is shown: distances are no points, and shares reach no further than 100.


def put_moved(store: Store, checkpoint: str, nats: float, items: list[str] = ITEMS, digest: str = "d") -> None:
    """As evals/movement.py does: many measures under one fingerprint, and the weights without items."""
    for number, metric in enumerate(("base_nll", "forward_kl", "words")):
        value, known = nats + number, {"version": 1, "items": digest}
        store.add_scores([
            Score(checkpoint, "movement/general", metric, value, 0, 1, len(items), digest, False, known),
            Score(checkpoint, "movement/weights", "relative_distance", 0.1, 0, 1, 9, "w", False, {}),
        ])  # fmt: skip
        rng = np.random.default_rng(number)
        store.add_samples([
            Sample(checkpoint, "movement/general", metric, i, value + noise, "", "", "", digest)
            for i, noise in zip(items, rng.normal(0, 0.01, len(items)), strict=True)
        ])  # fmt: skip


def test_how_far_they_moved_stands_in_nats_in_a_block_of_its_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "m.duckdb")
    for name, nats in (("base", 0), ("near", 1.0), ("far", 3.5)):
        put(store, name, name, 0, "base" if name == "base" else "final", SHARES["base"])
        if nats:
            put_moved(store, name, nats)
    done = call("compare", str(store.path), "near", "far")
    in_points, in_nats = done.out.split("moved from the base, forward KL in nats a token: lower is nearer to the base")
    assert "movement" not in in_points
    row = next(line.split() for line in in_nats.splitlines() if line.startswith("movement/general"))
    assert row[1:4] == [
        "1.999",
        "4.499",
        "+2.500",
    ]  # nats + 1, and noise: the second measure
    assert "movement/weights" not in done.out
    done = call("compare", str(store.path))
    assert done.out.count("base has no score on it") == 2  # one line a comparison
    put(store, "other", "other", 0, "final", SHARES["base"])
    put_moved(store, "other", 1.0, ITEMS[:100], "e")
    assert (
        "movement/general: not comparable: other has other items (near)"
        in call("compare", str(store.path), "near", "other").out
    )


def test_an_interval_ends_at_100_points_where_it_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path / "c.duckdb")
    for name, right in (("base", 20), ("sft", 0)):
        put(store, name, name, 0, "base" if name == "base" else "final", (0.5, 0.5, 0.5))
        known = {"primary_metric": "acc"}
        store.add_scores([Score(name, "few", "acc", right / 20, 0, 1, 20, "f", True, known)])
        rows = [Sample(name, "few", "acc", i, float(n < right), "p", "t", "r", "f") for n, i in enumerate(ITEMS[:20])]
        store.add_samples(rows)
    lines = call("compare", str(store.path), "--json").json["comparisons"][0]["benchmarks"]
    assert next(each for each in lines if each["name"] == "few")["difference"]["low"] < -1
    done = call("compare", str(store.path), "--fail-if", "few < -50pp")
    shown = [each for each in done.out.splitlines() if "[-100.0, " in each]
    assert done.code == 1 and len(shown) == 2 and "-113" not in done.out


def test_a_mean_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "d.duckdb")
    store.start_run("r", "evaluate: {domain: [lab_clinic, archive], general: [lab_facts]}", "d", {})
    put(store, "base", "base", 0, "base", SHARES["base"])
    put(store, "sft", "sft", 0, "final", SHARES["sft_raw"])
    store.add_scores([Score("base", "archive", "acc", 1.0, 0, 1, 9, "f", True, {"primary_metric": "acc"})])
    done = call("compare", str(store.path))
    assert "no domain_mean: not compared on archive" in done.out and "general_mean " in done.out


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
    assert done.code == 2 and "openfunctions: neither base nor sft has a score on it" in done.err

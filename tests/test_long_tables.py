"""The long tables' specs hold what they promise, their pieces load, and a line is what its checkpoint did."""

import json

import numpy as np
import pytest

from evals.forgetting import compare_panels
from evals.panels import Panels
from refinery.catalog import METHODS, module, names
from refinery.lab import DOMAINS, SKILLS, items
from refinery.lab.domains import answer_words
from tests.bench import lab_data, lab_tables, table_pages
from tests.bench import table_figures as tf
from tests.bench.hypotheses import HYPOTHESES, TABLES
from tests.bench.table_lines import packed, read

ROOT = lab_tables.ROOT
FILES = sorted(path.stem for path in (ROOT / "specs" / "tables").glob("*.yaml"))

OTHERS = (
    "dft gem cpt sft_replay mssr ewc l2sp lwf fapm wise_ft sft_from_teacher self_sft acopd opd gkd opsd sdpo "
    "offline_distill"
).split()


def methods(table: str) -> dict:
    return dict(lab_tables.spec_of(table).train.methods)


def test_every_table_has_a_page_and_says_how_it_is_run() -> None:
    assert set(FILES) == set(TABLES)
    for table in FILES:
        first, second, *rest = (ROOT / "specs" / "tables" / f"{table}.yaml").read_text("utf-8").splitlines()
        assert first == f"# Run: refinery run specs/tables/{table}.yaml"
        assert second == "# yaml-language-server: $schema=../refinery.schema.json"
        assert f"tests.bench.lab_tables {table}`" in " ".join(line.strip("# ") for line in rest)
        spec = lab_tables.spec_of(table)
        assert spec.name == f"table_{table}" and spec.report.baseline in spec.train.methods


def test_all_methods_stand_in_a_table() -> None:
    assert set(OTHERS) <= set(methods("methods"))
    assert {"grpo", "grpo_kl", "sdpo", "sft"} == set(methods("reinforced"))
    assert {"sft_raw", "sft_fused", "reinvoke", "sdft_paper", "sdft_released", "raft"} == set(methods("main"))
    used = {each.method for table in FILES for each in methods(table).values()}
    used |= {each.method for table in FILES for each in lab_tables.spec_of(table).rewriters.values()}
    assert used == set(names(METHODS))


def test_the_budget_is_the_same_for_all() -> None:
    main, others = lab_tables.spec_of("main").train, lab_tables.spec_of("methods").train
    assert main.tune == others.tune and others.seeds == [0, 1, 2] and main.seeds == [0, 1, 2, 3, 4]
    for each in (*main.methods.values(), *others.methods.values()):
        assert (each.params.epochs, each.params.batch_size, each.params.max_length) == (10, 16, 256)
        assert each.params.lora is None


def test_data_sets_of_equal_volume() -> None:
    wanted = {"sft_raw", "prompted", "best_of_n", "filtered", "augmented", "self_sft", "dart_public", "dart_robust"}
    assert set(methods("dart")) == wanted
    assert {(each.params.max_steps, each.params.batch_size) for each in methods("dart").values()} == {(189, 16)}


def test_the_agents_rewards_and_gates() -> None:
    rewriters = lab_tables.spec_of("agent").rewriters
    one = rewriters["agent"].params.model_dump()
    differ = {n: {k: v for k, v in r.params.model_dump().items() if v != one[k]} for n, r in rewriters.items()}
    assert differ == {
        "agent": {},
        "no_diversity": {"diversity_weight": 0.0},
        "no_alignment": {"alignment_weight": 0.0},
        "soft_gate": {"gate": "soft"},
        "no_gate": {"gate": "none"},
    }
    assert set(methods("agent")) == {"sft_raw", "prompted", "sampled_prompted", "sampled", *rewriters}


def test_what_the_teacher_is_shown_of_an_article() -> None:
    shown = {name: each.params.teacher_prompt for name, each in methods("knowledge").items() if each.method == "sdft"}
    names_in = {name: ("article" in prompt, "answer" in prompt) for name, prompt in shown.items()}
    assert names_in["sdft_text"] == (True, False) and names_in["sdft_answer"] == (False, True)
    assert names_in["sdft_both"] == names_in["sdft_both_paper"] == (True, True)
    assert {"sft", "cpt"} <= set(methods("knowledge"))


def test_skills_in_sequence() -> None:
    train = lab_tables.spec_of("sequence").train
    assert [stage.name for stage in train.stages] == ["clinic", "workshop", "harbor"]
    assert {each.method for each in train.methods.values()} == {"sft", "sdft"}


def test_bare_answers_and_samples() -> None:
    spec = lab_tables.spec_of("working")
    assert {each.method for each in spec.train.methods.values()} == {"sft", "sdft", "raft"}
    assert spec.evaluate.samples == {"sampled": 16} and spec.evaluate.domain == ["greedy", "sampled"]


@pytest.mark.parametrize("table", FILES)
def test_every_piece_is_a_spec_of_its_own(table: str) -> None:
    """With what its method names, and no more."""
    whole = lab_tables.spec_of(table)
    for name, each in whole.train.methods.items():
        piece = lab_tables.spec_of(table, lab_tables.overrides(table, lab_tables.domains_of(table)[0], 2, name, {}))
        assert name in piece.train.methods and piece.train.seeds == [2]
        assert piece.train.methods[name] == each
        assert set(piece.graph) <= set(whole.graph)
        assert all(piece.graph[step] == whole.graph[step] for step in piece.graph)
        assert piece.seed == (2 if whole.rewriters else 0)


def test_a_piece_trains_no_rewriter_that_its_rows_do_not_need() -> None:
    """Else its tokens would count another's."""

    def rewriters(table: str) -> dict[str, set[str]]:
        pieces = {name: lab_tables.overrides(table, "clinic", 0, name, {}) for name in methods(table)}
        return {name: set(lab_tables.spec_of(table, piece).rewriters) for name, piece in pieces.items()}

    agents = {"agent", "no_diversity", "no_alignment", "soft_gate", "no_gate"}
    assert rewriters("agent") == {
        **{name: set() for name in ("sft_raw", "prompted", "sampled_prompted")},
        **{name: {name} for name in agents},
        "sampled": {"agent"},
    }
    assert {name: found for name, found in rewriters("dart").items() if found} == {
        "dart_public": {"public"},
        "dart_robust": {"robust"},
    }
    raw = lab_tables.spec_of("raft", lab_tables.overrides("raft", "clinic", 0, "sft_raw", {}))
    assert not raw.graph


def test_another_domain_and_what_a_grid_chose() -> None:
    piece = lab_tables.spec_of("main", lab_tables.overrides("main", "harbor", 1, "raft", {"learning_rate": 2e-4}))
    assert piece.source.lab == "harbor" and piece.evaluate.domain == ["lab_harbor", "lab_harbor_unseen"]
    assert not piece.train.tune and piece.train.methods["raft"].params.learning_rate == 2e-4
    with pytest.raises(AssertionError):
        lab_tables.overrides("knowledge", "harbor", 0, "sft", {})


@pytest.mark.parametrize("name", lab_data.MADE)
def test_data_files_are_what_makes_them(name: str) -> None:
    assert (lab_data.FOLDER / f"{name}.jsonl").read_text("utf-8") == lab_data.text(lab_data.MADE[name]())


def test_data_files_teach_nothing_of_the_test() -> None:
    asked = {item["question"] for skill in SKILLS for item in items(f"lab_{skill}")}
    prompts = {row["question"] for row in lab_data.general()}
    words = {word for domain in DOMAINS for word in answer_words()[domain]}
    assert len(prompts) == 240 and not prompts & asked
    assert not any(word in row["answer"] for row in lab_data.general() for word in words)
    trained = {row["question"] for row in lab_data.sums()}
    assert not trained & {row["question"] for row in lab_data.sums_test()}
    for row in lab_data.questions():
        assert row["entry"] in row["article"] and row["entry"].rstrip(".").endswith(row["key"])


def test_hypotheses_name_what_the_tables_have() -> None:
    """A test that no run could ever decide would read "not run" for good."""
    known = {name: {"base", *methods(name)} for name in TABLES}
    for hypothesis in HYPOTHESES:
        for test in hypothesis.tests:
            closure = dict(zip(test.figure.__code__.co_freevars, test.figure.__closure__ or (), strict=True))
            if "weights" in closure:
                table = closure["table"].cell_contents
                assert set(closure["weights"].cell_contents) <= known[table], test.says


@pytest.mark.parametrize("table", TABLES)
def test_committed_lines_are_of_the_specs_as_they_stand(table: str) -> None:
    for line in read(table):
        method = line["method"].partition("@")[0]
        assert method == "base" or method in methods(table)
        if "spec" in line:
            assert line["spec"] == lab_tables.spec_digest(table, method), f"{table} {method}: run it again"


def test_items_come_back_as_they_were() -> None:
    items = tuple("abcdefghij")
    for values in (np.array([1.0, 0, 0, 1, 1, 0, 1, 0, 0, 1]), np.linspace(0, 1, 10)):
        line = json.loads(json.dumps(packed("domain", items, values)))
        assert ("bits" in line) == (set(values) <= {0.0, 1.0})
        assert np.allclose(tf.unpacked(line), values, atol=1e-4)
    assert packed("domain", items, np.ones(10))["items"] != packed("domain", items[::-1], np.ones(10))["items"]


def _line(method: str, seed: int | None, **scores: list[float]) -> dict:
    right = {
        name.partition("__")[0]: packed(
            name.partition("__")[2], tuple(f"{name}{n}" for n in range(len(each))), np.array(each)
        )
        for name, each in scores.items()
    }
    found = {"domain": "clinic", "method": method, "seed": seed, "checkpoint": f"{method}{seed}"}
    return {**found, "chosen": {}, "logged": {}, "right": right}


def test_a_contrast_is_the_difference_of_means_on_shared_seeds() -> None:
    known = [
        _line(
            "base", None, lab_clinic__domain=[0, 0, 0, 0], lab_clinic_unseen__domain=[0, 0], lab_sums__general=[1, 1]
        ),
        _line("a", 0, lab_clinic__domain=[1, 1, 1, 0], lab_clinic_unseen__domain=[1, 1], lab_sums__general=[1, 0]),
        _line("a", 1, lab_clinic__domain=[1, 1, 0, 0], lab_clinic_unseen__domain=[1, 0], lab_sums__general=[1, 1]),
        _line("a", 2, lab_clinic__domain=[0, 0, 0, 0], lab_clinic_unseen__domain=[0, 0], lab_sums__general=[0, 0]),
        _line("b", 0, lab_clinic__domain=[1, 0, 0, 0], lab_clinic_unseen__domain=[0, 0], lab_sums__general=[1, 1]),
        _line("b", 1, lab_clinic__domain=[0, 0, 0, 0], lab_clinic_unseen__domain=[0, 0], lab_sums__general=[0, 1]),
    ]
    figures = {of: tf.contrast(known, {"a": 1, "b": -1}, of) for of in ("domain", "unseen", "general", "both")}
    assert {of: (round(f.value, 9), f.n_seeds) for of, f in figures.items()} == {
        "domain": (0.5, 2),  # (3 + 2 - 1) / 8
        "unseen": (0.75, 2),
        "general": (0.0, 2),
        "both": (0.25, 2),
    }
    assert all(f.low <= f.value <= f.high for f in figures.values())
    assert tf.contrast(known, {"a": 1, "base": -1}, "domain").value == pytest.approx(5 / 12)
    assert tf.contrast(known, {"a": 1, "c": -1}, "domain") is None
    assert tf.fewest_seeds(known, ["a", "b"]) == 2


def test_figures_are_those_of_a_comparison() -> None:
    """With evals.forgetting, which has them from a store."""
    rng, known = np.random.default_rng(0), []

    def scores(share: float) -> dict:
        drawn = {name: (rng.random(60) < share).astype(float) for name in ("lab_clinic", "lab_sums", "lab_facts")}
        return {f"{name}__{'domain' if name == 'lab_clinic' else 'general'}": x for name, x in drawn.items()}

    known.append(_line("base", None, **scores(0.97)))
    for seed in range(3):
        known += [_line("sft", seed, **scores(0.6)), _line("raft", seed, **scores(0.8))]
    panels = tf.panels(known, ["sft", "raft"])
    wanted = compare_panels(Panels(panels, []), baseline="sft").methods["raft"]
    pairs = {
        "score": (wanted.domain_mean.score, tf.contrast(known, {"raft": 1}, "domain")),
        "difference": (wanted.general_mean.vs_baseline, tf.contrast(known, {"raft": 1, "sft": -1}, "general")),
        "recovered": (wanted.general_mean.damage_recovered, tf.recovered(known, "raft", "sft")),
    }
    for name, (theirs, ours) in pairs.items():
        assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high)), name
        assert ours.n_items == theirs.n_items, name
    kept = {f"{name}__general": tf.unpacked(known[0]["right"][name]) for name in ("lab_sums", "lab_facts")}
    known += [_line("still", seed, **kept) for seed in range(3)]
    assert np.isnan(tf.recovered(known, "raft", "still").value)  # it lost nothing


def test_stages_make_a_matrix() -> None:
    known = [_line("base", None, lab_clinic__domain=[0, 0], lab_workshop__domain=[0, 0], lab_sums__general=[1, 1])]
    for seed in (0, 1):
        known.append(
            _line("sft@first", seed, lab_clinic__domain=[1, 1], lab_workshop__domain=[0, 0], lab_sums__general=[1, 1])
        )
        known.append(
            _line("sft", seed, lab_clinic__domain=[0, 1], lab_workshop__domain=[1, 1], lab_sums__general=[1, 0])
        )
    found = tf.stages(known, ["sft@first", "sft"], ["lab_clinic", "lab_workshop"])
    assert found.accuracy.value == pytest.approx(0.75) and found.backward_transfer.value == pytest.approx(-0.5)


def test_a_piece_at_a_point_is_what_the_matrix_makes_of_it() -> None:
    whole = lab_tables.spec_of("backbones")
    names = [" ".join(point.keys.values()) for point in whole.points]
    assert lab_tables.domains_of("backbones") == names and len(names) == 15
    for domain, point in zip(names, whole.points, strict=True):
        piece = lab_tables.spec_of("backbones", lab_tables.overrides("backbones", domain, 1, "raft", {}))
        assert len(piece.points) == 1 and piece.name.endswith(domain.replace(" ", "_"))
        for part in ("model", "source", "graph", "evaluate", "models"):
            assert getattr(piece, part) == getattr(point.spec, part), part
        assert piece.train.methods == {"raft": point.spec.train.methods["raft"]}


def test_points_stand_side_by_side() -> None:
    """Each by itself, and those of one backbone together: halves of raft and of sft, by hand."""
    spec, known = lab_tables.spec_of("backbones"), []
    for domain, right in (
        ("lab clinic", [1, 1, 1, 0]),
        ("lab harbor", [1, 0, 0, 0]),
        ("lab-small clinic", [0, 0, 0, 0]),
    ):
        for method, seed, own in (("base", None, [0] * 4), ("sft_raw", 0, [1, 0, 0, 0]), ("raft", 0, right)):
            line = _line(method, seed, heldout__domain=own, lab_sums__general=[1, 1, 1, method == "base"])
            known.append({**line, "domain": domain})
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table_pages.point_rows(spec, known)]
    assert [row[:3] for row in rows[2:]] == [
        ["lab", "all", "2 in 2"], ["lab", "clinic", "1"], ["lab", "harbor", "1"],
        ["lab-small", "all", "1"], ["lab-small", "clinic", "1"],
    ]  # fmt: skip
    columns = {name: at for at, name in enumerate(rows[0])}
    first = {row[0] + " " + row[1]: {name: row[at].split(" ")[0] for name, at in columns.items()} for row in rows[2:]}
    assert first["lab all"]["raft domain"] == "50.0" and first["lab clinic"]["raft domain"] == "75.0"
    assert first["lab all"]["base general"] == "100.0" and first["lab all"]["sft_raw general"] == "75.0"
    assert rows[2][columns["raft domain"] + 1].startswith("+25.0")  # (75 + 25) / 2 less 25
    assert first["lab-small all"]["raft domain"] == "0.0"


def test_module_of_every_method_has_parameters() -> None:
    """`overrides` leaves out the defaults that a method alone has not."""
    piece = lab_tables.overrides("working", "working", 0, "sft", {})
    assert "max_completion_length" not in next(each for each in piece if each.startswith("train.defaults="))
    assert "max_completion_length" in module(METHODS, "raft").Params.model_fields

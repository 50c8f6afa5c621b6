"""A spec says what it means, or every mistake at once; equal specs have equal fingerprints and others do not."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import SecretStr

from refinery import catalog, lab, taskfiles, yamlpos
from refinery.errors import UserError
from refinery.ops import rewrite
from refinery.problems import SpecErrors
from refinery.spec import ModelSpec, Spec, StepSpec, fingerprints, load_spec, order
from refinery.spec_types import Later, marked

ROOT = Path(__file__).parent.parent
BROKEN = Path(__file__).parent / "broken_specs"
SPECS = sorted((ROOT / "specs").glob("*.yaml"))
READY = [file for file in SPECS if "REFINERY_DATA" not in file.read_text("utf-8")]
"""Those that need no data from elsewhere."""

SMALL = """\
source: {lab: clinic}
graph:
  rewritten: {op: rewrite, from: source, temperature: 0.7}
  close: {op: semantic_filter, from: rewritten}
  fused: {op: fuse, from: close, judges: [answer_and_likelihood, {model: referee}]}
models:
  referee: {backend: openai, model: big, base_url: "http://localhost:8000/v1"}
"""


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., Spec]:
    def make(text: str, *overrides: str) -> Spec:
        file = tmp_path / "small.yaml"
        file.write_text(text, "utf-8")
        return load_spec(file, overrides)

    return make


def mistakes(make: Callable[..., Spec], text: str, *overrides: str) -> str:
    with pytest.raises(SpecErrors) as caught:
        make(text, *overrides)
    return str(caught.value)


# -- every mistake, in whole messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [file.stem for file in sorted(BROKEN.glob("*.yaml"))])
def test_a_broken_spec_says_what_is_wrong_and_where(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)
    with pytest.raises(SpecErrors) as caught:
        load_spec(f"{name}.yaml")
    assert str(caught.value) + "\n" == Path(f"{name}.txt").read_text("utf-8")


def test_the_broken_specs_are_many_and_each_has_its_message() -> None:
    specs, messages = ({file.stem for file in BROKEN.glob(f"*.{kind}")} for kind in ("yaml", "txt"))
    assert specs == messages and len(specs) >= 40


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_spec_never_ends_in_a_traceback(spec_of: Callable[..., Spec], seed: int) -> None:
    rng = random.Random(seed)
    lines = (ROOT / "specs" / "lab.yaml").read_text("utf-8").split("\n")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(lines))
        kind = rng.random()
        if kind < 0.25:
            lines.pop(at)
        elif kind < 0.5:
            lines.insert(at, rng.choice(lines))
        elif kind < 0.75 and lines[at]:
            column = rng.randrange(len(lines[at]))
            lines[at] = lines[at][:column] + rng.choice("{}[]:,\"'#&*!|>%@`\t -?ax1") + lines[at][column + 1 :]
        else:
            lines[at] = rng.choice(["    ", "  ", ""]) + lines[at].strip()
    try:
        spec_of("\n".join(lines)).public()
    except UserError as error:
        assert str(error)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file or directory"):
        load_spec(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a directory"):
        load_spec(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: x\nsource: caf\xe9\n".encode("latin-1"))
    with pytest.raises(SpecErrors, match=r"latin\.yaml:2:12: not UTF-8 text"):
        load_spec(tmp_path / "latin.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: x\x07\n")
    with pytest.raises(SpecErrors, match=r"control\.yaml:1:8: a control character, 0x7"):
        load_spec(tmp_path / "control.yaml")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(SpecErrors, match="nested or repeated too deeply"):
        load_spec(tmp_path / "deep.yaml")
    laughs = "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
    (tmp_path / "laughs.yaml").write_text(laughs)
    with pytest.raises(SpecErrors, match="nested or repeated too deeply"):
        load_spec(tmp_path / "laughs.yaml")


# -- what YAML means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1", -1),
        ("010", 10),
        ("0x10", 16),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-05-01", "2024-05-01"),
        ('"2e-5"', "2e-5"),
        ("'true'", "true"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
    ],
)
def test_scalars_are_read_as_people_mean_them(text: str, value: Any) -> None:
    found = yamlpos.parse(f"x: {text}", "x.yaml").data["x"]
    assert found == value and type(found) is type(value)


def test_merged_keys_never_override() -> None:
    text = "base: &base {a: 1, b: 2}\nnext: {<<: *base, b: 3}\nlist: {<<: [*base, {c: 4, a: 5}]}\n"
    document = yamlpos.parse(text, "x.yaml")
    assert not document.problems
    assert document.data["next"] == {"a": 1, "b": 3} and document.data["list"] == {"a": 1, "b": 2, "c": 4}
    assert str(document.place(("next", "a"))) == "x.yaml:1:17"


def test_every_key_and_value_has_its_place() -> None:
    text = "a:\n  - b: [x, 'y']\n    c: |\n      long\nd: {e: 1}\n"
    document = yamlpos.parse(text, "x.yaml")
    places = {path: (place.line, place.column) for path, place in document.values.items()}
    assert places[("a", 0, "b", 1)] == (2, 12) and places[("a", 0, "c")] == (3, 8) and places[("d", "e")] == (5, 8)
    assert (document.place(("d", "e"), key=True).line, document.place(("d", "e"), key=True).column) == (5, 5)
    assert str(document.place(("d", "f", "g"))) == "x.yaml:5:1"


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_TEST", "hello: [x")
    monkeypatch.setenv("REFINERY_EMPTY", "")
    monkeypatch.setenv("REFINERY_NUMBER", "7")

    def value(text: str) -> Any:
        document = yamlpos.parse(f"x: {text}", "x.yaml")
        assert not document.problems
        return document.data["x"]

    assert value("${REFINERY_TEST}") == "hello: [x"
    assert value('"${REFINERY_TEST}/${REFINERY_NUMBER}"') == "hello: [x/7"
    assert value("${REFINERY_NUMBER}") == 7 and value('"${REFINERY_NUMBER}"') == "7"
    assert value("${REFINERY_EMPTY}") is None and value('"${REFINERY_EMPTY:-d}"') == "d"
    assert value("${REFINERY_UNSET_:-}") is None and value("${REFINERY_UNSET_:-a:b}") == "a:b"
    assert value("$${REFINERY_TEST}") == "${REFINERY_TEST}"
    assert value("$x ${lower} $5") == "$x ${lower} $5"
    problem = yamlpos.parse("x: |\n  one\n  two ${REFINERY_UNSET_}\n", "x.yaml").problems[0]
    assert str(problem).startswith("x.yaml:3:7: the environment variable REFINERY_UNSET_ is not set")


# -- secrets and code -------------------------------------------------------------------------------------------------


def test_a_key_is_never_shown(spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_KEY", "sk-secret")
    text = SMALL.replace('/v1"}', '/v1", api_key: "${REFINERY_KEY}"}')
    spec = spec_of(text)
    key = spec.models["referee"].api_key
    assert isinstance(key, SecretStr) and key.get_secret_value() == "sk-secret"
    shown = [repr(spec), str(spec), spec.model_dump_json(), json.dumps(spec.public()), repr(spec.models)]
    shown.append(mistakes(spec_of, text.replace("model: big", "modle: big")))
    shown.append(mistakes(spec_of, text.replace('"${REFINERY_KEY}"', '["${REFINERY_KEY}"]')))
    shown.append(mistakes(spec_of, 'source: {lab: clinic}\nmodels: [{api_key: "${REFINERY_KEY}"}]\n'))
    assert not any("sk-secret" in text for text in shown)
    monkeypatch.setenv("REFINERY_KEY", "sk-other")
    assert prints(spec_of(text)) == prints(spec)


def test_a_key_written_out_is_refused_and_masked(spec_of: Callable[..., Spec]) -> None:
    for written in ("sk-secret", '"sk, secret"', "'sk secret'", "sk-$secret"):
        shown = mistakes(spec_of, SMALL.replace('/v1"}', f'/v1", api_key: {written}}}'))
        assert "a key is not written into a spec" in shown and "secret" not in shown
    shown = mistakes(spec_of, SMALL, "models.referee.api_key=sk-secret")
    assert "a key is not written into a spec" in shown and "secret" not in shown
    for written in ("EMPTY", '"${REFINERY_UNSET_:-EMPTY}"', "'${REFINERY_UNSET_:-}'"):
        spec_of(SMALL.replace('/v1"}', f'/v1", api_key: {written}}}'))
        spec_of(SMALL, f"models.referee.api_key={written}")


def test_a_key_beside_or_inside_a_variable_is_written_out_too(
    spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINERY_KEY", "sk-mine")
    for written in ("${NO_KEY_:-my secret, yes}", "${REFINERY_KEY}secret", "secret${REFINERY_KEY}", "$${secret}"):
        for shown in (
            mistakes(spec_of, SMALL.replace('/v1"}', f'/v1", api_key: "{written}"}}')),
            mistakes(spec_of, SMALL, f'models.referee.api_key="{written}"'),
        ):
            assert "a key is not written into a spec" in shown and "secret" not in shown


def test_no_hint_repeats_a_key(spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINERY_KEY", "1234567890")
    for written in ("${REFINERY_KEY}", "1234567890"):
        text = SMALL.replace('{backend: openai, model: big, base_url: "http://localhost:8000/v1"}', "\n    model: big")
        shown = mistakes(spec_of, f"{text}    api_key: {written}\n")
        assert "1234567890" not in shown


def test_task_files_run_code_only_where_allowed(spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)
    text = "source: {lab: clinic}\nevaluate: {domain: [{task: tasks/includes_code.yaml}]}\n"
    assert "!function runs code" in mistakes(spec_of, text)
    spec = spec_of(text, "evaluate.allow_code=true")
    assert spec.evaluate and spec.evaluate.domain == ["tasks/includes_code.yaml"]


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ('doc_to_text: "{{ question.strip() }} {{ choices[answer] }}"', True),
        ("metric_list: [{metric: exact_match, aggregation: mean}]", True),
        ("dataset_kwargs: {data_files: {test: x.jsonl}}", True),
        ("process_docs: !function utils.f", False),
        ("x: !!python/name:os.system", False),
        ("x: [{y: !anything z}]", False),
        ("metric_list: [{metric: evil/metric}]", False),
        ("metric_list: [{metric: exact_match, hf_evaluate: true}]", False),
        ("unsafe_code: true", False),
        ("doc_to_text: \"{{ x['__class__'] }}\"", False),
        ('doc_to_text: "{{ x | attr(y) }}"', False),
        ('doc_to_text: "{% for c in x.__class__.__mro__ %}{% endfor %}"', False),
        ("a: &a {b: *a}", True),
    ],
)
def test_what_a_task_file_may_hold(tmp_path: Path, text: str, harmless: bool) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"task: mine\n{text}\n")
    assert (taskfiles.mistakes(file, allow_code=False) == []) == harmless
    (tmp_path / "outer.yaml").write_text("task: outer\ninclude: [mine.yaml, outer.yaml]\n")
    assert (taskfiles.mistakes(tmp_path / "outer.yaml", allow_code=False) == []) == harmless
    assert taskfiles.mistakes(tmp_path / "outer.yaml", allow_code=True) == []


# -- defaults and overrides -------------------------------------------------------------------------------------------


def test_three_lines_are_the_whole_paper(spec_of: Callable[..., Spec], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "a"}\n')
    spec = spec_of(f"model: lab\nsource:\n  path: {rows}\n")
    assert spec.name == "small" and spec.store == "runs/small/refinery.duckdb"
    assert [(step.op, step.upstream) for step in spec.graph.values()] == [
        ("rewrite", ["source"]),
        ("semantic_filter", ["rewritten"]),
        ("fuse", ["close"]),
    ]
    assert spec.train and spec.evaluate and spec.evaluate.domain == ["heldout"]
    assert [(m.method, m.data) for m in spec.train.methods.values()] == [
        ("sft", "source"),
        ("sft", "fused"),
        ("raft", "fused"),
    ]
    assert spec.report.baseline == "sft_raw"
    assert spec_of(f"source: {rows}\n").public() == spec.public()


def test_what_is_not_named_is_not_done(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of(SMALL)
    assert spec.train is None and spec.evaluate is None and spec.report.baseline is None
    spec = spec_of("source: {lab: clinic}\ntrain:\n")
    assert not spec.graph and spec.train is None and spec.evaluate is None
    spec = spec_of("source: {lab: clinic}\ntrain: {methods: {plain: {method: sft}}}\n")
    assert spec.train and spec.train.data == spec.train.methods["plain"].data == "source"


def test_self_is_the_base_model_unless_it_is_given(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of("model: org/name\nrevision: abc\n" + SMALL)
    assert spec.models["self"] == ModelSpec(model="org/name", revision="abc")
    spec = spec_of(SMALL + '  self: {backend: openai, base_url: "http://localhost:8001/v1"}\n')
    assert (spec.models["self"].backend, spec.models["self"].model) == ("openai", "lab")


def test_shared_defaults_go_to_methods_that_have_them_and_own_values_win(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of(
        "source: {lab: clinic}\ntrain:\n  defaults: {learning_rate: 2e-5, top_k: 7}\n"
        "  tune: {learning_rate: [1, 1e-4], epochs: [2]}\n"
        "  methods: {plain: {method: sft, learning_rate: 3e-5}, raft: {method: raft}}\n"
    )
    assert spec.train
    plain, raft = (method.params for method in spec.train.methods.values())
    assert (plain.learning_rate, raft.learning_rate, raft.top_k) == (3e-5, 2e-5, 7)  # type: ignore[attr-defined]
    assert spec.train.tune == {"learning_rate": [1.0, 1e-4], "epochs": [2.0]}
    assert all(type(value) is float for values in spec.train.tune.values() for value in values)


def test_overrides_are_checked_like_the_file(spec_of: Callable[..., Spec]) -> None:
    spec = spec_of(
        SMALL, "graph.rewritten.temperature=0", "seed=3", "source.split={validation: 0, test: 0.5}", "name=other"
    )
    assert spec.graph["rewritten"].params.temperature == 0  # type: ignore[attr-defined]
    assert (spec.seed, spec.source.split.train, spec.store) == (3, 0.5, "runs/other/refinery.duckdb")
    assert spec_of(SMALL.replace("0.7", "hot"), "graph.rewritten.temperature=1e-1")
    spec = spec_of(SMALL, "graph.fused.judges.1.model=self")
    assert [model for _, model in marked(spec.graph["fused"].params, "model")][-1] == "self"
    shown = mistakes(spec_of, SMALL, "graph.rewritten.temprature=0", "seed: 1", "graph.fused.judges.7=x", "seed=many")
    assert [line for line in shown.split("\n") if not line.startswith(" ")] == [
        "--set:1:1: written as key.path=value, for example train.seeds=[0,1]",
        '--set:1:1: the list has no item "7"',
        '--set:1:1: op rewrite has no "temprature" (did you mean "temperature"?)',
        '--set:1:6: expected a whole number, got "many"',
    ]
    assert shown.endswith("\n  1 | seed=many\n    |      ^")


def test_what_is_public_loads_again_as_the_same_spec(
    spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for file in READY:
        spec = load_spec(file)
        assert spec_of(yaml.safe_dump(spec.public(), sort_keys=False)).public() == spec.public(), file.name


# -- order and fingerprints -------------------------------------------------------------------------------------------


def steps(**edges: list[str]) -> Spec:
    graph = {name: StepSpec.model_validate({"op": "mix", "from": sources}) for name, sources in edges.items()}
    return Spec.model_validate({"source": {"lab": "clinic"}, "name": "x", "graph": graph})


def test_steps_run_after_what_they_read() -> None:
    assert order(steps(d=["b", "c"], b=["a"], c=["a", "source"], a=["source"])) == ["a", "b", "c", "d"]
    assert order(steps(z=["source"], y=["source"], x=["z"])) == ["z", "y", "x"]
    with pytest.raises(ValueError, match="a cycle"):
        order(steps(a=["b"], b=["a"]))


def prints(spec: Spec, source: str = "rows") -> dict[str, str]:
    return fingerprints(spec, lambda model: f"{model.backend}/{model.model}", source)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("", "", ""),
        ("temperature: 0.7", "temperature: 0.70", ""),
        (", temperature: 0.7", "", ""),
        ("from: source,", "from: source, model: self, samples: 1,", ""),
        ("http://localhost:8000/v1", "http://elsewhere:9000/v1", ""),
        ("model: big,", "model: big, concurrency: 3, timeout: 5,", ""),
        ("referee", "grader", ""),
        ("rewritten", "written", ""),
        ("temperature: 0.7", "temperature: 0.8", "rewritten close fused"),
        ("from: rewritten", "from: rewritten, min_cosine: 0.7", "close fused"),
        ("from: rewritten", "from: source", "close fused"),
        ("model: big", "model: bigger", "fused"),
        ("{model: referee}", "{model: self}", "fused"),
        ("source: {", "seed: 1\nsource: {", "rewritten close fused"),
        ("source: {", "model: org/other\nsource: {", "rewritten close fused"),
    ],
)
def test_a_fingerprint_changes_with_what_shapes_the_rows(
    spec_of: Callable[..., Spec], old: str, new: str, changed: str
) -> None:
    before, after = prints(spec_of(SMALL)), prints(spec_of(SMALL.replace(old, new)))
    after = {{"written": "rewritten"}.get(name, name): value for name, value in after.items()}
    assert {name for name in before if before[name] != after[name]} == set(changed.split())
    assert len(set(before.values())) == 4


def test_a_fingerprint_follows_the_source_and_the_version(
    spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(SMALL)
    before = prints(spec)
    assert before["source"] == "rows" and not set(before.values()) & set(prints(spec, "other").values())
    monkeypatch.setattr(catalog.module(catalog.OPS, "semantic_filter"), "VERSION", 99)
    after = prints(spec)
    assert [name for name in before if before[name] != after[name]] == ["close", "fused"]


def test_an_encoder_in_a_folder_counts_by_its_weights(
    spec_of: Callable[..., Spec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refinery import models

    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "encoder" / "model.safetensors"
    weights.parent.mkdir()

    def print_with(content: bytes, identity: Callable[[ModelSpec], str] = models.identity) -> str:
        weights.write_bytes(content)
        (tmp_path / "encoder" / "config.json").write_text("{}")
        spec = spec_of(SMALL, "graph.close.encoder=encoder", "graph.close.from=source")
        return fingerprints(spec, identity, "rows")["close"]

    assert print_with(b"one") == print_with(b"one") != print_with(b"another")


def test_a_parameter_added_later_counts_from_its_first_use(
    spec_of: Callable[..., Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prints(spec_of(SMALL))

    class Params(rewrite.Params):
        extra: Annotated[int, Later] = 0

    monkeypatch.setattr(rewrite, "Params", Params)
    assert prints(spec_of(SMALL)) == before
    assert prints(spec_of(SMALL.replace("temperature: 0.7", "extra: 1")))["rewritten"] != before["rewritten"]


def test_fingerprints_are_the_same_in_another_process() -> None:
    code = (
        "from refinery.spec import *; s = load_spec('specs/lab.yaml');"
        "print(fingerprints(s, lambda m: m.model, 'x')['fused'])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 32


# -- ready specs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.name)
def test_every_ready_spec_is_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, second, *_ = file.read_text("utf-8").splitlines()
    assert first.startswith("# Run: ") and first.endswith(f"refinery run specs/{file.name}")
    assert second == "# yaml-language-server: $schema=refinery.schema.json"
    try:
        spec = load_spec(f"specs/{file.name}")
    except SpecErrors as error:
        assert file not in READY and all("there is no file data/" in p.message for p in error.problems), str(error)
    else:
        assert spec.graph or spec.train


def test_the_lab_spec_asks_with_the_prompts_the_lab_was_trained_on() -> None:
    for name in ("lab.yaml", "lab_tuned.yaml"):
        spec = load_spec(ROOT / "specs" / name)
        assert spec.graph["rewritten"].params.prompt == lab.PROMPTS["rewrite"]  # type: ignore[attr-defined]
        assert spec.graph["fused"].params.prompt == lab.PROMPTS["fuse"]  # type: ignore[attr-defined]


def test_checking_a_spec_is_quick_and_light() -> None:
    """Under half a second of processor time from nothing to a checked spec, and none of the heavy libraries."""
    code = (
        "import sys, time; from refinery.spec import load_spec; load_spec('specs/lab.yaml');"
        "print(time.process_time(), *{m.split('.')[0] for m in sys.modules})"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert min(float(run[0]) for run in runs) < 0.5
    assert not {"torch", "transformers", "lm_eval", "datasets", "pyarrow", "duckdb", "scipy"} & set(runs[0][1:])

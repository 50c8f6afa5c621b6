"""Exports read back by pandas, datasets and DuckDB, and by Refinery itself; the card and what it must not say."""

import json
import os
import subprocess
import sys

import duckdb
import pandas as pd
import pytest
import yaml
from datasets import load_dataset

from refinery import exportcard, exporting, shapes
from refinery.errors import UserError
from refinery.exportcard import About
from refinery.readers import read_path
from refinery.records import Example, Outcome
from refinery.spec_models import SourceSpec

TEXTS = [
    "plain", "two\nlines\r\nand\ttabs", 'a "quoted" \'text\' \\ back\\slash \\n', "{{ question }} {% for %} {# #}",
    "مرحبا \u202eabc\u202c שלום", "🙂 e\u0301 \u2028 \u2029 \u0085", '{"a": [1, null]}', "2024-01-01", "1e5", "null",
    "<|im_start|>user", "```\n# no card\n```", "  spaces  ", "| a | b |", "\x01\x1f\x7f",
]  # fmt: skip
INFO = About("demo", "close", "f00d")


def outcomes(texts=TEXTS, split="train"):
    for number, text in enumerate(texts):
        system = [{"role": "system", "content": f"S {text}"}] if number % 2 else []
        earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}] if number % 3 else []
        prompt = [*system, *earlier, {"role": "user", "content": f"Q {text}"}]
        meta = {"text": text, "n": number} if number % 2 else {"other": [text, None]}
        row = Example(f"id{number}", prompt, f"A {text}", text, candidates=(text, "x"), split=split, meta=meta,
                      parents=("p",))  # fmt: skip
        yield Outcome(row.id, "changed", "ok", row, {"cosine": 0.9, "none": None})


@pytest.fixture(params=["jsonl", "parquet", "hf"])
def exported(request, tmp_path):
    to = tmp_path / {"jsonl": "rows.jsonl", "parquet": "rows.parquet", "hf": "folder"}[request.param]
    assert exporting.export(outcomes(), to, request.param, INFO) == {"train": len(TEXTS)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [to.name]
    return to


def test_datasets_reads_it_and_every_text_is_as_it_was(exported, tmp_path):
    cache = str(tmp_path / "cache")
    if exported.is_dir():
        found = load_dataset(str(exported), cache_dir=cache)["train"]
    else:
        kind = {".jsonl": "json", ".parquet": "parquet"}[exported.suffix]
        found = load_dataset(kind, data_files=str(exported), cache_dir=cache)["train"]
    assert found.column_names == list(exporting.COLUMNS)
    for row, outcome in zip(found, outcomes(), strict=True):
        example = outcome.example
        assert row["messages"] == [*example.prompt, {"role": "assistant", "content": example.response}]
        assert (row["prompt"], row["completion"]) == (example.prompt, row["messages"][-1:])
        assert json.loads(row["refinery_columns"]) == example.meta
        assert json.loads(row["refinery_scores"]) == {"cosine": 0.9, "none": None}
        assert (row["refinery_id"], row["refinery_answer"]) == (example.id, example.answer)
        assert (row["refinery_candidates"], row["refinery_parents"]) == ([example.response, "x"], ["p"])
        assert (row["refinery_step"], row["refinery_fingerprint"], row["refinery_split"]) == ("close", "f00d", "train")


def test_pandas_and_duckdb_read_it(exported):
    file = exported / "data" / "train.parquet" if exported.is_dir() else exported
    read = pd.read_json if file.suffix == ".jsonl" else pd.read_parquet
    options = {"lines": True, "dtype": False} if file.suffix == ".jsonl" else {}
    frame = read(file, **options)
    assert [row[-1]["content"] for row in frame["messages"]] == TEXTS
    rows = duckdb.sql(f"SELECT completion[1].content FROM '{file}'").fetchall()
    assert [text for (text,) in rows] == TEXTS


def test_refinery_reads_it_back(exported):
    if exported.is_dir():
        exported = exported / "data" / "train.parquet"
    source = SourceSpec(path=str(exported))
    for raw, outcome in zip(read_path(exported), outcomes(), strict=True):
        prompt, answer = shapes.convert(source, list(raw.values), raw.values)
        assert (prompt, answer) == (outcome.example.prompt, outcome.example.response)


def test_a_folder_has_a_file_for_each_split_and_drops_the_old_ones(tmp_path):
    rows = [*outcomes(["a", "b"]), Outcome("gone", "dropped", "no", None), *outcomes(["c"], split="test")]
    to = tmp_path / "set"
    assert exporting.export(rows, to, "hf", INFO) == {"train": 2, "test": 1}
    loaded = load_dataset(str(to), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 2, "test": 1}
    assert exporting.export(outcomes(["a"]), to, "hf", INFO) == {"train": 1}
    assert [path.name for path in (to / "data").iterdir()] == ["train.parquet"]
    assert exporting.export(rows, tmp_path / "one.jsonl", "jsonl", INFO, ["test"]) == {"test": 1}


LOAD = """
import sys
from datasets import load_dataset
for split, rows in load_dataset(sys.argv[1]).items():
    print(split, *rows["refinery_answer"])
"""


def test_every_export_loads_its_own_rows_under_one_cache(tmp_path):
    """Into folders of one name, and again into one of them: what datasets had kept of another must not come back."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        environment.pop(name, None)

    def loaded(folder):
        found = subprocess.run([sys.executable, "-c", LOAD, folder], env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()

    first, second = tmp_path / "one" / "set", tmp_path / "two" / "set"
    splits = ("train", "validation", "test")
    for folder, text in ((first, "one"), (second, "two"), (first, "three")):
        exporting.export([row for split in splits for row in outcomes([text], split)], folder, "hf", INFO)
        assert loaded(folder) == [f"{split} A {text}" for split in splits]
    exporting.export(outcomes(["four"], "validation"), first, "hf", INFO)
    assert loaded(first) == ["validation A four"]


def test_llama_factory_finds_its_entry(tmp_path):
    to = tmp_path / "set"
    exporting.export([*outcomes(["a"]), *outcomes(["b"], split="validation")], to, "hf", INFO)
    info = json.loads((to / "dataset_info.json").read_text())
    assert list(info) == ["demo", "demo_validation"]
    entry = info["demo"]
    assert entry["formatting"] == "sharegpt"
    frame = pd.read_parquet(to / entry["file_name"])
    turns = frame[entry["columns"]["messages"]][0]
    tags = entry["tags"]
    assert {turn[tags["role_tag"]] for turn in turns} <= {tags["user_tag"], tags["assistant_tag"], tags["system_tag"]}
    assert turns[-1][tags["content_tag"]] == "a"


def test_the_card_says_where_the_rows_come_from_and_how_to_use_them(tmp_path):
    to, spec = tmp_path / "set", "name: demo\nmodels: {w: {api_key: '${KEY}'}}\n```\ngraph: {}\n"
    sources = {"source": {"path": "raw.jsonl"}, "general": {"hub": {"id": "org/set"}}}
    info = About("demo", "close", "f00d", [], sources, spec, "cc-by-4.0", {"general": "mit"})
    exporting.export(outcomes(["a"]), to, "hf", info)
    text = (to / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["tags"] == ["refinery"]
    assert "`source`: path `raw.jsonl`; licence: unknown" in text
    assert "licence: mit" in text
    assert f"````yaml\n{spec.rstrip()}\n````" in text
    stanza = yaml.safe_load(text.split("```yaml\ndatasets:")[1].split("```")[0].join(["datasets:", ""]))
    (entry,) = stanza["datasets"]
    assert (entry["type"], entry["field_messages"], entry["ds_type"]) == ("chat_template", "messages", "parquet")
    assert entry["message_property_mappings"] == {"role": "role", "content": "content"}
    assert entry["roles_to_train"] is None
    assert "swift sft --dataset PATH" in text
    assert all(f"`{column}`" in text for column in exporting.COLUMNS)
    assert set(exportcard.WORDS) == set(exporting.COLUMNS)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("api_key: sk-abcdefgh", "sk-abcdefgh"),
        ('{"api_key": "abc def", "model": "m"}', "abc def"),
        ("headers: {Authorization: Bearer xyz123, Accept: json}", "xyz123"),
        ("# my token is hf_abcdefghijklmnopqrst", "hf_abcdefghijklmnopqrst"),
        ("base_url: https://me:pass@host/v1", "me:pass"),
        ("x-api-key=abc123", "abc123"),
        ('api_key: "${KEY:-my-own-key}"', "my-own"),
        ("{api_key: ${KEY:-my, own key}, model: m}", "own key"),
        ("api_key: ${KEY}my-own-key", "my-own"),
        ('api_key: "${KEY} my-own-key"', "my-own"),
    ],
)
def test_what_looks_like_a_secret_is_left_out(text, secret):
    assert secret not in exportcard.redacted(text)


@pytest.mark.parametrize("text", ["max_tokens: 512", "api_key: ${OPENAI_API_KEY}", "api_key: null", "tokenizer: a/b",
                                  'm: {api_key: "${KEY:-EMPTY}", n: 1}', "api_key: ${KEY:-}\nn: 1",
                                  "api_key: '${K}' # a", "url: https://host/v1",
                                  "question_tokens: 256\nkey: topic"])  # fmt: skip
def test_what_is_none_stays(text):
    assert exportcard.redacted(text) == text


def test_mistakes(tmp_path):
    source = tmp_path / "raw.jsonl"
    info = About("demo", "close", sources={"source": {"path": str(source)}})
    with pytest.raises(UserError, match="read from"):
        exporting.export(outcomes(), source, "jsonl", info)
    with pytest.raises(UserError, match="has no row of the split test"):
        exporting.export(outcomes(), tmp_path / "x.jsonl", "jsonl", INFO, ["test"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        exporting.export(outcomes(), tmp_path / "other", "hf", INFO)
    with pytest.raises(UserError, match="is a folder"):
        exporting.export(outcomes(), tmp_path / "other", "jsonl", INFO)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        exporting.export(outcomes(), tmp_path / "file" / "x.jsonl", "jsonl", INFO)
    assert not list(tmp_path.glob(".export-*"))


def test_a_failed_export_leaves_the_old_file(tmp_path):
    to = tmp_path / "rows.jsonl"
    exporting.export(outcomes(["old"]), to, "jsonl", INFO)

    def broken():
        yield from outcomes(["new"])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        exporting.export(broken(), to, "jsonl", INFO)
    assert '"old"' in to.read_text()

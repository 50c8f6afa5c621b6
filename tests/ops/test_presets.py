"""Digests that must never move: steps that people have run stand only while these do.

The first four were computed before rewrite and fuse had presets and rules. If a change of wording or of a default is
meant, raise the op's VERSION and pin the new digests.
"""

from types import SimpleNamespace

import pytest

from refinery import catalog
from refinery.spec import Spec, fingerprints

MODELS = {name: {"model": name} for name in ("self", "other", "judge")}


def fingerprint(op, **params):
    """Of one step, its models going by their names."""
    params = catalog.module(catalog.OPS, op).Params(**params)
    graph = {"s": {"op": op, "from": "source", "params": params}}
    spec = Spec.model_validate({"name": "s", "source": {"lab": "clinic"}, "models": MODELS, "graph": graph})
    return fingerprints(spec, lambda model: model.model, "src")["s"]


WRITTEN = {"model": "other", "samples": 4, "prompt": "{{ question }} {{ answer }}", "system": "s", "banned": ("a",),
           "temperature": 0, "max_tokens": 96}  # fmt: skip
JUDGED = {"rounds": 5, "judges": ["likelihood", {"model": "judge"}], "judge_model": "other", "stop_at": 0.9,
          "min_score": 0.4, "check": "number", "of": "{{ key }}"}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "params", "pinned"),
    [
        ("rewrite", {}, "a78976e9dfbc5b11ccdfc895cb529163"),
        ("rewrite", WRITTEN, "b2669d307aa6f4a2dfbcfe4e123d954a"),
        ("fuse", {}, "6136c4a9a39e1eb4d894b314c2bbe8d1"),
        ("fuse", JUDGED, "6135d922b82ec6e0c470df7b1419e9a5"),
    ],
)
def test_steps_from_before_presets_and_rules_stand(op, params, pinned):
    assert fingerprint(op, **params) == pinned


@pytest.mark.parametrize(
    ("op", "params", "pinned"),
    [
        ("rewrite", {"preset": "raft"}, "a78976e9dfbc5b11ccdfc895cb529163"),
        ("rewrite", {"preset": "sdft2024_using"}, "175a89120402cbaab8cdd1e07ff5b60c"),
        ("rewrite", {"preset": "sdft2024_refer"}, "40e7b54bbda435b3cc0054b91fb97e8d"),
        ("rewrite", {"preset": "sdft2024_gsm8k"}, "4d914e27eb5c4752f7647a7be88e7aa5"),
        ("rewrite", {"preset": "agent"}, "3e9a438600c1b0ab9b8f68a5574d5e3c"),
        ("rewrite", {"preset": "paraphrase"}, "603d68291171fb83b2b4d72afd87e5f9"),
        ("fuse", {"rule": "rounds"}, "6136c4a9a39e1eb4d894b314c2bbe8d1"),
        ("fuse", {"rule": "concatenate"}, "9fd19e8d05a36b808bc72782de9c9ba2"),
        ("fuse", {"rule": "pick"}, "50949199e6119f896d937cc5d890dc75"),
        ("generate", {}, "62562263c4e740e53af11aac20561aaa"),
        ("judge", {}, "30cf01607a80269a847b132c2417dff4"),
        ("demonstrate", {}, "e30066ee689939f8862ba96feec6d4aa"),
        ("demonstrate", {"show_answer": True}, "7784c57d9cc95c353024efbc4f705fac"),
        ("self_first", {}, "9d5e03661d78afa8d42055fd3dc13912"),
        ("self_first", {"preset": "mind_the_gap"}, "244d3c485dd716c77b93d3ae14c05bad"),
        ("self_first", {"preset": "selective_self_rehearsal"}, "4814d5312e08a2b6426e259b53255818"),
    ],
    ids=str,
)
def test_what_presets_and_defaults_stand_for(op, params, pinned):
    assert fingerprint(op, **params) == pinned


def test_a_preset_is_what_it_fills_in():
    """The name alone would hide a change of wording."""
    assert fingerprint("rewrite", preset="agent") != fingerprint("rewrite", preset="agent", temperature=0.7)
    assert fingerprint("rewrite", preset="agent", prompt="{{ question }}") != fingerprint("rewrite", preset="agent")


def test_a_step_counts_how_its_check_reads_as_part_of_its_version():
    """Where a rule reads otherwise than it did, its steps run again, and no others."""
    for op, key in (("fuse", "check"), ("check_answer", "kind")):
        own = catalog.module(catalog.OPS, op).VERSION
        found = {rule: catalog.version(op, SimpleNamespace(**{key: rule})) - own for rule in ("last_word", "number")}
        assert found == {"last_word": 0, "number": 1}
    assert catalog.version("mix", SimpleNamespace(kind="number")) == 1

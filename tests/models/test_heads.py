"""Fine-tuned models on disk, and what they say about waveforms of any length and in any order."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import speechssl
from speechssl.audio import normalize
from speechssl.config import UserError
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.inference import heads, windows
from speechssl.inference.heads import classify, emissions
from speechssl.models.classifier import Classifier, ClassifierConfig, LogMelClassifier
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.heads import Head, encoder_of, load_head, save_head
from speechssl.models.logmel_cnn import LogMelCNNConfig
from speechssl.models.storage import model_hash, read_model_config, save_model
from speechssl.text import Vocabulary
from tests.toys import MICRO_ENCODER, NO_DROPOUT, RATE, changed, tones

MICRO = changed(MICRO_ENCODER, **NO_DROPOUT)


def classifier(encoder: SpeechEncoder | None = None) -> Classifier:
    torch.manual_seed(2)
    return Classifier(encoder or SpeechEncoder(MICRO), ("sad", "glad", "mad"), ClassifierConfig()).eval()


def writer(encoder: SpeechEncoder | None = None) -> CTCModel:
    torch.manual_seed(2)
    model = CTCModel(encoder or SpeechEncoder(MICRO), Vocabulary.from_texts(["abc é"]), CTCConfig()).eval()
    torch.nn.init.normal_(model.output.weight)
    return model


def log_mel() -> LogMelClassifier:
    torch.manual_seed(2)
    return LogMelClassifier(("sad", "glad"), LogMelCNNConfig(channels=(4, 8))).eval()


def phones() -> CTCModel:
    torch.manual_seed(2)
    config = CTCConfig(units="phones", conv_layers=2, conv_dim=16)
    model = CTCModel(SpeechEncoder(MICRO), PhoneVocabulary(), config).eval()
    torch.nn.init.normal_(model.output.weight)
    return model


MODELS = {"classifier": classifier, "ctc": writer, "phones": phones, "log-mel": log_mel}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Head:
    return MODELS[request.param]()


def said(model: Head, clips: list[np.ndarray]) -> list[np.ndarray]:
    return emissions(model, clips) if isinstance(model, CTCModel) else list(classify(model, clips))


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [tones(seconds, speaker=place, seed=place) for place, seconds in enumerate((1.0, 0.2, 2.5, 0.025, 1.3))]


# On disk


def test_a_folder_gives_the_model_back(model: Head, clips: list[np.ndarray], tmp_path: Path) -> None:
    save_head(tmp_path, model.train(), extra={"training": {"minutes": 1.5}})
    back = load_head(tmp_path)
    assert type(back) is type(model)
    assert not back.training
    assert back.config == model.config
    assert back.normalized == model.normalized
    if isinstance(model, CTCModel):
        assert back.vocabulary == model.vocabulary
    else:
        assert back.classes == model.classes
    theirs, ours = model.state_dict(), back.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for one, other in zip(said(model.eval(), clips), said(back, clips), strict=True):
        assert np.array_equal(one, other)
    assert read_model_config(tmp_path)["training"] == {"minutes": 1.5}


@pytest.mark.parametrize("made", [classifier, writer])
def test_it_still_embeds(made, clips: list[np.ndarray], tmp_path: Path) -> None:
    """The encoder in the folder is the fine-tuned one, for everything that takes an encoder."""
    model = made()
    save_head(tmp_path / "tuned", model, extra={})
    save_model(tmp_path / "plain", model.trunk.encoder)
    ours, theirs = (speechssl.load(tmp_path / name, device="cpu").embed(clips) for name in ("tuned", "plain"))
    np.testing.assert_array_equal(ours, theirs)


def test_the_log_mel_cnn_has_no_embeddings(tmp_path: Path) -> None:
    save_head(tmp_path, log_mel(), extra={})
    assert encoder_of(load_head(tmp_path)) is None
    with pytest.raises(UserError, match="without an encoder; it can classify, but gives no embeddings"):
        speechssl.load(tmp_path)


def test_the_hash_is_of_encoder_and_head(model: Head, tmp_path: Path) -> None:
    def saved(name: str) -> str:
        save_head(tmp_path / name, model, extra={"provenance": {"command": name}})
        return model_hash(tmp_path / name)

    first = saved("a")
    assert saved("b") == first  # who trained it with which words is no part of it
    encoder = encoder_of(model)
    if encoder is not None:
        save_model(tmp_path / "plain", encoder)
        assert model_hash(tmp_path / "plain") != first
    seen = {first}
    for name, value in model.state_dict().items():
        if name.endswith("bias") or "." not in name or "mask_embedding" in name:
            value += 1.0
            seen.add(saved("c"))
            value -= 1.0
            seen.discard(first)
    assert len(seen) > 2
    if not isinstance(model, CTCModel):
        model.classes = tuple(reversed(model.classes))  # what the outputs mean
        assert saved("d") not in seen | {first}


def test_one_line_for_what_is_no_head(tmp_path: Path) -> None:
    save_model(tmp_path / "plain", SpeechEncoder(MICRO))
    with pytest.raises(UserError, match="a pretrained encoder without a head; `speechssl finetune` gives it one"):
        load_head(tmp_path / "plain")
    with pytest.raises(UserError, match="not a model folder"):
        load_head(tmp_path)
    save_head(tmp_path / "good", classifier(), extra={})
    config = json.loads((tmp_path / "good" / "config.json").read_text())
    for head in (None, []):
        (tmp_path / "good" / "config.json").write_text(json.dumps(config | {"head": head}))
        with pytest.raises(UserError, match=r"config.json: head must be a table, is a (NoneType|list)$"):
            load_head(tmp_path / "good")
    for head in (
        {"kind": "classifier"},
        {"kind": "oracle", "config": {}},
        config["head"] | {"classes": None},
        config["head"] | {"config": {"pooling": "max"}},
        {"kind": "ctc", "config": {}, "symbols": ["a", "b"]},
    ):
        (tmp_path / "good" / "config.json").write_text(json.dumps(config | {"head": head}))
        with pytest.raises(UserError, match=r"config.json: not a head this version reads: [^\n]+$"):
            load_head(tmp_path / "good")
    (tmp_path / "good" / "config.json").write_text(
        json.dumps(config | {"head": config["head"] | {"classes": ["a", "b"]}})
    )
    with pytest.raises(UserError, match=r"config.json: not a head this version reads: 2 classes, and the last"):
        load_head(tmp_path / "good")


# In use


def test_every_clip_as_if_alone_and_in_its_place(model: Head, clips: list[np.ndarray]) -> None:
    together = said(model, clips)
    backwards = said(model, clips[::-1])[::-1]
    for clip, one, other in zip(clips, together, backwards, strict=True):
        (alone,) = said(model, [clip])
        np.testing.assert_allclose(one, alone, atol=2e-5)
        np.testing.assert_allclose(other, alone, atol=2e-5)


def test_group_norm_as_if_alone(encoder: SpeechEncoder, clips: list[np.ndarray]) -> None:
    for model in (classifier(encoder), writer(encoder)):
        for clip, row in zip(clips, said(model, clips), strict=True):
            np.testing.assert_allclose(row, said(model, [clip])[0], atol=2e-5)


def test_probabilities(clips: list[np.ndarray]) -> None:
    for model in (classifier(), log_mel()):
        rows = classify(model, clips)
        assert rows.shape == (5, len(model.classes))
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-5)
        assert classify(model, []).shape == (0, len(model.classes))
    found = emissions(writer(), clips)
    assert [len(rows) for rows in found] == [49, 9, 124, 1, 64]
    for rows in found:
        np.testing.assert_allclose(np.exp(rows).sum(axis=1), 1, atol=1e-5)
    assert emissions(writer(), []) == []


def test_a_long_clip_is_classified_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = classifier(), tones(2.5, seed=9)
    whole = classify(model, [clip])[0]
    monkeypatch.setattr(heads, "HEAD_WINDOW_SECONDS", 1.0)
    batch = classify(model, [tones(0.5), clip, tones(0.7)])
    pieces = np.array_split(normalize(clip), 3)
    logits = [model(torch.from_numpy(piece)[None], torch.tensor([len(piece)]))[0] for piece in pieces]
    expected = torch.stack([row.softmax(dim=0) for row in logits]).mean(dim=0)
    np.testing.assert_allclose(batch[1], expected.detach().numpy(), atol=1e-5)
    assert not np.allclose(batch[1], whole, atol=1e-5)
    np.testing.assert_allclose(batch.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("extra", [0, 1, 319, 320, 401])
def test_windows_of_a_long_clip_are_the_whole(monkeypatch: pytest.MonkeyPatch, extra: int) -> None:
    """With a context that covers all that a frame sees, every frame is as unsplit, at whatever length it ends."""
    local = changed(MICRO, transformer__layers=1, transformer__position_kernel=2)
    encoder = SpeechEncoder(local)
    encoder.transformer.layers[0].attention.out.weight.data.zero_()  # what sees beyond any context
    encoder.transformer.layers[0].attention.out.bias.data.zero_()
    model = writer(encoder)
    clip = tones(4.0, seed=4)[: 3 * RATE + extra]
    (whole,) = emissions(model, [clip])
    monkeypatch.setattr(heads, "HEAD_WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.2)
    short = tones(0.3, seed=5)
    (split, other) = emissions(model, [clip, short])
    assert split.shape == whole.shape
    np.testing.assert_allclose(split, whole, atol=1e-4)
    np.testing.assert_allclose(other, emissions(model, [short])[0], atol=1e-5)


def test_windows_with_attention_are_nearly_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = writer(), tones(6.0, seed=4)
    (whole,) = emissions(model, [clip])
    monkeypatch.setattr(heads, "HEAD_WINDOW_SECONDS", 3.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.5)
    (split,) = emissions(model, [clip])
    assert split.shape == whole.shape
    assert (split.argmax(axis=1) == whole.argmax(axis=1)).mean() > 0.9

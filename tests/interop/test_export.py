"""What transformers and torchaudio make of exported models: loaded without a word, and the same to the last digit."""

import errno
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from speechssl.audio import normalize
from speechssl.cli import main
from speechssl.config import UserError
from speechssl.decoding.decode import greedy
from speechssl.inference.batches import pad
from speechssl.inference.heads import classify, emissions
from speechssl.interop import huggingface
from speechssl.interop.export import Target, export_model
from speechssl.interop.sources import import_model
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import PRESETS, EncoderConfig
from speechssl.models.heads import load_head
from speechssl.models.storage import load_encoder, model_hash, read_tensors, save_model
from tests.interop.exported import (
    CLASSES,
    ENCODERS,
    OBJECTIVE,
    POST,
    PRE,
    VOCABULARY,
    classifier_folder,
    ctc_folder,
    encoder_folder,
    pretraining_folder,
    sounds,
)
from tests.toys import changed


@pytest.fixture(autouse=True)
def said() -> Iterator[list[str]]:
    """What transformers says; nothing, or the test fails."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    assert found == []


def exported(model: Path, name: str = "hf") -> Path:
    return export_model(model, model.with_name(name), to="huggingface").path


def loaded(kind: Any, folder: Path) -> nn.Module:
    """A model of transformers into which every tensor of the folder went, and nothing else."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert {name: list(values) for name, values in info.items() if values} == {}
    return model.eval()


def attention(num_samples: Tensor) -> Tensor:
    return (torch.arange(int(num_samples.max())) < num_samples[:, None]).long()


def ready(config: EncoderConfig) -> list[np.ndarray]:
    return [normalize(each) if config.normalize else each for each in sounds()]


OTHERS = {  # as the readers of other peoples' models make them
    "HubertModel": changed(PRE, feature_norm=False),
    "WavLMModel": changed(PRE, transformer__relative_buckets=8, transformer__relative_distance=20),
    "Data2VecAudioModel": changed(PRE, transformer__pre_norm=False, transformer__position_stack=2),
}


@torch.no_grad()
@pytest.mark.parametrize("name", OTHERS)
def test_other_encoders(tmp_path: Path, name: str) -> None:
    source = encoder_folder(tmp_path / "model", OTHERS[name])
    theirs = loaded(transformers.AutoModel, exported(source))
    assert type(theirs).__name__ == name
    waveform = torch.from_numpy(ready(PRE)[0])[None]
    expected = load_encoder(source)(waveform).frames
    torch.testing.assert_close(theirs(waveform).last_hidden_state, expected, atol=5e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("mode", ENCODERS)
def test_encoder(tmp_path: Path, mode: str) -> None:
    source = encoder_folder(tmp_path / "model", ENCODERS[mode])
    theirs = loaded(transformers.AutoModel, exported(source))
    ours = load_encoder(source)
    back = huggingface.import_weights(theirs.state_dict())
    assert back.keys() == {f"encoder.{name}" for name in ours.state_dict()}
    assert all(torch.equal(back[f"encoder.{name}"], value) for name, value in ours.state_dict().items())
    prepare = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    for waveform, normal in zip(sounds(), ready(ENCODERS[mode]), strict=True):
        given = prepare(waveform, sampling_rate=16000, return_tensors="pt")
        torch.testing.assert_close(given["input_values"][0], torch.from_numpy(normal), atol=1e-5, rtol=0)
        assert ("attention_mask" in given) == (mode == "pre")
        expected = ours(torch.from_numpy(normal)[None], all_layers=True).hidden_states
        states = theirs(**given, output_hidden_states=True).hidden_states
        for number, (state, our_state) in enumerate(zip(states, expected, strict=True)):  # the last one included
            torch.testing.assert_close(state, our_state, atol=2e-5, rtol=0, msg=lambda text, n=number: f"{n}: {text}")


@torch.no_grad()
def test_pretraining(tmp_path: Path) -> None:
    source = pretraining_folder(tmp_path / "model", PRE)
    theirs = loaded(transformers.AutoModelForPreTraining, exported(source))
    kept = read_tensors(source / "model.safetensors", prefix="objective.")
    back = huggingface.import_weights(theirs.state_dict())
    assert all(torch.equal(back[name], value) for name, value in kept.items())
    assert theirs.config.num_negatives == OBJECTIVE.negatives
    waveform = torch.from_numpy(ready(PRE)[0])[None]
    frames = load_encoder(source)(waveform).frames
    expected = nn.functional.linear(frames, kept["project_context.weight"], kept["project_context.bias"])
    torch.testing.assert_close(theirs(waveform).projected_states, expected, atol=2e-5, rtol=0)
    alone = export_model(source, tmp_path / "alone", to="huggingface", encoder_only=True)
    assert alone.kind == "encoder"
    assert torch.equal(loaded(transformers.AutoModel, alone.path).masked_spec_embed, kept["mask_embedding"])


@pytest.mark.parametrize("mode", ENCODERS)
def test_recogniser(tmp_path: Path, mode: str) -> None:
    source = ctc_folder(tmp_path / "model", ENCODERS[mode], CTCConfig(layers="last"))
    ours = load_head(source)
    assert isinstance(ours, CTCModel)
    folder = exported(source)
    theirs = loaded(transformers.AutoModelForCTC, folder)
    expected = emissions(ours, sounds())
    for waveform, log_probs in zip(ready(ENCODERS[mode]), expected, strict=True):
        with torch.no_grad():
            logits = theirs(torch.from_numpy(waveform)[None]).logits[0]
        np.testing.assert_allclose(logits.log_softmax(dim=-1).numpy(), log_probs, atol=5e-5)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor) is transformers.Wav2Vec2Processor
    assert processor.tokenizer("it's über", add_special_tokens=False)["input_ids"] == VOCABULARY.encode("it's über")
    say = transformers.pipeline("automatic-speech-recognition", model=str(folder))
    texts = [greedy(log_probs, VOCABULARY) for log_probs in expected]
    assert any(not character.isascii() for character in texts[0])
    assert " " in texts[0]
    for waveform, text in zip(sounds(), texts, strict=True):
        assert " ".join(say(waveform)["text"].split()) == text
    for indices in ([2, 2, 0, 2, 1, 4], [1, 3, 3, 1], [5, 1, 1, 6], [0, 0]):  # one boundary at a time: exactly
        assert processor.decode(indices) == VOCABULARY.decode(indices, collapse=True)
    assert processor.decode([2, 1, 0, 1, 3]) == VOCABULARY.decode([2, 1, 3]).replace(" ", "  ")  # as the card says


@pytest.mark.parametrize("mode", ENCODERS)
def test_classifier(tmp_path: Path, mode: str) -> None:
    source = classifier_folder(tmp_path / "model", ENCODERS[mode], ClassifierConfig(pooling="mean"))
    ours = load_head(source)
    assert isinstance(ours, Classifier)
    assert float((ours.spread - 1).abs().min()) > 1e-3
    folder = exported(source)
    theirs = loaded(transformers.AutoModelForAudioClassification, folder)
    waveforms, num_samples = pad(ready(ENCODERS[mode]))
    with torch.no_grad():
        expected = ours(waveforms, num_samples)
        if mode == "pre":
            logits = theirs(waveforms, attention_mask=attention(num_samples)).logits
        else:  # theirs cannot pad with a group norm
            logits = torch.cat([theirs(torch.from_numpy(each)[None]).logits for each in ready(POST)])
    assert float(expected.std(dim=0).max()) > 0.01
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    tell = transformers.pipeline("audio-classification", model=str(folder))
    assert {each["label"] for each in tell(sounds()[0])} == set(CLASSES)
    probabilities = classify(ours, sounds())
    for waveform, row in zip(sounds(), probabilities, strict=True):
        first = tell(waveform)[0]
        assert first["label"] == CLASSES[int(row.argmax())]
        assert first["score"] == pytest.approx(float(row.max()), abs=1e-5)


@pytest.mark.parametrize("mode", ENCODERS)
def test_there_and_back(tmp_path: Path, mode: str) -> None:
    """A folder for transformers, read as any other: the same settings and weights, the objective's among them."""
    source = pretraining_folder(tmp_path / "model", ENCODERS[mode])
    back = import_model(exported(source), tmp_path / "back")
    assert back.objective
    assert back.left_out == ()
    assert model_hash(tmp_path / "back") == model_hash(source)
    ours, theirs = (read_tensors(each / "model.safetensors", prefix="") for each in (source, tmp_path / "back"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@torch.no_grad()
@pytest.mark.parametrize("kind", ["encoder", "ctc"])
def test_torchaudio(tmp_path: Path, kind: str) -> None:
    """Both ways lead there: what transformers loaded, and the state dict with its arguments."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.11 announces its own retirement on import
        from torchaudio.models import wav2vec2_model
        from torchaudio.models.wav2vec2.utils import import_huggingface_model
    source, head = tmp_path / "model", CTCConfig(layers="last")
    _ = encoder_folder(source, PRE) if kind == "encoder" else ctc_folder(source, PRE, head)
    ours = load_encoder(source) if kind == "encoder" else load_head(source)
    auto = transformers.AutoModel if kind == "encoder" else transformers.AutoModelForCTC
    imported = import_huggingface_model(loaded(auto, exported(source))).eval()
    report = export_model(source, tmp_path / "model.pt", to="torchaudio")
    assert report.files == ("model.json", "model.pt")
    about = json.loads((tmp_path / "model.json").read_text())
    direct = wav2vec2_model(**about["arguments"]).eval()
    direct.load_state_dict(torch.load(report.path, weights_only=True))
    assert about["normalize"] is True
    assert about["speechssl"]["model"] == model_hash(source)
    waveforms, num_samples = pad(ready(PRE))
    output = ours(waveforms, num_samples)
    assert output.num_frames is not None
    expected = output.log_probs if kind == "ctc" else output.frames
    for theirs in (imported, direct):
        got, counts = theirs(waveforms, num_samples)
        got = got.log_softmax(dim=-1) if kind == "ctc" else got
        assert counts.tolist() == output.num_frames.tolist()
        for row, count in enumerate(counts.tolist()):
            torch.testing.assert_close(got[row, :count], expected[row, :count], atol=5e-5, rtol=0)


WIDE = PRE.model_copy(update={"conv": PRE.conv.model_copy(update={"layers": ((16, 400, 160), (24, 3, 2))})})
CANNOT = {
    "gabor": (lambda folder: save_model(folder, _small_gabor()), r"front='gabor' .*ONNX can hold it \(--to onnx\)"),
    "padding": (lambda folder: encoder_folder(folder, WIDE), "720 samples gets 160 zeros .*--to onnx"),
    "squeezed": (
        lambda folder: encoder_folder(folder, PRE.model_copy(update={"squeeze_factor": 2})),
        r"squeeze_factor=2 cannot be expressed in .*ONNX can hold it \(--to onnx\)",
    ),
    "decoder": (
        lambda folder: pretraining_folder(folder, PRE, changed(OBJECTIVE, mask__drop=True, decoder__groups=4)),
        "the decoder of mask.drop=true .*--encoder-only leaves the objective out",
    ),
    "mix": (
        lambda folder: ctc_folder(folder, PRE, CTCConfig()),
        r"ctc.layers='mix'.*--for transformers",
    ),
    "convolutions": (
        lambda folder: ctc_folder(folder, PRE, CTCConfig(layers="last", conv_layers=1, conv_dim=8)),
        r"ctc.conv_layers=1.*--for transformers",
    ),
    "pooling": (
        lambda folder: classifier_folder(folder, PRE, ClassifierConfig()),
        r"classifier.pooling='mean\+std'.*--for transformers .it sets classifier.pooling=mean",
    ),
    "quantizer": (
        lambda folder: pretraining_folder(folder, PRE, changed(OBJECTIVE, quantizer__normalize_input=True)),
        "quantizer.normalize_input=True .*--encoder-only leaves the objective out",
    ),
    "log-mel": (
        lambda folder: pretraining_folder(folder, PRE, changed(OBJECTIVE, targets="log-mel")),
        "targets='log-mel': transformers quantises latents; --encoder-only leaves the objective out",
    ),
}


def _small_gabor():
    from speechssl.models.encoder import SpeechEncoder

    return SpeechEncoder(PRESETS["tiny"])


@pytest.mark.parametrize("case", CANNOT)
def test_what_they_cannot_express(tmp_path: Path, case: str) -> None:
    make, message = CANNOT[case]
    make(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        exported(tmp_path / "model")
    assert [each.name for each in tmp_path.iterdir()] == ["model"]  # nothing half-written
    if case in ("gabor", "padding", "squeezed", "mix", "pooling"):
        with pytest.raises(UserError, match=r"cannot be expressed in|zeros on both sides"):
            export_model(tmp_path / "model", tmp_path / "model.pt", to="torchaudio")
        assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_only_what_export_wrote_is_replaced(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "model", PRE)
    folder = exported(source)
    before = (folder / "model.safetensors").read_bytes()
    torch.manual_seed(1)
    encoder_folder(source, PRE)
    exported(source)
    assert (folder / "model.safetensors").read_bytes() != before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["hf", "model"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"hf: holds notes.txt, which no export wrote"):
        exported(source)
    with pytest.raises(UserError, match=r"model: holds config.json, which no export wrote"):
        export_model(source, source, to="huggingface")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: a file; the target for huggingface is a folder"):
        exported(source, "file")
    export_model(source, tmp_path / "a.pt", to="torchaudio")
    export_model(source, tmp_path / "a.pt", to="torchaudio")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UserError, match=r"a.pt: exists and was not written by an export"):
        export_model(source, tmp_path / "a.pt", to="torchaudio")


def test_transformers_is_another_name_of_huggingface(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = encoder_folder(tmp_path / "model", ENCODERS["pre"])
    outs = [tmp_path / "huggingface", tmp_path / "transformers"]
    for out in outs:
        assert main(["export", str(source), "--out", str(out), "--to", out.name]) == 0
    files = [{path.name: path.read_bytes() for path in out.iterdir()} for out in outs]
    assert files[0] == files[1]
    assert "model.safetensors" in files[0]
    assert "for huggingface" in capfd.readouterr().err


def test_settings_that_mean_nothing(tmp_path: Path) -> None:
    source = encoder_folder(tmp_path / "model", PRE)
    with pytest.raises(UserError, match=r"a.onnx: the file for torchaudio must end in .pt"):
        export_model(source, tmp_path / "a.onnx", to="torchaudio")
    with pytest.raises(UserError, match="hidden_states is a setting of ONNX files"):
        export_model(source, tmp_path / "hf", to="huggingface", hidden_states=True)
    with pytest.raises(UserError, match="not a model folder"):
        export_model(tmp_path / "nothing", tmp_path / "hf", to="huggingface")


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    card = (exported(pretraining_folder(tmp_path / "run" / "model", POST)) / "README.md").read_text()
    for words in (
        "| hours | 1.5 |",
        "in [-1, 1]",
        "| embedding | layer -1, pooling mean, in speechssl where none is named |",
        "32 numbers every 20 ms",
        "Padding changes",
        "Wav2Vec2ForPreTraining",
    ):
        assert words in card
    report = export_model(tmp_path / "run", tmp_path / "hf", to="huggingface")  # a run folder: its model
    assert report.kind == "pretraining"
    assert report.size == sum((report.path / name).stat().st_size for name in report.files)


def full(name: str) -> Callable[[int], None]:
    """`os.fsync` on a disk that has no room for one file, which is flushed under a temporary name."""
    original = os.fsync

    def fails(descriptor: int) -> None:
        if name in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    return fails


def refusing(name: str) -> Callable[[Path, Path], Path]:
    """`Path.replace` where one file cannot get its name."""
    original = Path.replace

    def fails(path: Path, target: Path) -> Path:
        if name in Path(target).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, target)

    return fails


EXPORTS: dict[str, tuple[str, tuple[str, ...]]] = {  # target, files that a full disk may stop at
    "torchaudio": ("out.pt", ("out.pt", "out.json")),
    "huggingface": (
        "out",
        ("config.json", "model.safetensors", "README.md", "preprocessor_config.json", "speechssl.json"),
    ),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("to", "name"), [(to, name) for to, (_, names) in EXPORTS.items() for name in names])
def test_a_full_disk_leaves_nothing_partial(
    to: Target, name: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a part of the export nor, where there was one before, half of it new."""
    source, out = encoder_folder(tmp_path / "model", PRE), tmp_path / "here" / EXPORTS[to][0]
    out.parent.mkdir()
    if again:
        export_model(encoder_folder(tmp_path / "other", changed(PRE, transformer__layers=1)), out, to=to)
    before = {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full(name))
        with pytest.raises(OSError, match="No space left") as caught:
            export_model(source, out, to=to)
    assert Path(caught.value.filename).name == name
    assert {path: path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["out.pt", "out.json"])
def test_a_state_dict_and_its_arguments_change_together(
    name: str, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = encoder_folder(tmp_path / "model", PRE), tmp_path / "here" / "out.pt"
    out.parent.mkdir()
    if again:
        export_model(encoder_folder(tmp_path / "other", changed(PRE, transformer__layers=1)), out, to="torchaudio")
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refusing(name))
        with pytest.raises(OSError, match="No space left"):
            export_model(source, out, to="torchaudio")
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before

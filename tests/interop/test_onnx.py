"""ONNX files in onnxruntime: any length and batch, padding that changes nothing, and no file that differs."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from speechssl.audio import normalize
from speechssl.config import UserError
from speechssl.inference.batches import pad
from speechssl.inference.heads import classify, emissions
from speechssl.interop import onnx as module
from speechssl.interop.export import ExportReport, export_model
from speechssl.models.classifier import ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.heads import load_head, save_head
from speechssl.models.storage import load_encoder, model_hash
from tests.interop.exported import CLASSES, POST, PRE, VOCABULARY, classifier_folder, ctc_folder, shaken, sounds
from tests.toys import MICRO_ENCODER

SQUEEZED = MICRO_ENCODER.model_copy(update={"squeeze_factor": 2})
pytestmark = pytest.mark.slow  # each export takes seconds: two files for all tests


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def recogniser(place: Path) -> ExportReport:
    """On the Gabor front of the default presets and a mix of layers, all of which are given too."""
    assert MICRO_ENCODER.transformer.dropout > 0
    ctc_folder(place / "ctc", MICRO_ENCODER, CTCConfig(conv_layers=2, conv_dim=12))
    return export_model(place / "ctc", place / "ctc.onnx", to="onnx", hidden_states=True)


@pytest.fixture(scope="module")
def classifier(place: Path) -> ExportReport:
    """On a group norm, where padding would change everything."""
    classifier_folder(place / "classifier", POST, ClassifierConfig())
    return export_model(place / "classifier", place / "classifier.onnx", to="onnx")


def run(path: Path, waveforms: list[np.ndarray], *, rubbish: int = 0) -> dict[str, np.ndarray]:
    """Outputs by name; ``rubbish`` samples of noise are behind the longest utterance, and behind the others too."""
    padded, num_samples = pad(waveforms)
    padded = np.pad(padded.numpy(), ((0, 0), (0, rubbish)))
    behind = np.arange(padded.shape[1]) >= num_samples.numpy()[:, None]
    padded[behind] = np.random.default_rng(3).normal(size=int(behind.sum())) if rubbish else 0.0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"waveforms": padded, "num_samples": num_samples.numpy()}), strict=True))


def recogniser_of(place: Path) -> CTCModel:
    model = load_head(place / "ctc")
    assert isinstance(model, CTCModel)
    return model


def test_recogniser_with_all_layers(recogniser: ExportReport, place: Path) -> None:
    assert recogniser.max_error is not None
    assert 0 < recogniser.max_error < 1e-4
    model, encoder = recogniser_of(place), load_encoder(place / "ctc")
    found = run(recogniser.path, sounds(), rubbish=500)
    for row, (waveform, log_probs) in enumerate(zip(sounds(), emissions(model, sounds()), strict=True)):
        frames = len(log_probs)
        assert found["num_frames"][row] == frames
        np.testing.assert_allclose(found["log_probs"][row, :frames], log_probs, atol=1e-4)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(normalize(waveform))[None], all_layers=True).hidden_states
        assert expected is not None
        for layer, state in zip(found["hidden_states"], expected, strict=True):
            np.testing.assert_allclose(layer[row, :frames], state[0], atol=5e-5)


def test_pairs_of_frames(place: Path) -> None:
    """Even and odd numbers of frames; an export is compared with torch, too."""
    ctc_folder(place / "squeezed", SQUEEZED, CTCConfig())
    report = export_model(place / "squeezed", place / "squeezed.onnx", to="onnx", hidden_states=True)
    model = load_head(place / "squeezed")
    assert isinstance(model, CTCModel)
    waveforms = [np.tile(sounds()[0], 2)[: 400 + 320 * frames] for frames in (39, 38, 0, 1)]
    found = run(report.path, waveforms, rubbish=700)
    assert found["num_frames"].tolist() == [40, 39, 1, 2]
    for row, log_probs in enumerate(emissions(model, waveforms)):
        np.testing.assert_allclose(found["log_probs"][row, : len(log_probs)], log_probs, atol=1e-4)


def test_one_by_one_as_in_a_batch(recogniser: ExportReport) -> None:
    together = run(recogniser.path, sounds(), rubbish=100)
    for row, waveform in enumerate(sounds()):
        alone = run(recogniser.path, [waveform])
        frames = int(alone["num_frames"][0])
        assert alone["log_probs"].shape[:2] == (1, frames)
        np.testing.assert_allclose(together["log_probs"][row, :frames], alone["log_probs"][0], atol=5e-5)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30])
def test_padding_of_any_value(recogniser: ExportReport, classifier: ExportReport, rubbish: float) -> None:
    padded, num_samples = pad(sounds())
    behind = np.arange(padded.shape[1]) >= num_samples.numpy()[:, None]
    for report in (recogniser, classifier):
        session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        given = {"waveforms": padded.numpy(), "num_samples": num_samples.numpy()}
        expected = dict(zip(names, session.run(names, given), strict=True))
        given["waveforms"] = np.where(behind, np.float32(rubbish), padded.numpy())
        found = dict(zip(names, session.run(names, given), strict=True))
        for row, frames in enumerate(expected["num_frames"]):
            for name in {"log_probs", "probabilities"} & set(names):
                np.testing.assert_array_equal(found[name][row][:frames], expected[name][row][:frames])


def test_an_utterance_of_no_samples(recogniser: ExportReport, classifier: ExportReport) -> None:
    """No frames, probabilities of zero, and the others as ever."""
    waveforms = [sounds()[0], np.zeros(0, np.float32), sounds()[1]]
    both, alone = run(classifier.path, waveforms), run(classifier.path, [waveforms[0], waveforms[2]])
    assert both["num_frames"].tolist() == [alone["num_frames"][0], 0, alone["num_frames"][1]]
    np.testing.assert_array_equal(both["probabilities"][[0, 2]], alone["probabilities"])
    assert both["probabilities"][1].tolist() == [0.0] * len(CLASSES)
    found = run(recogniser.path, waveforms)
    assert found["num_frames"][1] == 0
    assert np.isfinite(found["log_probs"]).all()


def test_normalising_twice_changes_nothing(recogniser: ExportReport) -> None:
    raw, normal = run(recogniser.path, sounds()[:1]), run(recogniser.path, [normalize(sounds()[0])])
    np.testing.assert_allclose(raw["hidden_states"], normal["hidden_states"], atol=1e-4)
    loud = run(recogniser.path, [20 * sounds()[0]])
    np.testing.assert_allclose(raw["hidden_states"], loud["hidden_states"], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("config", [PRE, POST, MICRO_ENCODER, SQUEEZED], ids=["layer", "group", "gabor", "squeezed"])
def test_what_is_traced_is_the_encoder(config: EncoderConfig) -> None:
    """Without an export: the network that is traced, padding and all, against each utterance alone."""
    encoder = shaken(SpeechEncoder(config))
    network = module._Network(encoder, hidden_states=False).eval()
    assert network.outputs == ("frames", "num_frames")
    padded, num_samples = pad(sounds())
    frames, num_frames = network(padded + 1.0 * (padded == 0), num_samples)  # rubbish behind the ends
    for row, waveform in enumerate(sounds()):
        ready = normalize(waveform) if config.normalize else waveform
        expected = encoder(torch.from_numpy(ready)[None]).frames[0]
        assert int(num_frames[row]) == len(expected)
        torch.testing.assert_close(frames[row, : len(expected)], expected, atol=5e-5, rtol=0)


def test_classifier_on_a_group_norm(classifier: ExportReport, place: Path) -> None:
    model = load_head(place / "classifier")
    assert not isinstance(model, CTCModel)
    found = run(classifier.path, sounds(), rubbish=40)
    expected = classify(model, sounds())
    assert float(expected.std(axis=0).max()) > 1e-3
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)


def test_the_file_says_what_it_is(recogniser: ExportReport, classifier: ExportReport, place: Path) -> None:
    found = onnx.load(recogniser.path)
    onnx.checker.check_model(found)
    assert [(each.domain, each.version) for each in found.opset_import] == [("", module.OPSET)]
    about = {each.key: each.value for each in found.metadata_props}
    assert about["model"] == model_hash(place / "ctc")
    assert json.loads(about["symbols"]) == list(VOCABULARY.symbols)
    assert about["units"] == "characters"
    assert {name: about[name] for name in ("sample_rate", "hop", "opset", "output")} == {
        "sample_rate": "16000",
        "hop": "320",
        "opset": str(module.OPSET),
        "output": "log_probs",
    }
    assert about["normalization"].startswith("zero mean")
    shapes = {each.name: [axis.dim_param for axis in each.type.tensor_type.shape.dim] for each in found.graph.input}
    assert shapes == {"waveforms": ["batch", "samples"], "num_samples": ["batch"]}
    assert b"site-packages" not in recogniser.path.read_bytes()  # no traces of whose machine it was
    other = {each.key: each.value for each in onnx.load(classifier.path).metadata_props}
    assert json.loads(other["classes"]) == list(CLASSES)
    assert other["normalization"] == "none"


def test_a_file_that_differs_is_not_written(
    recogniser: ExportReport, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself, without another export: the same file against other weights."""
    model = recogniser_of(place)
    assert module.largest_error(model, recogniser.path) == pytest.approx(recogniser.max_error)
    with torch.no_grad():
        model.output.bias[0] += 0.01
    assert module.largest_error(model, recogniser.path) > module.TOLERANCE

    def save(path: str, *, external_data: bool) -> None:
        assert not external_data
        Path(path).write_bytes(recogniser.path.read_bytes())

    faulty = SimpleNamespace(model=onnx_ir.load(recogniser.path), save=save)  # its file is another model's
    monkeypatch.setattr(module, "_traced", lambda network: faulty)
    save_head(place / "other", model, extra={})
    before = sorted(place.iterdir())
    with pytest.raises(UserError, match=r"not written: onnxruntime differs from torch by .*, allowed: 0.0001"):
        export_model(place / "other", place / "other.onnx", to="onnx")
    assert sorted(place.iterdir()) == before


def test_only_what_export_wrote_is_replaced(recogniser: ExportReport, place: Path) -> None:
    foreign = place / "foreign.onnx"
    foreign.write_bytes(b"not an ONNX file")
    with pytest.raises(UserError, match=r"foreign.onnx: exists and was not written by an export"):
        export_model(place / "ctc", foreign, to="onnx")
    plain = onnx.load(recogniser.path)
    del plain.metadata_props[:]
    onnx.save(plain, foreign)
    with pytest.raises(UserError, match="was not written by an export"):
        export_model(place / "ctc", foreign, to="onnx")


def test_without_the_extra(place: Path, recogniser: ExportReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'speechssl\[onnx\]'"):
        export_model(place / "ctc", place / "none.onnx", to="onnx")
    assert not (place / "none.onnx").exists()


def test_large_layers_are_measured_in_their_own_size() -> None:
    """Inner layers of large models hold thousands, of which the last digit is more than the tolerance."""
    expected = np.stack([1000 * np.random.default_rng(0).normal(size=(5, 8)), np.full((5, 8), 0.5)])
    got = expected + np.array([0.02, 0.00002])[:, None, None]
    assert module._difference(got, expected, frames=True) == pytest.approx(2e-5, rel=0.3)
    assert module._difference(got, expected, frames=False) == pytest.approx(0.02)

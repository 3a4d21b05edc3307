"""APC against a slow and obvious loss, and runs that fail in known ways."""

import librosa
import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.objectives import apc
from speechssl.objectives.apc import Apc, ApcConfig
from tests.objectives.causal import causal_encoder, numbers, tone_batch
from tests.objectives.on_tones import learnt
from tests.objectives.pages import check_page

CONFIG = ApcConfig(steps=2)


@pytest.fixture
def objective() -> Apc:
    torch.manual_seed(0)
    return Apc(causal_encoder(), CONFIG, seed=5)


def test_the_loss_is_the_papers(objective: Apc) -> None:
    """Equation 1, one frame and one band after another, on log-mel by librosa."""
    batch = tone_batch(2)
    found = objective(batch, step=0, progress=0.0)
    context = objective.context(batch, step=0)
    assert context.causal
    weight, bias = (each.detach().double().numpy() for each in (objective.predict.weight, objective.predict.bias))
    expected, copied, count = 0.0, 0.0, 0
    for row, waveform in enumerate(batch.waveforms.numpy()):
        frames = log_mel_of(waveform, context.frames.shape[1])
        for frame in range(len(frames) - 2):
            hidden = context.frames[row, frame].detach().double().numpy()
            expected += (
                sum(abs(weight[band] @ hidden + bias[band] - frames[frame + 2, band]) for band in range(80)) / 80
            )
            copied += np.abs(frames[frame] - frames[frame + 2]).mean()
            count += 1
    assert int(found.stats["count"]) == count
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-3)
    assert float(found.stats["copied"]) == pytest.approx(copied, rel=1e-3)


def log_mel_of(waveform: np.ndarray, count: int) -> np.ndarray:
    """Frames centred on those of the encoder, each band of zero mean and unit variance."""
    powers = [_power(waveform[320 * frame : 320 * frame + 400]) for frame in range(count)]
    frames = np.log(np.maximum(np.stack(powers), 1e-10))
    return (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-5)


def _power(samples: np.ndarray) -> np.ndarray:
    window = librosa.filters.get_window("hann", 400)
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64) * window, 512)) ** 2
    return librosa.filters.mel(sr=16000, n_fft=512, n_mels=80) @ spectrum


def test_targets_have_no_level(objective: Apc) -> None:
    waveforms = tone_batch(1).waveforms
    torch.testing.assert_close(objective.targets(0.1 * waveforms), objective.targets(waveforms), rtol=1e-3, atol=1e-3)


def test_digital_silence_is_a_target_of_zero(objective: Apc) -> None:
    silence = CropBatch(torch.zeros(2, 16000), np.arange(2), 2)
    found = objective(silence, step=0, progress=0.0)
    assert torch.isfinite(found.total)
    assert objective.targets(silence.waveforms).abs().max() < 0.01
    metrics = objective.metrics(found.terms, found.stats)
    assert all(np.isfinite(float(value)) for value in metrics.values() if isinstance(value, float))


@pytest.mark.slow
def test_tones_are_learnt() -> None:
    """On other tones the loss falls below those of the mean frame and of a repeated frame."""
    torch.manual_seed(0)
    before, after = map(numbers, learnt(Apc(causal_encoder(), ApcConfig(), seed=0), steps=25))
    assert before["loss"] > before["chance_loss"]
    assert after["loss"] < 0.97 * min(after["chance_loss"], after["copy_loss"])
    assert after["prediction_deviation"] > 0.1


def test_the_page() -> None:
    check_page(apc)


GOOD = {"loss": 0.5, "chance_loss": 0.8, "copy_loss": 0.7, "prediction_deviation": 0.6}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"prediction_deviation": 0.01}, "constant prediction"),
        ({"loss": 0.699}, "copying"),
        ({"loss": 0.799, "copy_loss": 0.9}, "not learning"),
    ],
)
def test_symptoms(objective: Apc, changes: dict[str, float], state: str) -> None:
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_planted_failures_show(objective: Apc) -> None:
    """A head without weights predicts the same everywhere; one that repeats the frame copies."""
    batch = tone_batch(2)
    with torch.no_grad():
        objective.predict.weight.zero_()
        objective.predict.bias.zero_()
    found = objective(batch, step=0, progress=0.0)
    metrics = objective.metrics(found.terms, found.stats)
    assert metrics["loss"] == pytest.approx(metrics["chance_loss"], rel=0.02)
    states = [each.state for each in objective.symptoms(metrics, {}) if each.present]
    assert states[0] == "constant prediction"


def test_an_encoder_that_looks_ahead_is_refused() -> None:
    encoder = causal_encoder()
    ahead = encoder.config.model_copy(
        update={"transformer": encoder.config.transformer.model_copy(update={"causal": False})}
    )
    with pytest.raises(ValueError, match=r"apc predicts later frames.*encoder\.transformer\.causal=true"):
        Apc(type(encoder)(ahead), CONFIG, seed=0)

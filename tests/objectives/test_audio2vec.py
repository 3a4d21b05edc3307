"""Audio2Vec against a slow and obvious loss in both directions, its windows, and runs that fail in known ways."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.features import log_mel
from speechssl.objectives import audio2vec
from speechssl.objectives.audio2vec import Audio2Vec, Audio2VecConfig
from tests.objectives.on_tones import learnt, noise_batch, still_encoder
from tests.objectives.pages import check_page

DIRECTIONS = ("cbow", "skip-gram")


def built(direction: str, **changes: int) -> Audio2Vec:
    torch.manual_seed(0)
    config = Audio2VecConfig.model_validate({"direction": direction, "slice": 4, "gap": 2, "context": 1, **changes})
    return Audio2Vec(SpeechEncoder(still_encoder()), config, seed=5)


def numbers(metrics: Mapping[str, float | list[float]]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_loss_is_the_papers(direction: str) -> None:
    """Section 3, one slice and one frame after another; 49 frames hold three windows of 16."""
    objective, batch = built(direction), noise_batch(2)
    found = objective(batch, step=3, progress=0.0)
    context = objective.context(batch, step=3)
    assert context.hidden is not None
    expected, count = 0.0, 0
    for row, waveform in enumerate(batch.waveforms):
        mel = log_mel(waveform[None], torch.tensor([len(waveform)]))[0]
        mel = (mel - mel.mean(dim=0)) / mel.std(dim=0, correction=0)
        first = int(objective.windows(batch, step=3).frames[3 * row, 0])
        assert 0 <= first <= 1
        visible: set[int] = set()
        for window in range(3):
            start = first + 16 * window
            slices = [range(start, start + 4), range(start + 6, start + 10), range(start + 12, start + 16)]
            given, wanted = ([slices[1]], [slices[0], slices[2]])
            if direction == "cbow":
                given, wanted = wanted, given
            visible |= {frame for each in given for frame in each}
            for frame in (frame for each in wanted for frame in each):
                predicted = objective.predict(context.frames[row, frame]).detach()
                expected += float((predicted - mel[frame]).square().mean())
                count += 1
        assert visible == set(np.flatnonzero(~context.hidden[row].numpy()).tolist())
    assert int(found.stats["count"]) == count == 2 * 3 * (4 if direction == "cbow" else 8)
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_crop_shorter_than_a_window_has_its_centre(direction: str) -> None:
    """The shortest crop of all: a slice to predict, or to predict from, in every draw."""
    objective = built(direction)
    frames = objective.min_frames
    assert frames == 9
    batch = noise_batch(8, seconds=(400 + 320 * (frames - 1)) / 16000)
    for step in range(4):
        windows = objective.windows(batch, step=step)
        assert windows.frames.tolist() == [list(range(frames))] * 8
        assert ((windows.parts == 1).sum(dim=1) == 4).all()
        assert ((windows.parts == 2).sum(dim=1) >= 1).all()
        assert torch.isfinite(objective(batch, step=step, progress=0.0).total)


def test_windows_are_drawn_for_each_row_and_step() -> None:
    objective, batch = built("cbow", context=2), noise_batch(6)  # 28 of 49 frames
    first, second = (objective.windows(batch, step=step).frames[:, 0].tolist() for step in (0, 1))
    assert first != second
    assert len(set(first)) > 2
    part = batch.part(np.array([4, 1]))
    assert objective.windows(part, step=0).frames[:, 0].tolist() == [first[4], first[1]]


def test_windows_do_not_see_each_other() -> None:
    """A crop with three windows has the contexts of three crops of one window each."""
    objective, batch = built("cbow"), noise_batch(1)
    objective.eval()
    windows = objective.windows(batch, step=0)
    with torch.no_grad():
        before = objective.context(batch, step=0).frames
        start = int(windows.frames[2, 0]) * 320 + 400
        changed = batch.waveforms.clone()
        changed[:, start:] = 0
        after = objective.context(CropBatch(changed, batch.rows, 1), step=0).frames
    for window, same in ((0, True), (1, True), (2, False)):
        places = windows.frames[window]
        assert torch.allclose(before[:, places], after[:, places], atol=1e-5) == same


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction", "steps", "rate", "share"), [("cbow", 60, 1e-2, 0.97), ("skip-gram", 40, 3e-3, 0.975)]
)
def test_tones_are_learnt(direction: str, steps: int, rate: float, share: float) -> None:
    """On other tones the loss falls below that of the mean frame."""
    torch.manual_seed(0)
    objective = built(direction, slice=2, gap=1)  # phones last 3 to 8 frames
    before, after = map(numbers, learnt(objective, steps=steps, rate=rate))
    assert before["loss"] > before["chance_loss"]
    assert after["loss"] < share * after["chance_loss"]
    assert after["prediction_deviation"] > 0.1


GOOD = {"loss": 0.6, "chance_loss": 1.0, "prediction_deviation": 0.6}


@pytest.mark.parametrize(
    ("changes", "state"),
    [({"prediction_deviation": 0.01}, "constant prediction"), ({"loss": 0.995}, "not learning")],
)
def test_symptoms(changes: dict[str, float], state: str) -> None:
    objective = built("cbow")
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_planted_failures_show() -> None:
    """A map without weights predicts the mean frame everywhere."""
    objective = built("skip-gram")
    with torch.no_grad():
        objective.predict.weight.zero_()
        objective.predict.bias.zero_()
        found = objective(noise_batch(), step=0, progress=0.0)
    metrics = numbers(objective.metrics(found.terms, found.stats))
    assert metrics["loss"] == pytest.approx(metrics["chance_loss"])
    states = [each.state for each in objective.symptoms(metrics, {}) if each.present]
    assert states == ["constant prediction", "not learning"]


def test_the_page() -> None:
    check_page(audio2vec)

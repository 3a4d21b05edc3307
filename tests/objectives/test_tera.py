"""TERA: its loss against a slow and obvious one, what its alterations do, and runs that fail in known ways."""

from typing import Any

import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.masking import MaskConfig
from speechssl.nn.targets import encoder_framing, normalized_log_mel
from speechssl.objectives import tera
from speechssl.objectives.tera import Tera, TeraConfig
from speechssl.train.pretrain_config import config_of
from tests.objectives.on_tones import learnt, noise_batch, still_encoder
from tests.objectives.pages import check_page
from tests.toys import micro_run

CONFIG = TeraConfig(mask=MaskConfig(probability=0.3, length=4), noise=0.5)


def built(**changes: Any) -> Tera:
    torch.manual_seed(0)
    return Tera(SpeechEncoder(still_encoder()), CONFIG.model_copy(update=changes), seed=5)


@pytest.fixture
def objective() -> Tera:
    return built()


@pytest.fixture
def batch() -> CropBatch:
    return noise_batch(6)


def test_the_loss_is_that_of_the_altered_values_alone(objective: Tera, batch: CropBatch) -> None:
    """Section II-D, one value after another: masked frames whole, removed bands at all frames."""
    found = objective(batch, step=2, progress=0.0)
    draws = objective.draw(batch, step=2)
    targets = normalized_log_mel(batch.waveforms, encoder_framing(objective.encoder.config.conv))
    context = objective.context(batch, step=2)
    predictions = objective.predict(context.frames).detach()
    parts = {name: [0.0, 0.0, 0.0] for name in ("time", "frequency")}
    for row, frame, band in np.ndindex(*predictions.shape):
        first, width = int(draws.first[row]), int(draws.width[row])
        masked, removed = bool(draws.masked[row, frame]), first <= band < first + width
        if masked or removed:
            part = parts["time" if masked else "frequency"]
            target = float(targets[row, frame, band])
            part[0] += abs(float(predictions[row, frame, band]) - target)
            part[1] += abs(target)
            part[2] += 1
    error, mean, count = (sum(part[place] for part in parts.values()) for place in range(3))
    assert parts["frequency"][2] > 0
    assert float(found.total.detach()) == pytest.approx(error, rel=1e-4)
    assert int(found.stats["count"]) == count
    metrics = objective.metrics(found.terms, found.stats)
    assert metrics["loss"] == pytest.approx(error / count, rel=1e-4)
    assert metrics["chance_loss"] == pytest.approx(mean / count, rel=1e-4)
    assert metrics["time_loss"] == pytest.approx(parts["time"][0] / parts["time"][2], rel=1e-4)
    assert metrics["frequency_loss"] == pytest.approx(parts["frequency"][0] / parts["frequency"][2], rel=1e-4)
    deviation = predictions[draws.masked].std(dim=0, correction=0).mean()
    assert metrics["prediction_deviation"] == pytest.approx(float(deviation), rel=1e-3)
    lines = [
        np.interp(np.flatnonzero(masked), np.flatnonzero(~masked), target[~masked, band])
        for target, masked in zip(targets.numpy(), draws.masked.numpy(), strict=True)
        for band in range(target.shape[1])
    ]
    truth = [
        target[masked, band]
        for target, masked in zip(targets.numpy(), draws.masked.numpy(), strict=True)
        for band in range(target.shape[1])
    ]
    expected = np.abs(np.concatenate(lines) - np.concatenate(truth)).mean()
    assert metrics["interpolation_loss"] == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(
    ("shares", "kind"),
    [({"kept": 0.0, "replaced": 0.0}, "hidden"), ({"kept": 0.0, "replaced": 1.0}, "replaced"), ({"kept": 1.0}, "kept")],
)
def test_masked_frames_are_hidden_replaced_or_kept(batch: CropBatch, shares: dict[str, float], kind: str) -> None:
    objective = built(**({"replaced": 0.0} | shares))
    draws = objective.draw(batch, step=3)
    identity = torch.arange(draws.masked.shape[1]).expand_as(draws.source)
    moved = draws.source != identity
    assert torch.equal(draws.hidden, draws.masked if kind != "kept" else torch.zeros_like(draws.masked))
    assert torch.equal(draws.embedded, draws.masked if kind == "hidden" else torch.zeros_like(draws.masked))
    assert torch.equal(moved, draws.masked if kind == "replaced" else torch.zeros_like(draws.masked))
    assert not draws.masked.gather(1, draws.source)[moved].any()  # what stands there is from frames that are not masked


def test_shares_of_the_kinds() -> None:
    rows = 3000
    batch = CropBatch(torch.zeros(rows, 8000), np.arange(rows), rows)
    draws = built(kept=0.1, replaced=0.2, noise=0.15).draw(batch, step=0)
    shares = [float(each.sum() / draws.masked.sum()) for each in (draws.hidden, draws.embedded)]
    assert shares == pytest.approx([0.9, 0.7], abs=0.03)
    together = draws.masked[:, 1:] & draws.masked[:, :-1]  # neighbours have one draw
    assert torch.equal(draws.hidden[:, 1:][together], draws.hidden[:, :-1][together])
    assert len(draws.noisy) / rows == pytest.approx(0.15, abs=0.02)
    assert (int(draws.width.min()), int(draws.width.max())) == (0, 16)
    assert int(draws.first.min()) == 0
    assert int((draws.first + draws.width).max()) == 80


def test_rows_with_noise_do_not_depend_on_the_slice(batch: CropBatch) -> None:
    objective = built(noise=1.0)
    whole = objective.altered(batch, objective.draw(batch, step=1), step=1)
    part = batch.part(np.array([4]))
    alone = objective.altered(part, objective.draw(part, step=1), step=1)
    torch.testing.assert_close(alone[0], whole[4])
    assert (whole[4] - batch.waveforms[4]).abs().max() > 0.1


def test_nothing_is_altered_where_nothing_is_drawn(batch: CropBatch) -> None:
    objective = built(noise=0.0, frequency=0.0, kept=1.0, replaced=0.0)
    draws = objective.draw(batch, step=0)
    seen = 320 * (draws.masked.shape[1] - 1) + 400  # no frame sees the rest
    assert torch.equal(objective.altered(batch, draws, step=0)[:, :seen], batch.waveforms[:, :seen])
    plain = objective.encoder(batch.waveforms).frames
    torch.testing.assert_close(objective.context(batch, step=0).frames, plain)


def test_settings_that_contradict_each_other() -> None:
    run = micro_run("tera").model_dump()
    for changes, reason in (
        ({"replaced": 0.6, "kept": 0.5}, "replaced 0.6 and kept 0.5: together at most 1"),
        ({"mask": CONFIG.mask.model_dump() | {"drop": True}}, "objective.mask.drop=true: frames that the encoder gets"),
    ):
        with pytest.raises(ValueError, match=reason):
            config_of("tera").model_validate(run | {"objective": run["objective"] | changes})


@pytest.mark.slow
def test_it_learns_on_tones() -> None:
    objective = built(mask=MaskConfig(length=2, probability=0.3), noise=0.0)
    before, after = learnt(objective, steps=40, rate=5e-3)
    assert after["loss"] < 0.95 * after["chance_loss"] < before["loss"]
    assert [each for each in objective.symptoms(after, {}) if each.present] == []


GOOD = {
    "loss": 0.5,
    "chance_loss": 0.8,
    "interpolation_loss": 0.6,
    "time_chance_loss": 0.8,
    "prediction_deviation": 0.6,
}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"interpolation_loss": 0.1}, "local task"),
        ({"prediction_deviation": 0.01}, "constant prediction"),
        ({"loss": 0.79}, "not learning"),
    ],
)
def test_symptoms(objective: Tera, changes: dict[str, float], state: str) -> None:
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_a_slow_glide_is_a_local_task() -> None:
    """The planted failure: a level that rises and falls evenly over the crop is a line from frame to frame."""
    time = torch.arange(32000) / 32000
    waveforms = 10 ** (4 * (2 * time - 1).abs()) * torch.randn(4, 32000).sign()
    objective = built(mask=MaskConfig(length=2, probability=0.1))
    output = objective(CropBatch(waveforms, np.arange(4), 4), step=0, progress=0.0)
    found = objective.symptoms(objective.metrics(output.terms, output.stats), {})
    assert next(each.state for each in found if each.present) == "local task"


def test_the_page() -> None:
    check_page(tera)

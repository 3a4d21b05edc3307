"""HuBERT against a slow and obvious loss, and runs that fail in known ways."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechssl.data.batch import CropBatch
from speechssl.data.units import UnitsConfig
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.nn.masking import MaskConfig
from speechssl.objectives.hubert import Hubert, HubertConfig
from tests.toys import MICRO_ENCODER

CLASSES = 7
CONFIG = HubertConfig(units=UnitsConfig(classes=CLASSES), mask=MaskConfig(length=4), dim=12, feature_penalty=0.5)


@pytest.fixture
def objective() -> Hubert:
    torch.manual_seed(0)
    still = MICRO_ENCODER.transformer.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0})
    config: EncoderConfig = MICRO_ENCODER.model_copy(update={"transformer": still})
    return Hubert(SpeechEncoder(config), CONFIG, seed=5)


@pytest.fixture
def batch(objective: Hubert) -> CropBatch:
    torch.manual_seed(1)
    frames = int(objective.encoder.num_frames(torch.tensor(16000)))
    return CropBatch(torch.randn(3, 16000), np.arange(3), 3, labels=torch.randint(CLASSES, (3, frames)))


def test_the_loss_is_the_papers(objective: Hubert, batch: CropBatch) -> None:
    """Equations 1 to 3, one frame after another."""
    found = objective(batch, step=2, progress=0.0)
    assert batch.labels is not None
    context, mask = objective.context(batch, step=2), objective.mask(batch, step=2)
    assert context.hidden is not None
    assert torch.equal(context.hidden, mask)
    expected, correct, count = 0.0, 0, 0
    for row, frame in mask.nonzero().tolist():
        projected = objective.project(context.frames[row, frame]).detach()
        scores = [float(F.cosine_similarity(projected, unit, dim=0)) / 0.1 for unit in objective.units.detach()]
        unit = int(batch.labels[row, frame])
        expected += math.log(sum(math.exp(each) for each in scores)) - scores[unit]
        correct += scores[unit] == max(scores)
        count += 1
    assert float(found.terms["units"].detach()) == pytest.approx(expected, rel=1e-4)
    assert (int(found.stats["correct"]), int(found.stats["count"])) == (correct, count)
    features = objective.encoder.features(batch.waveforms)
    assert float(found.terms["feature_penalty"].detach()) == pytest.approx(
        0.5 * count * float(features.square().mean().detach()), rel=1e-4
    )
    assert float(found.total.detach()) == pytest.approx(float(sum(found.terms.values()).detach()), rel=1e-5)


def test_units_of_frames_that_are_not_masked_do_not_matter(objective: Hubert, batch: CropBatch) -> None:
    before = objective(batch, step=2, progress=0.0).total
    assert batch.labels is not None
    other = torch.where(objective.mask(batch, step=2), batch.labels, (batch.labels + 1) % CLASSES)
    moved = CropBatch(batch.waveforms, batch.rows, batch.global_rows, labels=other)
    assert torch.equal(objective(moved, step=2, progress=0.0).total, before)


def test_the_gradient_into_the_convolutions_is_scaled(batch: CropBatch, objective: Hubert) -> None:
    def gradient(scale: float) -> torch.Tensor:
        objective.config = CONFIG.model_copy(update={"feature_gradient": scale, "feature_penalty": 0.0})
        objective.zero_grad()
        objective(batch, step=0, progress=0.0).total.backward()
        (first, *_) = objective.encoder.features.parameters()
        assert first.grad is not None
        return first.grad.clone()

    torch.testing.assert_close(gradient(0.25), 0.25 * gradient(1.0), rtol=1e-4, atol=1e-6)


def test_metrics(objective: Hubert) -> None:
    stats = {
        "count": torch.tensor(8.0),
        "correct": torch.tensor(2.0),
        "targets": torch.tensor([4.0, 4.0, 0, 0, 0, 0, 0]),
        "predicted": torch.tensor([8.0, 0, 0, 0, 0, 0, 0]),
    }
    terms = {"units": torch.tensor(16.0), "feature_penalty": torch.tensor(4.0)}
    found = objective.metrics(terms, stats)
    assert found["loss"] == pytest.approx(2.5)
    assert found["unit_loss"] == pytest.approx(2.0)
    assert found["accuracy"] == pytest.approx(0.25)
    assert found["chance_loss"] == pytest.approx(math.log(2))
    assert (found["unit_perplexity"], found["predicted_perplexity"]) == (pytest.approx(2.0), pytest.approx(1.0))


GOOD = {"unit_perplexity": 40.0, "predicted_perplexity": 30.0, "unit_loss": 2.0, "chance_loss": 3.8}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"unit_perplexity": 1.5, "chance_loss": 0.4, "unit_loss": 0.1}, "few units"),
        ({"predicted_perplexity": 1.1}, "constant prediction"),
        ({"unit_loss": 3.79}, "not learning"),
    ],
)
def test_symptoms(objective: Hubert, changes: dict[str, float], state: str) -> None:
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice

"""data2vec against slow and obvious targets and losses, its teacher, and runs that fail in known ways."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechssl.data.batch import CropBatch
from speechssl.data.units import UnitsConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.ema import DecayConfig
from speechssl.nn.masking import MaskConfig
from speechssl.objectives import data2vec
from speechssl.objectives.data2vec import Data2Vec, Data2VecConfig
from speechssl.train.pretrain_config import config_of
from tests.objectives.on_tones import learnt, noise_batch, still_encoder
from tests.objectives.pages import check_page
from tests.toys import micro_run

DECAY = DecayConfig(start=0.5, end=0.75, ramp=0.5)
CONFIG = Data2VecConfig(masks=2, mask=MaskConfig(length=4), layers=1.0, decay=DECAY)


def built(config: Data2VecConfig = CONFIG) -> Data2Vec:
    torch.manual_seed(0)
    return Data2Vec(SpeechEncoder(still_encoder()), config, seed=5)


@pytest.fixture
def objective() -> Data2Vec:
    """With a teacher that is not the student."""
    objective = built()
    with torch.no_grad():
        for each in objective.teacher.parameters():
            each.add_(0.1 * torch.randn_like(each))
    return objective


@pytest.fixture
def batch() -> CropBatch:
    return noise_batch()


def slow_target(objective: Data2Vec, waveform: torch.Tensor, *, layers: int) -> torch.Tensor:
    """Section 3.3 for one crop: blocks one after another, feed-forward outputs of the last ones, normalised."""
    encoder, teacher = objective.encoder, objective.teacher.module
    x = encoder.projection(encoder.latents(waveform[None]))
    x = x + teacher.positions(x)
    outputs: list[torch.Tensor] = []
    for block in teacher.layers:
        x = x + block.attention(block.attention_norm(x), None)
        outputs.append(block.contract(F.gelu(block.expand(block.output_norm(x)))))
        x = x + outputs[-1]
    total = torch.zeros_like(outputs[0][0])
    for each in outputs[-layers:]:
        (frames,) = each
        total += (frames - frames.mean(dim=0)) / (frames.var(dim=0, correction=0) + 1e-5).sqrt()
    return (total / layers).detach()


@pytest.mark.parametrize(("fraction", "layers"), [(1.0, 2), (0.5, 1), (0.1, 1)])
def test_the_targets_are_the_papers(objective: Data2Vec, batch: CropBatch, fraction: float, layers: int) -> None:
    objective.config = CONFIG.model_copy(update={"layers": fraction})
    found = objective.targets(objective.encoder.latents(batch.waveforms))
    expected = torch.stack([slow_target(objective, each, layers=layers) for each in batch.waveforms])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not found.requires_grad


def test_the_loss_is_the_mean_squared_error_at_the_frames_of_every_mask(objective: Data2Vec, batch: CropBatch) -> None:
    found = objective(batch, step=2, progress=0.0)
    masks = objective.masks(batch, step=2)
    assert (masks[0] != masks[1]).any()
    latents = objective.encoder.latents(batch.waveforms)
    targets, expected, predicted = objective.targets(latents), 0.0, list[torch.Tensor]()
    for mask in masks:
        projected = torch.where(mask.unsqueeze(-1), objective.mask_embedding, objective.encoder.project(latents))
        frames = objective.encoder.contextualize(projected, None).frames.detach()
        for row, frame in mask.nonzero().tolist():
            predicted.append(objective.project(frames[row, frame]).detach())
            expected += float((predicted[-1] - targets[row, frame]).square().mean())
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert int(found.stats["count"]) == len(predicted) == int(masks.sum())
    metrics = objective.metrics(found.terms, found.stats)
    hidden = torch.cat([targets[mask] for mask in masks])
    assert metrics["chance_loss"] == pytest.approx(float(hidden.var(dim=0, correction=0).mean()), rel=1e-3)
    assert metrics["target_deviation"] == pytest.approx(float(hidden.std(dim=0, correction=0).mean()), rel=1e-3)
    deviation = torch.stack(predicted).std(dim=0, correction=0).mean()
    assert metrics["prediction_deviation"] == pytest.approx(float(deviation), rel=1e-3)


def test_gradients_reach_the_student_alone(objective: Data2Vec, batch: CropBatch) -> None:
    objective(batch, step=0, progress=0.0).total.backward()
    reached = {key for key, each in objective.named_parameters() if each.grad is not None}
    assert not any(key.startswith("teacher.") for key in reached)
    assert any(key.startswith("encoder.features.") for key in reached)
    assert objective.released is objective.encoder


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.5), (0.25, 0.625), (1.0, 0.75)])
def test_the_teacher_follows_the_transformer(objective: Data2Vec, progress: float, decay: float) -> None:
    before = {key: each.clone() for key, each in objective.teacher.module.named_parameters()}
    objective.after_update(step=0, progress=progress)
    student = dict(objective.encoder.transformer.named_parameters())
    for key, each in objective.teacher.module.named_parameters():
        torch.testing.assert_close(each, decay * before[key] + (1 - decay) * student[key])
    assert CONFIG.continued().decay.at(0.0) == CONFIG.decay.at(1.0)


def test_units_beside_the_regression(batch: CropBatch) -> None:
    """MT4SSL: the same regression, and a weighted cross-entropy of the unit."""
    weight, classes = 0.25, 7
    objective = built(CONFIG.model_copy(update={"unit_weight": weight, "units": UnitsConfig(classes=classes)}))
    frames = int(objective.encoder.num_frames(torch.tensor(batch.samples)))
    units = torch.randint(classes, (3, frames))
    labelled = CropBatch(batch.waveforms, np.arange(3), 3, labels=units)
    found = objective(labelled, step=2, progress=0.0)
    assert objective.batch_spec.labels == objective.config.units
    assert objective.classify is not None
    latents, expected, correct = objective.encoder.latents(batch.waveforms), 0.0, 0
    for mask in objective.masks(batch, step=2):
        projected = torch.where(mask.unsqueeze(-1), objective.mask_embedding, objective.encoder.project(latents))
        context = objective.encoder.contextualize(projected, None).frames
        for row, frame in mask.nonzero().tolist():
            scores, unit = objective.classify(context[row, frame]).tolist(), int(units[row, frame])
            expected += math.log(sum(math.exp(each) for each in scores)) - scores[unit]
            correct += scores[unit] == max(scores)
    assert float(found.terms["units"]) == pytest.approx(weight * expected, rel=1e-4)
    metrics, count = objective.metrics(found.terms, found.stats), float(found.stats["count"])
    assert metrics["unit_loss"] == pytest.approx(expected / count, rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(correct / count)
    alone = built()(batch, step=2, progress=0.0)
    assert float(found.terms["regression"]) == pytest.approx(float(alone.terms["regression"]), rel=1e-4)
    assert float(found.total.detach()) == pytest.approx(float(sum(found.terms.values())), rel=1e-5)


def test_units_without_their_weight_are_refused() -> None:
    run = micro_run("data2vec").model_dump()
    settings = run["objective"] | {"units": UnitsConfig(classes=9).model_dump()}
    with pytest.raises(ValueError, match=r"objective\.units is used with objective\.unit_weight above 0 only"):
        config_of("data2vec").model_validate(run | {"objective": settings})


@pytest.mark.slow
def test_it_learns_on_tones() -> None:
    config = Data2VecConfig(masks=2, mask=MaskConfig(length=2, probability=0.3), layers=0.5, decay=DECAY)
    before, after = learnt(built(config), steps=30, rate=5e-3)
    assert after["regression_loss"] < 0.9 * after["chance_loss"] < before["regression_loss"]
    assert after["target_deviation"] > 0.5
    assert [each for each in built(config).symptoms(after, {}) if each.present] == []


GOOD = {"regression_loss": 0.4, "chance_loss": 0.8, "target_deviation": 0.9, "prediction_deviation": 0.5}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"target_deviation": 0.05, "chance_loss": 0.5}, "constant targets"),
        ({"prediction_deviation": 0.005}, "constant prediction"),
        ({"regression_loss": 0.795}, "not learning"),
    ],
)
def test_symptoms(changes: dict[str, float], state: str) -> None:
    objective = built()
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


@pytest.mark.parametrize(("part", "state"), [("teacher", "constant targets"), ("student", "constant prediction")])
def test_a_part_that_collapses(objective: Data2Vec, batch: CropBatch, part: str, state: str) -> None:
    """The planted failures: last layers that give the same in every frame."""
    with torch.no_grad():
        if part == "teacher":
            for block in objective.teacher.module.layers:
                block.contract.weight.mul_(1e-6)
        else:
            objective.project.weight.mul_(1e-6)
    output = objective(batch, step=0, progress=0.0)
    found = objective.symptoms(objective.metrics(output.terms, output.stats), {})
    assert next(each.state for each in found if each.present) == state


def test_the_page() -> None:
    check_page(data2vec)

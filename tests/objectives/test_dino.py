"""DINO against a slow loss from the paper's algorithm, its local views, teacher and centre, and runs that fail."""

import math

import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.ema import DecayConfig
from speechssl.objectives import dino
from speechssl.objectives.dino import Dino, DinoConfig
from tests.objectives.on_tones import still_encoder
from tests.objectives.pages import check_page
from tests.objectives.view_tones import measured, numbers, present, train, view_batch

DECAY = DecayConfig(start=0.5, end=0.75, ramp=0.5)
CONFIG = DinoConfig(hidden=24, dim=12, prototypes=20, local_views=3, freeze=0.25, teacher_warmup=0.5, decay=DECAY)


def built(config: DinoConfig = CONFIG) -> Dino:
    torch.manual_seed(0)
    return Dino(SpeechEncoder(still_encoder()), config, seed=5)


@pytest.fixture
def objective() -> Dino:
    """With a teacher that is not the student, and a centre."""
    objective = built()
    with torch.no_grad():
        for each in [*objective.teacher.parameters(), *objective.teacher_head.parameters()]:
            each.add_(0.1 * torch.randn_like(each))
        objective.centre.add_(0.1 * torch.randn_like(objective.centre))
    return objective


@pytest.fixture
def batch() -> CropBatch:
    return view_batch()


def test_the_loss_is_that_of_algorithm_1(objective: Dino, batch: CropBatch) -> None:
    found = objective(batch, step=2, progress=0.25)
    assert batch.near is not None
    local, total, entropy, outputs = objective.local_views(batch, step=2), torch.zeros(()), 0.0, list[torch.Tensor]()
    for row in range(6):
        views = [batch.waveforms[row], batch.near[row], *local[row]]
        teacher, student = list[torch.Tensor](), list[torch.Tensor]()
        for view in views[:2]:
            cosines = objective.teacher_head.module(objective.teacher.module(view[None]).frames[0].mean(dim=0))
            teacher.append(((cosines - objective.centre) / 0.055).softmax(dim=-1).detach())
        for view in views:
            cosines = objective.head(objective.encoder(view[None]).frames[0].mean(dim=0))
            student.append((cosines / 0.1).softmax(dim=-1))
        for t, target in enumerate(teacher):
            outputs.append(target)
            entropy -= float((target * target.log()).sum())
            for s, prediction in enumerate(student):
                if s != t:
                    total = total - (target * prediction.log()).sum()
    assert int(found.stats["count"]) == 6 * 2 * 4
    assert float(found.total.detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    weights = [objective.head.prototypes, objective.encoder.projection.weight]
    for got, each in zip(torch.autograd.grad(found.total, weights), torch.autograd.grad(total, weights), strict=True):
        torch.testing.assert_close(got, each, rtol=1e-3, atol=1e-3 * float(each.abs().max()))
    metrics, mean = numbers(objective.metrics(found.terms, found.stats)), torch.stack(outputs).mean(dim=0)
    assert metrics["entropy"] == pytest.approx(entropy / 12, rel=1e-4)
    assert metrics["chance_loss"] == pytest.approx(-float((mean * mean.log()).sum()), rel=1e-4)
    assert metrics["information"] == pytest.approx(metrics["chance_loss"] - entropy / 12, rel=1e-3)
    assert metrics["divergence"] == pytest.approx(float(total.detach()) / 48 - entropy / 12, rel=1e-3)


def test_local_views_are_normalised_parts_of_both_views(objective: Dino, batch: CropBatch) -> None:
    local = objective.local_views(batch, step=3)
    assert local.shape == (6, 3, 3200)  # 0.4 of 8,000 samples
    assert batch.near is not None
    for row in range(6):
        for place, source in enumerate((batch.waveforms, batch.near, batch.waveforms)):
            parts = np.lib.stride_tricks.sliding_window_view(source[row].numpy(), 3200)
            found = local[row, place].numpy()
            assert (np.abs([found.mean(), found.std() - 1]) < 1e-3).all()
            alike = (parts @ found) / (3200 * parts.std(axis=1))  # correlation, as the view has mean 0 and deviation 1
            assert (alike > 0.9999).sum() == 1
    part = objective.local_views(batch.part(np.array([4, 1])), step=3)
    assert torch.equal(part, local[[4, 1]])
    assert not torch.equal(objective.local_views(batch, step=4), local)


def test_prototypes_are_frozen_at_first(objective: Dino, batch: CropBatch) -> None:
    objective(batch, step=0, progress=0.2).total.backward()
    assert objective.head.prototypes.grad is not None
    assert float(objective.head.prototypes.grad.abs().max()) == 0.0
    reached = {key.partition(".")[0] for key, each in objective.named_parameters() if each.grad is not None}
    assert reached == {"encoder", "head"}
    objective(batch, step=0, progress=0.25).total.backward()
    assert float(objective.head.prototypes.grad.abs().max()) > 0.0
    assert CONFIG.continued().freeze == 0.0
    assert CONFIG.continued().temperature(0.0) == CONFIG.temperature(1.0) == 0.07


def test_the_teacher_follows_and_is_released(objective: Dino) -> None:
    for average, source in ((objective.teacher, objective.encoder), (objective.teacher_head, objective.head)):
        before = {key: each.clone() for key, each in average.module.named_parameters()}
        objective.after_update(step=0, progress=0.25)
        student = dict(source.named_parameters())
        for key, each in average.module.named_parameters():
            torch.testing.assert_close(each, 0.625 * before[key] + 0.375 * student[key])
    assert objective.released is objective.teacher.module


def test_the_centre_follows_the_outputs_of_all_parts(objective: Dino, batch: CropBatch) -> None:
    """Those of training alone: a validation in between changes nothing."""
    assert batch.near is not None
    before = objective.centre.clone()
    crops = torch.cat([batch.waveforms, batch.near])
    outputs = objective.teacher_head.module(objective.teacher.module(crops).frames.mean(dim=1)).detach()
    for part in batch.micro_batches(2):
        objective(part, step=0, progress=0.0)
    objective.eval()
    objective(view_batch(rows=3), step=0, progress=1.0)
    objective.train()
    objective.after_update(step=0, progress=0.0)
    torch.testing.assert_close(objective.centre, 0.9 * before + 0.1 * outputs.mean(dim=0), rtol=1e-4, atol=1e-6)
    after = objective.centre.clone()
    objective.after_update(step=1, progress=0.0)
    assert torch.equal(objective.centre, after)


LEARNING = DinoConfig(
    hidden=128,
    dim=32,
    prototypes=64,
    local_views=2,
    teacher_temperature=0.04,
    freeze=0.05,
    centre_momentum=0.8,
    decay=DecayConfig(start=0.99, end=0.99),
)


@pytest.mark.slow
def test_it_learns_what_the_views_of_a_recording_share() -> None:
    """A student that predicts which prototypes a recording has, far better than with the mean output."""
    objective = built(LEARNING)
    before = measured(objective)
    train(objective, steps=150, rate=1e-3)
    after = measured(objective)
    assert before["loss"] > before["chance_loss"]
    assert after["loss"] < after["chance_loss"] - 0.4
    assert after["information"] > 0.6
    assert after["usage"] > 8
    assert after["effective_rank"] > 0.6 * before["effective_rank"]
    assert present(objective, after) == []


def test_without_sharpening_it_is_uniform() -> None:
    """The planted failure, section 5.3 of the paper: a teacher of temperature 1."""
    objective = built(LEARNING.model_copy(update={"teacher_temperature": 1.0}))
    found = measured(objective)
    assert found["information"] < 0.05
    assert present(objective, found)[0] == "uniform outputs"


def test_a_centre_that_favours_one_prototype_shows() -> None:
    """The planted failure: outputs that are not centred."""
    objective = built(LEARNING)
    objective.centre[3] = -2.0
    found = measured(objective)
    assert found["information"] < 0.05
    assert present(objective, found)[0] == "one prototype"


GOOD = {
    "loss": 2.0,
    "chance_loss": 4.0,
    "entropy": 1.5,
    "uniform_entropy": math.log(1024),
    "usage": 50.0,
    "effective_rank": 20.0,
}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"entropy": math.log(1024) - 0.01}, "uniform outputs"),
        ({"usage": 1.2}, "one prototype"),
        ({"effective_rank": 1.1}, "few dimensions"),
        ({"loss": 3.99}, "not learning"),
    ],
)
def test_symptoms(objective: Dino, changes: dict[str, float], state: str) -> None:
    assert present(objective, GOOD) == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_the_page() -> None:
    check_page(dino)

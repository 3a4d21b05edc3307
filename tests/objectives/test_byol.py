"""BYOL against a slow loss from the paper's equations, its teacher, and runs that fail in known ways."""

import pytest
import torch
from torch import nn

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.ema import EMA, DecayConfig
from speechssl.objectives import byol
from speechssl.objectives.byol import Byol, ByolConfig
from tests.objectives.on_tones import still_encoder
from tests.objectives.pages import check_page
from tests.objectives.view_tones import measured, numbers, present, train, view_batch

DECAY = DecayConfig(start=0.5, end=0.75, ramp=0.5)
CONFIG = ByolConfig(hidden=24, dim=12, decay=DECAY)
RECORDING = torch.tensor([0, 1, 2, 1, 4, 5])  # rows 1 and 3 are of one recording


def built(config: ByolConfig = CONFIG) -> Byol:
    torch.manual_seed(0)
    return Byol(SpeechEncoder(still_encoder()), config, seed=5)


@pytest.fixture
def objective() -> Byol:
    """With a teacher that is not the student."""
    objective = built()
    with torch.no_grad():
        for each in [*objective.teacher.parameters(), *objective.teacher_projector.parameters()]:
            each.add_(0.1 * torch.randn_like(each))
    return objective


@pytest.fixture
def batch() -> CropBatch:
    return view_batch(recording=RECORDING)


def slow_head(head: nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    first, norm, _, last = head.children()
    hidden = first(vectors)
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
    return last((hidden * norm.weight + norm.bias).clamp(min=0))


def slow_vectors(encoder: nn.Module, batch: CropBatch) -> torch.Tensor:
    assert batch.near is not None
    return torch.stack(
        [encoder(each[None]).frames[0].mean(dim=0) for view in (batch.waveforms, batch.near) for each in view]
    )


def test_the_loss_is_the_papers(objective: Byol, batch: CropBatch) -> None:
    """Equations 1 and 2: squared distance of unit vectors, the sum of both directions."""
    found = objective(batch, step=0, progress=0.0)
    predictions = slow_head(objective.predictor, slow_head(objective.projector, slow_vectors(objective.encoder, batch)))
    targets = slow_head(objective.teacher_projector.module, slow_vectors(objective.teacher.module, batch)).detach()
    predictions, targets = (each / each.norm(dim=-1, keepdim=True) for each in (predictions, targets))
    expected = torch.stack([(predictions[k] - targets[(k + 6) % 12]).square().sum() for k in range(12)]).sum()
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert int(found.stats["count"]) == 12
    weights = [
        objective.get_parameter(name)
        for name in ("predictor.0.weight", "projector.0.weight", "encoder.projection.weight")
    ]
    for got, each in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(got, each, rtol=1e-3, atol=1e-3 * float(each.abs().max()))
    metrics = numbers(objective.metrics(found.terms, found.stats))
    correct, predictions = 0, predictions.detach()
    for k in range(12):
        view, row = divmod(k, 6)
        own = float(predictions[k] @ targets[(k + 6) % 12])
        others = [6 * (1 - view) + r for r in range(6) if RECORDING[r] != RECORDING[row]]
        correct += all(own > float(predictions[k] @ targets[other]) for other in others)
    assert metrics["accuracy"] == pytest.approx(correct / 12)
    assert 1 / 6 < metrics["chance_accuracy"] < 1 / 5
    assert metrics["target_deviation"] == pytest.approx(float(targets.var(dim=0, correction=0).sum().sqrt()), rel=1e-3)


def test_gradients_reach_the_student_alone(objective: Byol, batch: CropBatch) -> None:
    objective(batch, step=0, progress=0.0).total.backward()
    reached = {key.partition(".")[0] for key, each in objective.named_parameters() if each.grad is not None}
    assert reached == {"encoder", "projector", "predictor"}
    assert objective.released is objective.encoder


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.5), (0.25, 0.625), (1.0, 0.75)])
def test_the_teacher_follows_encoder_and_projector(objective: Byol, progress: float, decay: float) -> None:
    for average, source in ((objective.teacher, objective.encoder), (objective.teacher_projector, objective.projector)):
        before = {key: each.clone() for key, each in average.module.named_parameters()}
        objective.after_update(step=0, progress=progress)
        student = dict(source.named_parameters())
        for key, each in average.module.named_parameters():
            torch.testing.assert_close(each, decay * before[key] + (1 - decay) * student[key])


LEARNING = ByolConfig(hidden=128, dim=32, decay=DecayConfig(start=0.9, end=0.9))


@pytest.mark.slow
def test_it_learns_what_the_views_of_a_recording_share() -> None:
    """Predictions that find their recording among 32, with vectors that still differ in as many directions."""
    objective = built(LEARNING)
    before = measured(objective)
    train(objective, steps=160, rate=1e-3)
    after = measured(objective)
    assert before["accuracy"] < 0.1
    assert after["accuracy"] > 0.3
    assert after["loss"] < 0.2 * before["loss"]
    assert min(after["target_deviation"], after["prediction_deviation"]) > 0.7
    assert after["effective_rank"] > 0.6 * before["effective_rank"]
    assert present(objective, after) == []


GOOD = {"accuracy": 0.5, "chance_accuracy": 0.05, "target_deviation": 0.9, "effective_rank": 20.0}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"target_deviation": 0.01}, "constant targets"),
        ({"effective_rank": 1.1}, "few dimensions"),
        ({"accuracy": 0.06}, "not learning"),
    ],
)
def test_symptoms(objective: Byol, changes: dict[str, float], state: str) -> None:
    assert present(objective, GOOD) == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


@pytest.mark.slow
def test_without_the_moving_average_and_the_predictor_it_collapses() -> None:
    """The planted failure: the student is its own teacher, and predicts by the identity."""
    objective = built(LEARNING.model_copy(update={"decay": DecayConfig(start=0.0, end=0.0)}))
    objective.predictor = nn.Sequential(nn.Identity())
    objective.projector = nn.Sequential(nn.Linear(32, 32))
    objective.teacher_projector = EMA(objective.projector)
    train(objective, steps=100)
    found = measured(objective)
    assert found["loss"] < 0.1
    assert "constant targets" in present(objective, found)


def test_an_encoder_of_one_direction_shows(objective: Byol) -> None:
    with torch.no_grad():
        objective.encoder.transformer.norm.weight[1:] = 0.0
    assert "few dimensions" in present(objective, measured(objective))


def test_the_page() -> None:
    check_page(byol)

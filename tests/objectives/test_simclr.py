"""SimCLR against slow losses from the paper's algorithm, and runs that fail in known ways."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives import simclr
from speechssl.objectives.simclr import SimClr, SimClrConfig
from tests.objectives.on_tones import still_encoder
from tests.objectives.pages import check_page
from tests.objectives.view_tones import measured, numbers, present, train, view_batch

CONFIG = SimClrConfig(hidden=24, dim=12, temperature=0.3)
RECORDING = torch.tensor([0, 1, 2, 1, 4, 5])  # rows 1 and 3 are of one recording


@pytest.fixture
def objective() -> SimClr:
    torch.manual_seed(0)
    return SimClr(SpeechEncoder(still_encoder()), CONFIG, seed=5)


@pytest.fixture
def batch() -> CropBatch:
    return view_batch(recording=RECORDING)


def slow_embeddings(objective: SimClr, batch: CropBatch) -> torch.Tensor:
    """Section 2.1 and appendix B, crops one by one: (2 views, rows, dim), with the norm over all of them."""
    assert batch.near is not None
    first, _, _, last = objective.projector
    vectors = [
        objective.encoder(each[None]).frames[0].mean(dim=0) for view in (batch.waveforms, batch.near) for each in view
    ]
    hidden = first(torch.stack(vectors))
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, correction=0) + 1e-5).sqrt()
    return last(hidden.clamp(min=0)).unflatten(0, (2, -1))


def test_the_loss_is_that_of_algorithm_1(objective: SimClr, batch: CropBatch) -> None:
    """Without negatives of the same recording; the gradient of the loss reaches encoder and head."""
    found = objective(batch, step=0, progress=0.0)
    every = slow_embeddings(objective, batch).flatten(0, 1)
    losses: list[torch.Tensor] = []
    correct = 0
    for query in range(12):
        scores = F.cosine_similarity(every[query], every, dim=-1) / CONFIG.temperature
        others = [k for k in range(12) if RECORDING[k % 6] != RECORDING[query % 6]]
        positive = scores[(query + 6) % 12]
        losses.append(torch.log(positive.exp() + scores[others].exp().sum()) - positive)
        correct += int((positive > scores[others]).all())
    expected = torch.stack(losses).sum()
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    weights = [objective.get_parameter("projector.0.weight"), objective.encoder.projection.weight]
    for got, each in zip(
        torch.autograd.grad(found.total, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(got, each, rtol=1e-3, atol=1e-3 * float(each.abs().max()))
    metrics = numbers(objective.metrics(found.terms, found.stats))
    assert metrics["accuracy"] == pytest.approx(correct / 12)
    negatives = np.array([10, 8, 10, 8, 10, 10])
    assert metrics["chance_loss"] == pytest.approx(float(np.log1p(negatives).mean()), rel=1e-5)
    units = F.normalize(every.detach(), dim=-1)
    assert metrics["deviation"] == pytest.approx(float(units.var(dim=0, correction=0).sum().sqrt()), rel=1e-3)


def test_rows_of_one_recording_are_no_negatives(objective: SimClr) -> None:
    found = objective(view_batch(recording=torch.zeros(6, dtype=torch.long)), step=0, progress=0.0)
    found.total.backward()
    assert float(found.total.detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(found.stats["chance"]) == 0.0


@pytest.mark.slow
def test_it_learns_what_the_views_of_a_recording_share(objective: SimClr) -> None:
    before = measured(objective)
    train(objective, steps=60)
    after = measured(objective)
    assert before["accuracy"] < 0.3
    assert after["accuracy"] > 0.4
    assert after["loss"] < 0.6 * after["chance_loss"]
    assert after["effective_rank"] > 0.6 * before["effective_rank"]
    assert present(objective, after) == []


GOOD = {"loss": 2.0, "chance_loss": 4.0, "accuracy": 0.5, "deviation": 0.9, "effective_rank": 20.0}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"deviation": 0.01}, "equal embeddings"),
        ({"effective_rank": 1.1}, "few dimensions"),
        ({"loss": 3.99}, "not learning"),
    ],
)
def test_symptoms(objective: SimClr, changes: dict[str, float], state: str) -> None:
    assert present(objective, GOOD) == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_planted_failures_show(objective: SimClr) -> None:
    """A head that gives a constant; an encoder whose frames differ in one direction; views of other recordings."""
    with torch.no_grad():
        objective.get_parameter("projector.3.weight").mul_(1e-4)
    found = measured(objective)
    assert found["loss"] == pytest.approx(math.log(63), rel=1e-3)
    assert present(objective, found)[0] == "equal embeddings"
    with torch.no_grad():
        objective.get_parameter("projector.3.weight").mul_(1e4)
        norm = objective.encoder.transformer.norm
        norm.weight[1:] = 0.0
    assert "few dimensions" in present(objective, measured(objective))


def test_the_page() -> None:
    check_page(simclr)

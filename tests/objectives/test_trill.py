"""TRILL against slow triplets and torch's loss of them, negatives over parts, and runs that fail in known ways."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives import trill
from speechssl.objectives.base import Objective, StepOutput
from speechssl.objectives.trill import Trill, TrillConfig, allowed_negatives
from speechssl.train.pretrain_config import config_of
from tests.objectives.on_tones import still_encoder
from tests.objectives.pages import check_page
from tests.toys import RATE, micro_run, normalized_tones

CONFIG = TrillConfig(dim=12, margin=0.3)
ROWS = 6
RECORDING = torch.tensor([0, 1, 2, 1, 4, 5])  # rows 1 and 3 are of one recording
FAR = torch.tensor([-1, 2, 4, -1, 1, 0])


@pytest.fixture
def objective() -> Trill:
    torch.manual_seed(0)
    return Trill(SpeechEncoder(still_encoder()), CONFIG, seed=5)


@pytest.fixture
def batch() -> CropBatch:
    crops, near, far = torch.from_numpy(normalized_tones(3 * ROWS, 0.5)).unflatten(0, (3, ROWS))
    return CropBatch(crops, np.arange(ROWS), ROWS, near=near, far=far, recording=RECORDING, far_recording=FAR)


def mined(vectors: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Anchor, positive and negative of each row, from the definition, one pair after another."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for row in range(ROWS):
        anchor, positive = vectors[row, 0], vectors[row, 1]
        choices: list[Tensor] = []
        for other in range(ROWS):
            if RECORDING[other] != RECORDING[row]:
                choices += [vectors[other, 0], vectors[other, 1]]
            source = RECORDING[other] if FAR[other] == -1 else FAR[other]
            if source != RECORDING[row] or (other == row and FAR[other] == -1):
                choices.append(vectors[other, 2])
        near = float((anchor - positive).detach().square().sum())
        apart = [float((anchor - each).detach().square().sum()) for each in choices]
        beyond = [each for each in apart if each > near]
        chosen = apart.index(min(beyond) if beyond else max(apart))
        found.append((anchor, positive, choices[chosen]))
    return found


def test_the_loss_is_that_of_mined_triplets(objective: Trill, batch: CropBatch) -> None:
    """Value and gradient equal torch's TripletMarginLoss with squared distances."""
    found = objective(batch, step=0, progress=0.0)
    got = torch.autograd.grad(found.total, objective.project.weight)[0]
    vectors = objective.embed(batch)
    theirs = nn.TripletMarginWithDistanceLoss(
        distance_function=lambda a, b: (a - b).square().sum(dim=-1), margin=0.3, reduction="sum"
    )
    anchors, positives, negatives = (torch.stack(each) for each in zip(*mined(vectors), strict=True))
    expected = theirs(anchors, positives, negatives)
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    torch.testing.assert_close(got, torch.autograd.grad(expected, objective.project.weight)[0], rtol=1e-3, atol=1e-5)
    assert int(found.stats["count"]) == ROWS


def test_metrics_are_over_all_pairs(objective: Trill, batch: CropBatch) -> None:
    found = objective(batch, step=0, progress=0.0)
    metrics = objective.metrics(found.terms, found.stats)
    vectors = objective.embed(batch).detach()
    every, allowed = vectors.transpose(0, 1).flatten(0, 1), allowed_negatives(torch.stack([RECORDING, FAR], dim=1))
    apart = [float((vectors[r, 0] - every[c]).square().sum()) for r, c in allowed.nonzero().tolist()]
    near = [float((vectors[r, 0] - vectors[r, 1]).square().sum()) for r, _ in allowed.nonzero().tolist()]
    assert metrics["far_distance"] == pytest.approx(np.mean(apart), rel=1e-3)
    assert metrics["distance_deviation"] == pytest.approx(np.std(apart), rel=1e-2)
    assert metrics["accuracy"] == pytest.approx(np.mean(np.array(near) < apart))
    assert 0 < numbers(metrics)["active"] <= 1


def test_negatives_of_other_parts_count(objective: Trill, batch: CropBatch) -> None:
    """A part alone has other negatives than within its batch; with the sums of the batch it has the same ones."""
    part, rest = batch.part(np.array([0, 1])), batch.part(np.arange(2, ROWS))
    alone = objective(part, step=0, progress=0.0).stats["pairs"]
    shared = objective.gather([rest, part], step=0)
    assert float(objective(part, step=0, progress=0.0, shared=shared).stats["pairs"]) > float(alone)


def test_a_row_without_a_negative_is_no_target(objective: Trill, batch: CropBatch) -> None:
    own = torch.zeros(ROWS, dtype=torch.long)
    same = dataclasses.replace(batch, recording=own, far_recording=own)
    found = objective(same, step=0, progress=0.0)
    found.total.backward()
    assert (float(found.total.detach()), float(found.stats["count"])) == (0.0, 0.0)
    assert np.isfinite([*numbers(objective.metrics(found.terms, found.stats)).values()]).all()


def pair_batch(seed: int, *, near_is_near: bool = True) -> CropBatch:
    """Each recording has its own low tone; a weaker high one differs between its crops.

    Without `near_is_near` the near crop is of another recording.
    """
    rng, rows, samples = np.random.default_rng(seed), 8, RATE // 2
    low = np.repeat(rng.permutation(np.geomspace(200, 900, rows))[None], 3, axis=0)
    low[2] = np.roll(low[0], -1)  # the far crop is of the next row's recording
    if not near_is_near:
        low[1] = np.roll(low[0], 3)
    time, high = np.arange(samples) / RATE, rng.uniform(1500, 5000, (3, rows))
    phase = rng.uniform(0, 2 * np.pi, (3, rows, 1))
    made = np.sin(2 * np.pi * low[..., None] * time + phase) + 0.4 * np.sin(2 * np.pi * high[..., None] * time)
    crops, near, far = torch.from_numpy(made.astype(np.float32))
    places = torch.arange(rows)
    return CropBatch(crops, np.arange(rows), rows, near=near, far=far, recording=places, far_recording=places.roll(-1))


def numbers(metrics: Mapping[str, float | list[float]]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def trained(objective: Objective, batches: list[CropBatch], steps: int) -> StepOutput:
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for step in range(steps):
        output = objective(batches[step % len(batches)], step=step, progress=0.0)
        optimizer.zero_grad()
        (output.total / output.stats["count"]).backward()
        optimizer.step()
    with torch.no_grad():
        return objective(pair_batch(100), step=0, progress=0.0)


@pytest.mark.slow
def test_it_learns_what_the_crops_of_a_recording_share(objective: Trill) -> None:
    """On other high tones, too."""
    with torch.no_grad():
        first = objective(pair_batch(100), step=0, progress=0.0)
    before = numbers(objective.metrics(first.terms, first.stats))
    output = trained(objective, [pair_batch(seed) for seed in range(20)], steps=20)
    after = numbers(objective.metrics(output.terms, output.stats))
    assert before["accuracy"] < 0.8
    assert after["accuracy"] > 0.9
    assert after["loss"] < 0.8 * before["loss"]
    assert [each.state for each in objective.symptoms(after, {}) if each.present] == []


GOOD = {"accuracy": 0.9, "chance_accuracy": 0.5, "active": 0.4, "distance_deviation": 0.3}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"distance_deviation": 0.001}, "equal distances"),
        ({"active": 0.0}, "no active triplets"),
        ({"accuracy": 0.52}, "not learning"),
    ],
)
def test_symptoms(objective: Trill, changes: dict[str, float], state: str) -> None:
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_planted_failures_show(objective: Trill) -> None:
    """A map without weights gives every crop the same embedding; near crops of other recordings are not near."""
    with torch.no_grad():
        output = objective(pair_batch(0, near_is_near=False), step=0, progress=0.0)
        metrics = objective.metrics(output.terms, output.stats)
        assert "not learning" in [each.state for each in objective.symptoms(metrics, {}) if each.present]
        objective.project.weight.zero_()
        output = objective(pair_batch(0), step=0, progress=0.0)
    metrics = objective.metrics(output.terms, output.stats)
    assert metrics["loss"] == pytest.approx(metrics["chance_loss"], rel=1e-3)
    assert next(each.state for each in objective.symptoms(metrics, {}) if each.present) == "equal distances"


def test_a_positive_that_may_be_farther_than_a_negative() -> None:
    run = micro_run("trill").model_dump()
    with pytest.raises(ValueError, match=r"objective\.near_seconds=10 with objective\.far_seconds=5: a positive"):
        config_of("trill").model_validate(run | {"objective": run["objective"] | {"far_seconds": 5.0}})


def test_the_page() -> None:
    check_page(trill)

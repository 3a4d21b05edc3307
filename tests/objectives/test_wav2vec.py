"""wav2vec against a slow and obvious loss, and runs that fail in known ways."""

import math
from typing import Any

import pytest
import torch

from speechssl.objectives import wav2vec
from speechssl.objectives.wav2vec import Wav2Vec, Wav2VecConfig
from tests.objectives.causal import causal_encoder, numbers, tone_batch
from tests.objectives.on_tones import learnt
from tests.objectives.pages import check_page

SMALL = Wav2VecConfig(steps=2, negative_count=4, negative_weight=3.0)


def built(**changes: Any) -> Wav2Vec:
    torch.manual_seed(0)
    return Wav2Vec(causal_encoder(), SMALL.model_copy(update=changes), seed=5)


@torch.no_grad()
def test_the_loss_is_the_papers() -> None:
    """Equation 2, one anchor, step and distractor after another."""
    objective, batch = built(), tone_batch(2, 0.5)
    for head in objective.heads.maps:
        head.bias.normal_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    found = objective(batch, step=2, progress=0.0)
    context, latents = objective.context(batch, step=2).frames, objective.encoder.latents(batch.waveforms)
    rows, frames, _ = latents.shape
    drawn = objective.draw(batch, frames=frames, step=2)
    assert all(drawn.row[row].unique().tolist() == [row] for row in range(rows))
    expected, count = 0.0, 0
    for row in range(rows):
        for anchor in range(frames - 2):
            for step in (1, 2):
                query = objective.heads.maps[step - 1](context[row, anchor])
                chosen = [each for each in drawn.frame[row, anchor].tolist() if each != anchor + step]
                fakes = [-math.log(1 - sigmoid(query @ latents[row, each])) for each in chosen]
                expected += -math.log(sigmoid(query @ latents[row, anchor + step])) + 3 * sum(fakes) / len(fakes)
                count += 1
    assert int(found.stats["count"]) == count
    assert float(found.total) == pytest.approx(expected, rel=1e-4)


def sigmoid(score: torch.Tensor) -> float:
    return 1 / (1 + math.exp(-float(score)))


@torch.no_grad()
def test_the_first_scores_are_about_one() -> None:
    objective, batch = built(negative_count=10), tone_batch(2)
    latents = objective.encoder.latents(batch.waveforms)
    predicted = objective.heads(objective.context(batch, step=0).frames)
    scores = torch.einsum("btsd,bud->btsu", predicted, latents)
    assert 0.2 < float(scores.std()) < 2


GOOD = {"loss": 2.0, "chance_loss": 3.35, "step_accuracy": [0.6, 0.5], "constant_share": 0.3}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"constant_share": 0.995}, "constant features"),
        ({"step_accuracy": [0.6, 0.21], "loss": 3.0}, "nearest step only"),
        ({"loss": 3.34, "step_accuracy": [0.2, 0.2]}, "not learning"),
    ],
)
def test_symptoms(changes: dict[str, Any], state: str) -> None:
    objective = built()
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


@torch.no_grad()
def test_planted_failures_show() -> None:
    """Latents that are the same everywhere, with the best equal score."""
    objective, batch = built(), tone_batch(2, 0.5)
    objective.encoder.feature_norm.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    objective.encoder.feature_norm.bias.fill_(1.0)  # pyright: ignore[reportCallIssue, reportArgumentType]
    for head in objective.heads.maps:
        head.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        head.bias.fill_(-math.log(3) / 32)  # pyright: ignore[reportCallIssue, reportArgumentType]
    output = objective(batch, step=0, progress=0.0)
    metrics = objective.metrics(output.terms, output.stats)
    assert metrics["loss"] == pytest.approx(metrics["chance_loss"], rel=1e-4)
    states = [each.state for each in objective.symptoms(metrics, {}) if each.present]
    assert states == ["constant features", "not learning"]


@pytest.mark.slow
def test_tones_are_learnt() -> None:
    before, after = map(numbers, learnt(built(steps=4, negative_count=10, negative_weight=10.0), steps=60))
    assert before["loss"] > after["loss"]
    assert after["loss"] < 0.95 * after["chance_loss"]
    assert after["accuracy"] > 2 / 11


def test_the_page() -> None:
    check_page(wav2vec)

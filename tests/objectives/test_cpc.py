"""CPC against a slow and obvious loss, and runs that fail in known ways."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from speechssl.data.crops import CropBatches, CropConfig
from speechssl.nn.transformer import TransformerOutput
from speechssl.objectives import cpc
from speechssl.objectives.cpc import Cpc, CpcConfig
from tests.objectives.causal import causal_encoder, numbers, tone_batch
from tests.objectives.on_tones import learnt
from tests.objectives.pages import check_page
from tests.toys import ToyStore

SMALL = CpcConfig(steps=2, negative_count=5, negatives="utterance", predictor="linear")
POOLS = ("utterance", "speaker", "batch")


def built(**changes: Any) -> Cpc:
    torch.manual_seed(0)
    return Cpc(causal_encoder(), SMALL.model_copy(update=changes), seed=5)


@pytest.mark.parametrize("negatives", POOLS)
@torch.no_grad()
def test_the_loss_is_the_papers(negatives: str) -> None:
    """Equations 3 and 4 of the first paper, one anchor, step and negative after another."""
    objective = built(negatives=negatives)
    batch = dataclasses.replace(tone_batch(3, 0.5), speakers=torch.tensor([0, 1, 0]))
    found = objective(batch, step=2, progress=0.0)
    context, latents = objective.context(batch, step=2).frames, objective.encoder.latents(batch.waveforms)
    rows, frames, size = latents.shape
    drawn = objective.draw(batch, frames=frames, step=2)
    allowed = {"utterance": [{0}, {1}, {2}], "speaker": [{0, 2}, {1}, {0, 2}], "batch": [{0, 1, 2}] * 3}[negatives]
    expected, count, correct = 0.0, 0, [0, 0]
    for row in range(rows):
        for anchor in range(frames - 2):
            for step in (1, 2):
                query = objective.heads.maps[step - 1](context[row, anchor])
                chosen = [
                    (int(drawn.row[row, anchor, place]), int(drawn.frame[row, anchor, place])) for place in range(5)
                ]
                positive = float(query @ latents[row, anchor + step]) / size
                others = [float(query @ latents[at]) / size for at in chosen if at != (row, anchor + step)]
                expected -= positive - math.log(math.exp(positive) + sum(map(math.exp, others)))
                correct[step - 1] += all(positive > each for each in others)
                count += 1
                assert {at[0] for at in chosen} <= allowed[row]
    assert int(found.stats["count"]) == count
    assert found.stats["correct"].tolist() == correct
    assert float(found.total) == pytest.approx(expected, rel=1e-4)


def test_predictors_are_one_map_or_one_block_per_step() -> None:
    linear, block = built(), built(predictor="transformer")
    assert (len(linear.heads.blocks), len(block.heads.blocks)) == (0, 2)
    batch = tone_batch(2, 0.5)
    block(batch, step=0, progress=0.0).total.backward()
    assert [name for name, each in block.named_parameters() if each.grad is None] == []


def test_which_negatives_are_exact_in_parts() -> None:
    assert [built(negatives=each).exact_in_parts for each in POOLS] == [True, False, False]


def test_speakers_of_a_batch() -> None:
    """Rows of a speaker share a number; a row of an unknown one has its own."""
    generator = np.random.default_rng(0)
    clips = [generator.integers(-1000, 1000, 16000, dtype=np.int16) for _ in range(6)]
    stores = [ToyStore(clips, ["a", "b", "a", None, None, "b"]), ToyStore(clips[:2], ["a", "a"])]
    settings = CropConfig(seconds=1.0, min_seconds=0.5, batch_seconds=8.0, normalize=False)
    batches = CropBatches(stores, settings, seed=0, spec=built(negatives="speaker").batch_spec)
    batch = batches.batch(0)
    assert batch.speakers is not None
    known = [("a", 0), ("b", 0), ("a", 0), (None, 3), (None, 4), ("b", 0), ("a", 1), ("a", 1)]
    names = [known[index] for index in batches._order(0)[0]]  # pyright: ignore[reportPrivateUsage]
    for first in range(8):
        for second in range(8):
            same = bool(batch.speakers[first] == batch.speakers[second])
            assert same == (first == second or names[first] == names[second])
    halves = [batches.batch(0, rank=rank, world_size=2).speakers for rank in (0, 1)]
    assert halves[0] is not None
    assert halves[1] is not None
    assert torch.equal(torch.cat([halves[0], halves[1]]), batch.speakers)
    assert CropBatches(stores, settings, seed=0).batch(0).speakers is None


GOOD = {
    "loss": 3.0,
    "chance_loss": 4.8,
    "step_accuracy": [0.4, 0.3, 0.2],
    "own_win_rate": 0.9,
    "other_win_rate": 0.95,
    "constant_share": 0.3,
}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"constant_share": 0.995}, "constant features"),
        ({"own_win_rate": 0.52}, "speaker shortcut"),
        ({"step_accuracy": [0.5, 0.17, 0.17], "loss": 4.0}, "nearest step only"),
        ({"loss": 4.79, "step_accuracy": [0.17, 0.17, 0.17]}, "not learning"),
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
    """Latents that are the same everywhere; a voice in the latents that the context has."""
    constant = built()
    constant.encoder.feature_norm.weight.zero_()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    constant.encoder.feature_norm.bias.fill_(1.0)  # pyright: ignore[reportCallIssue, reportArgumentType]
    states = shown(constant, constant(tone_batch(2, 0.5), step=0, progress=0.0))
    assert states[0] == "constant features"
    assert "not learning" in states
    voices = built(negatives="batch", negative_count=40)
    latents = torch.nn.functional.one_hot(torch.arange(4), 32).float()[:, None].expand(4, 24, 32).clone()
    latents[..., 4:] += 0.01 * torch.randn(4, 24, 28)
    encoder = voices.encoder
    encoder.latents = lambda waveforms: latents  # pyright: ignore[reportAttributeAccessIssue]
    encoder.projection = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    encoder.transform = lambda projected, valid, **_: TransformerOutput(projected, None)  # pyright: ignore[reportAttributeAccessIssue]
    for each in voices.heads.maps:
        each.weight.copy_(10 * torch.diag((torch.arange(32) < 4).float()))  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert shown(voices, voices(tone_batch(4, 0.5), step=0, progress=0.0))[0] == "speaker shortcut"


def shown(objective: Cpc, output: Any) -> list[str]:
    metrics = objective.metrics(output.terms, output.stats)
    return [each.state for each in objective.symptoms(metrics, {}) if each.present]


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["utterance", "batch"])
def test_tones_are_learnt(negatives: str) -> None:
    objective = built(steps=4, negative_count=20, negatives=negatives)
    before, after = map(numbers, learnt(objective, steps=60))
    assert before["loss"] > 0.97 * before["chance_loss"]
    assert after["loss"] < 0.9 * after["chance_loss"]
    assert after["own_win_rate"] > 0.6
    assert ("other_win_rate" in after) == (negatives == "batch")


def test_the_page() -> None:
    check_page(cpc)

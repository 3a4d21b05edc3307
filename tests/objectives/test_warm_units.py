"""The warm start on units: its term against a slow loop, its weight over the run, and nothing of it when it is off."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.files import read_header
from speechssl.objectives.wav2vec2 import Config, Wav2Vec2
from speechssl.train.pretrain import pretrain
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE, MICRO_RUN, NO_DROPOUT, changed, normalized_tones, toy_corpus

WARM = changed(MICRO_OBJECTIVE, warm_units__share=0.5, warm_units__weight=2.0, units__classes=7)
STILL = changed(MICRO_ENCODER, **NO_DROPOUT)


def built(config: Config) -> Wav2Vec2:
    torch.manual_seed(3)
    return Wav2Vec2(SpeechEncoder(STILL), config, seed=0)


@pytest.fixture
def batch() -> CropBatch:
    waveforms = torch.from_numpy(normalized_tones(3, 1.0))
    frames = int(SpeechEncoder(STILL).num_frames(torch.tensor(16000)))
    labels = torch.from_numpy(np.random.default_rng(0).integers(7, size=(3, frames)))
    return CropBatch(waveforms, np.arange(3), 3, labels=labels)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 2.0), (0.125, 1.5), (0.5, 0.0), (1.0, 0.0)])
def test_the_term_is_a_weighted_cross_entropy_of_the_units(batch: CropBatch, progress: float, weight: float) -> None:
    objective = built(WARM)
    head, labels = objective.warm_units, batch.labels
    assert head is not None
    assert labels is not None
    found = objective(batch, step=2, progress=progress)
    context = objective.context(batch, step=2)
    expected, correct = 0.0, 0
    for row, frame in objective.draw(batch, step=2).mask.nonzero().tolist():
        vector = head.project(context.frames[row, frame]).detach()
        scores = [float(torch.cosine_similarity(vector, unit, dim=0)) / 0.1 for unit in head.units.detach()]
        unit = int(labels[row, frame])
        expected += math.log(sum(math.exp(each) for each in scores)) - scores[unit]
        correct += scores[unit] == max(scores)
    count = float(found.stats["count"])
    assert float(found.terms["units"]) == pytest.approx(weight * expected, rel=1e-4)
    metrics = objective.metrics(found.terms, found.stats)
    assert metrics["unit_loss"] == pytest.approx(expected / count, rel=1e-4)
    assert metrics["unit_accuracy"] == pytest.approx(correct / count)
    assert metrics["unit_weight"] == pytest.approx(weight)


def test_after_it_the_loss_and_its_gradient_are_those_without(batch: CropBatch) -> None:
    warm, cold = built(WARM), built(MICRO_OBJECTIVE)
    plain = dataclasses.replace(batch, labels=None)
    outputs = [warm(batch, step=1, progress=0.5), cold(plain, step=1, progress=0.5)]
    assert torch.equal(outputs[0].total, outputs[1].total)
    for output in outputs:
        output.total.backward()
    for name, parameter in cold.named_parameters():
        torch.testing.assert_close(warm.get_parameter(name).grad, parameter.grad)
    head = [parameter.grad for name, parameter in warm.named_parameters() if name.startswith("warm_units.")]
    assert len(head) == 3
    assert all(each is not None and not each.any() for each in head)  # in the graph, as data parallelism needs


def test_nothing_of_it_without_a_share(batch: CropBatch) -> None:
    objective = built(MICRO_OBJECTIVE)
    assert objective.batch_spec.labels is None
    found = objective(dataclasses.replace(batch, labels=None), step=0, progress=0.0)
    everything = [*found.terms, *found.stats, *objective.metrics(found.terms, found.stats), *objective.state_dict()]
    assert not [each for each in everything if "unit" in each]
    assert MICRO_OBJECTIVE.more_curves() == ()
    assert objective.symptoms(objective.metrics(found.terms, found.stats), {})[-1].state == "not learning"


@pytest.mark.parametrize("change", [{"units": {"classes": 50}}, {"warm_units": {"weight": 2.0}}])
def test_settings_without_a_share_are_refused(change: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValidationError, match=r"set warm_units\.share above 0"):
        Config.model_validate(change)


@pytest.mark.parametrize(("weight", "loss", "present"), [(1.0, 1.94, True), (1.0, 1.5, False), (0.0, 1.94, False)])
def test_units_that_are_not_learnt_are_a_symptom_while_it_lasts(
    batch: CropBatch, weight: float, loss: float, present: bool
) -> None:
    objective = built(WARM)
    found = objective(batch, step=0, progress=0.0)
    metrics = objective.metrics(found.terms, found.stats)
    assert metrics["unit_chance"] == pytest.approx(math.log(7), abs=0.1)
    metrics |= {"unit_loss": loss, "unit_chance": math.log(7), "unit_weight": weight}
    symptom = objective.symptoms(metrics, {})[-1]
    assert (symptom.state, symptom.present) == ("units not learnt", present)
    assert symptom.evidence == f"loss of units {loss:.3f}, their entropy 1.946"


@pytest.mark.slow
def test_the_head_is_in_checkpoints_and_not_in_the_model(tmp_path: Path) -> None:
    pretrain([toy_corpus(tmp_path)], tmp_path / "run", config=changed(MICRO_RUN, loop__steps=2, objective=WARM))
    saved = read_header(tmp_path / "run" / "model.safetensors").shapes
    assert [name for name in saved if "warm_units" in name] == []
    assert "objective.project_context.weight" in saved
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["model"]
    assert [name for name in kept if name.startswith("warm_units.")] != []

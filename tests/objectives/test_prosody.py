"""The auxiliary prediction of prosody: its targets, its term against a slow loop, and nothing of it when it is off."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.data.batch import BatchSpec, CropBatch
from speechssl.data.crops import CropBatches, CropConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives import load_objective
from speechssl.objectives.base import Objective
from speechssl.objectives.prosody import MEASURES, ProsodyHead, prosody_metrics
from speechssl.train.pretrain import pretrain
from tests.objectives.on_tones import still_encoder
from tests.toys import RATE, ToyStore, changed, micro_run, normalized_tones, tones, toy_corpus

ROWS = 4
CARRIERS = ("hubert", "wav2vec2", "best_rq", "data2vec")


def built(name: str, weight: float) -> Objective:
    torch.manual_seed(0)
    one_mask = {"masks": 1} if name == "data2vec" else {}
    config = changed(micro_run(name).objective, prosody_weight=weight, **one_mask)
    return load_objective(name).build(SpeechEncoder(still_encoder()), config, seed=0)


@pytest.fixture
def batch() -> CropBatch:
    """Crops of unit variance from recordings of other levels."""
    waveforms = torch.from_numpy(normalized_tones(ROWS, 0.8))
    labels = torch.randint(100, (ROWS, 39), generator=torch.Generator().manual_seed(0))
    level = torch.tensor([0.01, 0.05, 0.1, 0.2])
    return CropBatch(waveforms, np.arange(ROWS), ROWS, labels=labels, level=level)


def test_targets_of_a_tone() -> None:
    """A sine of 200 Hz has a known F0, is voiced, and has the energy of the recording."""
    head = ProsodyHead(still_encoder(), 1.0)
    time = torch.arange(RATE) / RATE
    tone = math.sqrt(2) * torch.sin(2 * math.pi * 200 * time)
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    targets, known = head.targets(torch.stack([tone, noise]), torch.tensor([0.1, 0.01]))
    assert targets.shape == known.shape == (2, 49, 4)
    middle = targets[:, 24]
    assert float(middle[0, 0]) == pytest.approx((math.log2(200) - 7.4) / 0.6, abs=0.01)
    assert float(middle[0, 1]) == pytest.approx((1.0 - 0.6) / 0.33, abs=0.05)
    assert float(middle[0, 2]) == pytest.approx((-20 + 35) / 16, abs=0.05)  # 0.1 of full scale is -20 dB
    assert float(middle[1, 2]) == pytest.approx((-40 + 35) / 16, abs=0.1)
    assert known[0].all()
    assert known[..., 1:].all()
    assert not known[1, :, 0].any()


@pytest.mark.parametrize("name", CARRIERS)
def test_the_term_is_added_at_masked_frames(name: str, batch: CropBatch) -> None:
    without, objective = built(name, 0.0), built(name, 0.5)
    plain, found = without(batch, step=2, progress=0.0), objective(batch, step=2, progress=0.0)
    context = objective.context(batch, step=2)
    head = objective.prosody
    assert isinstance(head, ProsodyHead)
    assert context is not None
    assert context.hidden is not None
    assert batch.level is not None
    targets, known = head.targets(batch.waveforms, batch.level)
    expected = 0.0
    for row, frame in context.hidden.nonzero().tolist():
        predicted = head.predict(context.frames[row, frame]).detach()
        for place in range(4):
            if known[row, frame, place]:
                expected += 0.5 * float((predicted[place] - targets[row, frame, place]).square()) / 4
    assert float(found.terms["prosody"]) == pytest.approx(expected, rel=1e-3)
    assert float((found.total - plain.total).detach()) == pytest.approx(expected, rel=1e-3)
    for key, value in plain.terms.items():  # neither draws nor the initialisation of anything else change
        assert torch.equal(found.terms[key], value)
    metrics = objective.metrics(found.terms, found.stats)
    assert metrics["prosody_loss"] == pytest.approx(expected / float(found.stats["count"]), rel=1e-3)


def test_several_masks_per_crop(batch: CropBatch) -> None:
    """Two masks give the sum of their terms."""
    head = ProsodyHead(still_encoder(), 0.5)
    context, masks = torch.randn(2, ROWS, 39, 32), torch.rand(2, ROWS, 39) < 0.4
    assert batch.level is not None
    both = head(context.flatten(0, 1), masks.flatten(0, 1), batch.waveforms, batch.level)
    each = [head(*pair, batch.waveforms, batch.level) for pair in zip(context, masks, strict=True)]
    assert float(both.total.detach()) == pytest.approx(sum(float(one.total.detach()) for one in each), rel=1e-4)


@pytest.mark.parametrize("name", CARRIERS)
def test_off_it_leaves_no_trace(name: str, batch: CropBatch) -> None:
    objective = built(name, 0.0)
    found = objective(batch, step=0, progress=0.0)
    metrics = objective.metrics(found.terms, found.stats)
    everything = [*objective.state_dict(), *found.terms, *found.stats, *metrics]
    assert not [each for each in everything if "prosody" in each or "explained" in each]
    assert not objective.batch_spec.level
    assert objective.config.more_curves() == ()  # pyright: ignore -- every objective has settings


@pytest.mark.parametrize("name", CARRIERS)
def test_parts_add_up(name: str, batch: CropBatch) -> None:
    objective = built(name, 0.5)
    assert objective.batch_spec.level
    pieces = batch.micro_batches(2)
    shared = objective.gather(pieces, step=1) or None
    outputs = [objective(piece, step=1, progress=0.0, shared=shared) for piece in pieces]
    whole = objective(batch, step=1, progress=0.0)
    for key in ("prosody", "prosody_error", "prosody_known", "prosody_sum"):
        torch.testing.assert_close(sum(each.stats[key] for each in outputs), whole.stats[key], rtol=1e-4, atol=1e-4)

    def gradient(*totals: Tensor) -> Tensor:
        objective.zero_grad()
        for total in totals:
            total.backward()
        weight = objective.get_parameter("prosody.predict.weight").grad
        assert weight is not None
        return weight.clone()

    torch.testing.assert_close(gradient(*(each.total for each in outputs)), gradient(whole.total), rtol=1e-4, atol=1e-4)


def test_explained_variance() -> None:
    """A perfect prediction explains all of it, the mean none."""
    values = torch.tensor([0.0, 2.0, 4.0])
    stats = {
        "count": torch.tensor(3.0),
        "prosody": torch.tensor(6.0),
        "prosody_error": torch.tensor([0.0, 8.0, 4.0, 16.0]),
        "prosody_known": torch.full((4,), 3.0),
        "prosody_sum": values.sum().expand(4),
        "prosody_square": values.square().sum().expand(4),
    }
    found = prosody_metrics(stats)
    assert [found[f"{each}_explained"] for each in MEASURES] == pytest.approx([1.0, 0.0, 0.5, -1.0], abs=1e-5)
    assert found["prosody_loss"] == pytest.approx(2.0)
    assert prosody_metrics({}) == {}


@pytest.mark.parametrize("normalize", [True, False])
def test_a_batch_has_the_level_of_its_recordings(normalize: bool) -> None:
    samples = [(gain * 32767 * tones(1.5, seed=seed)).astype(np.int16) for seed, gain in enumerate((0.1, 1.0, 0.4))]
    settings = CropConfig(seconds=1.0, min_seconds=1.0, batch_seconds=3.0, normalize=normalize)
    batches = CropBatches([ToyStore(samples)], settings, seed=0, spec=BatchSpec(level=True))
    plain = CropBatches([ToyStore(samples)], changed(settings, normalize=False), seed=0)
    batch = batches.batch(3)
    assert batch.level is not None
    recorded = plain.batch(3).waveforms
    expected = recorded - recorded.mean(dim=1, keepdim=True) if normalize else recorded
    torch.testing.assert_close(batch.waveforms * batch.level.unsqueeze(1), expected, rtol=1e-4, atol=1e-6)
    part = batches.batch(3, rank=1, world_size=3)
    assert part.level is not None
    assert torch.equal(part.level, batch.level[part.rows])
    assert plain.batch(3).level is None


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIERS)
def test_a_run_logs_and_draws_it(name: str, tmp_path: Path) -> None:
    run: Any = changed(micro_run(name), objective__prosody_weight=0.5, loop__steps=4, loop__validate_every=2)
    assert pretrain([toy_corpus(tmp_path)], tmp_path / "run", config=run).finished
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("f0_explained" in row and "valid" in row for row in rows)
    curves = json.loads((tmp_path / "run" / "metrics.json").read_text())["curves"]
    assert [each["metric"] for each in curves][-4:] == [f"{each}_explained" for each in MEASURES]

"""BEST-RQ against slow and obvious targets and losses, another quantizer, and runs that fail in known ways."""

import math

import pytest
import torch
from torch import Tensor

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.features import Framing, log_mel
from speechssl.nn.masking import MaskConfig
from speechssl.nn.random_quantizer import RandomQuantizer
from speechssl.objectives import best_rq
from speechssl.objectives.best_rq import BestRq, BestRqConfig
from speechssl.train.pretrain_config import config_of
from tests.objectives.on_tones import learnt, noise_batch, still_encoder
from tests.objectives.pages import check_page
from tests.toys import micro_run

CONFIG = BestRqConfig(codebooks=2, codes=7, dim=3, mask=MaskConfig(length=4))


@pytest.fixture
def objective() -> BestRq:
    torch.manual_seed(0)
    return BestRq(SpeechEncoder(still_encoder()), CONFIG, seed=5)


@pytest.fixture
def batch() -> CropBatch:
    return noise_batch()


def slow_targets(waveform: Tensor, quantizer: RandomQuantizer) -> list[list[int]]:
    """Section 3.1 for one crop: log-mel of zero mean and unit deviation, stacked, projected, nearest code."""
    mel = log_mel(waveform[None], torch.tensor([len(waveform)]), framing=Framing(hop=160, field=240))[0]
    mel = mel[: len(mel) // 2 * 2]
    mel = (mel - mel.mean(dim=0)) / mel.std(dim=0, correction=0)
    found: list[list[int]] = []
    for frame in range(len(mel) // 2):
        stacked = torch.cat([mel[2 * frame], mel[2 * frame + 1]])
        chosen: list[int] = []
        for projection, codes in zip(quantizer.projection, quantizer.codes, strict=True):
            vector = stacked @ projection
            distances = [float((code / code.norm() - vector / vector.norm()).norm()) for code in codes]
            chosen.append(distances.index(min(distances)))
        found.append(chosen)
    return found


def test_the_targets_and_the_loss_are_the_papers(objective: BestRq, batch: CropBatch) -> None:
    found = objective(batch, step=2, progress=0.0)
    context = objective.context(batch, step=2)
    assert context.hidden is not None
    codes = [slow_targets(each, objective.quantizer) for each in batch.waveforms]
    assert objective.targets(batch.waveforms).tolist() == codes
    expected, correct, count = 0.0, [0, 0], 0
    for row, frame in context.hidden.nonzero().tolist():
        scores = objective.predict(context.frames[row, frame]).detach().tolist()
        for book in range(2):
            own, code = scores[7 * book : 7 * book + 7], codes[row][frame][book]
            expected += (math.log(sum(math.exp(each) for each in own)) - own[code]) / 2
            correct[book] += own[code] == max(own)
        count += 1
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert (found.stats["correct"].tolist(), int(found.stats["count"])) == (correct, count)
    assert found.stats["targets"].sum(dim=-1).tolist() == [count, count]


@pytest.mark.slow  # to import it
def test_the_quantizer_of_another_library() -> None:
    """Codes equal those of vector-quantize-pytorch with the same projection and codes.

    With several codebooks it projects a second time, by a matrix that could be trained.
    """
    from vector_quantize_pytorch import RandomProjectionQuantizer

    torch.manual_seed(0)
    theirs = RandomProjectionQuantizer(dim=40, num_codebooks=1, codebook_dim=8, codebook_size=50, norm=False)
    ours = RandomQuantizer(40, codebooks=1, codes=50, dim=8, seed=0)
    frames = torch.randn(2, 60, 40)
    different = theirs(frames).flatten() != ours(frames.flatten(0, 1)).flatten()
    assert different.any()
    state = theirs.state_dict()
    (codes,) = (value for key, value in state.items() if key.endswith("embed"))
    ours.load_state_dict({"projection": state["rand_projs"], "codes": codes})
    assert torch.equal(theirs(frames).flatten(), ours(frames.flatten(0, 1)).flatten())


def test_the_quantizer_is_drawn_from_the_seed_and_not_trained(objective: BestRq) -> None:
    first, same, other = (RandomQuantizer(160, codebooks=2, codes=7, dim=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.projection, objective.quantizer.projection)
    assert torch.equal(first.codes, same.codes)
    assert not torch.equal(first.codes, other.codes)
    assert not any(key.startswith("quantizer") for key, _ in objective.named_parameters())
    assert {"quantizer.projection", "quantizer.codes"} <= objective.state_dict().keys()


def test_codes_depend_neither_on_level_nor_on_a_fixed_filter(objective: BestRq) -> None:
    """What is constant over a crop is normalised away: here 40 dB."""
    loud = noise_batch().waveforms
    same = objective.targets(loud) == objective.targets(0.01 * loud)
    assert float(same.float().mean()) > 0.95


@pytest.mark.slow
def test_it_learns_on_tones() -> None:
    torch.manual_seed(0)
    config = BestRqConfig(codebooks=2, codes=8, mask=MaskConfig(length=2, probability=0.3))  # phones last 3 frames
    before, after = learnt(BestRq(SpeechEncoder(still_encoder()), config, seed=0), steps=40, rate=1e-2)
    assert after["loss"] < 0.95 * after["chance_loss"] < before["loss"]
    assert after["accuracy"] > 1.3 * after["largest_share"]


GOOD = {
    "code_perplexity": 150.0,
    "coverage": 0.6,
    "largest_share": 0.05,
    "predicted_perplexity": 30.0,
    "loss": 3.0,
    "chance_loss": 5.0,
}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"code_perplexity": 1.5, "coverage": 0.01}, "few codes"),
        ({"largest_share": 0.7}, "dominant code"),
        ({"predicted_perplexity": 1.1}, "constant prediction"),
        ({"loss": 4.99}, "not learning"),
    ],
)
def test_symptoms(objective: BestRq, changes: dict[str, float], state: str) -> None:
    assert [each.state for each in objective.symptoms(GOOD, {}) if each.present] == []
    found = [each for each in objective.symptoms(GOOD | changes, {}) if each.present]
    assert [each.state for each in found] == [state]
    assert "objective." in found[0].advice or "optim." in found[0].advice


def test_frames_of_one_direction_have_few_codes(objective: BestRq) -> None:
    """The planted failure: without the normalisation an offset, such as the level, decides the code."""
    frames = torch.randn(200, 160)
    spread, offset = (objective.quantizer(each) for each in (frames, frames - 23.0))
    counts = torch.stack([torch.bincount(offset[:, book], minlength=7) for book in range(2)]).float()
    stats = {"count": torch.tensor(200.0), "correct": torch.zeros(2), "targets": counts, "predicted": counts}
    metrics = objective.metrics({"codes": torch.tensor(200.0)}, stats)
    assert [each.state for each in objective.symptoms(metrics, {}) if each.present][:2] == [
        "few codes",
        "dominant code",
    ]
    assert all(len(torch.unique(spread[:, book])) == 7 for book in range(2))


def test_a_stack_that_the_hop_does_not_allow() -> None:
    run = micro_run("best_rq").model_dump()
    with pytest.raises(ValueError, match=r"objective\.stack=3: 3 log-mel frames for each frame of 400 samples"):
        config_of("best_rq").model_validate(run | {"objective": run["objective"] | {"stack": 3}})


def test_the_page() -> None:
    check_page(best_rq)

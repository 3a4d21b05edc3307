"""A label prior and a loss at half depth against their definitions, and in runs."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore
from speechssl.models.ctc import CTCModel, CTCOutput, ctc_loss
from speechssl.models.heads import load_head
from speechssl.models.storage import load_encoder
from speechssl.train.ctc_terms import CTCTerms, CTCTermsConfig
from tests.toys import changed
from tests.train.conftest import tensors
from tests.train.labelled import CLASSIFIER, CTC
from tests.train.test_finetune import run

PRIOR, MIDDLE = CTCTermsConfig(label_prior=0.4), CTCTermsConfig(middle=0.3)
TARGETS = [[1, 2], [2]]


def emissions(*, requires_grad: bool = False) -> tuple[torch.Tensor, CTCOutput]:
    """Two utterances of four and three frames, three symbols, four dimensions at half depth."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, generator=generator).requires_grad_(requires_grad)
    middle = torch.randn(2, 4, 4, generator=generator)
    return logits, CTCOutput(logits.log_softmax(dim=-1), torch.tensor([4, 3]), middle)


def over_paths(scores: torch.Tensor, target: Sequence[int]) -> torch.Tensor:
    """The negative logarithm of the sum over all paths, which need not be probabilities."""
    paths = [
        path
        for path in itertools.product(range(scores.shape[1]), repeat=len(scores))
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == list(target)
    ]
    sums = [scores[range(len(scores)), list(path)].sum() for path in paths]
    return -torch.stack(sums).logsumexp(dim=0)


def test_probabilities_are_divided_by_a_power_of_the_prior() -> None:
    """Loss and gradient of the definition, which sums over paths one by one."""
    terms = CTCTerms(PRIOR, dim=4, symbols=3)
    terms.prior.copy_(torch.tensor([0.8, 0.15, 0.05]))
    logits, output = emissions(requires_grad=True)
    scores = output.log_probs - 0.4 * terms.prior.log()
    expected = over_paths(scores[0], TARGETS[0]) + over_paths(scores[1, :3], TARGETS[1])
    got = terms(output, TARGETS)
    torch.testing.assert_close(got, expected)
    ours, theirs = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (got, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    plain = torch.autograd.grad(ctc_loss(output, TARGETS).sum(), logits, retain_graph=True)[0]
    assert (ours - plain).abs().max() > 0.01


def test_the_prior_is_the_running_mean_of_valid_frames() -> None:
    terms = CTCTerms(PRIOR, dim=4, symbols=3)
    _, output = emissions()
    terms(output, TARGETS)
    terms.after_update()
    probs = output.log_probs.exp()
    mean = torch.cat([probs[0], probs[1, :3]]).mean(dim=0)
    torch.testing.assert_close(terms.prior, 0.99 * torch.full((3,), 1 / 3) + 0.01 * mean)
    before = terms.prior.clone()
    terms.after_update()  # nothing was seen
    torch.testing.assert_close(terms.prior, 0.99 * before)


def test_half_depth() -> None:
    terms = CTCTerms(MIDDLE, dim=4, symbols=3)
    _, output = emissions()
    assert terms.output is not None
    assert output.middle is not None
    early = CTCOutput(terms.output(output.middle).log_softmax(dim=-1), output.num_frames)
    expected = ctc_loss(output, TARGETS).sum() + 0.3 * ctc_loss(early, TARGETS).sum()
    torch.testing.assert_close(terms(output, TARGETS), expected)


def test_settings_without_effect(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ctc_terms: additions to the CTC loss, which a classifier does not have"):
        run(store, tmp_path / "run", changed(CLASSIFIER, ctc_terms__middle=0.3), start=start, train="012")
    with pytest.raises(UserError, match="reset_blocks=1: without a start all weights are random"):
        run(store, tmp_path / "run", changed(CTC, reset_blocks=1), start=None, train="012")
    with pytest.raises(UserError, match="reset_blocks=9: the encoder has 2 blocks"):
        run(store, tmp_path / "run", changed(CTC, reset_blocks=9), start=start, train="012")


def test_blocks_at_the_top_begin_anew(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    """At a rate of nearly nothing the model is its start: all but the top block are those of pretraining."""
    still = changed(CTC, reset_blocks=1, loop__steps=1, optim__lr=1e-12)
    run(store, tmp_path, still, start=start, train="012")
    before, after = load_encoder(start).state_dict(), load_encoder(tmp_path).state_dict()
    moved = {name for name, value in before.items() if (value - after[name]).abs().max() > 1e-6}
    assert moved
    assert all(name.startswith("transformer.layers.1.") for name in moved)


def test_nothing_added_is_in_the_model(store: WaveformStore, start: Path, tmp_path: Path) -> None:
    added = changed(CTC, ctc_terms__label_prior=0.3, ctc_terms__middle=0.3, loop__steps=2)
    run(store, tmp_path, added, start=start, train="012")
    model, state = load_head(tmp_path), tensors(tmp_path)
    assert {name for name in state if name.startswith("/model/terms.")} == {
        f"/model/terms.{name}" for name in ("prior", "output.weight", "output.bias")
    }
    assert isinstance(model, CTCModel)
    assert not any("terms" in name for name in model.state_dict())

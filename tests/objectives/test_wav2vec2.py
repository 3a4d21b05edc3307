"""The contrastive loss against a slow reference, closed forms, and what makes batches in parts equal whole ones."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.features import log_mel
from speechssl.objectives import wav2vec2
from speechssl.objectives.wav2vec2 import Wav2Vec2, Wav2Vec2Config, contrastive_term, diversity_term, entropy
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE, NO_DROPOUT, changed, normalized_tones

ROWS = 8


def build(seed: int = 0, *, weights: int = 0, **changes: object) -> Wav2Vec2:
    """A micro model without dropout, in training mode."""
    torch.manual_seed(weights)
    encoder = SpeechEncoder(changed(MICRO_ENCODER, **NO_DROPOUT))
    return Wav2Vec2(encoder, changed(MICRO_OBJECTIVE, **changes), seed=seed)


@pytest.fixture(scope="module")
def waveforms() -> Tensor:
    return torch.from_numpy(normalized_tones(ROWS, 0.7))


@pytest.fixture(scope="module")
def whole(waveforms: Tensor) -> CropBatch:
    return CropBatch(waveforms, np.arange(ROWS), ROWS)


def part(crops: CropBatch, rows: list[int]) -> CropBatch:
    return CropBatch(crops.waveforms[rows], crops.rows[rows], crops.global_rows)


def gradients(objective: Wav2Vec2, *totals: Tensor) -> dict[str, Tensor]:
    objective.zero_grad()
    for total in totals:
        total.backward()
    return {name: each.grad.clone() for name, each in objective.named_parameters() if each.grad is not None}


# The contrastive term


def slow_info_nce(
    context: Tensor, targets: Tensor, codes: Tensor, negatives: Tensor, temperature: float
) -> tuple[float, int, float]:
    """Sum of losses, number of right answers, sum of chance losses: one masked frame after the other, in float64."""
    loss, correct, chance = 0.0, 0, 0.0
    for row in range(context.shape[0]):
        for frame in range(context.shape[1]):
            vector = context[row, frame].double()

            def score(other: int, vector: Tensor = vector, row: int = row) -> float:
                return float(F.cosine_similarity(vector, targets[row, other].double(), dim=0)) / temperature

            others = [
                int(other)
                for other in negatives[row, frame]
                if codes[row, other].tolist() != codes[row, frame].tolist()
            ]
            positive, wrong = score(frame), [score(other) for other in others]
            loss += math.log(sum(math.exp(each) for each in [positive, *wrong])) - positive
            correct += all(positive > each for each in wrong)
            chance += math.log(1 + len(others))
    return loss, correct, chance


@pytest.mark.parametrize(("codes", "temperature"), [(2, 0.1), (3, 1.0), (50, 0.5)])
def test_the_contrastive_term_equals_a_slow_loop(codes: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(codes)
    context, targets = (torch.randn(2, 7, 5, generator=generator) for _ in range(2))
    chosen = torch.randint(codes, (2, 7, 2), generator=generator)
    negatives = torch.randint(6, (2, 7, 11), generator=generator)
    negatives += negatives >= torch.arange(7)[:, None]
    got = contrastive_term(context, targets, chosen, negatives, temperature=temperature)
    loss, correct, chance = slow_info_nce(context, targets, chosen, negatives, temperature)
    assert float(got.total) == pytest.approx(loss, rel=1e-5)
    assert float(got.stats["chance"]) == pytest.approx(chance, rel=1e-6)
    assert int(got.stats["correct"]) == correct


def test_distractors_with_the_targets_codes_do_not_count() -> None:
    context = torch.randn(1, 4, 6)
    targets = torch.randn(1, 4, 6, requires_grad=True)
    codes = torch.tensor([[[1, 2], [1, 2], [1, 3], [0, 2]]])  # the second is the first's twin, the others are not
    negatives = torch.tensor([[[1, 1, 2], [0, 2, 3], [0, 1, 3], [0, 1, 2]]])
    first = torch.zeros(1, 4, 6).index_copy_(1, torch.tensor([0]), context[:, :1])  # only the first frame predicts
    loss = contrastive_term(first, targets, codes, negatives, temperature=0.1).total
    (gradient,) = torch.autograd.grad(loss, targets)
    assert gradient[0, 1].abs().max() == 0
    assert gradient[0, 2].abs().max() > 0
    alike = torch.zeros(1, 4, 2, dtype=torch.long)
    collapsed = contrastive_term(context, targets.detach(), alike, negatives, temperature=0.1)
    assert float(collapsed.total) == 0
    assert float(collapsed.stats["chance"]) == 0


def test_twins_are_told_by_their_codes_also_in_bf16() -> None:
    """Vectors of equal codes may differ in the last bit; they must be left out all the same."""
    codes = torch.tensor([[[1, 2], [1, 2], [0, 0]]])
    targets = torch.randn(1, 3, 8)
    targets[0, 1] = targets[0, 0] * 1.01
    negatives = torch.tensor([[[1, 2], [0, 2], [0, 1]]])
    context = torch.randn(1, 3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got = contrastive_term(context.bfloat16(), targets.bfloat16(), codes, negatives, temperature=0.1)
    assert got.total.dtype == torch.float32
    loss, _, chance = slow_info_nce(context.bfloat16(), targets.bfloat16(), codes, negatives, 0.1)
    assert float(got.total) == pytest.approx(loss, rel=1e-5)
    assert float(got.stats["chance"]) == pytest.approx(chance)


def test_equal_scores_give_chance() -> None:
    codes = torch.arange(12).reshape(1, 6, 2)
    negatives = torch.from_numpy(wav2vec2.sample_negatives(1, 6, 9, rng=np.random.default_rng(0)))
    got = contrastive_term(torch.ones(1, 6, 3), torch.ones(1, 6, 3), codes, negatives, temperature=0.1)
    assert float(got.total) / 6 == pytest.approx(math.log(10), rel=1e-6)
    assert float(got.stats["chance"]) / 6 == pytest.approx(math.log(10), rel=1e-6)


def test_the_positive_is_never_among_the_negatives(whole: CropBatch) -> None:
    objective = build()
    for step in range(5):
        negatives = objective.draw(whole, step=step).negatives
        masked = negatives.shape[1]
        assert not (negatives == torch.arange(masked)[:, None]).any()
        assert negatives.min() >= 0
        assert negatives.max() < masked
        assert len(negatives.unique()) == masked  # every other masked frame serves


# Diversity


def fairseq_diversity(probs: Tensor) -> Tensor:
    """``(GV - sum of perplexities) / GV`` times the sample size, as the criterion of fairseq adds it."""
    mean = probs.mean(dim=0)
    perplexity = torch.exp(-torch.sum(mean * torch.log(mean + 1e-7), dim=-1)).sum()
    number = mean.numel()
    return (number - perplexity) / number * len(probs)


def random_probs(frames: int, seed: int = 0) -> Tensor:
    logits = 3 * torch.randn(frames, 2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(dim=-1).requires_grad_()


def test_diversity_has_the_value_and_gradient_of_fairseqs_form() -> None:
    probs = random_probs(9)
    ours, theirs = diversity_term(probs), fairseq_diversity(probs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, probs)[0], torch.autograd.grad(theirs, probs)[0])


def test_diversity_in_parts_adds_up_to_the_whole() -> None:
    probs = random_probs(12)
    mean = probs.detach().mean(dim=0)
    parts = diversity_term(probs[:5], mean) + diversity_term(probs[5:6], mean) + diversity_term(probs[6:], mean)
    theirs = fairseq_diversity(probs)
    torch.testing.assert_close(parts, theirs)
    torch.testing.assert_close(torch.autograd.grad(parts, probs)[0], torch.autograd.grad(theirs, probs)[0])


def test_diversity_is_zero_for_uniform_and_largest_for_one_code() -> None:
    uniform = torch.full((4, 2, 8), 1 / 8)
    single = F.one_hot(torch.zeros(4, 2, dtype=torch.long), 8).float()
    assert float(diversity_term(uniform)) / 4 == pytest.approx(0, abs=1e-5)
    assert float(diversity_term(single)) / 4 == pytest.approx(1 - 1 / 8, abs=1e-5)


# Parts and the whole


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_give_the_gradients_of_one_big_batch(whole: CropBatch, parts: int) -> None:
    objective = build(diversity_weight=2.0, feature_penalty=1.0)
    expected = gradients(objective, objective(whole, step=3, progress=0.2).total)
    pieces = [part(whole, rows.tolist()) for rows in np.array_split(np.arange(ROWS), parts)]
    shared = objective.gather(pieces, step=3)
    totals = [objective(piece, step=3, progress=0.2, shared=shared).total for piece in pieces]
    got = gradients(objective, *totals)
    assert got.keys() == expected.keys()
    count = float(objective(whole, step=3, progress=0.2).stats["count"])
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() / count <= 1e-5 * max(1.0, float(gradient.abs().max()) / count), name
    # What the test can see: without the whole batch's mean the diversity of each part would pull elsewhere.
    apart = gradients(objective, *(objective(piece, step=3, progress=0.2).total for piece in pieces))
    scores = "quantizer.scores.weight"
    assert (apart[scores] - expected[scores]).abs().max() > 20 * (got[scores] - expected[scores]).abs().max()


def test_terms_and_stats_of_parts_add_up(whole: CropBatch) -> None:
    objective = build(diversity_weight=2.0)
    everything = objective(whole, step=1, progress=0.5)
    pieces = [part(whole, rows) for rows in ([0, 1, 2], [3], [4, 5, 6, 7])]
    shared = {"probs": everything.stats["probs"]}
    losses = [objective(piece, step=1, progress=0.5, shared=shared) for piece in pieces]
    for name, value in everything.stats.items():
        torch.testing.assert_close(sum(loss.stats[name] for loss in losses), value, rtol=1e-4, atol=1e-4)
    for name, value in everything.terms.items():
        torch.testing.assert_close(sum(loss.terms[name] for loss in losses), value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(everything.total, torch.stack(list(everything.terms.values())).sum())


def test_draws_of_a_slice_are_slices_of_the_whole_draw(whole: CropBatch) -> None:
    objective = build()
    everything = objective.draw(whole, step=5)
    masked = everything.negatives.shape[1]
    noise = objective._noise(whole, masked, step=5).unflatten(0, (ROWS, masked))
    for rows in ([0], [3, 4, 5], [7, 2]):
        piece = part(whole, rows)
        draws = objective.draw(piece, step=5)
        assert torch.equal(draws.mask, everything.mask[rows])
        assert torch.equal(draws.negatives, everything.negatives[rows])
        assert torch.equal(objective._noise(piece, masked, step=5).unflatten(0, (len(rows), masked)), noise[rows])
    assert not torch.equal(noise[0], noise[1])


def test_everything_follows_from_seed_and_step(whole: CropBatch) -> None:
    def total(seed: int, step: int, torch_seed: int) -> float:
        objective = build(seed)
        torch.manual_seed(torch_seed)  # the global stream must not matter
        return float(objective(whole, step=step, progress=0.1).total.detach())

    first = total(0, 4, torch_seed=1)
    assert total(0, 4, torch_seed=2) == first
    assert total(0, 5, torch_seed=1) != first
    assert total(1, 4, torch_seed=1) != first


def test_masks_distractors_and_noise_each_change_with_seed_and_step(whole: CropBatch) -> None:
    places = [(0, 0), (0, 1), (1, 0)]
    draws = [build(seed).draw(whole, step=step) for seed, step in places]
    noises = [build(seed)._noise(whole, 4, step=step) for seed, step in places]
    fewest = min(each.negatives.shape[1] for each in draws)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(draws[first].mask, draws[second].mask)
        assert not torch.equal(draws[first].negatives[:, :fewest] % 5, draws[second].negatives[:, :fewest] % 5)
        assert not torch.equal(noises[first], noises[second])


# Gradients


def cut(objective: Wav2Vec2, name: str) -> None:
    """Stop gradients at the output of one of the encoder's methods."""
    method: Callable[..., Tensor] = getattr(objective.encoder, name)
    setattr(objective.encoder, name, lambda latents: method(latents).detach())


def test_gradients_flow_through_the_targets(whole: CropBatch) -> None:
    """Peers have detached the targets by mistake: then quantizer and convolutions learn from the context alone."""
    objective = build(diversity_weight=0.0, feature_penalty=0.0)
    cut(objective, "project")
    found = gradients(objective, objective(whole, step=0, progress=0.0).total)
    assert "encoder.projection.weight" not in found  # the cut holds: what follows came through the targets
    names = ["quantizer.scores.weight", "quantizer.codebooks", "project_target.weight", "encoder.feature_norm.weight"]
    convolutions = [name for name in found if name.startswith("encoder.features") and name.endswith("conv.weight")]
    assert len(convolutions) == len(MICRO_ENCODER.conv.layers)
    for name in [*names, *convolutions]:
        assert found[name].abs().max() > 0, name


def test_gradients_flow_through_the_context(whole: CropBatch) -> None:
    objective = build(diversity_weight=0.0, feature_penalty=0.0)
    target = objective._targets
    objective._targets = lambda latents, mask: target(latents, mask).detach()
    found = gradients(objective, objective(whole, step=0, progress=0.0).total)
    for name in ("mask_embedding", "encoder.projection.weight", "encoder.features.layers.0.conv.weight"):
        assert found[name].abs().max() > 0, name


def test_targets_are_the_unmasked_latents(whole: CropBatch) -> None:
    objective = build(quantizer__normalize_input=False).eval()
    draws = objective.draw(whole, step=0)
    latents = objective.encoder.latents(whole.waveforms)
    assert torch.equal(objective._targets(latents, draws.mask), latents[draws.mask])
    objective = build().eval()
    targets = objective._targets(latents, torch.ones_like(draws.mask)).unflatten(0, latents.shape[:2])
    torch.testing.assert_close(targets.mean(dim=1), torch.zeros_like(targets[:, 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.std(dim=1, correction=0), torch.ones_like(targets[:, 0]), atol=0.02, rtol=0)


def test_masked_frames_are_hidden_from_the_context(whole: CropBatch) -> None:
    """What the context network sees does not change with the latents under the mask."""
    objective = build()
    seen: list[Tensor] = []
    contextualize = objective.encoder.contextualize

    def look(projected: Tensor, num_frames: None, *, all_layers: bool) -> object:
        seen.append(projected)
        return contextualize(projected, num_frames, all_layers=all_layers)

    objective.encoder.contextualize = look
    objective(whole, step=0, progress=0.0)
    mask = objective.draw(whole, step=0).mask
    assert torch.equal(seen[0][mask], objective.mask_embedding.expand(int(mask.sum()), -1))
    project = objective.encoder.project(objective.encoder.latents(whole.waveforms))
    torch.testing.assert_close(seen[0][~mask], project[~mask])


def test_feature_gradient_scales_the_convolutions_alone(whole: CropBatch) -> None:
    full = build(feature_gradient=1.0)
    half = build(feature_gradient=0.5)
    none = build(feature_gradient=0.0)
    expected, halved, zero = (gradients(each, each(whole, step=2, progress=0.0).total) for each in (full, half, none))
    for name, gradient in expected.items():
        if name.startswith("encoder.features."):
            assert torch.equal(halved[name], 0.5 * gradient), name
            assert zero[name].abs().max() == 0
        else:
            assert torch.equal(halved[name], gradient), name


# Schedule, noise, metrics


def test_temperature_falls_by_the_fraction_of_the_run() -> None:
    objective = build(gumbel_start=2.0, gumbel_end=0.5, gumbel_decay=0.6)
    expected = {0.0: 2.0, 0.15: 2.0 * 0.25**0.25, 0.3: 1.0, 0.6: 0.5, 0.9: 0.5, 1.0: 0.5}
    assert {at: objective.temperature(at) for at in expected} == pytest.approx(expected)


def test_evaluation_draws_no_noise(whole: CropBatch) -> None:
    objective = build()
    training = objective(whole, step=0, progress=1.0).stats["codes"]
    objective.eval()
    with torch.no_grad():
        latents = objective.encoder.latents(whole.waveforms)
        targets = objective._targets(latents, objective.draw(whole, step=0).mask)
        likeliest = objective.quantizer(targets).probs.argmax(dim=-1)
        codes = objective(whole, step=0, progress=1.0).stats["codes"]
    assert torch.equal(codes, F.one_hot(likeliest, 24).sum(dim=0).float())
    assert not torch.equal(codes, training)


def test_metrics_against_their_definitions(whole: CropBatch) -> None:
    objective = build().eval()
    with torch.no_grad():
        loss = objective(whole, step=0, progress=1.0)
        features = objective.encoder.features(whole.waveforms).flatten(0, 1).double()
        targets = objective._targets(objective.encoder.latents(whole.waveforms), objective.draw(whole, step=0).mask)
        output = objective.quantizer(targets)
    metrics = objective.metrics(loss.terms, loss.stats)
    probs = output.probs.double()
    plain = [-sum(p * math.log(p) for p in group.tolist() if p > 0) for group in probs.mean(dim=0)]
    conditional = -(probs * torch.log(probs.clamp(min=1e-300))).sum(dim=-1).mean(dim=0)
    assert metrics["prob_perplexity"] == pytest.approx([math.exp(each) for each in plain], rel=1e-3)
    for group in range(2):
        share = torch.bincount(output.codes[:, group], minlength=24).double() / len(output.codes)
        used = math.exp(-sum(p * math.log(p) for p in share.tolist() if p > 0))
        assert metrics["code_perplexity"][group] == pytest.approx(used, rel=1e-3)
    assert metrics["determinism"] == pytest.approx(float(probs.amax(dim=-1).mean()), rel=1e-5)
    assert metrics["mutual_information"] == pytest.approx(float((torch.tensor(plain) - conditional).mean()), rel=1e-3)
    constant = float(features.mean(dim=0).square().sum() / features.square().sum(dim=1).mean())
    assert metrics["constant_share"] == pytest.approx(constant, rel=1e-4)
    count = int(loss.stats["count"])
    assert count == int(objective.draw(whole, step=0).mask.sum())
    assert metrics["loss"] == pytest.approx(loss.total.item() / count, rel=1e-5)
    assert metrics["feature_penalty"] == pytest.approx(0.1 * float(features.square().mean()), rel=1e-4)


def test_entropy_of_parts_of_certainty() -> None:
    assert float(entropy(torch.tensor([1.0, 0.0]))) == pytest.approx(0, abs=1e-6)
    assert float(entropy(torch.tensor([0.5, 0.5]))) == pytest.approx(math.log(2), abs=1e-6)


def test_shift_stability_counts_kept_codes(waveforms: Tensor) -> None:
    objective = build().eval()
    objective.quantizer.scores.weight.data.zero_()
    objective.quantizer.scores.bias.data[5] = 1.0
    assert objective.shift_stability(waveforms) == 1.0  # every frame has the same code
    objective = build().eval()
    codes = []
    for moved in (waveforms[:, : 11200 - 80], waveforms[:, 80:]):
        targets = F.layer_norm(objective.encoder.latents(moved).transpose(1, 2), (34,)).transpose(1, 2)  # over time
        codes.append(objective.quantizer.scores(targets).unflatten(-1, (2, 24)).argmax(dim=-1))
    kept = float((codes[0] == codes[1]).float().mean())
    assert objective.shift_stability(waveforms) == pytest.approx(kept, abs=0.005)
    assert kept < 0.95
    period = torch.sin(2 * math.pi * torch.arange(12000) / 80).expand(2, -1)  # a shift by 80 samples changes nothing
    assert build().eval().shift_stability(period.contiguous()) > 0.95


def log_mel_objective() -> Wav2Vec2:
    return build(targets="log-mel", feature_gradient=1.0, feature_penalty=0.0)


def test_log_mel_is_quantised_at_masked_frames(whole: CropBatch) -> None:
    objective = log_mel_objective()
    draws = objective.draw(whole, step=0)
    mel = log_mel(whole.waveforms, torch.full((ROWS,), whole.samples))
    mel = (mel - mel.mean(dim=1, keepdim=True)) / mel.std(dim=1, correction=0, keepdim=True)
    expected = objective.quantizer(mel[draws.mask])
    objective.eval()
    stats = objective(whole, step=0, progress=0.0).stats
    torch.testing.assert_close(stats["probs"], expected.probs.sum(dim=0).detach(), rtol=1e-3, atol=1e-3)
    assert objective.quantizer.scores.in_features == 80
    assert 0.0 < objective.shift_stability(whole.waveforms) <= 1.0


def test_codes_of_log_mel_do_not_train_the_convolutions(whole: CropBatch) -> None:
    """Without context, gradients reach the quantizer alone."""
    objective = log_mel_objective()
    with torch.no_grad():
        objective.project_context.weight.zero_()
    found = gradients(objective, objective(whole, step=0, progress=0.0).total)
    assert found["quantizer.scores.weight"].abs().max() > 0
    assert all(float(each.abs().max()) == 0 for key, each in found.items() if key.startswith("encoder."))


def test_log_mel_in_parts(whole: CropBatch) -> None:
    objective = log_mel_objective()
    expected = gradients(objective, objective(whole, step=1, progress=0.5).total)
    pieces = whole.micro_batches(2)
    shared = objective.gather(pieces, step=1)
    totals = [objective(piece, step=1, progress=0.5, shared=shared).total for piece in pieces]
    got = gradients(objective, *totals)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-3, atol=1e-3)


def test_paper_defaults_and_presets() -> None:
    base = Wav2Vec2Config()
    assert (base.negatives, base.logit_temperature, base.diversity_weight) == (100, 0.1, 0.1)
    assert (base.quantizer.groups, base.quantizer.codes, base.feature_gradient) == (2, 320, 0.1)
    assert build(negatives=100).chance_loss == pytest.approx(math.log(101))
    assert set(wav2vec2.PRESETS) == {"tiny", "small", "base", "large"}

"""wav2vec 2.0: contrastive prediction of quantised latents at masked frames.

Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", arXiv
2006.11477, section 3.2. Targets are quantised from unmasked latents and gradients flow into quantizer and feature
encoder. Loss arithmetic is fp32 with autocast off.

Differences from the paper, each a setting: schedules are fractions of the run; small presets start with phase-robust
frames and logits of a chosen scale, without feature penalty. Terms are *sums* over masked frames: the loop divides by
the count over micro-batches and ranks, so that accumulation, data parallelism and one big batch give the same gradient.
The diversity term is not a sum over frames, but its gradient is, once the mean code distribution of the whole batch is
known; see :func:`diversity_term`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.masking import MaskConfig, sample_negatives, span_mask
from speechssl.nn.quantizer import GumbelQuantizer, QuantizerConfig, gumbel_noise

_MASK, _NEGATIVES, _GUMBEL = 11, 12, 13  # what a random stream is for; part of its seed


class Wav2Vec2Config(Config):
    """The objective; defaults are the paper's BASE (fairseq ``wav2vec2_base_librispeech.yaml``)."""

    mask: MaskConfig = MaskConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    dim: PositiveInt = 256  # of the space where context and targets are compared
    negatives: PositiveInt = 100
    logit_temperature: PositiveFloat = 0.1
    diversity_weight: float = 0.1
    feature_penalty: float = 10.0  # weight of the mean square of the latents before their norm
    feature_gradient: float = 0.1  # scale of the gradient into the convolutions
    gumbel_start: float = 2.0
    gumbel_end: float = 0.5
    gumbel_decay: PositiveFloat = (
        0.7  # fraction of the run after which the end is reached (277k of 400k updates in fairseq)
    )


PRESETS: dict[str, Wav2Vec2Config] = {
    "tiny": Wav2Vec2Config(
        quantizer=QuantizerConfig(codes=160, dim=128, logit_std=5.0, normalize_input=True),
        dim=128,
        feature_penalty=0.0,
        feature_gradient=1.0,
    ),
    "small": Wav2Vec2Config(
        quantizer=QuantizerConfig(codes=160, dim=256, logit_std=5.0, normalize_input=True),
        feature_penalty=0.0,
        feature_gradient=1.0,
    ),
    "base": Wav2Vec2Config(),
    # fairseq wav2vec2_large_librivox.yaml
    "large": Wav2Vec2Config(
        quantizer=QuantizerConfig(dim=768), dim=768, feature_penalty=0.0, feature_gradient=1.0, gumbel_end=0.1
    ),
}


@dataclass(frozen=True)
class Crops:
    """Normalised waveforms of equal length on their device, with their places in the global batch."""

    waveforms: Float[Tensor, "batch samples"]
    rows: Int[np.ndarray, " batch"]
    global_rows: int


@dataclass(frozen=True)
class Draws:
    """Which frames are masked (equally many a row), and each one's distractors among the row's masked frames."""

    mask: Bool[Tensor, "batch frames"]
    negatives: Int[Tensor, "batch masked negatives"]


@dataclass(frozen=True)
class Loss:
    """Sums over the masked frames of one (micro-)batch, and what to log.

    ``total`` is differentiable and is to be divided by the number of masked frames of the whole effective batch;
    ``terms`` are its weighted parts, detached; ``stats`` are detached sums that add up over micro-batches and ranks,
    ``count`` (masked frames) among them.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Tensor]
    stats: dict[str, Tensor]


class Wav2Vec2(nn.Module):
    """Encoder, quantizer and the two projections of the contrastive task.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: of masks, distractors and Gumbel noise.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Wav2Vec2(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> loss = objective(Crops(torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> sorted(loss.terms), int(loss.stats["count"])
        (['contrastive', 'diversity', 'feature_penalty'], 84)
    """

    def __init__(self, encoder: SpeechEncoder, config: Wav2Vec2Config, *, seed: int):
        super().__init__()
        self.config, self.seed = config, seed
        self.encoder = encoder
        self.quantizer = GumbelQuantizer(encoder.config.conv.dim, config.quantizer)
        self.project_context = nn.Linear(encoder.config.dim, config.dim)
        self.project_target = nn.Linear(config.quantizer.dim, config.dim)
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))  # fairseq's uniform

    @property
    def chance_loss(self) -> float:
        """Contrastive loss of a model that cannot tell the target from its distractors, nats."""
        return math.log(1 + self.config.negatives)

    def temperature(self, progress: float) -> float:
        """Gumbel temperature at a fraction of the run: geometric from start to end, then constant."""
        share = min(1.0, progress / self.config.gumbel_decay)
        return self.config.gumbel_start * (self.config.gumbel_end / self.config.gumbel_start) ** share

    def forward(self, crops: Crops, *, step: int, progress: float, mean_probs: Tensor | None = None) -> Loss:
        """Loss of a (micro-)batch.

        Args:
            crops: masks, distractors and noise are functions of (seed, step, place in the global batch).
            step: number of the update.
            progress: fraction of the run done, for the temperature.
            mean_probs: mean code distribution of the whole effective batch (groups, codes), where that is more than
                this batch (:meth:`code_distribution`).
        """
        draws = self.draw(crops, step=step)
        noise = self._noise(crops, draws.negatives.shape[1], step=step) if self.training else None
        return self.loss(
            crops.waveforms, draws, temperature=self.temperature(progress), noise=noise, mean_probs=mean_probs
        )

    def draw(self, crops: Crops, *, step: int) -> Draws:
        """Masks and distractors of these crops, sliced from the draw for the whole global batch."""
        frames = int(self.encoder.num_frames(torch.tensor(crops.waveforms.shape[1])))
        rng = np.random.default_rng((self.seed, _MASK, step))
        mask = span_mask(np.full(crops.global_rows, frames), self.config.mask, rng=rng)
        rng = np.random.default_rng((self.seed, _NEGATIVES, step))
        negatives = sample_negatives(crops.global_rows, int(mask[0].sum()), self.config.negatives, rng=rng)
        device = crops.waveforms.device
        return Draws(torch.from_numpy(mask[crops.rows]).to(device), torch.from_numpy(negatives[crops.rows]).to(device))

    def _noise(self, crops: Crops, masked: int, *, step: int) -> Float[Tensor, "frames groups codes"]:
        """Gumbel noise with one random stream a row, so that slices of a batch draw what the whole batch would."""
        shape = (masked, self.config.quantizer.groups, self.config.quantizer.codes)
        generator = torch.Generator(crops.waveforms.device)
        rows: list[Tensor] = []
        for row in crops.rows.tolist():
            state = np.random.SeedSequence((self.seed, _GUMBEL, step, row)).generate_state(1, np.uint64)
            rows.append(gumbel_noise(*shape, generator=generator.manual_seed(int(state[0] >> 1))))
        return torch.cat(rows)

    def loss(
        self,
        waveforms: Float[Tensor, "batch samples"],
        draws: Draws,
        *,
        temperature: float,
        noise: Float[Tensor, "frames groups codes"] | None = None,
        mean_probs: Float[Tensor, "groups codes"] | None = None,
    ) -> Loss:
        """The loss for given masks, distractors and noise: no randomness but dropout."""
        features = self.encoder.features(waveforms)  # batch frames channels
        if features.requires_grad and self.config.feature_gradient != 1.0:
            features.register_hook(lambda gradient: gradient * self.config.feature_gradient)
        latents = self.encoder.feature_norm(features)
        projected = torch.where(draws.mask.unsqueeze(-1), self.mask_embedding, self.encoder.project(latents))
        context = self.encoder.contextualize(projected, None).frames

        quantized = self.quantizer(self._targets(latents, draws.mask), temperature=temperature, noise=noise)
        batch, masked = draws.negatives.shape[:2]
        contrastive = info_nce(
            self.project_context(context[draws.mask]).unflatten(0, (batch, masked)),
            self.project_target(quantized.vectors).unflatten(0, (batch, masked)),
            quantized.codes.unflatten(0, (batch, masked)),
            draws.negatives,
            temperature=self.config.logit_temperature,
        )
        count = batch * masked
        with torch.autocast(waveforms.device.type, enabled=False):
            terms = {
                "contrastive": contrastive.loss,
                "diversity": self.config.diversity_weight * diversity_term(quantized.probs, mean_probs),
                "feature_penalty": self.config.feature_penalty * count * features.float().square().mean(),
            }
            total = torch.stack(
                [term for name, term in terms.items() if name != "feature_penalty" or self.config.feature_penalty]
            ).sum()
        with torch.no_grad():
            stats = {
                "count": torch.tensor(float(count), device=waveforms.device),
                "correct": contrastive.correct.float(),
                "chance": contrastive.chance,
                "codes": F.one_hot(quantized.codes, self.config.quantizer.codes).sum(dim=0).float(),
                "probs": quantized.probs.sum(dim=0),
                "entropy": entropy(quantized.probs).sum(dim=0),
                "temperature": torch.tensor(temperature * count, device=waveforms.device),
                "max_prob": quantized.probs.amax(dim=-1).sum(dim=0),
                "frames": torch.tensor(float(features.shape[0] * features.shape[1]), device=waveforms.device),
                "feature_sum": features.float().sum(dim=(0, 1)),
                "feature_square": features.float().square().sum(),
            }
        return Loss(total=total, terms={name: term.detach() for name, term in terms.items()}, stats=stats)

    def _targets(
        self, latents: Float[Tensor, "batch frames channels"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "masked channels"]:
        """Unmasked latents at the masked frames, the quantizer's input."""
        if self.config.quantizer.normalize_input:
            variance, mean = torch.var_mean(latents.float(), dim=1, keepdim=True, correction=0)
            latents = (latents.float() - mean) * torch.rsqrt(variance + 1e-5)
        return latents[mask]

    @torch.no_grad()
    def code_distribution(self, crops: Crops, *, step: int) -> Float[Tensor, "groups codes"]:
        """Code distributions summed over masked frames, for the diversity of a batch processed in parts."""
        latents = self.encoder.latents(crops.waveforms)
        return self.quantizer(self._targets(latents, self.draw(crops, step=step).mask)).probs.sum(dim=0)

    @torch.no_grad()
    def shift_stability(self, waveforms: Float[Tensor, "batch samples"], *, shift: int = 80) -> float:
        """Share of frames and groups that keep their code when the waveform moves by ``shift`` samples (80: 5 ms).

        About 1 for codes of what is said, about 1 / perplexity for codes of the waveform's phase.
        """
        everything = torch.ones(1, 1, dtype=torch.bool, device=waveforms.device)
        kept: list[Tensor] = []
        for moved in (waveforms[:, :-shift], waveforms[:, shift:]):
            latents = self.encoder.latents(moved)
            kept.append(self.quantizer(self._targets(latents, everything.expand(latents.shape[:2]))).codes)
        return float((kept[0] == kept[1]).float().mean())

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> dict[str, float | list[float]]:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` and ``contrastive_loss`` in nats a masked frame; ``chance_loss`` that of a model that knows nothing,
        lower than ln(1 + K) by the distractors that were left out; ``accuracy`` as fairseq's; perplexities a group;
        ``determinism`` the mean largest code probability; ``mutual_information`` of codes and frames in nats, mean over
        groups; ``constant_share`` the part of the features' power that is the same in every frame.
        """
        count = stats["count"]
        mean_probs, usage = stats["probs"] / count, stats["codes"] / count
        information = entropy(mean_probs) - stats["entropy"] / count
        mean_feature = stats["feature_sum"] / stats["frames"]
        return {
            "loss": float(sum(terms.values()) / count),
            "contrastive_loss": float(terms["contrastive"] / count),
            "diversity_loss": float(terms["diversity"] / count),
            "feature_penalty": float(terms["feature_penalty"] / count),
            "chance_loss": float(stats["chance"] / count),
            "accuracy": float(stats["correct"] / count),
            "code_perplexity": entropy(usage).exp().tolist(),
            "prob_perplexity": entropy(mean_probs).exp().tolist(),
            "temperature": float(stats["temperature"] / count),
            "determinism": float(stats["max_prob"].mean() / count),
            "mutual_information": float(information.mean()),
            "constant_share": float(
                mean_feature.square().sum() * stats["frames"] / stats["feature_square"].clamp(min=1e-20)
            ),
        }


@dataclass(frozen=True)
class Contrast:
    """Summed InfoNCE in nats, its value for equal scores, and how many positives scored highest."""

    loss: Float[Tensor, ""]
    chance: Float[Tensor, ""]
    correct: Int[Tensor, ""]


def info_nce(
    context: Float[Tensor, "batch masked dim"],
    targets: Float[Tensor, "batch masked dim"],
    codes: Int[Tensor, "batch masked groups"],
    negatives: Int[Tensor, "batch masked negatives"],
    *,
    temperature: float,
) -> Contrast:
    """Cross-entropy of finding each target among its distractors by cosine similarity (paper, equation 3), in fp32.

    Scores of all pairs are one matrix product; distractors are looked up in it. A distractor with the same codes as the
    target is left out, judged by the code indices: comparing float vectors fails in bf16 and lets runs collapse.
    """
    with torch.autocast(context.device.type, enabled=False):
        scores = (
            F.normalize(context.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).transpose(1, 2) / temperature
        )
        same = (codes.unsqueeze(1) == codes.unsqueeze(2)).all(dim=-1)  # batch masked masked
        positive = scores.diagonal(dim1=1, dim2=2)  # batch masked
        distractors = scores.masked_fill(same, float("-inf")).gather(2, negatives)
        loss = torch.logsumexp(torch.cat([positive.unsqueeze(-1), distractors], dim=-1), dim=-1) - positive
        chance = torch.log1p((distractors > float("-inf")).sum(dim=-1).float())
        return Contrast(loss=loss.sum(), chance=chance.sum(), correct=(positive > distractors.amax(dim=-1)).sum())


def diversity_term(
    probs: Float[Tensor, "frames groups codes"], mean_probs: Float[Tensor, "groups codes"] | None = None
) -> Float[Tensor, ""]:
    """``frames * (GV - sum of perplexities) / GV`` (fairseq's form of the paper's equation 4).

    The value and gradient are those of the diversity of ``mean_probs`` (default: the mean of ``probs``), whose gradient
    with respect to each frame's distribution is linear in that frame: summed over micro-batches it equals the gradient
    of one big batch.
    """
    frames, groups, codes = probs.shape
    mean = (probs.mean(dim=0) if mean_probs is None else mean_probs).detach().requires_grad_()
    with torch.enable_grad():
        diversity = (groups * codes - entropy(mean).exp().sum()) / (groups * codes)
        (slope,) = torch.autograd.grad(diversity, mean)
    linear = torch.einsum("fgv,gv->", probs, slope)
    return frames * diversity.detach() + linear - linear.detach()


def entropy(probs: Float[Tensor, "*shape codes"]) -> Float[Tensor, "*shape"]:
    """Entropy in nats over the last axis; 1e-7 inside the logarithm, as fairseq has it.

    >>> round(float(entropy(torch.full((4,), 0.25)).exp()), 3)
    4.0
    """
    return -(probs * torch.log(probs + 1e-7)).sum(dim=-1)

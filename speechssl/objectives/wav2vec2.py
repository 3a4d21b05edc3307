"""wav2vec 2.0: contrastive prediction of quantised latents at masked frames.

Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", arXiv
2006.11477, section 3.2. Targets are quantised from unmasked latents and gradients flow into quantizer and feature
encoder. Loss arithmetic is fp32 with autocast off.

Differences from the paper, each a setting: schedules are fractions of the run; small presets start with phase-robust
frames and logits of a chosen scale, without feature penalty; log-mel frames may be quantised instead of latents, which
change during the run; units may be predicted beside the contrastive task for the first share of a run
(``warm_units``). Terms are *sums* over masked frames: the loop divides by
the count over micro-batches and ranks, so that accumulation, data parallelism and one large batch give the same
gradient. The diversity term is not a sum over frames, but its gradient is, given the mean code distribution of the
whole batch; see :func:`diversity_term`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch, FrameGrid
from speechssl.data.units import UnitsConfig
from speechssl.distributed import sum_over_ranks
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import check_masking, objective_context
from speechssl.nn.decoder import ConvDecoder, DecoderConfig, decoder_shapes
from speechssl.nn.features import MEL
from speechssl.nn.losses import LossSum, cosine_scores, info_nce
from speechssl.nn.masking import MaskConfig, sample_negatives, span_mask
from speechssl.nn.quantizer import GumbelQuantizer, QuantizerConfig, gumbel_noise
from speechssl.nn.targets import encoder_framing, normalized_log_mel
from speechssl.objectives.base import Context, Curve, Metrics, Objective, StepOutput, Symptom
from speechssl.objectives.prosody import ProsodyConfig, prosody_head, prosody_metrics, prosody_term
from speechssl.objectives.warm_units import ADVICE as UNITS_ADVICE
from speechssl.objectives.warm_units import CURVES as UNIT_CURVES
from speechssl.objectives.warm_units import STATE, UnitHead, WarmUnitsConfig, unit_metrics, unit_symptoms

_MASK, _NEGATIVES, _GUMBEL = 11, 12, 13  # part of the seed, so that the random streams differ


ADVICE = {
    "random codes": "codes are chosen by the Gumbel noise, not by the audio: the quantizer's logits are too small; "
    "raise objective.quantizer.logit_std (5 works)",
    "phase hash": "codes depend on the waveform's phase and change under a 5 ms shift, so context cannot predict them: "
    "use encoder.conv.init=tap-average and, for short runs, encoder.conv.front=gabor",
    "collapsed codes": "almost all frames get the same codes: lower objective.quantizer.logit_std (below 15), "
    "raise objective.diversity_weight, or lower optim.reference_lr",
    "constant features": "the features are the same in every frame: "
    "lower objective.feature_penalty (0 for short runs) or optim.conv_lr_scale",
    "not learning": "the loss stays at chance, ln(1 + negatives), though the codes are good: "
    "more updates, a larger batch (crops.batch_seconds), or another optim.reference_lr",
    STATE: UNITS_ADVICE,
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_perplexity: float = 3.0  # of codes, mean over groups
    min_determinism: float = 0.2  # mean largest code probability
    min_information: float = 0.3  # nats of codes about frames
    max_constant_share: float = 0.99  # of the features' power
    min_stability: float = 0.12  # fraction of codes that stay the same under a shift by 5 ms
    chance_perplexity: float = 10.0  # below it, collapsed codes explain a loss at chance
    chance_constant_share: float = 0.9  # above it, constant features explain a loss at chance
    chance_margin: float = 0.01  # a loss within this fraction of the loss of equal scores counts as chance


class Wav2Vec2Config(ProsodyConfig):
    """Settings; defaults are the paper's BASE (fairseq ``wav2vec2_base_librispeech.yaml``)."""

    name: Literal["wav2vec2"] = "wav2vec2"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    mask: MaskConfig = MaskConfig()
    decoder: DecoderConfig = DecoderConfig()  # with mask.drop
    targets: Literal["features", "log-mel"] = "features"  # what is quantised: latents, or log-mel of the crop
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
    warm_units: WarmUnitsConfig = WarmUnitsConfig()
    units: UnitsConfig = UnitsConfig()  # of the warm start
    symptoms: SymptomConfig = SymptomConfig()

    @model_validator(mode="after")
    def _units_are_used(self) -> "Wav2Vec2Config":
        if not self.warm_units.share and (self.units != UnitsConfig() or self.warm_units != WarmUnitsConfig()):
            raise ValueError("units and warm_units.weight are of the warm start; set warm_units.share above 0")
        return self

    def more_curves(self) -> tuple[Curve, ...]:
        """Those of prosody and of the warm start, where they are in use."""
        return (*super().more_curves(), *(UNIT_CURVES if self.warm_units.share else ()))

    def continued(self) -> "Wav2Vec2Config":
        """The temperature stays where the first run left it: a high one makes trained codes random again.

        A trained encoder needs no warm start.
        """
        cold = {"warm_units": WarmUnitsConfig(), "units": UnitsConfig()}
        return self.model_copy(update={"gumbel_start": self.gumbel_end, **cold})

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of codebooks, target projection and decoder."""
        quantizer = self.quantizer
        own = {
            "quantizer.codebooks": (quantizer.groups, quantizer.codes, quantizer.dim // quantizer.groups),
            "project_target.weight": (self.dim, quantizer.dim),
        }
        if self.targets == "log-mel":
            own["quantizer.scores.weight"] = (quantizer.groups * quantizer.codes, MEL.bands)
        return own | decoder_shapes(encoder.dim, self.decoder if self.mask.drop else None)

    def check(self, encoder: EncoderConfig) -> None:
        """Compare the masks with the encoder."""
        check_masking(encoder, self.mask, self.decoder)

    def in_words(self) -> str:
        """Codebooks, negatives and mask."""
        codes = f"{self.quantizer.groups} × {self.quantizer.codes} codes"
        codes += " of log-mel" if self.targets == "log-mel" else ""
        mask = self.mask.in_words()
        share = 100 * self.warm_units.share
        warm = f", {self.units.classes} units of {self.units.source} for the first {share:g} %" if share else ""
        return f"{codes}, {self.negatives} negatives, {mask}{self.in_addition()}{warm}"


Config = Wav2Vec2Config


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


_SMALL = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "crops": {"seconds": 2.0, "min_seconds": 1.5, "batch_seconds": 32.0},
        "optim": _SMALL,
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 64.0},
        "optim": _SMALL | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"crops": {"normalize": False}},
    "large": {"crops": {"seconds": 20.0, "batch_seconds": 75.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "contrastive_loss",
        "Contrastive loss (nats per masked frame)",
        caption="The model picks the true target of a masked frame among negatives from the same utterance. The "
        "dashed line is chance; a healthy run may stay there for its first few hundred updates.",
        chance="chance_loss",
        headline=True,
    ),
    Curve("accuracy", "Contrastive accuracy", limits=(0.0, None), headline=True),
    Curve(
        "code_perplexity",
        "Code perplexity",
        caption="Perplexity: how many codes of a group are in effective use; at the dashed line all are in equal use.",
        bound="quantizer.codes",
        limits=(0.0, None),
    ),
    Curve(
        "determinism",
        "Health of the codes",
        label="determinism of codes",
        caption="Determinism: mean largest code probability.",
        alarm="symptoms.min_determinism",
        limits=(0.0, 1.0),
    ),
    Curve(
        "constant_share",
        "Health of the codes",
        label="constant share of features",
        caption="Constant share: fraction of the features' power that is the same in every frame.",
        alarm="symptoms.max_constant_share",
        limits=(0.0, 1.0),
    ),
    Curve(
        "shift_stability",
        "Health of the codes",
        label="codes kept under a 5 ms shift",
        caption="Stability: fraction of codes that stay the same when the audio is shifted by 5 ms.",
        alarm="symptoms.min_stability",
        limits=(0.0, 1.0),
        training=False,
    ),
)


def build(encoder: SpeechEncoder, config: Wav2Vec2Config, *, seed: int) -> "Wav2Vec2":
    """Build the objective around an encoder."""
    return Wav2Vec2(encoder, config, seed=seed)


@dataclass(frozen=True)
class Draws:
    """Masked frames (equally many per row), and the negatives of each among the row's masked frames."""

    mask: Bool[Tensor, "batch frames"]
    negatives: Int[Tensor, "batch masked negatives"]


class Wav2Vec2(Objective):
    """Encoder, quantizer and the two projections of the contrastive task; a target is a masked frame.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of masks, negatives and Gumbel noise.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Wav2Vec2(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> sorted(loss.terms), int(loss.stats["count"])
        (['contrastive', 'diversity', 'feature_penalty'], 84)
    """

    def __init__(self, encoder: SpeechEncoder, config: Wav2Vec2Config, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        inputs = MEL.bands if config.targets == "log-mel" else encoder.config.conv.dim
        self.quantizer = GumbelQuantizer(inputs, config.quantizer)
        self.project_context = nn.Linear(encoder.config.dim, config.dim)
        self.project_target = nn.Linear(config.quantizer.dim, config.dim)
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))  # fairseq's uniform
        self.decoder = ConvDecoder(encoder.config.dim, config.decoder) if config.mask.drop else None
        self.prosody = prosody_head(encoder.config, config)
        self.warm_units: UnitHead | None = None
        if config.warm_units.share:
            self.unsaved = ("warm_units.",)
            self.warm_units = UnitHead(
                config.warm_units,
                inputs=encoder.config.dim,
                dim=config.dim,
                classes=config.units.classes,
                temperature=config.logit_temperature,
            )

    @property
    def batch_spec(self) -> BatchSpec:
        """Crops, with their level where prosody has a weight, and the units of frames where there is a warm start."""
        level = self.prosody is not None
        if self.warm_units is None:
            return BatchSpec(level=level)
        conv = self.encoder.config.conv
        grid = FrameGrid(conv.hop, conv.receptive_field, conv.padding)
        return BatchSpec(labels=self.config.units, grid=grid, hop=conv.hop, level=level)

    @property
    def min_frames(self) -> int:
        """Frames that the minimum number of spans needs."""
        return self.config.mask.min_frames(self.encoder.config.squeeze_factor)

    @property
    def chance_loss(self) -> float:
        """Contrastive loss at chance, when target and negatives have equal scores, nats."""
        return math.log(1 + self.config.negatives)

    def temperature(self, progress: float) -> float:
        """Gumbel temperature at a fraction of the run: geometric from start to end, then constant."""
        share = min(1.0, progress / self.config.gumbel_decay)
        return self.config.gumbel_start * (self.config.gumbel_end / self.config.gumbel_start) ** share

    def forward(
        self, batch: CropBatch, *, step: int, progress: float, shared: Mapping[str, Tensor] | None = None
    ) -> StepOutput:
        """Loss of a (micro-)batch; masks, negatives and noise are functions of (seed, step, position in the batch)."""
        draws = self.draw(batch, step=step)
        noise = self._noise(batch, draws.negatives.shape[1], step=step) if self.training else None
        mean_probs = None if shared is None else shared["probs"] / shared["probs"][0].sum()  # rows sum to 1
        return self.loss(
            batch.waveforms,
            draws,
            temperature=self.temperature(progress),
            noise=noise,
            mean_probs=mean_probs,
            level=batch.level,
            labels=batch.labels,
            progress=progress,
        )

    def draw(self, crops: CropBatch, *, step: int) -> Draws:
        """Masks and negatives of these crops, sliced from the draw for the whole global batch."""
        frames = int(self.encoder.num_frames(torch.tensor(crops.waveforms.shape[1])))
        group = self.encoder.config.squeeze_factor
        rng = np.random.default_rng((self.seed, _MASK, step))
        mask = span_mask(np.full(crops.global_rows, frames), self.config.mask, rng=rng, group=group)
        rng = np.random.default_rng((self.seed, _NEGATIVES, step))
        negatives = sample_negatives(crops.global_rows, int(mask[0].sum()), self.config.negatives, rng=rng)
        drawn = (torch.from_numpy(each[crops.rows]) for each in (mask, negatives))
        return Draws(*(each.to(crops.waveforms.device, non_blocking=True) for each in drawn))  # no wait for a GPU

    def _noise(self, crops: CropBatch, masked: int, *, step: int) -> Float[Tensor, "frames groups codes"]:
        """Gumbel noise with one random stream per row, so that slices of a batch have its draws."""
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
        level: Float[Tensor, " batch"] | None = None,
        labels: Int[Tensor, "batch all_frames"] | None = None,
        progress: float = 1.0,
    ) -> StepOutput:
        """Loss for given masks, negatives and noise; the only randomness is dropout."""
        features = self.encoder.features(waveforms)  # batch frames channels
        if features.requires_grad and self.config.feature_gradient != 1.0:
            features.register_hook(lambda gradient: gradient * self.config.feature_gradient)
        latents = self.encoder.feature_norm(features)
        context = objective_context(self.encoder, latents, self.mask_embedding, draws.mask, self.decoder)

        targets = self._targets(self._quantised(waveforms, latents), draws.mask)
        quantized = self.quantizer(targets, temperature=temperature, noise=noise)
        batch, masked = draws.negatives.shape[:2]
        contrastive = contrastive_term(
            self.project_context(context[draws.mask]).unflatten(0, (batch, masked)),
            self.project_target(quantized.vectors).unflatten(0, (batch, masked)),
            quantized.codes.unflatten(0, (batch, masked)),
            draws.negatives,
            temperature=self.config.logit_temperature,
        )
        more_terms, more_stats = prosody_term(self.prosody, context, draws.mask, waveforms, level)
        if self.warm_units is not None:
            assert labels is not None
            units, stats = self.warm_units(context[draws.mask], labels[draws.mask], progress=progress)
            more_terms, more_stats = more_terms | {"units": units}, more_stats | stats
        count = batch * masked
        with torch.autocast(waveforms.device.type, enabled=False):
            terms = {
                "contrastive": contrastive.total,
                "diversity": self.config.diversity_weight * diversity_term(quantized.probs, mean_probs),
                "feature_penalty": self.config.feature_penalty * count * features.float().square().mean(),
            } | more_terms
            total = torch.stack(
                [term for name, term in terms.items() if name != "feature_penalty" or self.config.feature_penalty]
            ).sum()
        with torch.no_grad():
            stats = {
                "count": torch.tensor(float(count), device=waveforms.device),
                "correct": contrastive.stats["correct"],
                "chance": contrastive.stats["chance"],
                "codes": usage_counts(quantized.codes, self.config.quantizer.codes),
                "probs": quantized.probs.sum(dim=0),
                "entropy": entropy(quantized.probs).sum(dim=0),
                "temperature": torch.tensor(temperature * count, device=waveforms.device),
                "max_prob": quantized.probs.amax(dim=-1).sum(dim=0),
                "frames": torch.tensor(float(features.shape[0] * features.shape[1]), device=waveforms.device),
                "feature_sum": features.float().sum(dim=(0, 1)),
                "feature_square": features.float().square().sum(),
            }
        terms = {name: term.detach() for name, term in terms.items()}
        return StepOutput(total=total, terms=terms, stats=stats | more_stats)

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the context network with the masks of a step."""
        mask = self.draw(batch, step=step).mask
        latents = self.encoder.latents(batch.waveforms)
        frames = objective_context(self.encoder, latents, self.mask_embedding, mask, self.decoder)
        return Context(frames, hidden=mask)

    def _quantised(
        self, waveforms: Float[Tensor, "batch samples"], latents: Float[Tensor, "batch frames channels"] | None = None
    ) -> Float[Tensor, "batch frames inputs"]:
        """Frames of which some are quantised: latents without masks, or log-mel normalised over the crop."""
        if self.config.targets == "features":
            return self.encoder.latents(waveforms) if latents is None else latents
        frames = int(self.encoder.num_frames(torch.tensor(waveforms.shape[1])))
        return normalized_log_mel(waveforms, encoder_framing(self.encoder.config.conv))[:, :frames]

    def _targets(
        self, latents: Float[Tensor, "batch frames channels"], mask: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "masked channels"]:
        """Unmasked latents, or log-mel, at the masked frames: the quantizer's input."""
        if self.config.quantizer.normalize_input:
            variance, mean = torch.var_mean(latents.float(), dim=1, keepdim=True, correction=0)
            latents = (latents.float() - mean) * torch.rsqrt(variance + 1e-5)
        return latents[mask]

    @torch.no_grad()
    def gather(self, parts: Sequence[CropBatch], *, step: int) -> dict[str, Tensor]:
        """Code distributions (groups, codes) summed over masked frames: the diversity needs that of the whole batch."""
        sums = [
            self.quantizer(self._targets(self._quantised(part.waveforms), self.draw(part, step=step).mask)).probs.sum(
                dim=0
            )
            for part in parts
        ]
        return {"probs": torch.stack(sums).sum(dim=0)}

    def probe(self, batch: CropBatch) -> Metrics:
        """``shift_stability`` of the codes."""
        return {"shift_stability": self.shift_stability(batch.waveforms)}

    @torch.no_grad()
    def shift_stability(self, waveforms: Float[Tensor, "batch samples"], *, shift: int = 80) -> float:
        """Fraction of frames and groups that keep their code under a shift by ``shift`` samples (80: 5 ms).

        About 1 for codes of the speech content, about 1 / perplexity for codes of the waveform's phase.
        """
        everything = torch.ones(1, 1, dtype=torch.bool, device=waveforms.device)
        kept: list[Tensor] = []
        for moved in (waveforms[:, :-shift], waveforms[:, shift:]):
            latents = self._quantised(moved)
            kept.append(self.quantizer(self._targets(latents, everything.expand(latents.shape[:2]))).codes)
        return float((kept[0] == kept[1]).float().mean())

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch.

        ``loss`` and ``contrastive_loss`` in nats per masked frame; ``chance_loss`` the loss of equal scores, lower than
        ln(1 + K) because of the negatives that were left out; ``accuracy`` as fairseq's; perplexities per group;
        ``determinism`` the mean largest code probability; ``mutual_information`` of codes and frames in nats, mean over
        groups; ``constant_share`` the part of the features' power that is the same in every frame.
        """
        count = stats["count"]
        mean_probs, usage = stats["probs"] / count, stats["codes"] / count
        information = entropy(mean_probs) - stats["entropy"] / count
        mean_feature = stats["feature_sum"] / stats["frames"]
        found: Metrics = {
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
        return found | prosody_metrics(stats) | unit_metrics(stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, accuracy, and code perplexity of each group.

        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = Wav2Vec2(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> objective.summary({"loss": 4.5, "accuracy": 0.25, "code_perplexity": [30.0, 40.5]})
        'loss 4.500, accuracy 0.250, perplexity 30/40'
        """
        perplexity = "/".join(f"{value:.0f}" for value in metrics["code_perplexity"])
        return f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}, perplexity {perplexity}"

    def symptoms(
        self, metrics: Mapping[str, float | Sequence[float]], probed: Mapping[str, float | Sequence[float]]
    ) -> list[Symptom]:
        """Five failure modes: constant features, collapsed, random or phase-hashing codes, a loss that stays at chance.

        During a warm start there is a sixth, units that are not learnt.

        Small contrastive runs fail in ways that one number does not show. Codes may be random (chosen by the Gumbel
        noise), may hash the waveform's phase (balanced usage, but they change with every shift by a few milliseconds),
        or may collapse to a few entries; or the features become constant; or nothing is learnt though the codes are
        good.
        """
        limits = self.config.symptoms
        perplexity, determinism = _mean(metrics["code_perplexity"]), _mean(metrics["determinism"])
        information, constant = _mean(metrics["mutual_information"]), _mean(metrics["constant_share"])
        # Negatives with the target's codes are left out, which lowers the loss: chance counts the remaining ones.
        loss, chance = _mean(metrics["contrastive_loss"]), _mean(metrics.get("chance_loss", self.chance_loss))
        at_chance = loss > (1 - limits.chance_margin) * chance
        stable = _mean(probed.get("shift_stability", math.inf))
        signs = {
            "constant features": (
                constant > (limits.chance_constant_share if at_chance else limits.max_constant_share),
                f"{constant:.3f} of the features' power is constant",
            ),
            "collapsed codes": (
                perplexity < (limits.chance_perplexity if at_chance else limits.min_perplexity),
                f"code perplexity {perplexity:.2f}",
            ),
            "random codes": (
                determinism < limits.min_determinism and (at_chance or information < limits.min_information),
                f"mean largest code probability {determinism:.2f}, {information:.2f} nats of information",
            ),
            "phase hash": (
                # Expected by chance: about 1 / perplexity; two to four times that was measured.
                at_chance and stable < max(limits.min_stability, 3 / perplexity),
                f"loss {loss:.2f} at chance {chance:.2f}, {100 * stable:.0f} % of codes kept under a 5 ms shift",
            ),
            "not learning": (at_chance, f"loss {loss:.3f} at chance {chance:.3f}"),
        }
        found = [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]
        return [*found, *unit_symptoms(metrics, margin=limits.chance_margin)]


def _mean(value: float | Sequence[float]) -> float:
    """A metric, or its mean where it has a value per group."""
    return float(value) if isinstance(value, int | float) else sum(value) / len(value)


def contrastive_term(
    context: Float[Tensor, "batch masked dim"],
    targets: Float[Tensor, "batch masked dim"],
    codes: Int[Tensor, "batch masked groups"],
    negatives: Int[Tensor, "batch masked negatives"],
    *,
    temperature: float,
) -> LossSum:
    """InfoNCE loss of each target among its negatives by cosine similarity (paper, equation 3).

    Scores of all pairs are one matrix product; negatives are looked up in it. A negative with the same codes as the
    target is left out, by comparison of code indices: comparing float vectors fails in bf16, and runs collapse.
    """
    scores = cosine_scores(context, targets, temperature=temperature)  # batch masked masked
    same = (codes.unsqueeze(1) == codes.unsqueeze(2)).all(dim=-1)
    return info_nce(scores.diagonal(dim1=1, dim2=2), scores.gather(2, negatives), same=same.gather(2, negatives))


def diversity_term(
    probs: Float[Tensor, "frames groups codes"], mean_probs: Float[Tensor, "groups codes"] | None = None
) -> Float[Tensor, ""]:
    """``frames * (GV - sum of perplexities) / GV`` (fairseq's form of the paper's equation 4).

    The value and gradient are those of the diversity of ``mean_probs`` (default: the mean of ``probs`` over all ranks),
    whose gradient with respect to each frame's distribution is linear in that frame: summed over micro-batches it
    equals the gradient of one large batch.
    """
    frames, groups, codes = probs.shape
    mean = (_mean_over_ranks(probs) if mean_probs is None else mean_probs).detach().requires_grad_()
    with torch.enable_grad():
        diversity = (groups * codes - entropy(mean).exp().sum()) / (groups * codes)
        (slope,) = torch.autograd.grad(diversity, mean)
    linear = torch.einsum("fgv,gv->", probs, slope)
    return frames * diversity.detach() + linear - linear.detach()


def usage_counts(codes: Int[Tensor, "frames groups"], entries: int) -> Float[Tensor, "groups entries"]:
    """How often each entry is chosen, for each group.

    >>> usage_counts(torch.tensor([[0, 1], [0, 2]]), 3).tolist()
    [[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    groups = codes.shape[1]
    flat = codes + entries * torch.arange(groups, device=codes.device)
    return torch.bincount(flat.flatten(), minlength=groups * entries).view(groups, entries).float()


def _mean_over_ranks(probs: Float[Tensor, "frames groups codes"]) -> Float[Tensor, "groups codes"]:
    """Mean code distribution over the frames of all processes."""
    own = {"sum": probs.detach().sum(dim=0), "frames": torch.tensor(float(len(probs)), device=probs.device)}
    total = sum_over_ranks(own)
    return probs.detach().mean(dim=0) if total is own else total["sum"] / total["frames"]


def entropy(probs: Float[Tensor, "*shape codes"]) -> Float[Tensor, "*shape"]:
    """Entropy in nats over the last axis; 1e-7 inside the logarithm, as in fairseq.

    >>> round(float(entropy(torch.full((4,), 0.25)).exp()), 3)
    4.0
    """
    return -(probs * torch.log(probs + 1e-7)).sum(dim=-1)

"""BEST-RQ: masked prediction of codes from a random projection of log-mel frames.

Chiu et al. 2022, "Self-Supervised Learning with Random-Projection Quantizer for Speech Recognition", arXiv 2202.01855,
sections 3.1 and 3.2. Log-mel frames, normalised and stacked, are projected by a fixed random matrix; the target is the
nearest of fixed random codes, both scaled to unit length. Nothing of the target is learnt, so that it cannot collapse.
The loss is the cross-entropy of the code at masked frames.

Differences from the paper: the encoder gets the waveform, so that latents of masked frames are replaced by a learnt
vector, not log-mel frames by noise; two log-mel frames are stacked for the hop of 20 ms (paper: four for 40 ms), and
each band is normalised over the crop. Settings: small presets average four codebooks of 512 codes, with fewer of the
few million frames of a short run per code (paper: one of 8192), and mask as the other masked objectives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from speechssl.config import Config as BaseConfig
from speechssl.data.batch import BatchSpec, CropBatch
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.masked import check_masking, objective_context
from speechssl.nn.decoder import ConvDecoder, DecoderConfig, decoder_shapes
from speechssl.nn.features import MEL
from speechssl.nn.losses import code_cross_entropy
from speechssl.nn.masking import MaskConfig, span_mask
from speechssl.nn.random_quantizer import RandomQuantizer
from speechssl.nn.targets import encoder_framing, normalized_log_mel, stacked_framing
from speechssl.objectives.base import Context, Curve, Metrics, Objective, StepOutput, Symptom
from speechssl.objectives.prosody import ProsodyConfig, prosody_head, prosody_metrics, prosody_term

_MASK = 11  # part of the seed, so that this random stream differs from others

ADVICE = {
    "few codes": "almost all frames have the same codes: look for silence or a constant tone in the audio, or take "
    "more of objective.codebooks",
    "dominant code": "one code has most of the frames, mostly silence: leave silence out of the corpus, or take more "
    "of objective.codebooks",
    "constant prediction": "the same few codes are predicted everywhere: lower optim.reference_lr, or mask less "
    "(objective.mask.probability)",
    "not learning": "the loss stays at that of the codes' frequencies: more updates, a larger batch "
    "(crops.batch_seconds), fewer objective.codes, or another optim.reference_lr",
}


class SymptomConfig(BaseConfig):
    """When an update counts as showing a symptom."""

    min_code_perplexity: float = 4.0  # of the targets of an update, mean over codebooks
    max_code_share: float = 0.5  # of the most frequent code of a codebook, mean over codebooks
    min_predicted_perplexity: float = 2.0  # of the predictions of an update
    chance_margin: float = 0.01  # a loss within this fraction of the entropy of the targets counts as chance


class BestRqConfig(ProsodyConfig):
    """Settings; defaults are the paper's, at frames of 20 ms."""

    name: Literal["best_rq"] = "best_rq"  # pyright: ignore[reportIncompatibleVariableOverride] -- frozen
    codebooks: PositiveInt = 1
    codes: int = Field(default=8192, ge=2)  # per codebook
    dim: PositiveInt = 16  # of the projection
    stack: PositiveInt = 2  # log-mel frames per frame
    mask: MaskConfig = MaskConfig(probability=0.4, length=20)  # starts at 1 % of frames of 10 ms, spans of 400 ms
    decoder: DecoderConfig = DecoderConfig()  # with mask.drop
    symptoms: SymptomConfig = SymptomConfig()

    def shapes(self, encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of the quantizer and of the predictions."""
        own = {
            "quantizer.projection": (self.codebooks, self.stack * MEL.bands, self.dim),
            "quantizer.codes": (self.codebooks, self.codes, self.dim),
            "predict.weight": (self.codebooks * self.codes, encoder.dim),
        }
        return own | decoder_shapes(encoder.dim, self.decoder if self.mask.drop else None)

    def check(self, encoder: EncoderConfig) -> None:
        """Compare masks and stacked frames with the encoder."""
        check_masking(encoder, self.mask, self.decoder)
        try:
            stacked_framing(encoder_framing(encoder.conv), self.stack)
        except ValueError as error:
            raise ValueError(f"objective.stack={self.stack}: {error}") from None

    def in_words(self) -> str:
        """Codebooks and mask."""
        return f"{self.codebooks} × {self.codes} random codes, {self.mask.in_words()}{self.in_addition()}"


Config = BestRqConfig

_SMALL = {"codebooks": 4, "codes": 512, "mask": MaskConfig(probability=0.65)}

PRESETS: dict[str, BestRqConfig] = {
    "tiny": BestRqConfig.model_validate(_SMALL),
    "small": BestRqConfig.model_validate(_SMALL),
    "base": BestRqConfig(),
    "large": BestRqConfig(),
}

_RATES = {"reference_lr": 1e-3, "reference_seconds": 32.0, "max_lr": 1e-3, "conv_lr_scale": 0.1}

RUNS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "tiny": {
        "crops": {"seconds": 2.0, "min_seconds": 1.5, "batch_seconds": 32.0},
        "optim": _RATES | {"reference_lr": 2e-3, "max_lr": 2e-3},
        "loop": {"steps": 1200, "validate_every": 200, "checkpoint_every": 200},
    },
    "small": {
        "crops": {"seconds": 4.0, "min_seconds": 2.0, "batch_seconds": 64.0},
        "optim": _RATES | {"max_lr": 5e-4},
        "loop": {"steps": 20_000, "validate_every": 250, "checkpoint_every": 250},
    },
    "base": {"crops": {"normalize": False}},
    "large": {"crops": {"seconds": 20.0, "batch_seconds": 75.0}, "optim": {"max_lr": 3e-4}},
}

CURVES = (
    Curve(
        "loss",
        "Loss (nats per masked frame)",
        caption="Cross-entropy of the code of a masked frame, mean over codebooks. The dashed line is the entropy of "
        "the codes: the loss of a model that only knows how frequent each is.",
        chance="chance_loss",
        headline=True,
    ),
    Curve("accuracy", "Accuracy of the code", limits=(0.0, None), headline=True),
    Curve(
        "predicted_perplexity",
        "Perplexity of codes",
        label="predicted",
        caption="Perplexity: how many codes of a codebook are in effective use.",
        alarm="symptoms.min_predicted_perplexity",
        limits=(0.0, None),
    ),
    Curve("code_perplexity", "Perplexity of codes", label="targets", bound="codes", limits=(0.0, None)),
    Curve(
        "coverage",
        "Use of the codes",
        label="codes that occur",
        caption="Fraction of all codes that occur among the masked frames of an update (fewer where the update has "
        "fewer frames than codes), and fraction of the frames that have the most frequent code, mostly silence.",
        limits=(0.0, 1.0),
    ),
    Curve(
        "largest_share", "Use of the codes", label="most frequent", alarm="symptoms.max_code_share", limits=(0.0, 1.0)
    ),
)


def build(encoder: SpeechEncoder, config: BestRqConfig, *, seed: int) -> "BestRq":
    """Build the objective around an encoder."""
    return BestRq(encoder, config, seed=seed)


class BestRq(Objective):
    """Encoder, fixed quantizer and one linear prediction per codebook; a target is a masked frame.

    Args:
        encoder: trained in place.
        config: the objective.
        seed: seed of masks and of the quantizer.

    Example:
        >>> from speechssl.models.encoder import PRESETS as ENCODERS
        >>> objective = BestRq(SpeechEncoder(ENCODERS["tiny"]), PRESETS["tiny"], seed=0)
        >>> loss = objective(CropBatch(torch.randn(2, 32000), np.arange(2), 2), step=0, progress=0.0)
        >>> sorted(loss.terms), int(loss.stats["count"]), loss.stats["targets"].shape
        (['codes'], 84, torch.Size([4, 512]))
    """

    def __init__(self, encoder: SpeechEncoder, config: BestRqConfig, *, seed: int):
        super().__init__(encoder, seed=seed)
        self.config = config
        shape = {"codebooks": config.codebooks, "codes": config.codes, "dim": config.dim}
        self.quantizer = RandomQuantizer(config.stack * MEL.bands, **shape, seed=seed)
        self.predict = nn.Linear(encoder.config.dim, config.codebooks * config.codes)
        self.mask_embedding = nn.Parameter(torch.rand(encoder.config.dim))
        self.decoder = ConvDecoder(encoder.config.dim, config.decoder) if config.mask.drop else None
        self.prosody = prosody_head(encoder.config, config)

    @property
    def batch_spec(self) -> BatchSpec:
        """Crops, with their level where prosody has a weight."""
        return BatchSpec(level=self.prosody is not None)

    @property
    def min_frames(self) -> int:
        """Frames that the minimum number of spans needs."""
        return self.config.mask.min_frames(self.encoder.config.squeeze_factor)

    def forward(
        self,
        batch: CropBatch,
        *,
        step: int,
        progress: float,  # noqa: ARG002 -- nothing follows the run
        shared: Mapping[str, Tensor] | None = None,  # noqa: ARG002 -- the loss is a sum over frames
    ) -> StepOutput:
        """Loss of a (micro-)batch; masks are functions of (seed, step, position in the batch)."""
        context = self.context(batch, step=step)
        assert context.hidden is not None
        shape = (self.config.codebooks, self.config.codes)
        logits = self.predict(context.frames[context.hidden]).unflatten(-1, shape)  # targets codebooks codes
        codes = self.targets(batch.waveforms)[:, : context.frames.shape[1]][context.hidden]
        found = code_cross_entropy(logits, codes)
        stats = {
            "count": found.count,
            "correct": found.stats["correct"],
            "targets": _histograms(codes, self.config.codes),
            "predicted": _histograms(logits.detach().argmax(dim=-1), self.config.codes),
        }
        terms = {"codes": found.total}
        more, more_stats = prosody_term(self.prosody, context.frames, context.hidden, batch.waveforms, batch.level)
        total = torch.stack([*terms.values(), *more.values()]).sum()
        detached = {name: term.detach() for name, term in (terms | more).items()}
        return StepOutput(total=total, terms=detached, stats=stats | more_stats)

    def targets(self, waveforms: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch frames codebooks"]:
        """The code of each frame in each codebook; as many frames as the encoder's, or one more."""
        framing = encoder_framing(self.encoder.config.conv)
        frames = normalized_log_mel(waveforms, framing, stack=self.config.stack)
        return self.quantizer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def mask(self, crops: CropBatch, *, step: int) -> Bool[Tensor, "batch frames"]:
        """Masks of these crops, sliced from the draw for the whole global batch."""
        frames = int(self.encoder.num_frames(torch.tensor(crops.samples)))
        group = self.encoder.config.squeeze_factor
        rng = np.random.default_rng((self.seed, _MASK, step))
        drawn = span_mask(np.full(crops.global_rows, frames), self.config.mask, rng=rng, group=group)
        return torch.from_numpy(drawn[crops.rows]).to(crops.waveforms.device, non_blocking=True)  # no wait for a GPU

    def context(self, batch: CropBatch, *, step: int) -> Context:
        """Output of the context network with the masks of a step."""
        mask = self.mask(batch, step=step)
        latents = self.encoder.latents(batch.waveforms)
        return Context(objective_context(self.encoder, latents, self.mask_embedding, mask, self.decoder), hidden=mask)

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Numbers to log from the summed terms and stats of an effective batch, means over codebooks.

        ``loss`` in nats per masked frame; ``chance_loss`` the entropy of the codes of these frames; perplexities of the
        codes and of the predictions; ``coverage``, fraction of the codes that occur; ``largest_share``, fraction of the
        frames that have the most frequent code.
        """
        count, targets = stats["count"], stats["targets"]
        entropies = {name: _entropies(stats[name]) for name in ("targets", "predicted")}
        found: Metrics = {
            "loss": float(sum(terms.values()) / count),
            "chance_loss": float(entropies["targets"].mean()),
            "accuracy": float((stats["correct"] / count).mean()),
            "code_perplexity": float(entropies["targets"].exp().mean()),
            "predicted_perplexity": float(entropies["predicted"].exp().mean()),
            "coverage": float((targets > 0).float().mean()),
            "largest_share": float((targets.amax(dim=-1) / count).mean()),
        }
        return found | prosody_metrics(stats)

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss, accuracy and perplexity of the predictions."""
        return (
            f"loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.3f}, "
            f"perplexity {metrics['predicted_perplexity']:.0f}"
        )

    def symptoms(
        self,
        metrics: Mapping[str, float | Sequence[float]],
        probed: Mapping[str, float | Sequence[float]],  # noqa: ARG002 -- nothing slower is measured
    ) -> list[Symptom]:
        """Four failure modes: targets that are nearly constant in two ways, constant predictions, a loss at chance."""
        limits = self.config.symptoms
        value = {name: float(each) for name, each in metrics.items() if isinstance(each, int | float)}
        own = value["loss"] - value.get("prosody_loss", 0.0)
        signs = {
            "few codes": (
                value["code_perplexity"] < limits.min_code_perplexity,
                f"perplexity of the codes {value['code_perplexity']:.2f}, {value['coverage']:.1%} of them occur",
            ),
            "dominant code": (
                value["largest_share"] > limits.max_code_share,
                f"{value['largest_share']:.0%} of the frames have the most frequent code",
            ),
            "constant prediction": (
                value["predicted_perplexity"] < limits.min_predicted_perplexity,
                f"perplexity of the predictions {value['predicted_perplexity']:.2f}",
            ),
            "not learning": (
                own > (1 - limits.chance_margin) * value["chance_loss"],
                f"loss {own:.3f}, entropy of the codes {value['chance_loss']:.3f}",
            ),
        }
        return [Symptom(state, present, evidence, ADVICE[state]) for state, (present, evidence) in signs.items()]


def _histograms(codes: Int[Tensor, "frames codebooks"], size: int) -> Float[Tensor, "codebooks codes"]:
    """How many frames have each code."""
    zeros = torch.zeros(codes.shape[1], size, device=codes.device)
    return zeros.scatter_add(1, codes.T, torch.ones_like(codes.T, dtype=torch.float32))


def _entropies(counts: Float[Tensor, "codebooks codes"]) -> Float[Tensor, " codebooks"]:
    """Entropy of each histogram, nats."""
    return torch.special.entr(counts / counts.sum(dim=-1, keepdim=True)).sum(dim=-1)

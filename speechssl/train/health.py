"""Health of a pretraining run: six ways to fail, told apart, each with advice.

Small contrastive runs fail in ways that one number does not show. Codes may be random (Gumbel noise chooses), may hash
the waveform's phase (they look busy and balanced, but move with every shift by a few milliseconds), may collapse to a
few entries, or the features may become constant; or nothing is learnt at all, or gradients explode. An alarm needs its
sign to persist over ``patience`` updates after ``grace`` updates: healthy runs sit at chance for their first few
hundred updates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pydantic import PositiveInt

from speechssl.config import Config


class HealthConfig(Config):
    """When to worry."""

    enabled: bool = True
    # Updates before any alarm but non-finite and exploding gradients; at least twice the warm-up, see the loop.
    grace: int = 600
    patience: PositiveInt = 200  # updates a sign must last
    min_perplexity: float = 3.0  # of codes, mean over groups
    min_determinism: float = 0.2  # mean largest code probability
    min_information: float = 0.3  # nats of codes about frames
    max_constant_share: float = 0.99  # of the features' power
    min_stability: float = 0.12  # share of codes that survive a shift by 5 ms
    chance_perplexity: float = 10.0  # below it a loss at chance is laid to collapsed codes
    chance_constant_share: float = 0.9  # above it a loss at chance is laid to constant features
    chance_margin: float = 0.01  # a loss within this share of that of equal scores counts as chance
    explosion: float = 50.0  # times the median gradient norm
    explosion_patience: PositiveInt = 20  # updates
    non_finite_patience: PositiveInt = 3  # updates


ADVICE = {
    "random codes": "codes are chosen by the Gumbel noise, not by the audio: the quantizer's logits are too small; "
    "raise objective.quantizer.logit_std (5 works)",
    "phase hash": "codes depend on the waveform's phase and change under a 5 ms shift, so context cannot predict them: "
    "use encoder.conv.init=tap-average and, for short runs, encoder.conv.front=gabor",
    "collapsed codes": "almost all frames get the same codes: lower objective.quantizer.logit_std (below 15), "
    "raise objective.diversity_weight, or lower optim.reference_lr",
    "constant features": "the features are the same in every frame: "
    "lower objective.feature_penalty (0 for short runs) or optim.conv_lr_scale",
    "not learning": "the loss stays at chance, ln(1 + negatives), though codes look sound: "
    "more updates, a larger batch (crops.batch_seconds), or another optim.reference_lr",
    "exploding gradients": "gradient norms far above their median: "
    "lower optim.reference_lr (or the rate of fine-tuning) or optim.clip, or lengthen optim.warmup",
    "non-finite gradients": "loss or gradients are not finite: lower optim.reference_lr (or the rate of fine-tuning), "
    "or set loop.precision=fp32",
}


class HealthError(RuntimeError):
    """A run that should not go on; ``state`` is a key of :data:`ADVICE`."""

    def __init__(self, state: str, *, step: int, evidence: str):
        self.state, self.step, self.evidence, self.advice = state, step, evidence, ADVICE[state]
        super().__init__(f"step {step}: {state} ({evidence}); {self.advice}")


@dataclass
class HealthMonitor:
    """Counts how long each sign has lasted.

    Args:
        config: thresholds.
        chance_loss: loss of a model that knows nothing, nats; None watches the gradients alone, as fine-tuning does.
        grace: first update at which a lasting sign may become an alarm.

    Example:
        >>> monitor = HealthMonitor(HealthConfig(non_finite_patience=1), chance_loss=4.6, grace=0)
        >>> monitor.observe(7, {"loss": float("nan")}, grad_norm=1.0)
        Traceback (most recent call last):
        speechssl.train.health.HealthError: step 7: non-finite gradients (loss nan, gradient norm 1); loss or gradients
        are not finite: lower optim.reference_lr (or the rate of fine-tuning), or set loop.precision=fp32
    """

    config: HealthConfig
    chance_loss: float | None
    grace: int
    lasting: dict[str, int] = field(default_factory=dict[str, int])
    recent_norms: list[float] = field(default_factory=list[float])
    stability: float | None = None

    def observe(self, step: int, metrics: Mapping[str, float | Sequence[float]], *, grad_norm: float) -> None:
        """Take in one update.

        Raises:
            HealthError: a sign has lasted too long.
        """
        if not self.config.enabled:
            return
        loss = _number(metrics["loss"])
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        self._count(
            "non-finite gradients",
            not finite,
            limit=self.config.non_finite_patience,
            step=step,
            evidence=f"loss {loss:.4g}, gradient norm {grad_norm:.4g}",
        )
        if not finite:
            return
        usual = median(self.recent_norms) if len(self.recent_norms) >= 20 else math.inf
        exploding = grad_norm > self.config.explosion * usual
        self._count(
            "exploding gradients",
            exploding,
            limit=self.config.explosion_patience,
            step=step,
            evidence=f"gradient norm {grad_norm:.4g}, median {usual:.4g}",
        )
        if not exploding:
            self.recent_norms = [*self.recent_norms[-199:], grad_norm]
        if step >= self.grace and self.chance_loss is not None:
            self._count_signs(step, self._signs(metrics, self.chance_loss))

    def _count_signs(self, step: int, signs: Mapping[str, tuple[bool, str]]) -> None:
        """Every sign has its own count; the alarm names the most specific one that is about as old."""
        for state, (sign, _) in signs.items():
            self.lasting[state] = self.lasting.get(state, 0) + 1 if sign else 0
        if any(self.lasting[state] >= self.config.patience for state in signs):
            state = next(state for state in signs if self.lasting[state] >= self.config.patience / 2)
            raise HealthError(state, step=step, evidence=signs[state][1])

    def _signs(self, metrics: Mapping[str, float | Sequence[float]], chance_loss: float) -> dict[str, tuple[bool, str]]:
        """Which signs this update shows, most specific cause first."""
        config = self.config
        perplexity = _number(metrics["code_perplexity"])
        determinism, information = _number(metrics["determinism"]), _number(metrics["mutual_information"])
        constant, loss = _number(metrics["constant_share"]), _number(metrics["contrastive_loss"])
        # Distractors with the target's codes are left out, so a low loss is easy: chance counts those that stayed.
        chance = _number(metrics.get("chance_loss", chance_loss))
        at_chance = loss > (1 - config.chance_margin) * chance
        stable = math.inf if self.stability is None else self.stability
        return {
            "constant features": (
                constant > (config.chance_constant_share if at_chance else config.max_constant_share),
                f"{constant:.3f} of the features' power is constant",
            ),
            "collapsed codes": (
                perplexity < (config.chance_perplexity if at_chance else config.min_perplexity),
                f"code perplexity {perplexity:.2f}",
            ),
            "random codes": (
                determinism < config.min_determinism and (at_chance or information < config.min_information),
                f"mean largest code probability {determinism:.2f}, {information:.2f} nats of information",
            ),
            "phase hash": (
                # Survival by accident: about 1 / perplexity, two to four times that where measured.
                at_chance and stable < max(config.min_stability, 3 / perplexity),
                f"loss {loss:.2f} at chance {chance:.2f}, {100 * stable:.0f} % of codes survive a 5 ms shift",
            ),
            "not learning": (at_chance, f"loss {loss:.3f} at chance {chance:.3f}"),
        }

    def _count(self, state: str, sign: bool, *, limit: int, step: int, evidence: str) -> None:
        self.lasting[state] = self.lasting.get(state, 0) + 1 if sign else 0
        if self.lasting[state] >= limit:
            raise HealthError(state, step=step, evidence=evidence)

    @property
    def suspicious(self) -> bool:
        """Whether a sign is up now: such a state is not kept as the last good checkpoint."""
        return any(self.lasting.values())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"lasting": dict(self.lasting), "recent_norms": list(self.recent_norms), "stability": self.stability}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.lasting, self.recent_norms = dict(state["lasting"]), list(state["recent_norms"])
        self.stability = state["stability"]


def _number(value: float | Sequence[float]) -> float:
    """A metric, or the mean of one that has a value a group."""
    return float(value) if isinstance(value, int | float) else sum(value) / len(value)

"""Health of a run: non-finite or exploding gradients, and the symptoms that the objective reports.

An alarm stops the run with advice. It is raised when a symptom lasts for ``patience`` updates after ``grace`` updates:
healthy runs stay at chance for their first few hundred updates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from pydantic import PositiveInt

from speechssl.config import Config
from speechssl.objectives.base import Symptom

Values = Mapping[str, float | Sequence[float]]


class HealthConfig(Config):
    """Thresholds of the alarms."""

    enabled: bool = True
    # Updates before any alarm except for non-finite and exploding gradients; and before twice the warm-up.
    grace: int = 600
    patience: PositiveInt = 200  # updates that a symptom must last
    explosion: float = 50.0  # times the median gradient norm
    explosion_patience: PositiveInt = 20  # updates
    non_finite_patience: PositiveInt = 3  # updates


ADVICE = {
    "exploding gradients": "gradient norms far above their median: "
    "lower optim.reference_lr (or the rate of fine-tuning) or optim.clip, or lengthen optim.warmup",
    "non-finite gradients": "loss or gradients are not finite: lower optim.reference_lr (or the rate of fine-tuning), "
    "or set loop.precision=fp32",
}


class HealthError(RuntimeError):
    """Error that stops a failed run: the state, its evidence and what to change."""

    def __init__(self, state: str, *, step: int, evidence: str, advice: str):
        self.state, self.step, self.evidence, self.advice = state, step, evidence, advice
        super().__init__(f"step {step}: {state} ({evidence}); {advice}")


@dataclass
class HealthMonitor:
    """Monitor that counts for how many updates each symptom has lasted.

    Args:
        config: thresholds.
        symptoms: the objective's symptoms, from the metrics of an update and of the last probe; default: none.
        grace: first update at which a lasting symptom may become an alarm.
        settled: progress of the run from which on it may.

    Attributes:
        probed: metrics of the last probe.

    Example:
        >>> monitor = HealthMonitor(HealthConfig(non_finite_patience=1))
        >>> monitor.observe(7, {"loss": float("nan"), "grad_norm": 1.0})
        Traceback (most recent call last):
        speechssl.train.health.HealthError: step 7: non-finite gradients (loss nan, gradient norm 1); loss or gradients
        are not finite: lower optim.reference_lr (or the rate of fine-tuning), or set loop.precision=fp32
    """

    config: HealthConfig
    symptoms: Callable[[Values, Values], Sequence[Symptom]] = lambda _metrics, _probed: ()
    grace: int = 0
    settled: float = 0.0
    lasting: dict[str, int] = field(default_factory=dict[str, int])
    recent_norms: list[float] = field(default_factory=list[float])
    probed: Values = field(default_factory=dict[str, float])

    def observe(self, step: int, metrics: Values, *, progress: float = 1.0) -> None:
        """Count one update.

        Args:
            step: its number.
            metrics: of the update, with ``loss`` and ``grad_norm``, the norm before clipping.
            progress: fraction of the run done.

        Raises:
            HealthError: a symptom has lasted too long.
        """
        if not self.config.enabled:
            return
        loss, grad_norm = (float(metrics[name]) for name in ("loss", "grad_norm"))  # pyright: ignore[reportArgumentType] -- one number each
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
        if step >= self.grace and progress >= self.settled:
            self._count_symptoms(step, self.symptoms(metrics, self.probed))

    def _count_symptoms(self, step: int, symptoms: Sequence[Symptom]) -> None:
        """Count each symptom; the alarm reports the most specific of those with about the longest count."""
        for each in symptoms:
            self.lasting[each.state] = self.lasting.get(each.state, 0) + 1 if each.present else 0
        if any(self.lasting[each.state] >= self.config.patience for each in symptoms):
            oldest = next(each for each in symptoms if self.lasting[each.state] >= self.config.patience / 2)
            raise HealthError(oldest.state, step=step, evidence=oldest.evidence, advice=oldest.advice)

    def _count(self, state: str, sign: bool, *, limit: int, step: int, evidence: str) -> None:
        self.lasting[state] = self.lasting.get(state, 0) + 1 if sign else 0
        if self.lasting[state] >= limit:
            raise HealthError(state, step=step, evidence=evidence, advice=ADVICE[state])

    @property
    def suspicious(self) -> bool:
        """Whether a symptom is present: such a state is not kept as the last good checkpoint."""
        return any(self.lasting.values())

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return {"lasting": dict(self.lasting), "recent_norms": list(self.recent_norms), "probed": dict(self.probed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.lasting, self.recent_norms = dict(state["lasting"]), list(state["recent_norms"])
        self.probed = dict(state.get("probed", {}))

"""Progress of a run from 0 to 1, by updates or by wall time.

Schedules (learning rate, Gumbel temperature, decay of a moving teacher) are functions of the progress, so that a short
run is the same recipe as a long one.

A run with a constant phase can be prolonged: its last state before the cooldown is kept, and the rest of the longer run
begins there. Progress then rises linearly from the kept state's to that of the cooldown, so that no schedule steps back
(the idea of Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", arXiv
2405.18392: one constant phase, a cooldown from any of its checkpoints).
"""

import re
from dataclasses import dataclass
from typing import Literal

from speechssl.config import UserError

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_PART = r"(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*"

Unit = Literal["updates", "seconds"]


@dataclass(frozen=True)
class Timeline:
    """Progress as a function of the position in a run.

    Attributes:
        length: of the whole run, in its unit.
        unit: updates, or seconds of wall time.
        turn: progress at which the cooldown begins; 1 where the schedule has none.
        start: position from which the run was prolonged; 0 where it was not.
        begun: progress at ``start``.
    """

    length: float
    unit: Unit = "updates"
    turn: float = 1.0
    start: float = 0.0
    begun: float = 0.0

    @property
    def cooldown_at(self) -> float:
        """Position at which the cooldown begins; the end where there is none."""
        return self.turn * self.length

    def progress(self, position: float) -> float:
        """Progress at a position; 1 from the end on.

        >>> [Timeline(1000.0).progress(position) for position in (0.0, 500.0, 1000.0)]
        [0.0, 0.5, 1.0]
        >>> longer = Timeline(1000.0, turn=0.8, start=200.0, begun=0.5)
        >>> [round(longer.progress(position), 3) for position in (200.0, 500.0, 800.0, 900.0, 1000.0)]
        [0.5, 0.65, 0.8, 0.9, 1.0]
        """
        if position >= self.length:
            return 1.0
        knot = self.cooldown_at
        if self.start == 0.0 or (position >= knot > self.start):
            return position / self.length
        end, reached = (knot, self.turn) if knot > self.start else (self.length, 1.0)
        return self.begun + (reached - self.begun) * max(0.0, position - self.start) / (end - self.start)

    def prolonged(self, other: "Timeline", position: float, progress: float) -> "Timeline":
        """This run continued on another timeline.

        Args:
            other: of the longer run.
            position: where the run is, in the unit of the other timeline.
            progress: where the run is.
        """
        return Timeline(other.length, other.unit, other.turn, start=position, begun=min(progress, other.turn))


def parse_time(text: str) -> float:
    """Seconds of a time for people.

    Raises:
        UserError: not a time.

    >>> parse_time("20min"), parse_time("1h30min")
    (1200.0, 5400.0)
    """
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_PART, text))
    if not re.fullmatch(f"({_PART})+", text.strip()) or seconds <= 0:
        raise UserError(f"--budget: given {text!r}, allowed: a time such as 90s, 20min, 3h or 1h30min")
    return seconds

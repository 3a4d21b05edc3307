"""The likeliest CTC path of a text, in memory that does not grow with the product of frames and symbols.

The states of a text are its symbols with a blank before, between and behind them (Graves et al. 2006, "Connectionist
Temporal Classification", section 4.1). The cost of a path in a frame is the difference, in nats, between its symbol and
the frame's likeliest symbol; the likeliest path has the smallest cost. In each frame, states are kept that still can
reach the end and cost at most `BEAM` more than the cheapest of them. Costs are never negative: a path that costs less
than `BEAM` in all is the cheapest of all paths. In a longer recording, the cheapest path is missed only where the start
of another path is likelier by a factor of e^1000 at some frame.

Costs are kept at a few frames; the path is then found from its end, stretch by stretch, each searched again from the
costs kept before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

BEAM = 1000.0  # nats
MAX_CELLS = 1 << 33  # frames x states searched in all: one to two minutes on one core
_BLOCK_CELLS = 1 << 24  # frames x states whose transitions, one byte each, are in memory at once
_BLOCK_FRAMES = 256  # a stretch of this many frames is not split
_SPLITS = 32  # stretches that a longer one is split into; costs are kept at the start of each
_MOST = 1e9  # nats, the cost of a symbol of probability zero: a path through one is found where there is no other


class SearchTooLargeError(ValueError):
    """More than `MAX_CELLS` frames x states would have to be searched."""


@dataclass(frozen=True)
class _Front:
    """The cheapest path to each state from `first` on, at one frame, nats."""

    first: int
    costs: Float64[np.ndarray, " _"]


def likeliest_path(
    log_probs: Float32[np.ndarray, "frames symbols"], symbols: Sequence[int], *, blank: int = 0
) -> Int[np.ndarray, " frames"]:
    """The state of each frame on the likeliest path: 2n + 1 for symbol number n, even numbers for blanks.

    Of equally likely paths, the one that stays longest in the earlier states is found.

    Args:
        log_probs: natural logarithms.
        symbols: indices of the text's symbols, one or more, none of them the blank; with a blank between equal
            neighbours they need no more frames than there are.
        blank: the index of the blank.

    Raises:
        SearchTooLargeError: more states than can be searched.

    >>> likeliest_path(np.log(np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]], np.float32)), [1]).tolist()
    [0, 1, 1, 2]
    """
    search = _Search(log_probs, symbols, blank=blank)
    search.run()
    return search.states


class _Search:
    """Search for one path."""

    def __init__(self, log_probs: Float32[np.ndarray, "frames symbols"], symbols: Sequence[int], *, blank: int):
        self.log_probs = log_probs
        self.labels = np.full(2 * len(symbols) + 1, blank, dtype=np.int64)
        self.labels[1::2] = symbols
        equal = np.append(self.labels[3::2] == self.labels[1:-2:2], False)  # symbol n and the next
        self.can_skip: Bool[np.ndarray, " _"] = np.zeros(len(self.labels), dtype=bool)
        self.can_skip[3::2] = ~equal[:-1]  # from symbol to symbol, without the blank
        # Frames that a path needs after the one in which it is in a state.
        rest = np.arange(len(symbols), 0, -1) + np.cumsum(equal[::-1])[::-1]
        self.needed = np.zeros(len(self.labels), dtype=np.int64)
        self.needed[:-1:2], self.needed[1::2] = rest, rest - 1
        self.states = np.zeros(len(log_probs), dtype=np.int64)
        self.cells = 0

    def run(self) -> None:
        """Find the path."""
        start = _Front(0, self._symbol_costs(0, 0, 2))
        last = len(self.log_probs) - 1
        end = self._fronts(start, 0, last)[-1]
        state = min(len(self.labels) - 2, len(self.labels) - 1, key=lambda each: self._cost(end, each))
        self._trace(start, 0, last, state)

    def _trace(self, start: _Front, first: int, last: int, state: int) -> None:
        """The path from frame `first` to frame `last`, where it is in `state`."""
        places = self._places(first, last)
        if len(places) > 1:
            fronts = self._fronts(start, first, last)
            for number in range(len(places) - 1, -1, -1):
                begin = first if number == 0 else places[number - 1]
                self._trace(start if number == 0 else fronts[number - 1], begin, places[number], state)
                state = int(self.states[begin])
            return
        moves: list[tuple[int, Int[np.ndarray, " _"]]] = []
        front = start
        for frame in range(first + 1, last + 1):
            front = self._step(front, frame, moves=moves)
        for frame in range(last, first, -1):
            self.states[frame] = state
            low, steps = moves[frame - first - 1]
            state -= int(steps[state - low])
        self.states[first] = state

    def _fronts(self, start: _Front, first: int, last: int) -> list[_Front]:
        """Fronts at the frames of `_places` between two frames."""
        kept: list[_Front] = []
        front, begin = start, first
        for place in self._places(first, last):
            for frame in range(begin + 1, place + 1):
                front = self._step(front, frame)
            kept.append(front)
            begin = place
        return kept

    def _places(self, first: int, last: int) -> list[int]:
        """Frames at which fronts are kept, `last` at the end; only `last` where there are few transitions between."""
        frames = last - first
        if frames <= _BLOCK_FRAMES or frames * len(self.labels) <= _BLOCK_CELLS:
            return [last]
        size = max(_BLOCK_FRAMES, -(-frames // _SPLITS))
        return [*range(first + size, last, size), last]

    def _step(
        self, front: _Front, frame: int, *, moves: list[tuple[int, Int[np.ndarray, " _"]]] | None = None
    ) -> _Front:
        """The front of the next frame."""
        low = front.first
        high = min(low + len(front.costs) + 2, len(self.labels))
        self.cells += high - low
        if self.cells > MAX_CELLS:
            raise SearchTooLargeError(f"more than {MAX_CELLS} frames x states to search")
        padded = np.full(high - low + 2, np.inf)
        known = min(len(front.costs), high - low)
        padded[2 : 2 + known] = front.costs[:known]
        stay, one = padded[2:], padded[1:-1]
        two = np.where(self.can_skip[low:high], padded[:-2], np.inf)
        costs = np.minimum(np.minimum(stay, one), two)
        if moves is not None:
            moves.append((low, np.where(stay == costs, 0, np.where(one == costs, 1, 2)).astype(np.int8)))
        costs += self._symbol_costs(frame, low, high)
        costs[self.needed[low:high] > len(self.log_probs) - 1 - frame] = np.inf
        kept = np.flatnonzero(costs <= costs.min() + BEAM)
        return _Front(low + int(kept[0]), costs[kept[0] : kept[-1] + 1])

    def _symbol_costs(self, frame: int, low: int, high: int) -> Float64[np.ndarray, " _"]:
        row = self.log_probs[frame]
        costs = np.minimum(row.max() - row, _MOST).astype(np.float64)
        return costs[self.labels[low:high]]

    def _cost(self, front: _Front, state: int) -> float:
        place = state - front.first
        return float(front.costs[place]) if 0 <= place < len(front.costs) else np.inf

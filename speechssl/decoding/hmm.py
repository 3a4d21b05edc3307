"""Monophone hidden Markov model with Gaussian mixtures, trained on transcribed recordings.

The classical recogniser for few labels, and the rival of a fine-tuned encoder. The recipe is that of Kaldi's
`train_mono.sh`: every unit (phone or letter) has three states from left to right, training starts with frames spread
evenly over the states of a transcript, or as another model aligned them, and Viterbi alignment and re-estimation
alternate while Gaussians are split up to about 1,000. Other than there, silence has one state, alignment is exact (no
beam), and silence and pronunciations have no probabilities of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from speechssl.config import UserError
from speechssl.decoding.mixtures import FLOOR, Frames, StateMixtures, Statistics, estimated
from speechssl.files import replacing

STATES = 3  # of a unit
SILENCE = 0  # the state of silence; the states of unit n are 1 + 3 n to 3 + 3 n
GAUSSIANS = 1000
PASSES = 40
GROWING = 30  # passes over which Gaussians are split
REALIGNED = frozenset([*range(1, 11), 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38])
_LOOP_RANGE = (0.05, 0.95)  # of the probability to stay in a state

Spellings = Sequence[Sequence[str]]  # of a word: its pronunciations in units, the usual one first


@dataclass(frozen=True)
class Graph:
    """States of a transcript with all pronunciations and optional silence between words, in topological order.

    Attributes:
        states: HMM state of each node.
        before: other nodes that may precede each one; `len(states)` where there are fewer.
        first: whether a node may be the first.
        last: whether a node may be the last.
        usual: nodes of the first pronunciations with silence at both ends, from first to last.
    """

    states: Int64[np.ndarray, " nodes"]
    before: Int64[np.ndarray, "nodes predecessors"]
    first: Bool[np.ndarray, " nodes"]
    last: Bool[np.ndarray, " nodes"]
    usual: Int64[np.ndarray, " path"]


@dataclass(frozen=True)
class MonophoneHmm:
    """A trained model.

    Attributes:
        units: phones or letters.
        mixtures: of every state.
        loops: probability to stay in each state from one frame to the next.
    """

    units: tuple[str, ...]
    mixtures: StateMixtures
    loops: Float64[np.ndarray, " states"]

    def states_of(self, spelling: Sequence[str]) -> list[int]:
        """States of a pronunciation, in order."""
        return _states(self.units, spelling)

    def save(self, path: Path) -> None:
        """Write an `.npz` file, whole or not at all."""
        mixtures = self.mixtures
        with replacing(path) as file:
            np.savez(
                file,
                units=np.array(self.units),
                loops=self.loops,
                states=mixtures.states,
                weights=mixtures.weights,
                means=mixtures.means,
                variances=mixtures.variances,
            )

    @classmethod
    def load(cls, path: Path) -> "MonophoneHmm":
        """Read a file of `save`.

        Raises:
            UserError: not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                parts = (stored[name] for name in ("states", "weights", "means", "variances"))
                return cls(tuple(stored["units"].tolist()), StateMixtures(*parts), stored["loops"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a stored HMM ({error}); remove it") from None


def train_hmm(
    features: Sequence[Frames],
    transcripts: Sequence[str],
    *,
    spellings: Callable[[str], Spellings],
    paths: Sequence[Int64[np.ndarray, " _"]] | None = None,
    gaussians: int = GAUSSIANS,
    passes: int = PASSES,
    seed: int = 0,
) -> MonophoneHmm:
    """Train a model.

    Args:
        features: frames of each recording; three per unit of its transcript are needed.
        transcripts: words of each recording, separated by spaces.
        spellings: pronunciations of a word in units.
        paths: nodes of each recording's frames, as :func:`align` gives them for another model of the same transcripts;
            the first alignment is at a third of the passes then. None: a flat start.
        gaussians: their number at the end, over all states, where there are enough frames.
        passes: re-estimations.
        seed: of the directions in which Gaussians are split.

    Raises:
        UserError: no recording is long enough for its transcript.
    """
    known = sorted({unit for text in transcripts for word in text.split() for each in spellings(word) for unit in each})
    units = tuple(known)
    graphs = [make_graph([spellings(word) for word in text.split()], units) for text in transcripts]
    given = [None] * len(graphs) if paths is None else paths
    kept = [each for each in zip(features, graphs, given, strict=True) if len(each[0]) >= len(each[1].usual)]
    used = [(x, graph) for x, graph, _ in kept]
    nodes = [_evenly(graph, len(x)) if path is None else path for x, graph, path in kept]
    if not used or not units:
        raise UserError("no labelled recording has words and three frames per unit of its transcript")
    number = 1 + STATES * len(units)
    every = np.concatenate([x for x, _ in used])
    spread = np.maximum(every.var(axis=0), 1e-10)
    mixtures = StateMixtures(
        np.arange(number), np.ones(number), np.tile(every.mean(axis=0), (number, 1)), np.tile(spread, (number, 1))
    )
    loops = np.full(number, 0.5)
    realigned = REALIGNED if paths is None else {step for step in REALIGNED if step > passes // 3}
    rng = np.random.default_rng(seed)
    for step in range(passes):
        if step in realigned:
            hmm = MonophoneHmm(units, mixtures, loops)
            nodes = [align(hmm, x, graph) for x, graph in used]
        aligned = [graph.states[path] for (_, graph), path in zip(used, nodes, strict=True)]
        found = Statistics.of(mixtures, every, np.concatenate(aligned))
        loops = _loops(list(zip(aligned, nodes, strict=True)), number)
        goal = number + max(gaussians - number, 0) * min(step + 1, GROWING) // GROWING
        mixtures = estimated(mixtures, found, floor=FLOOR * spread, gaussians=goal, rng=rng)
    return MonophoneHmm(units, mixtures, loops)


def make_graph(words: Sequence[Spellings], units: Sequence[str]) -> Graph:
    """The graph of a transcript.

    Args:
        words: pronunciations of each word.
        units: those of the model.
    """
    states: list[int] = []
    before: list[list[int]] = []
    starts: list[bool] = []
    usual: list[int] = []

    def add(state: int, after: list[int], *, start: bool) -> int:
        states.append(state)
        before.append(after)
        starts.append(start)
        return len(states) - 1

    open_ends, at_start = [], True  # nodes after which the next word may begin; whether it may be the first
    for place, word in enumerate([None, *words]):
        if word is not None:
            ends: list[int] = []
            for number, spelling in enumerate(dict.fromkeys(map(tuple, word))):
                after, start = open_ends, at_start
                for state in _states(units, spelling):
                    after, start = [add(state, after, start=start)], False
                    usual += after if number == 0 else []
                ends += after
            open_ends, at_start = ends, False
        silence = add(SILENCE, open_ends, start=at_start)
        usual += [silence] if place in (0, len(words)) else []
        open_ends = [*open_ends, silence]
    width = max(1, *map(len, before))
    padded = np.array([[*each, *[len(states)] * (width - len(each))] for each in before], dtype=np.int64)
    last = np.zeros(len(states), dtype=bool)
    last[open_ends] = True
    return Graph(np.array(states), padded, np.array(starts), last, np.array(usual))


def align(hmm: MonophoneHmm, frames: Frames, graph: Graph) -> Int64[np.ndarray, " frames"]:
    """The likeliest node of each frame.

    Args:
        hmm: the model.
        frames: at least as many as the graph's shortest path.
        graph: of the transcript.
    """
    heard = hmm.mixtures.log_probs(frames)[:, graph.states]
    stay, leave = np.log(hmm.loops)[graph.states], np.log1p(-hmm.loops)[graph.states]
    nodes = len(graph.states)
    enter = np.append(leave, 0.0)[graph.before]
    scores = np.full(nodes + 1, -np.inf)  # the last entry stands for no predecessor
    scores[:nodes] = np.where(graph.first, heard[0], -np.inf)
    from_where = np.empty((len(frames), nodes), dtype=np.int64)
    every = np.arange(nodes)
    for frame in range(1, len(frames)):
        ways = scores[graph.before] + enter
        best = ways.argmax(axis=1)
        entered = ways[every, best]
        stayed = scores[:nodes] + stay
        from_where[frame] = np.where(stayed >= entered, every, graph.before[every, best])
        scores[:nodes] = np.maximum(stayed, entered) + heard[frame]
    path = np.empty(len(frames), dtype=np.int64)
    path[-1] = int(np.where(graph.last, scores[:nodes], -np.inf).argmax())
    for frame in range(len(frames) - 1, 0, -1):
        path[frame - 1] = from_where[frame, path[frame]]
    return path


def _states(units: Sequence[str], spelling: Sequence[str]) -> list[int]:
    return [1 + STATES * units.index(unit) + place for unit in spelling for place in range(STATES)]


def _evenly(graph: Graph, frames: int) -> Int64[np.ndarray, " frames"]:
    """The usual path, with equally many frames per node."""
    return graph.usual[np.arange(frames) * len(graph.usual) // frames]


def _loops(
    paths: Sequence[tuple[Int64[np.ndarray, " frames"], Int64[np.ndarray, " frames"]]], number: int
) -> Float64[np.ndarray, " states"]:
    """Probability to stay in each state, of aligned states and nodes."""
    frames, visits = np.zeros(number), np.zeros(number)
    for states, nodes in paths:
        frames += np.bincount(states, minlength=number)
        visits += np.bincount(states[np.flatnonzero(np.diff(nodes, prepend=-1))], minlength=number)
    return np.clip(1 - visits / np.maximum(frames, 1), *_LOOP_RANGE)

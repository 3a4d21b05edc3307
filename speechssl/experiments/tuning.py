"""Tuning of the decoder's weights on a development set by word error rate.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, appendix B) searches lm_weight in [0, 5] and word_score in [-5, 5]
with 128 trials of Bayesian optimisation. Here it is a coordinate search over those ranges: one weight at a time over a
coarse grid, in turns until neither improves, beyond an edge of the grid where the best weight is at that edge, then
halfway to the neighbours of the best. It needs about 20 to 50 trials, on some of the utterances where there are many;
the best of them are compared on all utterances. It is deterministic, and returns every trial, so that they can be
stored with the results. Never tune on the test set. With the mean probabilities of the symbols (`DecoderConfig.prior`)
their weight is the third axis.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from speechssl.decoding.decode import DecoderConfig
from speechssl.metrics.wer import count_errors

LM_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
WORD_SCORES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
PRIOR_WEIGHTS = (0.0, 0.3, 0.6)
LOWEST, HIGHEST = (0.0, -math.inf, 0.0), (math.inf, math.inf, 1.0)  # that a decoder takes, by axis
BEYOND = 3  # steps of a grid beyond each of its edges, at most
FEW = 40  # utterances on which the search is made
FINALISTS = 6  # weights that are compared on all utterances

Weights = tuple[float, float, float]


@runtime_checkable
class Search(Protocol):
    """A decoder with weights: `BeamDecoder`, or `speechssl.decoding.hmm_search.HmmDecoder`."""

    config: DecoderConfig
    lm: Any

    def with_config(self, config: DecoderConfig) -> "Search":
        """The same search with other weights."""
        ...

    def text(self, log_probs: Any) -> str:
        """The best text of an utterance."""
        ...


@dataclass(frozen=True)
class Trial:
    """Weights of a trial with its word and character error rates on so many utterances."""

    lm_weight: float
    word_score: float
    prior_weight: float
    wer: float
    cer: float
    utterances: int = 0


@dataclass(frozen=True)
class Tuning:
    """The chosen weights and all trials in their order."""

    config: DecoderConfig
    trials: tuple[Trial, ...]

    @property
    def chosen(self) -> Trial:
        """The trial with the chosen weights, on all utterances."""
        weights = _weights(self.config)
        same = [each for each in self.trials if (each.lm_weight, each.word_score, each.prior_weight) == weights]
        return max(same, key=lambda each: each.utterances)


def tune(
    emissions: Sequence[Float[np.ndarray, "_ symbols"]],
    references: Sequence[str],
    *,
    decoder: Search,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
    prior_weights: Sequence[float] = PRIOR_WEIGHTS,
    limit: int | None = 200,
    few: int = FEW,
    seed: int = 0,
) -> Tuning:
    """Choose lm_weight, word_score and prior_weight.

    The search is made on `few` of the utterances, and the best trials are made again on all. The lowest word error rate
    wins, then the lowest character error rate, then the smaller weights.

    Args:
        emissions: of the development set, one per utterance.
        references: its transcripts, normalised.
        decoder: the search whose weights are tuned; its own weights are tried first.
        lm_weights: the coarse grid, which is left where the best weight is at its edge, like the other grids; a decoder
            without a language model keeps its own weight.
        word_scores: the coarse grid; without a lexicon there is no word score.
        prior_weights: the coarse grid; without a prior in the decoder's config there is no such weight.
        limit: maximum number of utterances, drawn with `seed`; None: all.
        few: utterances of the search, drawn with `seed` from those; the `FINALISTS` are compared on all.
        seed: seed of the draws.

    Raises:
        ValueError: no utterance, different numbers of emissions and references, or references without any word.
    """
    if len(emissions) != len(references) or len(references) == 0:
        raise ValueError(f"need as many references as emissions, got {len(references)} and {len(emissions)}")
    if not any(reference.split() for reference in references):
        raise ValueError("no reference holds a word, so there is nothing to tune by")
    order: list[int] = np.random.default_rng(seed).permutation(len(references)).tolist()
    chosen = sorted(order[:limit])
    searched = sorted(order[: min(few, len(chosen))])
    if not any(references[place].split() for place in searched):
        searched = chosen
    grids = (
        tuple(lm_weights) if decoder.lm is not None else (),
        tuple(word_scores) if decoder.config.lexicon else (),
        tuple(prior_weights) if decoder.config.prior else (),
    )

    def trial(weights: Weights, places: Sequence[int]) -> Trial:
        outputs, transcripts = [emissions[place] for place in places], [references[place] for place in places]
        return replace(_try(decoder, outputs, transcripts, weights=weights), utterances=len(places))

    trials: dict[Weights, Trial] = {}

    def rank(weights: Weights) -> tuple[float, ...]:
        if weights not in trials:
            trials[weights] = trial(weights, searched)
        return _rank(trials[weights])

    best = _search(rank, _weights(decoder.config), grids=grids)
    if searched == chosen:
        return Tuning(config=_weighted(decoder.config, best), trials=tuple(trials.values()))
    finals = {weights: trial(weights, chosen) for weights in sorted(trials, key=rank)[:FINALISTS]}
    best = min(finals, key=lambda weights: _rank(finals[weights]))
    return Tuning(config=_weighted(decoder.config, best), trials=(*trials.values(), *finals.values()))


def _rank(trial: Trial) -> tuple[float, ...]:
    """The smaller, the better."""
    return trial.wer, trial.cer, trial.lm_weight, abs(trial.word_score), trial.word_score, trial.prior_weight


def _search(
    rank: Callable[[Weights], tuple[float, ...]],
    start: Weights,
    *,
    grids: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]],
) -> Weights:
    """Coordinate search: on the grids until nothing improves, beyond their edges, then between neighbours."""
    wide = [tuple(sorted(grid)) for grid in grids]
    best = min([start], key=rank)
    while True:
        before = best
        for axis, grid in enumerate(wide):
            best = min([best, *(_replaced(best, axis, value) for value in grid)], key=rank)
        if best != before:
            continue
        for axis, grid in enumerate(wide):
            more = _beyond(grid, best[axis], axis, steps=len(grid) - len(grids[axis]))
            wide[axis] = tuple(sorted([*grid, *more]))
            best = min([best, *(_replaced(best, axis, value) for value in more)], key=rank)
        if best == before:
            break
    for axis, grid in enumerate(wide):
        near = _neighbours(grid, best[axis])
        best = min([best, *(_replaced(best, axis, (value + best[axis]) / 2) for value in near)], key=rank)
    return best


def _beyond(grid: Sequence[float], value: float, axis: int, *, steps: int) -> list[float]:
    """The next value beyond an edge of a grid, where the best is at that edge and the decoder takes more."""
    if len(grid) < 2 or steps >= BEYOND or value not in (grid[0], grid[-1]):
        return []
    step = grid[0] - grid[1] if value == grid[0] else grid[-1] - grid[-2]
    found = min(max(value + step, LOWEST[axis]), HIGHEST[axis])
    return [found] if found not in grid else []


def _replaced(weights: Weights, axis: int, value: float) -> Weights:
    first, second, third = (value if place == axis else weight for place, weight in enumerate(weights))
    return first, second, third


def _neighbours(grid: Sequence[float], value: float) -> list[float]:
    """The grid's values next to `value` below and above, where there are any."""
    return [*sorted(each for each in grid if each < value)[-1:], *sorted(each for each in grid if each > value)[:1]]


def _try(
    decoder: Search,
    emissions: Sequence[Float[np.ndarray, "_ symbols"]],
    references: Sequence[str],
    *,
    weights: Weights,
) -> Trial:
    search = decoder.with_config(_weighted(decoder.config, weights))
    texts = [search.text(each) for each in emissions]
    found = rates(references, texts)
    return Trial(*weights, wer=found["wer"], cer=found["cer"])


def rates(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Errors over reference words (`wer`) and characters (`cer`) of all utterances.

    >>> rates(["a cat", "a dog"], ["a cat", "a dot"])
    {'wer': 0.25, 'cer': 0.1}
    """
    words = count_errors(references, hypotheses)
    characters = count_errors(references, hypotheses, unit="character")
    wer, cer = (sum(e.errors for e in counts) / sum(e.words for e in counts) for counts in (words, characters))
    return {"wer": wer, "cer": cer}


def _weights(config: DecoderConfig) -> Weights:
    return config.lm_weight, config.word_score, config.prior_weight


def _weighted(config: DecoderConfig, weights: Weights) -> DecoderConfig:
    named = dict(zip(("lm_weight", "word_score", "prior_weight"), weights, strict=True))
    return DecoderConfig.model_validate(config.model_dump() | named)

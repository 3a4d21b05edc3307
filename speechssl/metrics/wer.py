"""Word and character error rates with bootstrap intervals.

The alignment is jiwer's (the fewest substitutions, deletions and insertions; Levenshtein 1966). The rate of a corpus is
the sum of errors over the sum of reference words, never a mean of rates. Intervals resample whole utterances, or whole
speakers: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004),
sections 3 (one system) and 4 (two systems on the same draws).

Texts are compared as they are, except for runs of spaces: normalise them first (`speechssl.text.normalize_transcript`).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from speechssl.metrics.classification import REPLICATES, Interval

Unit = Literal["word", "character"]
_CHUNK = 100  # replicates drawn at a time: a draw holds one number per utterance


@dataclass(frozen=True)
class EditCounts:
    """Edits that turn the reference of one utterance into its hypothesis.

    Attributes:
        substitutions: reference words that were recognised as another word.
        deletions: reference words that are missing.
        insertions: words that are in the hypothesis only.
        hits: reference words that were recognised.

    >>> counts = EditCounts(substitutions=1, deletions=0, insertions=2, hits=4)
    >>> counts.errors, counts.words
    (3, 5)
    """

    substitutions: int
    deletions: int
    insertions: int
    hits: int

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def words(self) -> int:
        """Words (or characters) of the reference."""
        return self.hits + self.substitutions + self.deletions


@dataclass(frozen=True)
class ErrorRate:
    """The error rate of a corpus; a fraction (1.0 is 100 %), above 1 where much was inserted.

    Attributes:
        value: errors over reference words.
        low: lower end of the interval.
        high: upper end of the interval.
        substitutions: of all utterances.
        deletions: of all utterances.
        insertions: of all utterances.
        words: of all references; characters where those were counted.
        utterances: number of utterances.
    """

    value: float
    low: float
    high: float
    substitutions: int
    deletions: int
    insertions: int
    words: int
    utterances: int


@dataclass(frozen=True)
class Edit:
    """One position of an alignment; `reference` is None at an insertion, `hypothesis` at a deletion."""

    reference: str | None
    hypothesis: str | None

    @property
    def is_error(self) -> bool:
        """Whether the two differ."""
        return self.reference != self.hypothesis


def count_errors(references: Sequence[str], hypotheses: Sequence[str], *, unit: Unit = "word") -> list[EditCounts]:
    """Errors of each utterance.

    With an empty reference every word is an insertion; with an empty hypothesis every word is a deletion.

    Args:
        references: what was said, normalised.
        hypotheses: what was recognised, in the same order.
        unit: `word`, or `character`, where the single spaces between words are characters too, as in jiwer's and
            most papers' CER.

    Returns:
        One entry per utterance, in the given order.

    Raises:
        ValueError: the two lengths differ or are zero.

    >>> count_errors(["the cat sat"], ["a cat sat down"])
    [EditCounts(substitutions=1, deletions=0, insertions=1, hits=2)]
    """
    counts: list[EditCounts] = []
    for chunks in _alignments(references, hypotheses, unit=unit):
        sizes = {"substitute": 0, "delete": 0, "insert": 0, "equal": 0}
        for chunk in chunks:
            sizes[chunk.kind] += max(chunk.reference.stop - chunk.reference.start, len(chunk.hypothesis))
        counts.append(EditCounts(sizes["substitute"], sizes["delete"], sizes["insert"], sizes["equal"]))
    return counts


def align_words(reference: str, hypothesis: str) -> list[Edit]:
    """Word alignment of a reference and a hypothesis.

    >>> [(edit.reference, edit.hypothesis) for edit in align_words("the cat sat", "the bat sat down")]
    [('the', 'the'), ('cat', 'bat'), ('sat', 'sat'), (None, 'down')]
    """
    said, heard = reference.split(), hypothesis.split()
    edits: list[Edit] = []
    for chunk in next(_alignments([reference], [hypothesis], unit="word")):
        left, right = [said[i] for i in chunk.reference], [heard[i] for i in chunk.hypothesis]
        size = max(len(left), len(right))
        pairs = zip([*left, *[None] * (size - len(left))], [*right, *[None] * (size - len(right))], strict=True)
        edits += [Edit(*pair) for pair in pairs]
    return edits


def error_rate(
    counts: Sequence[EditCounts],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> ErrorRate:
    """The error rate of a corpus and its percentile interval.

    Args:
        counts: from `count_errors`.
        groups: what is drawn as a whole, one entry per utterance, usually the speaker; None draws utterances.
        seed: seed of the draws; one seed gives one interval.
        replicates: number of draws.
        level: fraction of the draws inside the interval, in (0, 1).

    Raises:
        ValueError: no reference word, fewer than two utterances (groups), or a setting out of range.

    >>> rate = error_rate([EditCounts(1, 0, 0, 3), EditCounts(0, 0, 1, 3), EditCounts(0, 1, 0, 1)])
    >>> round(rate.value, 3), rate.words, rate.low <= rate.value <= rate.high
    (0.333, 9, True)
    """
    errors, words = _totals(counts, groups)
    value = float(errors.sum() / words.sum())
    rates = _replicates(errors, words, seed=seed, replicates=replicates)
    interval = _percentile(rates, value, level=level)
    return ErrorRate(
        value=value,
        low=interval.low,
        high=interval.high,
        substitutions=sum(each.substitutions for each in counts),
        deletions=sum(each.deletions for each in counts),
        insertions=sum(each.insertions for each in counts),
        words=int(words.sum()),
        utterances=len(counts),
    )


def error_rate_difference(
    counts: Sequence[EditCounts],
    other: Sequence[EditCounts],
    *,
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
    level: float = 0.95,
) -> Interval:
    """The error rate of `counts` minus that of `other` on the same utterances; below zero: `counts` is better.

    Both use the same draws, so what makes an utterance hard for both cancels (Bisani and Ney 2004, section 4). The
    arguments are those of `error_rate`.

    Raises:
        ValueError: the references of the two differ in number or length; otherwise as `error_rate`.

    >>> system = [EditCounts(1, 0, 0, 3), EditCounts(0, 0, 1, 3)]
    >>> error_rate_difference(system, system)
    Interval(value=0.0, low=0.0, high=0.0)
    """
    if [each.words for each in counts] != [each.words for each in other]:
        raise ValueError("a paired difference needs the same references on both sides, in the same order")
    errors, words = _totals(counts, groups)
    others, _ = _totals(other, groups)
    rates = _replicates(errors, words, seed=seed, replicates=replicates)
    rates -= _replicates(others, words, seed=seed, replicates=replicates)
    return _percentile(rates, float((errors.sum() - others.sum()) / words.sum()), level=level)


@dataclass(frozen=True)
class _Chunk:
    kind: str
    reference: range
    hypothesis: range


def _alignments(references: Sequence[str], hypotheses: Sequence[str], *, unit: Unit) -> Iterator[list[_Chunk]]:
    import jiwer

    if len(references) != len(hypotheses) or len(references) == 0:
        raise ValueError(f"need as many hypotheses as references, got {len(references)} and {len(hypotheses)}")
    process = jiwer.process_words if unit == "word" else jiwer.process_characters
    # Single spaces: jiwer would keep a tab inside a word.
    clean = [[" ".join(text.split()) for text in texts] for texts in (references, hypotheses)]
    for chunks in process(clean[0], clean[1]).alignments:
        yield [
            _Chunk(
                each.type,
                range(each.ref_start_idx, each.ref_end_idx),
                range(each.hyp_start_idx, each.hyp_end_idx),
            )
            for each in chunks
        ]


def _totals(
    counts: Sequence[EditCounts], groups: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, " units"], Float[np.ndarray, " units"]]:
    """Errors and reference words of each utterance, or of each group in the order of first appearance."""
    keys: Sequence[Hashable] = range(len(counts)) if groups is None else groups
    if len(keys) != len(counts):
        raise ValueError(f"need one speaker per utterance, got {len(keys)} for {len(counts)} utterances")
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    rows = np.array([number[key] for key in keys], dtype=np.int64)
    errors, words = np.zeros(len(number)), np.zeros(len(number))
    np.add.at(errors, rows, [each.errors for each in counts])
    np.add.at(words, rows, [each.words for each in counts])
    if words.sum() == 0:
        raise ValueError(f"no reference holds a word ({len(counts)} utterances), so there is no error rate")
    return errors, words


def _replicates(
    errors: Float[np.ndarray, " units"], words: Float[np.ndarray, " units"], *, seed: int, replicates: int
) -> Float[np.ndarray, " drawn"]:
    """The rate of each draw; the draws depend on the number of units, on which of them hold words, and the seed."""
    units = len(errors)
    if units < 2:
        raise ValueError(f"an interval needs at least 2 utterances or speakers, got {units}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    rng = np.random.default_rng(seed)
    rates: list[Float[np.ndarray, " part"]] = []
    for first in range(0, replicates, _CHUNK):
        part = min(_CHUNK, replicates - first)
        weights = rng.multinomial(units, np.full(units, 1 / units), size=part)  # (part, units)
        drawn = weights @ words
        has_words = drawn > 0  # a draw of empty references only has no rate
        rates.append((weights @ errors)[has_words] / drawn[has_words])
    return np.concatenate(rates)


def _percentile(rates: Float[np.ndarray, " drawn"], value: float, *, level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high))

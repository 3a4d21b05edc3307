"""Error rates: against a Levenshtein distance by loops, closed forms, and what a bootstrap must do."""

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.metrics.wer import EditCounts, align_words, count_errors, error_rate, error_rate_difference

TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "ж", "it's"]), max_size=7).map(" ".join)


def levenshtein(reference, hypothesis):
    """The fewest edits, by the recursion."""
    rows = [list(range(len(hypothesis) + 1))]
    for i, said in enumerate(reference, start=1):
        row = [i]
        for j, heard in enumerate(hypothesis, start=1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (said != heard)))
        rows.append(row)
    return rows[-1][-1]


@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_errors_are_the_fewest_edits(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    for unit, split in (("word", str.split), ("character", list)):
        counts = count_errors(references, hypotheses, unit=unit)
        assert [each.errors for each in counts] == [levenshtein(split(r), split(h)) for r, h in pairs]
        assert [each.words for each in counts] == [len(split(reference)) for reference in references]
        lengths = [each.hits + each.substitutions + each.insertions for each in counts]
        assert lengths == [len(split(hypothesis)) for hypothesis in hypotheses]


@given(reference=TEXTS, hypothesis=TEXTS)
def test_an_alignment_reads_as_both_texts_and_has_the_counted_errors(reference, hypothesis):
    edits = align_words(reference, hypothesis)
    assert [edit.reference for edit in edits if edit.reference is not None] == reference.split()
    assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == hypothesis.split()
    assert sum(edit.is_error for edit in edits) == count_errors([reference], [hypothesis])[0].errors


def test_the_corpus_rate_is_that_of_jiwer():
    references, hypotheses = ["a b c d", "e", "f g"], ["a x c", "e e e", ""]
    rate = error_rate(count_errors(references, hypotheses))
    assert rate.value == pytest.approx(jiwer.wer(references, hypotheses))
    assert rate.value == pytest.approx(6 / 7)
    assert (rate.substitutions, rate.deletions, rate.insertions) == (1, 3, 2)
    assert (rate.words, rate.utterances) == (7, 3)
    characters = error_rate(count_errors(references, hypotheses, unit="character"))
    assert characters.value == pytest.approx(jiwer.cer(references, hypotheses))


def test_an_empty_reference_counts_its_insertions():
    counts = count_errors(["", "a b", ""], ["x y", "", ""])
    assert counts == [EditCounts(0, 0, 2, 0), EditCounts(0, 2, 0, 0), EditCounts(0, 0, 0, 0)]
    assert error_rate(counts).value == 2.0
    with pytest.raises(ValueError, match=r"no reference holds a word \(1 utterances\)"):
        error_rate(counts[:1])


def test_spaces_of_any_kind_separate_words():
    assert count_errors(["a\tb  c\n"], [" a b c"]) == [EditCounts(0, 0, 0, 3)]
    assert count_errors(["a\tb"], ["a  b"], unit="character")[0].errors == 0


def test_the_interval_has_the_width_of_the_normal_approximation():
    rng = np.random.default_rng(5)
    wrong = rng.binomial(10, 0.3, size=400)
    counts = [EditCounts(int(each), 0, 0, 10 - int(each)) for each in wrong]
    rate = error_rate(counts, replicates=4000)
    deviation = np.std(wrong / 10) / np.sqrt(400)
    assert rate.low == pytest.approx(rate.value - 1.96 * deviation, abs=0.1 * deviation * 1.96)
    assert rate.high == pytest.approx(rate.value + 1.96 * deviation, abs=0.1 * deviation * 1.96)


def test_whole_speakers_are_drawn():
    """Utterances of a speaker that are all alike carry the information of one."""
    counts = [EditCounts(speaker % 2, 0, 0, 1) for speaker in range(8) for _ in range(50)]
    speakers = [f"s{speaker}" for speaker in range(8) for _ in range(50)]
    by_utterance, by_speaker = error_rate(counts), error_rate(counts, groups=speakers)
    assert by_speaker.value == by_utterance.value
    assert by_speaker.high - by_speaker.low > 4 * (by_utterance.high - by_utterance.low)
    one_each = error_rate(counts[::50])
    assert (one_each.low, one_each.high) == (by_speaker.low, by_speaker.high)


def test_one_seed_gives_one_interval():
    counts = [EditCounts(i % 3, 0, i % 2, 4) for i in range(30)]
    assert error_rate(counts, seed=3) == error_rate(counts, seed=3)
    assert error_rate(counts, seed=3) != error_rate(counts, seed=4)
    assert error_rate(counts, replicates=100).low == pytest.approx(error_rate(counts, replicates=1000).low, abs=0.05)


def test_identical_systems_differ_by_nothing():
    counts = [EditCounts(i % 3, 0, i % 2, 4) for i in range(30)]
    interval = error_rate_difference(counts, counts)
    assert (interval.value, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_a_paired_difference_sees_what_single_intervals_cannot():
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 9, size=60)
    worse = [EditCounts(int(each) + 1, 0, 0, 9 - int(each)) for each in hard]
    better = [EditCounts(int(each), 0, 0, 10 - int(each)) for each in hard]
    assert error_rate(better).high > error_rate(worse).low
    difference = error_rate_difference(better, worse)
    assert difference.value == pytest.approx(-0.1)
    assert difference.high < 0


def test_what_cannot_be_compared_is_refused():
    one, two = [EditCounts(0, 0, 0, 3)] * 2, [EditCounts(0, 0, 0, 2)] * 2
    with pytest.raises(ValueError, match="same references on both sides"):
        error_rate_difference(one, two)
    with pytest.raises(ValueError, match="got 2 and 1"):
        count_errors(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="at least 2 utterances or speakers, got 1"):
        error_rate(one, groups=["s", "s"])
    with pytest.raises(ValueError, match="got 1 for 2 utterances"):
        error_rate(one, groups=["s"])
    with pytest.raises(ValueError, match="level"):
        error_rate(one, level=95.0)
    with pytest.raises(ValueError, match="replicates"):
        error_rate(one, replicates=0)

"""Paired comparison of two result files: exact on hand-made answers, and refused where nothing is paired."""

from dataclasses import replace

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.metrics.classification import bootstrap_interval, metric_of
from speechssl.metrics.compare import compare, rate
from speechssl.metrics.items import Answers, items_path, read_items, write_items
from speechssl.metrics.results import ResultRow, write_results


def answers(accuracy, *, seed=0, contender="fine-tuned", labels=5, items=200, speakers=10, split="a" * 16):
    rng = np.random.default_rng(seed)
    truth = [f"c{i % 4}" for i in range(items)]
    predicted = [name if rng.random() < accuracy else f"c{(i + 1) % 4}" for i, name in enumerate(truth)]
    ids = [f"u{i:03}" for i in range(items)]
    groups = [f"s{i % speakers}" for i in range(items)]
    return Answers("emotion", contender, "", labels, "shots", split, ids, groups, [0] * items, truth, predicted)


def word_answers(error_rate, *, seed=0, items=100):
    rng = np.random.default_rng(seed)
    ids = [f"u{i:03}" for i in range(items)]
    words = rng.integers(3, 9, size=items).tolist()
    errors = [int(rng.binomial(count, error_rate)) for count in words]
    return Answers("asr", "greedy", "", 10, "minutes", "b" * 16, ids, ids, [0] * items, metric="WER", errors=errors,
                   words=words)  # fmt: skip


def row(found, metric, **changes):
    value = rate(found) if found.metric else metric_of(found.counts(), metric)
    made = ResultRow(found.task, found.contender, found.probe, found.labels, metric, value, value, value,
                     len(found.ids), 5, unit=found.unit, split_hash=found.split_hash, corpus="runs/corpus")  # fmt: skip
    return replace(made, **changes)


def written(path, *found, **changes):
    rows = [
        row(each, metric, **changes) for each in found for metric in ([each.metric] if each.metric else ["UAR", "WA"])
    ]
    write_results(rows, path)
    write_items(items_path(path), found)
    return path


def test_items_survive_the_file_and_give_the_same_bytes(tmp_path):
    found = [answers(0.5), word_answers(0.2)]
    path = items_path(tmp_path / "results.json")
    write_items(path, found)
    once = path.read_bytes()
    read = read_items(path)
    write_items(path, read)
    assert path.read_bytes() == once
    assert [list(each.predicted) for each in read] == [list(each.predicted) for each in found]
    assert [each.name for each in tmp_path.iterdir()] == ["results.items.json.gz"]


def test_the_better_side_is_found_and_the_order_of_items_does_not_matter(tmp_path):
    good = answers(0.9, seed=1)
    order = np.random.default_rng(0).permutation(200).tolist()
    columns = ("ids", "groups", "repetitions", "truth", "predicted")
    shuffled = replace(good, **{name: [getattr(good, name)[i] for i in order] for name in columns})
    a = written(tmp_path / "a.json", answers(0.5))
    first = compare(a, written(tmp_path / "b.json", good))
    assert first == compare(a, written(tmp_path / "c.json", shuffled))
    assert [each.metric for each in first] == ["UAR", "WA"]
    for each in first:
        assert each.difference.value == pytest.approx(each.b - each.a)
        assert each.verdict == "B is better"
        assert 0 < each.difference.low < each.difference.value < each.difference.high
        assert "B is better" in each.line()
    assert [each.verdict for each in compare(tmp_path / "b.json", a)] == ["A is better"] * 2
    assert [each.verdict for each in compare(a, a)] == ["undecided"] * 2


def test_pairing_makes_the_interval_narrower_than_the_two_apart(tmp_path):
    base = answers(0.6, speakers=10)
    better = list(base.predicted)
    for i in range(0, 200, 8):
        better[i] = base.truth[i]
    other = replace(base, predicted=better)
    found = compare(written(tmp_path / "a.json", base), written(tmp_path / "b.json", other))[0]
    alone = bootstrap_interval(base.counts(), "UAR")
    assert found.verdict == "B is better"
    assert found.difference.high - found.difference.low < 0.8 * (alone.high - alone.low)


def test_word_errors_are_better_when_lower_and_exact(tmp_path):
    a, b = word_answers(0.4), word_answers(0.1, seed=0)
    found = compare(written(tmp_path / "a.json", a), written(tmp_path / "b.json", b))
    assert len(found) == 1
    assert found[0].verdict == "B is better"
    assert found[0].amount == "10 min"
    wanted = sum(b.errors) / sum(b.words) - sum(a.errors) / sum(a.words)
    assert found[0].difference.value == pytest.approx(wanted)
    # An obvious reference by loops.
    rng, means = np.random.default_rng(5), []
    for _ in range(2000):
        drawn = rng.integers(100, size=100)
        means.append(sum(b.errors[i] - a.errors[i] for i in drawn) / sum(a.words[i] for i in drawn))
    assert found[0].difference.low == pytest.approx(np.quantile(means, 0.025), abs=0.02)
    assert found[0].difference.high == pytest.approx(np.quantile(means, 0.975), abs=0.02)


def test_two_contenders_of_one_file(tmp_path):
    path = written(tmp_path / "a.json", answers(0.5, contender="MFCC + SVM"), answers(0.9, seed=1))
    found = compare(path, path, contender_a="MFCC + SVM", contender_b="fine-tuned")
    assert [each.verdict for each in found] == ["B is better"] * 2
    assert [each.verdict for each in compare(path, path)] == ["undecided"] * 4
    with pytest.raises(UserError, match="no contender 'CNN'; there are MFCC"):
        compare(path, path, contender_a="CNN")


def test_single_contenders_are_compared_whatever_their_names(tmp_path):
    a = written(tmp_path / "a.json", answers(0.5, contender="one", labels=0))
    b = written(tmp_path / "b.json", answers(0.9, contender="two", labels=5, seed=1))
    assert [each.amount for each in compare(a, b)] == ["all / 5 shots"] * 2


def test_what_is_not_paired_is_refused_by_name(tmp_path):
    a = written(tmp_path / "a.json", answers(0.5))
    with pytest.raises(UserError, match="different corpora: runs/corpus and runs/other"):
        compare(a, written(tmp_path / "b.json", answers(0.5, split="c" * 16), corpus="runs/other"))
    with pytest.raises(
        UserError, match=r"different splits of runs/corpus at 5 shots: a{16} and c{16} .*5 and 10 draws"
    ):
        compare(a, written(tmp_path / "b.json", answers(0.5, split="c" * 16), seeds=10))
    with pytest.raises(UserError, match="no row of one task"):
        compare(a, written(tmp_path / "b.json", word_answers(0.1)))
    with pytest.raises(UserError, match="not tested on the same items"):
        compare(a, written(tmp_path / "b.json", answers(0.5, items=100)))
    with pytest.raises(UserError, match="disagree about the speakers"):
        compare(a, written(tmp_path / "b.json", answers(0.5, speakers=5)))
    write_results([row(answers(0.5), "UAR", split_hash="")], tmp_path / "old.json")
    with pytest.raises(UserError, match="no row with a split hash"):
        compare(a, tmp_path / "old.json")


def test_items_of_another_run_are_refused(tmp_path):
    a, b = written(tmp_path / "a.json", answers(0.5)), written(tmp_path / "b.json", answers(0.7))
    write_items(items_path(b), [answers(0.9)])
    with pytest.raises(UserError, match="of different runs"):
        compare(a, b)
    write_items(items_path(b), [answers(0.9, labels=10)])
    with pytest.raises(UserError, match="belongs to another run"):
        compare(a, b)
    items_path(b).write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b\.items\.json\.gz: not a file of answers"):
        compare(a, b)
    items_path(b).unlink()
    with pytest.raises(UserError, match="missing"):
        compare(a, b)


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="as many entries"):
        replace(answers(0.5), predicted=["c0"])


def test_old_result_files_stay_readable(tmp_path):
    from speechssl.metrics.results import read_results

    path = tmp_path / "old.json"
    path.write_text('[{"task": "label", "contender": "MFCC", "probe": "k-NN", "labels": 5, "metric": "UAR", '
                    '"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "seeds": 5}]')  # fmt: skip
    found = read_results(path)[0]
    assert (found.unit, found.split_hash, found.model_hash, found.is_probe) == ("shots", "", "", True)

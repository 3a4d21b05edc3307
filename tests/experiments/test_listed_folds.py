"""Folds given as lists: what trains and is tested, the mean over folds, what is lacking, and the committed lists."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from speechssl import cli
from speechssl.config import UserError
from speechssl.data.corpora.folder_metadata import read_metadata
from speechssl.data.lists import list_ids
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.emotion import label_efficiency
from speechssl.experiments.known_speakers import PROTOCOL
from speechssl.experiments.listed_folds import listed_folds, read_fold_lists
from speechssl.metrics.classification import count_repetitions, metric_of
from speechssl.metrics.items import items_path, read_items
from speechssl.metrics.results import read_results

from .conftest import make_corpus

LISTS = Path(__file__).parents[2] / "data" / "lists"


def write_folds(folder, folds):
    folder.mkdir(parents=True, exist_ok=True)
    for number, ids in enumerate(folds, 1):
        (folder / f"fold_{number}.txt").write_text("".join(f"{name}\n" for name in ids))
    return folder


@pytest.fixture
def by_speaker(corpus, tmp_path):
    """Three folds of two of the six speakers."""
    ids = list_ids(WaveformStore(corpus).utterances)
    return write_folds(tmp_path / "three", [[n for n in ids if n[1] in pair] for pair in ("05", "13", "24")])


def test_each_list_is_tested_once_and_the_others_train(corpus, by_speaker):
    store = WaveformStore(corpus)
    task = listed_folds(store, by_speaker)
    assert (task.rule, task.protocol, task.notes) == ("3 listed folds, speaker-disjoint", "folds of three", ())
    assert [{store.speakers[i] for i in draw.test.tolist()} for draw in task.draws] == [
        {"s0", "s5"}, {"s1", "s3"}, {"s2", "s4"}]  # fmt: skip
    for draw in task.draws:
        both = np.concatenate([draw.train(0), draw.test])
        assert sorted(both.tolist()) == list(range(72))


def test_one_command_gives_rows_of_the_mean_over_folds(corpus, encoder_folder, by_speaker, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["emotion", str(corpus), "--encoder", str(encoder_folder), "--out", str(out)]
    words += ["--fold-lists", str(by_speaker), "--contenders", "frozen-probe,mfcc-lda"]
    assert cli.main(words) == 0
    said = capsys.readouterr().err
    assert all(f"{metric}, emotion, folds of three" in said for metric in ("UAR", "WA", "macro F1"))
    rows = read_results(out / "results.json")
    assert {row.contender for row in rows} == {"frozen probe", "MFCC + LDA", "chance"}
    assert {(row.task, row.split, row.labels, row.n, row.seeds) for row in rows} == {
        ("emotion, folds of three", "3 listed folds, speaker-disjoint", 0, 72, 3)
    }
    for answers in read_items(items_path(out / "results.json")):
        folds = [[i for i, fold in enumerate(answers.repetitions) if fold == number] for number in range(3)]
        sides = [([answers.truth[i] for i in part], [answers.predicted[i] for i in part]) for part in folds]
        mine = {row.metric: row.value for row in rows if row.contender == answers.contender}
        assert mine["UAR"] == pytest.approx(np.mean([balanced_accuracy_score(*side) for side in sides]))
        assert mine["macro F1"] == pytest.approx(np.mean([f1_score(*side, average="macro") for side in sides]))
    assert cli.main(words) == 0
    assert "6 of 6 cells are computed already" in capsys.readouterr().err


def test_the_mean_over_folds_differs_from_the_pooled_score():
    """One fold all right, one small fold all wrong: 0.5, where pooling gives 0.75."""
    counts = count_repetitions([["a", "b"] * 3, ["a", "b"]], [["a", "b"] * 3, ["b", "a"]],
                               groups=[["s"] * 6, ["t"] * 2], classes=["a", "b"], group_names=["s", "t"])  # fmt: skip
    assert metric_of(counts, "UAR") == 0.5


def test_what_the_corpus_lacks_is_in_the_name_of_the_task(corpus, encoder_folder, by_speaker, tmp_path, capsys):
    path = by_speaker / "fold_1.txt"
    path.write_text(path.read_text() + "s0/of-the-whole-corpus\n")
    out = tmp_path / "out"
    rows = label_efficiency(corpus, encoder_folder, out, fold_lists=by_speaker, contenders=["mfcc-lda"])
    assert {row.task for row in rows} == {"emotion, folds of three, 72 of 73 utterances"}
    assert "WARNING: the corpus lacks 1 of the 73 utterances" in capsys.readouterr().err
    known = label_efficiency(corpus, encoder_folder, tmp_path / "known", fold_lists=by_speaker,
                             contenders=["mfcc-lda"], standardise="speaker")  # fmt: skip
    assert {row.task for row in known} == {f"emotion, folds of three, 72 of 73 utterances, {PROTOCOL}"}
    with pytest.raises(UserError, match=r"holds results of 'emotion, folds of three, 72 of 73.*give another --out"):
        label_efficiency(corpus, encoder_folder, out, shots=[2], contenders=["mfcc-lda"])


def test_speakers_on_both_sides_and_unlisted_utterances_are_named(corpus, tmp_path):
    ids = list_ids(WaveformStore(corpus).utterances)
    folder = write_folds(tmp_path / "mixed", [ids[0:70:2], ids[1:70:2]])
    task = listed_folds(WaveformStore(corpus), folder)
    assert task.rule == "2 listed folds, speakers on both sides"
    assert [note[:50] for note in task.notes] == [
        f"2 utterances are in no list of {folder}"[:50],
        "6 of 6 speakers are on both sides of these folds; "[:50],
    ]


def test_a_recording_in_two_folds_is_named(corpus, tmp_path):
    import shutil

    from speechssl.data.waveforms import pack

    items = list(WaveformStore(corpus).utterances)
    copy = tmp_path / "again.wav"
    shutil.copy(items[0].audio, copy)
    pack([*items, items[0].model_copy(update={"audio": str(copy)})], tmp_path / "packed", workers=1)
    store = WaveformStore(tmp_path / "packed")
    ids = list_ids(store.utterances)
    first = ids[:36]
    folder = write_folds(tmp_path / "two", [first, [name for name in ids if name not in first]])
    assert "1 listed utterances have the audio of one in another fold" in listed_folds(store, folder).notes[-1]


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ([["s0/high-0"]], "need a folder with one list .* at least two; found 1"),
        ([["s0/high-0"], ["s0/high-0", "s1/high-0"]], "s0/high-0 is in fold_1 and in fold_2"),
        ([["s0/high-0", "s1/low-0"], ["x/y"]], "has no utterance of the list .*fold_2.txt .for example x/y."),
        ([["s0/high-0"], ["s1/high-0"]], "have 1 classes and 2 speakers"),
        ([["s0/high-0", "s0/low-0"], ["s1/high-0"]], "no list but fold_1 has utterances of class 'low'"),
    ],
)
def test_lists_that_cannot_be_used(corpus, tmp_path, folds, said):
    with pytest.raises(UserError, match=said):
        listed_folds(WaveformStore(corpus), write_folds(tmp_path / "folds", folds))


def test_a_corpus_with_an_identifier_twice(tmp_path):
    from speechssl.data.waveforms import pack

    store = WaveformStore(make_corpus(tmp_path / "one"))
    again = WaveformStore(make_corpus(tmp_path / "two"))
    pack([*store.utterances, *again.utterances], tmp_path / "both", workers=1)
    ids = list_ids(store.utterances)
    folder = write_folds(tmp_path / "folds", [ids[:36], ids[36:]])
    with pytest.raises(UserError, match="is in the corpus more than once"):
        listed_folds(WaveformStore(tmp_path / "both"), folder)


@pytest.mark.parametrize("option", ["--shots 5", "--draws 2", "--test-limit 9"])
def test_settings_of_draws_are_refused(option, capsys):
    words = f"emotion corpus --out out --fold-lists folds {option}".split()
    assert cli.main(words) == 2
    assert f"{option.split()[0]}: not together with --fold-lists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "size", "per_class"),
    [
        ("emobox-ravdess", [240] * 6, [96, 192, 192, 192, 192, 192, 192, 192]),
        ("emobox-emodb", [107] * 5, [127, 81, 46, 69, 71, 79, 62]),
    ],
)
def test_the_committed_lists_are_whole(name, size, per_class):
    """Sizes and numbers per class are those of the published corpora."""
    folds = read_fold_lists(LISTS / name)
    assert [len(ids) for ids in folds.values()] == size
    files = [each.split("/") for ids in folds.values() for each in ids]
    if name == "emobox-ravdess":
        assert all(file.endswith(f"-{speaker}") for speaker, file in files)
        assert sorted(Counter(file[6:8] for _, file in files).values()) == per_class
        tested = [{each[:2] for each in ids} for ids in folds.values()]
        assert all(len(speakers) == 4 for speakers in tested)
        assert len(set.union(*tested)) == 24
    else:
        assert all(file.startswith(speaker) for speaker, file in files)
        assert [Counter(file[5] for _, file in files)[letter] for letter in "WLEAFNT"] == per_class


@pytest.fixture
def packs():
    if not os.environ.get("SPEECHSSL_PACKS"):
        pytest.skip("SPEECHSSL_PACKS is not set")
    return Path(os.environ["SPEECHSSL_PACKS"])


@pytest.mark.packs
@pytest.mark.parametrize(
    ("name", "pack", "share"), [("emobox-ravdess", "ravdess", 1440), ("emobox-emodb", "emodb4", 339)]
)
def test_the_committed_lists_name_the_utterances_of_the_packs(packs, name, pack, share):
    rows = read_metadata(packs / pack / "metadata.jsonl")
    listed = {each for ids in read_fold_lists(LISTS / name).values() for each in ids}
    assert len(rows) == len({f"{row.known['speaker']}/{Path(row.path).stem}" for row in rows} & listed) == share

"""Who is labelled, tuned on and tested: nothing leaks, and the manifest's order makes no difference."""

import shutil

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.experiments import asr_sides
from speechssl.experiments.asr_sides import divide, names_of

from .asr_toys import spoken_corpus, spoken_utterances

MINUTES = 5 / 60


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return spoken_corpus(tmp_path_factory.mktemp("spoken"))


@pytest.fixture
def store(prepared):
    return WaveformStore(prepared)


def packed(utterances, folder):
    pack(utterances, folder, workers=1)
    return WaveformStore(folder)


def listed(path, names):
    path.write_text("# a list\n" + "\n".join(names) + "\n")
    return path


def names(store, side):
    known = names_of(store)
    return [known[example.index] for example in side]


def speakers(store, side):
    return {store.utterances[example.index].speaker for example in side}


def test_sides_share_nothing(store):
    found = divide(store, minutes=MINUTES)
    sides = [found.labelled, found.dev, found.test, found.unlabelled]
    everyone = [name for side in sides for name in names(store, side)]
    assert len(everyone) == len(set(everyone))
    assert speakers(store, found.test) == {"s4", "s5"}  # the official split
    assert not speakers(store, found.test) & (speakers(store, found.labelled) | speakers(store, found.dev))
    assert found.rule == "speakers disjoint"


def test_a_test_split_in_any_spelling(prepared, tmp_path):
    items = WaveformStore(prepared).utterances
    mixed = [item.model_copy(update={"split": "Test"}) if item.split == "test" else item for item in items]
    found = divide(packed(mixed, tmp_path / "mixed"), minutes=MINUTES)
    assert speakers(WaveformStore(tmp_path / "mixed"), found.test) == {"s4", "s5"}


def test_a_speaker_in_two_spellings_is_on_one_side(prepared, tmp_path):
    items = WaveformStore(prepared).utterances
    mixed = [
        item.model_copy(update={"split": None, "speaker": item.speaker.upper() if place % 2 else item.speaker})
        for place, item in enumerate(items)
    ]
    store = packed(mixed, tmp_path / "mixed")
    found = divide(store, minutes=MINUTES)
    tested = {name.lower() for name in speakers(store, found.test)}
    for side in (found.labelled, found.dev, found.unlabelled):
        assert tested.isdisjoint({name.lower() for name in speakers(store, side)})
    assert found.rule == "speakers disjoint"


def test_no_tested_or_tuned_sentence_is_in_the_text_or_unlabelled(store, tmp_path):
    found = divide(store, minutes=MINUTES)
    held = {example.target for example in (*found.test, *found.dev)}
    everything = {example.target for example in (*found.labelled, *found.unlabelled)}
    assert held & {item.text for item in store.utterances if item.split == "train"}  # there is something to leak
    assert not held & set(found.sentences)
    assert not held & {example.target for example in found.unlabelled}
    assert set(found.sentences) == everything - held
    assert any("not among the unlabelled" in note for note in found.notes)


def test_the_order_of_the_manifest_makes_no_difference(tmp_path):
    utterances = spoken_utterances(tmp_path / "audio")
    shuffled = [utterances[place] for place in np.random.default_rng(1).permutation(len(utterances))]
    for unknown in (False, True):
        told = []
        for number, order in enumerate((utterances, shuffled)):
            if unknown:
                order = [item.model_copy(update={"speaker": None, "split": None}) for item in order]
            store = packed(order, tmp_path / f"prepared-{unknown}-{number}")
            found = divide(store, minutes=MINUTES)
            sides = [found.labelled, found.dev, found.test, found.unlabelled]
            told.append(([names(store, side) for side in sides], found.sentences, found.split_hash))
        assert told[0] == told[1]


def test_another_seed_is_another_draw(store):
    assert divide(store, minutes=MINUTES, seed=1).split_hash != divide(store, minutes=MINUTES).split_hash


def test_lists_are_taken_as_they_are(store, tmp_path):
    labels = listed(tmp_path / "labels.txt", [f"s0/{i}" for i in range(8)])
    dev = listed(tmp_path / "dev.txt", ["s1/0", "s1/1"])
    test = listed(tmp_path / "test.txt", ["s2/0", "s2/3", "s2/4"])
    found = divide(store, labels=labels, dev=dev, test=test)
    assert names(store, found.labelled) == [f"s0/{i}" for i in range(8)]
    assert names(store, found.dev) == ["s1/0", "s1/1"]
    assert names(store, found.test) == ["s2/0", "s2/3", "s2/4"]
    assert "s2" not in speakers(store, found.unlabelled)
    own = divide(store, labels=labels, test=test)
    assert own.split_hash == found.split_hash
    assert not set(names(store, own.dev)) & set(names(store, own.labelled))
    assert "s0" not in speakers(store, own.dev)  # others than those labelled, while there are enough


def test_leaks_are_refused(store, tmp_path):
    test = listed(tmp_path / "test.txt", ["s2/0", "s2/1"])
    labels = listed(tmp_path / "labels.txt", ["s0/0", "s0/1", "s0/2"])
    both = listed(tmp_path / "both.txt", ["s0/0", "s2/1"])
    with pytest.raises(UserError, match=r"s2/1\.wav: is both labelled and tested on"):
        divide(store, labels=both, test=test)
    speaker = listed(tmp_path / "speaker.txt", ["s0/0", "s2/7"])
    with pytest.raises(UserError, match="speaker 's2' is both labelled and tested on"):
        divide(store, labels=speaker, test=test)
    with pytest.raises(UserError, match="speaker 's2' is both used to tune the decoder and tested on"):
        divide(store, labels=labels, dev=speaker, test=test)
    with pytest.raises(UserError, match=r"0\.wav: is both labelled and used to tune"):
        divide(store, labels=labels, dev=listed(tmp_path / "dev.txt", ["s0/0"]), test=test)


def test_a_tested_recording_under_another_name_and_speaker_is_left_out(store, tmp_path):
    items = spoken_utterances(tmp_path / "audio")
    tested = next(item for item in items if item.split == "test")
    again = shutil.copyfile(tested.audio, tmp_path / "again.wav")
    copy = tested.model_copy(update={"audio": str(again), "speaker": "s0", "split": "train", "text": "aabb"})
    found = divide(packed([*items, copy], tmp_path / "prepared"), minutes=MINUTES)
    sides = (*found.labelled, *found.dev, *found.unlabelled)
    assert "aabb" not in {example.target for example in sides}
    assert "aabb" not in found.sentences
    assert any("1 recordings left out: their audio is on the test or development side too" in n for n in found.notes)
    labels = listed(tmp_path / "labels.txt", ["s0/0", "s0/again"])
    with pytest.raises(UserError, match=r"again\.wav: its audio is both labelled and tested on"):
        divide(WaveformStore(tmp_path / "prepared"), labels=labels)


def test_one_speaker_is_told(tmp_path):
    alone = [item for item in spoken_utterances(tmp_path / "audio") if item.speaker == "s0"]
    for speaker, rule, note in (("s0", "one speaker", "has one speaker"), (None, "speakers unknown", "not known")):
        items = [item.model_copy(update={"speaker": speaker}) for item in alone]
        store = packed(items, tmp_path / f"prepared-{rule}")
        found = divide(store, minutes=2 / 60)
        assert found.rule == rule
        assert any(note in each for each in found.notes)
        assert not {example.target for example in found.test} & set(found.sentences)


def test_what_cannot_be_divided_is_one_line(store, tmp_path):
    with pytest.raises(UserError, match=r"10 minutes asked for, beside the test and development sides there are 0\."):
        divide(store)
    one = listed(tmp_path / "one.txt", ["s2/0"])
    with pytest.raises(UserError, match="1 utterances with a transcript to test on; two or more"):
        divide(store, test=one, minutes=MINUTES)
    with pytest.raises(UserError, match=r"strange\.txt: 1 of 1 listed utterances are not in the corpus"):
        divide(store, test=listed(tmp_path / "strange.txt", ["s9/0"]), minutes=MINUTES)
    with pytest.raises(UserError, match="no utterance with a transcript is labelled"):
        divide(store, minutes=0.001)
    some = spoken_utterances(tmp_path / "audio")
    items = [
        item.model_copy(update={"split": None, "speaker": item.speaker if i % 2 else None})
        for i, item in enumerate(some)
    ]
    with pytest.raises(UserError, match="24 utterances have no speaker, others do; give a list of the test side"):
        divide(packed(items, tmp_path / "prepared"), minutes=MINUTES)


def test_no_more_is_kept_for_the_decoder_than_it_needs(store, monkeypatch):
    monkeypatch.setattr(asr_sides, "DEV_SHARE", 0.5)
    whole = divide(store, minutes=4 / 60)
    monkeypatch.setattr(asr_sides, "DEV_MINUTES", 2 / 60)
    few = divide(store, minutes=4 / 60)
    assert {*names(store, few.dev)} < {*names(store, whole.dev)}
    assert sum(store.utterances[example.index].duration for example in few.dev) <= 2
    assert not speakers(store, few.dev) & speakers(store, few.labelled)

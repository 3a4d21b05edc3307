"""Who is labelled, tuned on and tested: nothing leaks, and the manifest's order makes no difference."""

import shutil

import numpy as np
import pytest

from speechssl.cli import main
from speechssl.config import UserError
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.experiments import asr_sides
from speechssl.experiments.asr_sides import divide, names_of
from speechssl.metrics.results import read_results

from .asr_toys import micro_model, spoken_corpus, spoken_utterances

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


def one_voice(store, folder, *, labels=("s0/0", "s0/1", "s0/2"), dev=("s0/3",), test=("s0/4", "s0/5")):
    given = {"labels": labels, "dev": dev, "test": test}
    lists = {name: listed(folder / f"{name}.txt", ids) for name, ids in given.items() if ids}
    return divide(store, **lists, minutes=2 / 60, same_speaker=True)


def test_one_speaker_is_trained_and_tested_on_when_asked(store, tmp_path):
    found = one_voice(store, tmp_path)
    assert names(store, found.labelled) == ["s0/0", "s0/1", "s0/2"]
    assert names(store, found.test) == ["s0/4", "s0/5"]
    sides = (found.labelled, found.dev, found.test, found.unlabelled)
    assert {speaker for side in sides for speaker in speakers(store, side)} == {"s0"}
    assert found.rule == "one speaker, other sentences"
    assert any(
        "speaker 's0' alone, with other sentences" in n and "no result applies to other" in n for n in found.notes
    )
    drawn = one_voice(store, tmp_path, labels=(), dev=())
    targets = [[each.target for each in side] for side in (drawn.labelled, drawn.dev, drawn.test)]
    assert sum(map(len, targets)) == len({target for side in targets for target in side})
    assert speakers(store, drawn.labelled) == {"s0"}


def test_a_voice_has_other_sentences_on_each_side(tmp_path):
    items = spoken_utterances(tmp_path / "audio")
    text = {name: next(each for each in items if each.audio.endswith(name)).text for name in ("s0/4.wav", "s0/3.wav")}

    def with_text(place, target):
        changed = [each.model_copy(update={"text": target}) if each.audio.endswith(place) else each for each in items]
        return packed(changed, tmp_path / f"{place[-5]}-{target.replace(' ', '-')}")

    with pytest.raises(UserError, match=r"s0/1\.wav: is labelled, and its sentence is tested on in .*s0/4\.wav"):
        one_voice(with_text("s0/1.wav", text["s0/4.wav"]), tmp_path)
    with pytest.raises(UserError, match=r"s0/3\.wav: is used to tune the decoder, and its sentence is tested on"):
        one_voice(with_text("s0/3.wav", text["s0/4.wav"]), tmp_path)
    with pytest.raises(UserError, match=r"s0/1\.wav: is labelled, and its sentence is used to tune the decoder"):
        one_voice(with_text("s0/1.wav", text["s0/3.wav"]), tmp_path)
    repeated = with_text("s0/6.wav", "ab ba")  # that of s0/0: never drawn to tune on where that is labelled
    listed(tmp_path / "few.txt", ["s0/0", *(f"s0/{i}" for i in (1, 2, 3))])
    given = {"labels": tmp_path / "few.txt", "test": tmp_path / "test.txt"}
    assert 6 not in {each.index for each in divide(repeated, **given, same_speaker=True).dev}
    drawn = one_voice(with_text("s0/6.wav", text["s0/4.wav"]), tmp_path, labels=(), dev=())
    assert 6 not in {each.index for side in (drawn.labelled, drawn.dev, drawn.unlabelled) for each in side}
    assert any("1 recordings of test or development sentences" in note for note in drawn.notes)


def test_a_voice_is_one_speaker(store, prepared, tmp_path):
    with pytest.raises(UserError, match=r"s1/0\.wav: is labelled, and its speaker is 's1'; .* takes speaker 's0'"):
        one_voice(store, tmp_path, labels=("s0/0", "s1/0"))
    with pytest.raises(UserError, match=r"s1/0\.wav: is used to tune the decoder, and its speaker is 's1'"):
        one_voice(store, tmp_path, dev=("s1/0",))
    with pytest.raises(UserError, match="tests one speaker, and the test side has 2; give --test"):
        one_voice(store, tmp_path, test=())
    items = [each.model_copy(update={"speaker": None}) for each in WaveformStore(prepared).utterances]
    with pytest.raises(UserError, match="needs the speaker of every test utterance"):
        divide(packed(items, tmp_path / "nameless"), minutes=2 / 60, same_speaker=True)


def test_a_voice_is_asked_for_on_the_command_line(prepared, tmp_path, capsys):
    """The refusal of an unseen speaker's protocol stays; the option is what permits one speaker."""
    model = micro_model(tmp_path / "encoder")
    labels = listed(tmp_path / "labels.txt", ["s0/0", "s0/1", "s0/2"])
    test = listed(tmp_path / "test.txt", ["s0/4", "s0/5"])
    words = ["asr", prepared, "--encoder", model, "--out", tmp_path / "run", "--labels", labels, "--test", test]
    words += ["--rounds", "0", "--no-scratch", "--beam", "5", "--set", "loop.steps=1", "--set", "device=cpu"]
    assert main([str(each) for each in words]) == 2
    assert "speaker 's0' is both labelled and tested on" in capsys.readouterr().err
    assert main([*(str(each) for each in words), "--same-speaker"]) == 0
    assert "no result applies to other speakers" in capsys.readouterr().err
    rows = read_results(tmp_path / "run" / "results.json")
    assert {row.split for row in rows} == {"one speaker, other sentences"}

"""`speechssl correct` at toy size: a recogniser learns from corrected transcripts, and its folder stays as it was."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
import soundfile

from speechssl import cli
from speechssl.audio import SAMPLE_RATE
from speechssl.data.joined_store import JoinedStore
from speechssl.data.manifest import Utterance
from speechssl.data.training_audio import AudioRecord, TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.decoding.decode import beam_search_installed
from speechssl.decoding.ngram import train_ngram
from speechssl.experiments.asr_ngram import write_text_record
from speechssl.experiments.correct_sides import divide_corrected
from speechssl.metrics.results import read_results
from speechssl.models.heads import load_head
from speechssl.models.storage import model_hash, read_model_config
from speechssl.train.trainer import Trainer

from .asr_toys import SENTENCES, micro_model, spoken

FEW = [
    *("--set", "batches.batch_seconds=2", "--set", "loop.precision=fp32", "--set", "device=cpu"),
    *("--set", "loop.steps=6", "--set", "loop.checkpoint_every=2"),
    *("--set", "augment.speed=0", "--set", "augment.pitch=0", "--set", "augment.noise=0", "--set", "augment.gain=0"),
]
needs_beam = pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")


def corpus(folder, speakers, *, sentences=SENTENCES, each=6, texts=None):
    """Speakers by name, each with sentences of its own; `texts` replaces transcripts by number."""
    found = []
    for place, speaker in enumerate(speakers):
        for number in range(each):
            said = sentences[(each * place + number) % len(sentences)]
            path = folder / "audio" / speaker / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = spoken(said, speaker=ord(speaker[0]) - ord("a"))
            soundfile.write(path, wave, SAMPLE_RATE)
            text = (texts or {}).get(len(found), said)
            length = len(wave) / SAMPLE_RATE
            found.append(Utterance(audio=str(path), duration=length, speaker=speaker, text=text, language="en"))
    pack(found, folder / "prepared", workers=1)
    return folder / "prepared"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recogniser of two speakers with an n-gram, their corpus, and one with corrected transcripts of five others."""
    here = tmp_path_factory.mktemp("made")
    earlier = corpus(here / "earlier", ["ann", "bob"])
    start = micro_model(here / "encoder")
    words = [
        "finetune",
        earlier,
        "--from",
        start,
        "--out",
        here / "model",
        "--learn",
        "text",
        "--set",
        "ctc.conv_dim=16",
        *FEW,
    ]
    assert run(*words) == 0
    train_ngram(["ab ba", "bb aa"], here / "model" / "lm.arpa", order=2)
    write_text_record(here / "model" / "lm_text.json", ["ab ba", "bb aa"])
    (here / "model" / "decoder.json").write_text(json.dumps({"config": {"beam_size": 5}, "text": "a text"}))
    return here / "model", earlier, corpus(here / "corrected", ["cat", "dan", "eve", "flo", "gus"])


def run(*words):
    return cli.main([str(word) for word in words])


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    model, earlier, corrected = made
    before = content(model)
    out = tmp_path_factory.mktemp("finished") / "new"
    assert run("correct", model, corrected, "--out", out, "--with", earlier, *FEW) == 0
    assert content(model) == before  # nothing of the model is changed
    return out


@needs_beam
def test_the_new_model_keeps_what_the_old_one_has(made, finished):
    model, *_ = made
    for name in ("lm.arpa", "lm_text.json", "decoder.json"):
        assert (finished / name).read_bytes() == (model / name).read_bytes()
    old, new = load_head(model), load_head(finished)
    assert new.vocabulary == old.vocabulary
    assert new.config == old.config
    assert model_hash(finished) != model_hash(model)
    config = read_model_config(finished)
    assert config["training"]["speakers"] == sorted(
        {*read_model_config(model)["training"]["speakers"], *trained(finished)}
    )
    assert config["training"]["languages"] == ["en"]


def trained(folder):
    return read_training_audio(folder).fine_tuning.speakers


@needs_beam
def test_the_record_grows_by_what_was_trained_on_and_by_nothing_that_was_tested(made, finished):
    model, _, corrected = made
    old, new = read_training_audio(model), read_training_audio(finished)
    store = WaveformStore(corrected)
    sides = divide_corrected(store, old, model=model)
    assert len({store.speakers[each.index] for each in sides.test}) == 1  # by speaker: there are five
    tested, learnt = ([each.index for each in side] for side in (sides.test, sides.train))
    assert new.fine_tuning.find(store, range(len(store))) == sorted(learnt)
    assert not new.selection.find(store, tested)
    assert old.fine_tuning.ids < new.fine_tuning.ids
    assert {each.target for each in sides.test}.isdisjoint(each.target for each in sides.train)


@needs_beam
def test_rates_before_and_after_with_their_difference(made, finished):
    model, *_ = made
    rows = read_results(finished / "results.json")
    assert {(row.contender, row.probe, row.metric) for row in rows} == {
        (contender, probe, metric)
        for contender in ("before", "after")
        for probe in ("greedy", "n-gram")
        for metric in ("WER", "CER")
    }
    hashes = {"before": model_hash(model), "after": model_hash(finished)}
    assert all(row.model_hash == hashes[row.contender] and row.low <= row.value <= row.high for row in rows)
    after = {(row.probe, row.metric): row for row in rows if row.contender == "after"}
    for row in rows:
        if row.contender == "before":
            value, low, high = after[row.probe, row.metric].gains["before"]
            assert value == pytest.approx(row.value - after[row.probe, row.metric].value)
            assert low <= value <= high
    assert all(("a text" in row.lm_text) == (row.probe == "n-gram") for row in rows)


@needs_beam
def test_training_continues_from_the_head(made, tmp_path, capfd):
    """With no rate to speak of the model stays what it is, which a new head would not."""
    model, _, corrected = made
    words = [*FEW, "--set", "optim.lr=1e-12", "--set", "optim.weight_decay=0"]
    assert run("correct", model, corrected, "--out", tmp_path / "new", *words) == 0
    said = capfd.readouterr().err
    assert "earlier labels are not at hand" in said
    for probe in ("greedy", "n-gram"):
        for metric in ("WER", "CER"):
            line = re.search(
                rf"^{metric}, {probe}: (\S+) (\[.*?\]) before, (\S+) (\[.*?\]) after, difference", said, re.M
            )
            assert line is not None, said
            assert (line[1], line[2]) == (line[3], line[4])
    old, new = load_head(model).state_dict(), load_head(tmp_path / "new").state_dict()
    assert all(np.allclose(old[name], new[name], atol=1e-6) for name in old)


@needs_beam
@pytest.mark.slow
def test_corrected_transcripts_are_learnt(made, tmp_path):
    """Trained long enough, the loss on the toy language falls, and the rate of another speaker with it."""
    model, earlier, corrected = made
    long = [*FEW, "--set", "loop.steps=40", "--set", "optim.lr=5e-3", "--set", "optim.encoder_scale=1"]
    assert run("correct", model, corrected, "--out", tmp_path / "new", "--with", earlier, *long) == 0
    lines = [json.loads(line) for line in (tmp_path / "new" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]


@needs_beam
@pytest.mark.slow
def test_a_stopped_run_resumes(made, finished, tmp_path, monkeypatch, capfd):
    model, earlier, corrected = made
    words = ["correct", model, corrected, "--out", tmp_path / "new", "--with", earlier, *FEW]
    update, counted = Trainer.update, []

    def stop(self, *given, **named):
        counted.append(1)
        if len(counted) == 4:
            signal.raise_signal(signal.SIGINT)
        return update(self, *given, **named)

    monkeypatch.setattr(Trainer, "update", stop)
    assert run(*words) == 130
    monkeypatch.setattr(Trainer, "update", update)
    assert "resume" in capfd.readouterr().err
    assert run(*words) == 0
    assert model_hash(tmp_path / "new") == model_hash(finished)
    assert read_rates(tmp_path / "new") == read_rates(finished)


def read_rates(folder):
    return [(row.contender, row.probe, row.metric, row.value) for row in read_results(folder / "results.json")]


def refused(capfd, *words):
    capfd.readouterr()
    assert run(*words) == 2
    said = capfd.readouterr().err.strip().splitlines()
    return said[-1]


def test_letters_that_the_model_lacks_are_named_with_the_file(made, tmp_path, capfd):
    model, *_ = made
    other = corpus(tmp_path, ["cat", "dan"], texts={3: "ab zé"})
    line = refused(capfd, "correct", model, other, "--out", tmp_path / "new", *FEW)
    assert "cat/3.wav" in line
    assert "'z', 'é'" in line
    assert "cannot be added" in line
    assert not (tmp_path / "new").exists()


def test_recordings_of_training_are_not_tested(made, tmp_path, capfd):
    """Corrected transcripts of recordings that the model was trained on: a list with them is refused, none is drawn."""
    model, earlier, _ = made
    (tmp_path / "test.txt").write_text("ann/0\nann/1\n")
    line = refused(capfd, "correct", model, earlier, "--out", tmp_path / "new", "--test", tmp_path / "test.txt", *FEW)
    assert "was fine-tuned on at least 2 of 2 test utterances" in line
    line = refused(capfd, "correct", model, earlier, "--out", tmp_path / "new", *FEW)
    assert "0 to test on" in line


def test_recordings_of_tuning_are_not_trained_on(made, tmp_path, capfd):
    model, _, corrected = made
    store = WaveformStore(corrected)
    shutil.copytree(model, tmp_path / "model")
    tuned = TrainingAudio(selection=AudioRecord.of(store, [0, 1]))
    write_training_audio(tmp_path / "model", read_training_audio(model) | tuned)
    sides = divide_corrected(store, read_training_audio(tmp_path / "model"), model=tmp_path / "model")
    assert {0, 1}.isdisjoint(each.index for each in (*sides.train, *sides.test))
    assert any("2 corrected recordings" in note and "tuned" in note for note in sides.notes)


def test_a_list_says_what_is_tested(made, tmp_path):
    model, _, corrected = made
    (tmp_path / "test.txt").write_text("cat/0\ndan/1\n")
    store = WaveformStore(corrected)
    sides = divide_corrected(store, read_training_audio(model), model=model, test=tmp_path / "test.txt")
    assert [each.index for each in sides.test] == [0, 7]
    assert len(sides.train) == len(store) - 2
    assert any("2 of 2 tested utterances are of speakers that are trained on" in note for note in sides.notes)


def test_few_speakers_are_divided_by_sentence(made, tmp_path):
    """Every reader of a sentence, and every copy of a recording, is on one side."""
    model, *_ = made
    store = WaveformStore(corpus(tmp_path, ["cat", "dan"], sentences=SENTENCES[:6]))
    sides = divide_corrected(store, read_training_audio(model), model=model)
    said, tested = ({each.target for each in side} for side in (sides.train, sides.test))
    assert said.isdisjoint(tested)
    assert len(sides.train) + len(sides.test) == len(store)
    assert 2 <= len(sides.test) <= 5


def test_a_copy_of_a_tested_recording_is_not_trained_on(made, tmp_path):
    """Nor is an earlier label whose recording was corrected."""
    model, *_ = made
    first = WaveformStore(corpus(tmp_path / "a", ["cat", "dan"]))
    items = list(first.utterances)
    copy = tmp_path / "copy.wav"
    shutil.copy(items[0].audio, copy)
    pack([*items, items[0].model_copy(update={"audio": str(copy), "text": "ba"})], tmp_path / "both", workers=1)
    (tmp_path / "test.txt").write_text("cat/0\ncat/1\n")
    store = WaveformStore(tmp_path / "both")
    sides = divide_corrected(store, read_training_audio(model), model=model, test=tmp_path / "test.txt")
    assert len(store) - 1 not in {each.index for each in sides.train}
    assert any("audio is on the test side" in note for note in sides.notes)


def test_earlier_labels_that_were_corrected_give_way(made, tmp_path, capfd):
    model, earlier, _ = made
    items = list(WaveformStore(earlier).utterances)
    pack(items[:2] + list(WaveformStore(made[2]).utterances), tmp_path / "both", workers=1)
    (tmp_path / "test.txt").write_text("cat/0\ndan/1\n")
    words = ["--test", tmp_path / "test.txt", "--with", earlier, "--out", tmp_path / "new", *FEW]
    assert run("correct", model, tmp_path / "both", *words) == 0
    said = capfd.readouterr().err
    assert "10 earlier labels of" in said
    assert "2 earlier labels left out: their recordings are among the corrected ones" in said


def test_the_model_folder_is_no_place_for_the_new_one(made, tmp_path, capfd):
    model, _, corrected = made
    before = content(model)
    for out in (model, model / "new"):
        assert "which is not changed" in refused(capfd, "correct", model, corrected, "--out", out, *FEW)
    shutil.copytree(model, tmp_path / "other", ignore=shutil.ignore_patterns("last.pt"))
    assert "holds a model already" in refused(capfd, "correct", model, corrected, "--out", tmp_path / "other", *FEW)
    assert content(model) == before
    words = ["--out", tmp_path / "new", "--set", "ctc.conv_layers=2"]
    assert "the head stays" in refused(capfd, "correct", model, corrected, *words)
    words = ["--out", tmp_path / "new", "--labels", tmp_path / "test.txt"]
    assert "--with CORPUS" in refused(capfd, "correct", model, corrected, *words)
    other = micro_model(tmp_path / "encoder")
    assert "without a head" in refused(capfd, "correct", other, corrected, "--out", tmp_path / "new")


def test_joined_corpora_have_the_samples_of_both(made):
    _, *folders = made
    stores = [WaveformStore(folder) for folder in folders]
    joined = JoinedStore(stores)
    assert len(joined) == sum(map(len, stores))
    assert joined.content_ids() == [each for store in stores for each in store.content_ids()]
    last = len(stores[0])
    for index, (store, own) in {0: (stores[0], 0), last: (stores[1], 0), last + 3: (stores[1], 3)}.items():
        assert joined.utterances[index] == store.utterances[own]
        assert np.array_equal(joined.waveform(index), store.waveform(own))
        assert np.array_equal(joined.read(index, 5, 50), store.read(own, 5, 50))
        assert joined.gain(index) == store.gain(own)
        assert np.array_equal(joined.marks([index])[0], store.marks([own])[0])
    assert AudioRecord.of(joined, [last]).find(stores[1], range(3)) == [0]
    with pytest.raises(IndexError):
        joined.read(len(joined))

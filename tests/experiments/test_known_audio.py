"""Audio of training is found on the test side by its samples, whatever became of its file."""

import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl.cli import main
from speechssl.data.copies import copies
from speechssl.data.manifest import Utterance
from speechssl.data.training_audio import (
    TRAINING_AUDIO,
    AudioRecord,
    TrainingAudio,
    read_training_audio,
    write_training_audio,
)
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.experiments.emotion import label_efficiency
from speechssl.metrics.results import ResultRow, read_results
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model

from ..toys import MICRO_ENCODER, RATE, tones

SETS = {
    "loop.steps": 2,
    "loop.validate_every": 2,
    "loop.checkpoint_every": 2,
    "loop.precision": "fp32",
    "batches.batch_seconds": 4.0,
    "device": "cpu",
}


def recordings(folder: Path, *, first: int, count: int, speakers: str = "s") -> list[Utterance]:
    """Whole files of 16 bits by four speakers, two labels each."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Utterance] = []
    for number in range(first, first + count):
        path = folder / f"{number:03}.wav"
        soundfile.write(path, tones(0.5 + 0.01 * (number % 7), speaker=number % 4, seed=number), RATE)
        speaker = f"{speakers}{number % 4}"
        made.append(Utterance(audio=str(path), duration=0.0, speaker=speaker, label="ab"[number // 4 % 2]))
    return made


def prepared(folder: Path, items: list[Utterance]) -> Path:
    pack(items, folder, workers=1)
    return folder


def finetuned(corpus: Path, out: Path, *, start: Path | None = None) -> Path:
    words = [f"--set={name}={value}" for name, value in SETS.items()]
    given = ["--valid-share=0", *words, "--from", "scratch" if start is None else str(start)]
    assert main(["finetune", str(corpus), "--out", str(out), *given]) == 0
    return out


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder without a record, as an imported one is."""
    folder = tmp_path_factory.mktemp("start")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(folder, SpeechEncoder(MICRO_ENCODER))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, start: Path) -> tuple[Path, list[Utterance]]:
    folder = tmp_path_factory.mktemp("trained")
    items = recordings(folder / "audio", first=0, count=8)
    return finetuned(prepared(folder / "corpus", items), folder / "model", start=start), items


def evaluated(model: Path, corpus: Path, out: Path, *words: str) -> list[ResultRow]:
    assert main(["evaluate", str(model), str(corpus), "--out", str(out), *words]) == 0
    return read_results(out)


def copied(source: str, target: Path) -> None:
    shutil.copyfile(source, target)


def to_flac(source: str, target: Path) -> None:
    samples, rate = soundfile.read(source, dtype="int16")
    soundfile.write(target.with_suffix(".flac"), samples, rate)


@pytest.mark.parametrize("way", [copied, to_flac])
def test_a_training_file_under_another_name_is_found(
    trained: tuple[Path, list[Utterance]], tmp_path: Path, capsys: pytest.CaptureFixture[str], way: object
) -> None:
    model, items = trained
    others = recordings(tmp_path / "other", first=100, count=8, speakers="t")
    new = tmp_path / "elsewhere" / "with another name.wav"
    new.parent.mkdir()
    assert callable(way)
    way(items[3].audio, new)
    [found] = new.parent.iterdir()
    leak = Utterance(audio=str(found), duration=0.0, speaker="t9", label="a")
    corpus = prepared(tmp_path / "corpus", [*others, leak])
    out = tmp_path / "r.json"
    assert main(["evaluate", str(model), str(corpus), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "1 of 9 test utterances were trained on" in said
    assert f"{found}@0" in said
    assert "--leave-out-trained" in said
    assert not out.exists()
    rows = evaluated(model, corpus, out, "--leave-out-trained")
    assert {(row.n, row.left_out) for row in rows} == {(8, 1)}


def test_what_is_known_is_stated_in_every_row(
    trained: tuple[Path, list[Utterance]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start has no record: of pretraining nothing is known, and whether the start was fine-tuned neither."""
    model, _ = trained
    corpus = prepared(tmp_path / "corpus", recordings(tmp_path / "other", first=100, count=8, speakers="t"))
    rows = evaluated(model, corpus, tmp_path / "r.json")
    assert {(row.training_audio, row.pretraining_audio) for row in rows} == {("unknown", "unknown")}
    assert all(row.split.startswith("not known whether the model was trained on these speakers") for row in rows)
    said = " ".join(capsys.readouterr().err.split())
    assert "training audio: 8 recordings of fine-tuning are known and compared; the model that it started" in said
    assert "the model has no record of it" not in said
    bare = shutil.copytree(model, tmp_path / "older")
    (bare / TRAINING_AUDIO).unlink()
    assert {row.training_audio for row in evaluated(bare, corpus, tmp_path / "r.json")} == {"unknown"}
    assert "training audio: unknown, the model has no record of it" in " ".join(capsys.readouterr().err.split())


def test_audio_that_chose_the_checkpoint_is_refused(
    trained: tuple[Path, list[Utterance]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = prepared(tmp_path / "corpus", recordings(tmp_path / "new", first=100, count=8, speakers="t"))
    model = shutil.copytree(trained[0], tmp_path / "model")
    selection = AudioRecord.of(WaveformStore(corpus), [1, 2])
    write_training_audio(model, TrainingAudio(selection=selection))
    assert main(["evaluate", str(model), str(corpus), "--out", str(tmp_path / "r.json")]) == 2
    assert "2 of 8 test utterances were trained on, or used to choose the checkpoint" in capsys.readouterr().err


def test_records_are_carried_from_model_to_model(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = recordings(tmp_path / "heard", first=200, count=8, speakers="p")
    unlabelled = WaveformStore(prepared(tmp_path / "unlabelled", heard))
    pretrained = shutil.copytree(start, tmp_path / "pretrained")
    write_training_audio(pretrained, TrainingAudio(pretraining=AudioRecord.of(unlabelled)))
    one = prepared(tmp_path / "one", recordings(tmp_path / "a", first=0, count=8, speakers="s"))
    two = prepared(tmp_path / "two", recordings(tmp_path / "b", first=50, count=8, speakers="u"))
    first = finetuned(one, tmp_path / "first", start=pretrained)
    second = finetuned(two, tmp_path / "second", start=first)
    audio = read_training_audio(second)
    assert audio.pretraining.ids == set(unlabelled.content_ids())
    assert audio.fine_tuning.ids == {*WaveformStore(one).content_ids(), *WaveformStore(two).content_ids()}
    moved = [each.model_copy(update={"audio": shutil.move(each.audio, tmp_path)}) for each in heard[:2]]
    new = recordings(tmp_path / "c", first=300, count=8, speakers="v")
    rows = evaluated(second, prepared(tmp_path / "test", [*new, *moved]), tmp_path / "r.json")
    assert {row.training_audio for row in rows} == {"known, no copy sample by sample"}
    assert {row.pretraining_audio for row in rows} == {"2 of 10 test utterances, compared sample by sample"}
    assert all(row.split == "speakers of other names than in training, interval by speaker" for row in rows)
    capsys.readouterr()
    assert main(["evaluate", str(second), str(one), "--out", str(tmp_path / "r.json"), "--other-speakers"]) == 2
    assert "8 of 8 test utterances were trained on" in capsys.readouterr().err
    assert main(["evaluate", str(second), str(one), "--out", str(tmp_path / "r.json"), "--leave-out-trained"]) == 2
    assert "the model was trained on all test utterances" in capsys.readouterr().err


@pytest.mark.parametrize("alteration", ["softer", "without a speaker"])
def test_rows_claim_no_more_than_that_samples_were_compared(
    trained: tuple[Path, list[Utterance]], start: Path, tmp_path: Path, alteration: str
) -> None:
    """An altered copy is not found, so nothing may say that the model was not trained on it."""
    model = shutil.copytree(trained[0], tmp_path / "model")
    store = WaveformStore(trained[0].parent / "corpus")
    write_training_audio(model, TrainingAudio(fine_tuning=AudioRecord.of(store)))
    made: list[Utterance] = []
    for number, item in enumerate(trained[1]):
        samples, rate = soundfile.read(item.audio, dtype="int16")
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, samples // 2, rate)
        speaker = None if alteration == "without a speaker" else f"t{number % 4}"
        made.append(Utterance(audio=str(path), duration=0.0, speaker=speaker, label=item.label))
    rows = evaluated(model, prepared(tmp_path / "corpus", made), tmp_path / "r.json")
    assert {(row.n, row.training_audio) for row in rows} == {(8, "known, no copy sample by sample")}
    [split] = {row.split for row in rows}
    assert split == (
        "utterances that are no copies, sample by sample, of training audio, interval by utterance"
        if alteration == "without a speaker"
        else "speakers of other names than in training, interval by speaker"
    )
    assert "not trained on" not in (tmp_path / "r.json").read_text()


def test_another_stretch_of_a_training_file_is_found(start: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tones(4.0, seed=1), RATE)

    def stretch(offset: float, **known: str) -> Utterance:
        return Utterance(audio=str(path), offset=offset, duration=0.5, **known)

    record = AudioRecord.of(
        WaveformStore(prepared(tmp_path / "train", [stretch(0.0, speaker="a"), stretch(2.0, speaker="b")]))
    )
    tested = WaveformStore(prepared(tmp_path / "test", [stretch(offset) for offset in (0.3, 0.45, 0.5, 1.7, 2.45)]))
    assert record.find(tested, range(len(tested))) == [0, 3]  # the others share less than a tenth of a second


def test_speakers_of_training_are_left_out_too(
    trained: tuple[Path, list[Utterance]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = trained
    new = recordings(tmp_path / "new", first=100, count=8, speakers="t")
    same = recordings(tmp_path / "same", first=120, count=4)  # other recordings of the training speakers
    corpus = prepared(tmp_path / "corpus", [*new, *same])
    assert main(["evaluate", str(model), str(corpus), "--out", str(tmp_path / "r.json")]) == 2
    assert "trained on speaker 's0' (4 such)" in capsys.readouterr().err
    rows = evaluated(model, corpus, tmp_path / "r.json", "--leave-out-trained")
    assert {(row.n, row.left_out) for row in rows} == {(8, 4)}


def test_speakers_that_chose_the_checkpoint_are_no_new_speakers(
    trained: tuple[Path, list[Utterance]], tmp_path: Path
) -> None:
    """New recordings of a speaker whose other recordings ended the training early."""
    model = shutil.copytree(trained[0], tmp_path / "model")
    chosen = [
        each.model_copy(update={"speaker": "chosen"}) for each in recordings(tmp_path / "chosen", first=60, count=4)
    ]
    selection = AudioRecord.of(WaveformStore(prepared(tmp_path / "one", chosen)), range(4))
    write_training_audio(model, read_training_audio(model) | TrainingAudio(selection=selection))
    others = recordings(tmp_path / "others", first=80, count=8, speakers="new")
    corpus = prepared(
        tmp_path / "two", [*others[:6], *(each.model_copy(update={"speaker": "Chosen"}) for each in others[6:])]
    )
    out = tmp_path / "r.json"
    assert main(["evaluate", str(model), str(corpus), "--out", str(out)]) == 2
    assert main(["evaluate", str(model), str(corpus), "--out", str(out), "--leave-out-trained"]) == 0
    assert {(row.n, row.left_out) for row in read_results(out)} == {(6, 2)}


def test_equal_names_of_other_people_are_stated(trained: tuple[Path, list[Utterance]], tmp_path: Path) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    store = WaveformStore(trained[0].parent / "corpus")
    write_training_audio(model, TrainingAudio(fine_tuning=AudioRecord.of(store)))
    for speakers, words in (
        ("s", "speakers that --other-speakers says are not those of training"),
        ("t", "speakers of other names than in training"),
    ):
        items = recordings(tmp_path / speakers, first=100, count=8, speakers=speakers)
        corpus = prepared(tmp_path / f"corpus of {speakers}", items)
        rows = evaluated(model, corpus, tmp_path / "r.json", "--other-speakers")
        assert {row.split for row in rows} == {f"{words}, interval by speaker"}


def test_a_broken_record_is_one_line(
    trained: tuple[Path, list[Utterance]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    (model / TRAINING_AUDIO).write_text("{}")
    corpus = prepared(tmp_path / "corpus", recordings(tmp_path / "new", first=100, count=4, speakers="t"))
    assert main(["evaluate", str(model), str(corpus), "--out", str(tmp_path / "r.json")]) == 2
    assert f"{TRAINING_AUDIO}: not the record of a model's training audio" in capsys.readouterr().err


def test_probes_state_what_the_encoder_heard(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = recordings(tmp_path / "audio", first=0, count=24)
    corpus = prepared(tmp_path / "corpus", items)
    words = ["--shots=1", "--seeds=1", "--no-baselines"]
    rows = evaluated(start, corpus, tmp_path / "r.json", *words)
    assert {row.pretraining_audio for row in rows if row.contender != "chance"} == {"unknown"}
    model = shutil.copytree(start, tmp_path / "model")
    copies = [each.model_copy(update={"audio": shutil.copy(each.audio, tmp_path)}) for each in items]
    heard = WaveformStore(prepared(tmp_path / "heard", copies))
    write_training_audio(model, TrainingAudio(pretraining=AudioRecord.of(heard)))
    rows = evaluated(model, corpus, tmp_path / "r.json", *words)
    [stated] = {row.pretraining_audio for row in rows if row.contender != "chance"}
    tested = int(stated.split(" of ")[1].split()[0])
    assert stated == f"{tested} of {tested} test utterances, compared sample by sample"
    assert f"in the audio of pretraining: {stated}" in capsys.readouterr().err
    write_training_audio(model, TrainingAudio(fine_tuning=AudioRecord.of(heard)))
    assert main(["evaluate", str(model), str(corpus), "--out", str(tmp_path / "r.json"), *words]) == 2
    assert f"was fine-tuned on {tested} of {tested} test utterances" in capsys.readouterr().err


def test_stretches_that_repeat_audio(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tones(4.0, seed=1), RATE)
    stretches = [(0.0, 1.0, "a"), (0.0, 2.0, "a"), (0.95, 1.0, "b"), (1.5, 1.0, "b"), (2.5, 1.0, "b")]
    items = [Utterance(audio=str(path), offset=o, duration=d, speaker=s) for o, d, s in stretches]
    store = WaveformStore(prepared(tmp_path / "corpus", [item for item in items if item.offset or item.duration < 2]))
    names = [str(number) for number in range(len(store))]
    assert copies(store, names=names) == {}  # .05 s is the rounding of neighbours
    assert copies(store, names=names, one_speaker=True) == {2: 1}
    other = [item.model_copy(update={"speaker": "c"}) if item.offset == 1.5 else item for item in items]
    store = WaveformStore(prepared(tmp_path / "other", [item for item in other if item.offset or item.duration < 2]))
    assert copies(store, names=names) == {2: 1}


@pytest.mark.parametrize("way", ["link", "hard link", "renamed"])
def test_another_cut_of_a_file_under_another_name_is_found(tmp_path: Path, way: str) -> None:
    path, other = tmp_path / "long.wav", tmp_path / "other.wav"
    soundfile.write(path, tones(4.0, seed=1), RATE)
    record = AudioRecord.of(WaveformStore(prepared(tmp_path / "train", [Utterance(audio=str(path), duration=2.0)])))
    made = {"link": other.symlink_to, "hard link": other.hardlink_to, "renamed": lambda old: old.rename(other)}
    made[way](path)
    cuts = [Utterance(audio=str(other), offset=offset, duration=1.0, speaker="b") for offset in (1.5, 2.0, 2.5)]
    store = WaveformStore(prepared(tmp_path / "test", cuts))
    assert record.find(store, range(3)) == [0]
    if way != "renamed":
        both = [Utterance(audio=str(path), duration=2.0, speaker="a"), *cuts]
        store = WaveformStore(prepared(tmp_path / "both", both))
        assert copies(store, names=[str(number) for number in range(4)]) == {1: 0}


def test_copies_within_a_corpus_are_tested_and_trained_once(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same recording by two speakers would be on both sides of a speaker-disjoint split."""
    items = recordings(tmp_path / "audio", first=0, count=24)
    again = shutil.copyfile(items[0].audio, tmp_path / "audio" / "zzz.wav")
    copy = items[0].model_copy(update={"audio": str(again), "speaker": "s3", "label": "other"})
    corpus = prepared(tmp_path / "corpus", [*items, copy])
    evaluated(start, corpus, tmp_path / "r.json", "--shots=1", "--seeds=1", "--no-baselines")
    told = "1 utterances left out: their audio is that of another one, 1 of them with another speaker, 1 of them"
    assert told in " ".join(capsys.readouterr().err.split())
    label_efficiency(corpus, start, tmp_path / "emotion", shots=[1], draws=2, contenders=["mfcc-svm"])
    assert told in " ".join(capsys.readouterr().err.split())
    rows = read_results(tmp_path / "emotion" / "results.json")
    assert {row.pretraining_audio for row in rows} == {""}  # no contender with the encoder

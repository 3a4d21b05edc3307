"""Other cuts of training audio are found by their samples, under any name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.cli import main
from speechssl.data.manifest import Utterance
from speechssl.data.training_audio import TRAINING_AUDIO, AudioRecord, TrainingAudio, write_training_audio
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.metrics.results import read_results
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model

from ..toys import MICRO_ENCODER, RATE, tones
from .test_known_audio import finetuned, prepared

LABELS = "ab"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model trained on six stretches of a long file and six whole files, and the folder of the files."""
    folder = tmp_path_factory.mktemp("trained")
    audio = folder / "audio"
    audio.mkdir()
    soundfile.write(audio / "long.wav", np.concatenate([tones(1.0, speaker=1, seed=n) for n in range(8)]), RATE)
    items = [
        Utterance(
            audio=str(audio / "long.wav"),
            offset=round(n * 1.23456 + 0.02, 4),
            duration=0.6321,
            speaker="s1",
            label=LABELS[n % 2],
        )
        for n in range(6)
    ]
    for number in range(6):
        path = audio / f"{number}.wav"
        soundfile.write(path, tones(0.6, speaker=number % 4, seed=100 + number), RATE)
        items.append(Utterance(audio=str(path), duration=0.0, speaker=f"s{number % 4}", label=LABELS[number % 2]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(folder / "start", SpeechEncoder(MICRO_ENCODER))
    write_training_audio(folder / "start", TrainingAudio())
    return finetuned(prepared(folder / "corpus", items), folder / "model", start=folder / "start"), audio


def cuts_of(audio: Path, folder: Path) -> Path:
    """Ten new files, and ten cuts of the training audio: none has the samples of a training utterance exactly."""
    folder.mkdir()
    items: list[Utterance] = []

    def add(name: str, samples: np.ndarray) -> None:
        soundfile.write(folder / name, samples, RATE)
        label = LABELS[len(items) % 2]
        items.append(Utterance(audio=str(folder / name), duration=0.0, speaker=f"t{len(items) % 4}", label=label))

    for number in range(10):
        add(f"new {number}.wav", tones(0.6, speaker=number % 4, seed=200 + number))
    for number in range(5):
        samples, _ = soundfile.read(audio / f"{number}.wav", dtype="int16")
        shorter = [samples[:-1], samples[1:], samples[3:-5], samples[2000:], np.pad(samples[:7000], 100)][number]
        add(f"whole {number}.flac", shorter)
    long, _ = soundfile.read(audio / "long.wav", dtype="int16")
    for number in range(5):  # by a table that rounds to 1e-4 s, or with one sample less
        first = round(round(number * 1.23456 + 0.02, 4) * RATE) + number - 2
        add(f"stretch {number}.wav", long[first : first + round(0.6321 * RATE) - 1])
    return prepared(folder / "corpus", items)


def test_cuts_of_moved_training_audio_are_found(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, audio = trained
    corpus, out = cuts_of(audio, tmp_path / "test"), tmp_path / "r.json"
    assert main(["evaluate", str(model), str(corpus), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert ": 10 of 20 test utterances were trained on" in said
    assert f"{tmp_path / 'test' / 'whole 0.flac'}@0" in said
    assert main(["evaluate", str(model), str(corpus), "--out", str(out), "--leave-out-trained"]) == 0
    assert {(row.n, row.left_out, row.training_audio) for row in read_results(out)} == {
        (10, 10, "known, no copy sample by sample")
    }
    assert "at least" not in capsys.readouterr().err


def test_a_record_of_an_earlier_version_claims_less(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    content = json.loads((model / TRAINING_AUDIO).read_text())
    assert content.pop("version") == 2
    content["pretraining"] = content["fine_tuning"]
    old = {
        name: {key: value for key, value in stage.items() if key not in ("marks", "level", "complete")}
        for name, stage in content.items()
    }
    (model / TRAINING_AUDIO).write_text(json.dumps({"version": 1, **old}))
    corpus, out = cuts_of(trained[1], tmp_path / "test"), tmp_path / "r.json"
    store = WaveformStore(corpus)
    items = [*store.utterances, Utterance(audio=str(trained[1] / "0.wav"), duration=0.0, speaker="t1", label="a")]
    pack(items, tmp_path / "more")
    assert main(["evaluate", str(model), str(tmp_path / "more"), "--out", str(out)]) == 2
    assert ": at least 1 of 21 test utterances were trained on" in capsys.readouterr().err
    assert main(["evaluate", str(model), str(tmp_path / "more"), "--out", str(out), "--leave-out-trained"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "other cuts of training recordings may be among the rest: the record is of an earlier version" in said
    assert {row.pretraining_audio for row in read_results(out)} == {
        "at least 0 of 20 test utterances, compared sample by sample"
    }
    again = finetuned(tmp_path / "more", tmp_path / "again", start=model)  # the record of the start is kept as it is
    stages = json.loads((again / TRAINING_AUDIO).read_text())
    assert [stages[name]["complete"] for name in ("pretraining", "fine_tuning", "selection")] == [False, False, True]


def test_too_quiet_for_marks(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can say that a recording of a few steps is no cut of another one."""
    soundfile.write(tmp_path / "quiet.wav", (tones(0.6) * 10).astype(np.int16), RATE)
    items = [
        *WaveformStore(cuts_of(trained[1], tmp_path / "test")).utterances[:10],
        Utterance(audio=str(tmp_path / "quiet.wav"), duration=0.0, speaker="t1", label="a"),
    ]
    corpus, out = prepared(tmp_path / "corpus", items), tmp_path / "r.json"
    assert main(["evaluate", str(trained[0]), str(corpus), "--out", str(out)]) == 0
    assert "utterances are too short or too quiet for marks" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("change", [{"marks": "!"}, {"marks": "AAAA"}, {"level": 64}, {"level": 63}])
def test_damaged_marks_are_one_line(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object]
) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    content = json.loads((model / TRAINING_AUDIO).read_text())
    content["fine_tuning"] |= change
    (model / TRAINING_AUDIO).write_text(json.dumps(content))
    assert main(["evaluate", str(model), str(trained[0].parent / "corpus"), "--out", str(tmp_path / "r.json")]) == 2
    assert f"{TRAINING_AUDIO}: not the record of a model's training audio" in capsys.readouterr().err


def test_held_out_recordings_are_not_trained_on_in_another_cut(tmp_path: Path) -> None:
    samples = [tones(0.8, speaker=number % 4, seed=number) for number in range(4)]
    items: list[Utterance] = []
    for number, each in enumerate([*samples, samples[1][5:-1], samples[2][4000:]]):
        soundfile.write(tmp_path / f"{number}.wav", each, RATE)
        items.append(Utterance(audio=str(tmp_path / f"{number}.wav"), duration=0.0))
    store = WaveformStore(prepared(tmp_path / "corpus", items))
    assert AudioRecord.of(store, [0, 1, 2]).find(store, [3, 4, 5]) == [4, 5]

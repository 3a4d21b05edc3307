"""A file has the same vectors whether it was prepared or is extracted, and the same reason when neither can use it."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from speechssl.audio import decode
from speechssl.cli import main
from speechssl.data import encoded
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from speechssl.embed.embedder import load
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from tests.toys import MICRO_ENCODER, tones

RATE = 16000
SPEECH = tones(2.0)
PAUSES = SPEECH * (np.arange(len(SPEECH)) % 8000 < 4500) + np.random.default_rng(0).normal(0, 1e-4, len(SPEECH))


def clicks(samples: np.ndarray, value: float, every: int) -> np.ndarray:
    samples = samples.copy()
    samples[every // 2 :: every] = value
    return samples


def click(samples: np.ndarray, value: float) -> np.ndarray:
    samples = samples.copy()
    samples[20000] = value
    return samples


FILES: dict[str, tuple[np.ndarray, int, str]] = {
    "eight_bits.wav": (SPEECH, RATE, "PCM_U8"),
    "sixteen_bits.wav": (SPEECH, RATE, "PCM_16"),
    "sixteen_bits_quiet.wav": (SPEECH * 1e-3, RATE, "PCM_16"),
    "twenty_four_bits.wav": (SPEECH, RATE, "PCM_24"),
    "twenty_four_bits_quiet.flac": (SPEECH * 1e-3, RATE, "PCM_24"),
    "float.wav": (SPEECH, RATE, "FLOAT"),
    "float_quiet.wav": (SPEECH * 1e-4, RATE, "FLOAT"),
    "float_loud.wav": (SPEECH * 3000, RATE, "FLOAT"),
    "eight_kilohertz.wav": (SPEECH, 8000, "PCM_16"),
    "resampled.wav": (SPEECH, 44100, "PCM_16"),
    "resampled_quiet.wav": (SPEECH * 0.01, 48000, "PCM_24"),
    "overshoot.wav": (np.sign(SPEECH), 22050, "PCM_16"),
    "click.wav": (click(SPEECH * 1e-3, 0.2), RATE, "FLOAT"),
    "click_resampled.wav": (click(SPEECH * 0.02, 1.0), 44100, "PCM_16"),
    "clicks.wav": (clicks(np.tile(SPEECH, 3) * 1e-4, 0.9, 9000), RATE, "FLOAT"),
    "many_clicks.wav": (clicks(SPEECH * 1e-3, 0.9, 470), RATE, "FLOAT"),
    "offset.wav": (SPEECH * 0.01 + 0.7, RATE, "FLOAT"),
    "offset_resampled.wav": (SPEECH * 0.2 + 0.3, 32000, "PCM_16"),
    "inverted.wav": (np.stack([SPEECH, -SPEECH], axis=1), RATE, "PCM_16"),
    "vorbis.ogg": (SPEECH, 44100, "VORBIS"),
    "layer_three.mp3": (SPEECH, 44100, "MPEG_LAYER_III"),
    "pauses.wav": (PAUSES, RATE, "FLOAT"),
    "pauses_resampled.wav": (PAUSES, 44100, "PCM_24"),
    "loud_then_quiet.wav": (SPEECH * np.where(np.arange(len(SPEECH)) < 8000, 1, 1e-3), RATE, "FLOAT"),
    "half_silent.wav": (SPEECH * (np.arange(len(SPEECH)) > 15000), 24000, "PCM_16"),
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(folder, SpeechEncoder(MICRO_ENCODER))
    return folder


def both(audio: Path, model_folder: Path, out: Path) -> tuple[WaveformStore, dict[str, np.ndarray]]:
    """A folder prepared, and the vectors extracted from it by the name of the file."""
    assert main(["prepare", "folder", "--root", str(audio), "--out", str(out / "corpus")]) == 0
    assert main(["extract", str(model_folder), str(audio), "--out", str(out / "vectors.parquet")]) == 0
    table = pq.read_table(out / "vectors.parquet")
    vectors = np.array(table.column("vector").to_pylist(), dtype=np.float64)
    return WaveformStore(out / "corpus"), dict(zip(table.column("path").to_pylist(), vectors, strict=True))


@pytest.mark.filterwarnings("ignore::speechssl.audio.AudioWarning")  # of the click
def test_prepared_and_extracted_vectors_agree(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "audio").mkdir()
    for name, (samples, rate, subtype) in FILES.items():
        soundfile.write(tmp_path / "audio" / name, samples, rate, subtype=subtype)
    store, extracted = both(tmp_path / "audio", model_folder, tmp_path)
    model = load(model_folder)
    assert sorted(extracted) == sorted(FILES)
    assert len(store) == len(FILES)
    worst: dict[str, float] = {}
    for index, utterance in enumerate(store.utterances):
        prepared = model.embed(store.waveform(index)).astype(np.float64)
        name = Path(utterance.audio).name
        worst[name] = float(np.linalg.norm(prepared - extracted[name]) / np.linalg.norm(extracted[name]))
    assert {name: error for name, error in worst.items() if error > 1e-4} == {}
    words = capsys.readouterr().err
    doubtful = [line for line in words.splitlines() if "doubtful" in line]
    assert doubtful == ["4 files are doubtful:"] * 2
    assert words.count("inverted.wav: the channels cancel each other, channel 1 alone is taken") == 2


OFFSETS, LEVELS = (0.0, 0.001, 0.01, 0.1, 0.5, -0.9), (0.002, 0.05, 0.5)


@pytest.mark.parametrize("rate", [RATE, 48000])
@pytest.mark.parametrize("whole", [True, False])
def test_vectors_agree_on_any_offset(
    rate: int, whole: bool, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speech with pauses of many levels, in memory and through a file; `extract` decodes the same samples."""
    monkeypatch.setattr(encoded, "_WHOLE", 10**9 if whole else 0)
    names = {f"{offset}_{level}.wav": (offset, level) for offset in OFFSETS for level in LEVELS}
    for name, (offset, level) in names.items():
        soundfile.write(tmp_path / name, PAUSES[: 3 * len(PAUSES) // 4] * 2 * level + offset, rate, subtype="FLOAT")
    pack([Utterance(audio=str(tmp_path / name), duration=0.0) for name in names], tmp_path / "corpus")
    store, model = WaveformStore(tmp_path / "corpus"), load(model_folder)
    worst: dict[str, float] = {}
    for index, name in enumerate(names):
        prepared, extracted = model.embed(store.waveform(index)), model.embed(decode(tmp_path / name))
        worst[name] = float(np.linalg.norm(prepared - extracted) / np.linalg.norm(extracted))
    assert {name: error for name, error in worst.items() if error > 1e-4} == {}


@pytest.mark.parametrize("seconds", [0.026, 0.05, 0.104, 0.3])
def test_vectors_of_short_files_agree(seconds: float, model_folder: Path, tmp_path: Path) -> None:
    """Their few frames do not average the noise of rounding."""
    soundfile.write(tmp_path / "a.wav", SPEECH[4000:][: round(seconds * 48000)] * 0.1, 48000, subtype="PCM_24")
    pack([Utterance(audio=str(tmp_path / "a.wav"), duration=0.0)], tmp_path / "corpus")
    np.testing.assert_array_equal(WaveformStore(tmp_path / "corpus").waveform(0), decode(tmp_path / "a.wav"))


def m4a() -> bytes:
    return struct.pack(">I4s4sI8s", 28, b"ftyp", b"M4A ", 512, b"M4A mp42") + bytes(180)


def test_what_neither_takes_has_one_reason(model_folder: Path, tmp_path: Path) -> None:
    """A header that counts less, joined files, m4a under another name, a click beside which nothing is left."""
    audio = tmp_path / "audio"
    audio.mkdir()
    pcm = (SPEECH * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    head = b"RIFF" + struct.pack("<I", 36 + 16000) + b"WAVE" + form + b"data" + struct.pack("<I", 16000)
    (audio / "counts_less.wav").write_bytes(head + pcm)
    for name in ("joined.mp3", "joined.ogg"):
        soundfile.write(audio / name, SPEECH, RATE)
        (audio / name).write_bytes((audio / name).read_bytes() * 2)
    (audio / "memo.wav").write_bytes(m4a())
    soundfile.write(audio / "spike.wav", click(SPEECH * 0.6, 500.0), RATE, subtype="FLOAT")
    soundfile.write(audio / "good.wav", SPEECH, RATE)
    store, extracted = both(audio, model_folder, tmp_path)
    assert [Path(utterance.audio).name for utterance in store.utterances] == ["good.wav"] == list(extracted)
    lines = (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines()
    prepared = {Path(row["audio"]).name: row["reason"] for row in map(json.loads, lines)}
    lines = (tmp_path / "vectors.parquet.errors.jsonl").read_text().splitlines()
    assert {row["path"]: row["reason"] for row in map(json.loads, lines)} == prepared
    assert prepared["counts_less.wav"].startswith("the header counts 0.500 s of samples, the file holds 2.000 s; ")
    assert "length header counts 2.088 s of 4." in prepared["joined.mp3"]
    assert prepared["joined.ogg"].startswith(
        "several recordings in one file: the first holds 2.000 s, all of them 4.000 s, the second (Ogg Vorbis) "
    )
    assert prepared["memo.wav"] == (
        "MPEG-4 (mp4, m4a) cannot be read; convert it: ffmpeg -i memo.wav memo.converted.wav"
    )
    assert prepared["spike.wav"].startswith("a click of 500 at 1.250 s, all other samples are within +/-0.")


def test_advice_for_conversion_never_overwrites(model_folder: Path, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in ("memo.wav", "Memo.WAV", "-voice.m4a", "http:a.m4a", "voice.m4a", "voice.wav", "voice.converted.wav"):
        (audio / name).write_bytes(m4a())
    soundfile.write(audio / "good.wav", SPEECH, RATE)
    both(audio, model_folder, tmp_path)
    lines = (tmp_path / "corpus" / "rejects.jsonl").read_text().splitlines()
    advice = {Path(row["audio"]).name: row["reason"].partition("ffmpeg ")[2] for row in map(json.loads, lines)}
    assert advice == {
        "memo.wav": "-i memo.wav memo.converted.wav",
        "Memo.WAV": "-i Memo.WAV Memo.converted.wav",
        "-voice.m4a": "-i ./-voice.m4a ./-voice.wav",
        "http:a.m4a": "-i ./http:a.m4a ./http:a.wav",
        "voice.m4a": "-i voice.m4a voice.converted-2.wav",
        "voice.wav": "-i voice.wav voice.converted-2.wav",
        "voice.converted.wav": "-i voice.converted.wav voice.converted.converted.wav",
    }

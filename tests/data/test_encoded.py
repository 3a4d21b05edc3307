"""How utterances are stored: exact where 16 bits can be, with a gain or as float32 where not, in bounded memory."""

import errno
import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechssl.audio import AudioError, Levels, OpenStretch, decode
from speechssl.data import encoded, waveforms
from speechssl.data.encoded import Encoded, encode
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from tests.toys import tones

RATE = 16000
SPEECH = tones(3.0)


def with_click(samples: np.ndarray, value: float) -> np.ndarray:
    samples = samples.copy()
    samples[20000] = value
    return samples


def kept(path: Path, scratch: Path) -> tuple[Encoded, np.ndarray]:
    """The stored form of a file, and the stored samples."""
    found = encode(str(path), 0.0, duration=None, scratch=scratch)
    assert isinstance(found.content, np.ndarray)
    return found, found.content


KINDS: dict[str, Callable[[Path], object]] = {
    "8 bits": lambda path: soundfile.write(path, SPEECH, RATE, subtype="PCM_U8"),
    "16 bits": lambda path: soundfile.write(path, SPEECH, RATE, subtype="PCM_16"),
    "16 bits, quiet": lambda path: soundfile.write(path, SPEECH * 1e-3, RATE, subtype="PCM_16"),
    "24 bits": lambda path: soundfile.write(path, SPEECH, RATE, subtype="PCM_24"),
    "float": lambda path: soundfile.write(path, SPEECH, RATE, subtype="FLOAT"),
    "float, quiet": lambda path: soundfile.write(path, SPEECH * 1e-4, RATE, subtype="FLOAT"),
    "float, loud": lambda path: soundfile.write(path, SPEECH * 3000, RATE, subtype="FLOAT"),
    "resampled": lambda path: soundfile.write(path, SPEECH, 22050, subtype="PCM_16"),
    "resampled, quiet": lambda path: soundfile.write(path, SPEECH * 1e-2, 44100, subtype="PCM_16"),
    "8 kHz": lambda path: soundfile.write(path, SPEECH, 8000, subtype="PCM_16"),
    "a click": lambda path: soundfile.write(path, with_click(SPEECH * 1e-3, 0.1), RATE, subtype="FLOAT"),
    "a click, resampled": lambda path: soundfile.write(path, with_click(SPEECH * 0.02, 1.0), 44100, subtype="PCM_16"),
    "an offset": lambda path: soundfile.write(path, SPEECH * 0.01 + 0.7, RATE, subtype="FLOAT"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_stored_samples_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    KINDS[kind](path)
    report = pack([Utterance(audio=str(path), duration=0.0)], tmp_path / "out")
    assert report.accepted == 1
    stored, original = WaveformStore(tmp_path / "out").waveform(0), decode(path)
    assert stored.dtype == np.float32
    if kind in {"8 bits", "16 bits", "16 bits, quiet", "a click", "a click, resampled", "an offset"}:
        np.testing.assert_array_equal(stored, original)
    noise, level = (stored.astype(np.float64) - original).std(), original.std()
    assert noise < 3e-4 * level


def test_what_stands_beside_a_click_keeps_its_digits(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", with_click(SPEECH * 1e-3, 0.1), RATE, subtype="FLOAT")
    found, content = kept(tmp_path / "a.wav", tmp_path)
    assert (found.form, found.gain, content.dtype) == ("float32", 1.0, np.dtype("<f4"))
    assert found.notes == ("a click of 0.1 at 1.250 s, all other samples are within +/-0.00049",)


def with_clicks(samples: np.ndarray, value: float, every: int) -> np.ndarray:
    samples = samples.copy()
    samples[every // 2 :: every] = value
    return samples


@pytest.mark.parametrize(("every", "rate"), [(9000, RATE), (9000, 44100), (470, RATE), (1500, RATE)])
@pytest.mark.parametrize("whole", [True, False])
def test_what_stands_between_clicks_keeps_its_digits(
    every: int, rate: int, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, in memory and through a file."""
    monkeypatch.setattr(encoded, "_WHOLE", 10**9 if whole else 0)
    soundfile.write(tmp_path / "a.wav", with_clicks(np.tile(SPEECH, 2) * 1e-4, 0.9, every), rate, subtype="FLOAT")
    original = decode(tmp_path / "a.wav")
    report = pack([Utterance(audio=str(tmp_path / "a.wav"), duration=0.0)], tmp_path / "out")
    np.testing.assert_array_equal(WaveformStore(tmp_path / "out").waveform(0), original)
    notes = " ".join(report.notes)
    if every > 640:  # 40 ms
        assert re.search(r"clicks of up to 0\.\d+ \(at \d\.\d{3} s\), everything between them is within \+/-", notes)


@pytest.mark.parametrize("block", [1, 39, 40, 41, 1000])
def test_clicks_are_found_whatever_the_blocks_are(block: int) -> None:
    quiet = (SPEECH[:4000] * 1e-3).astype(np.float32)
    for samples, expected in ((quiet, False), (with_clicks(quiet, 0.5, 3000), True)):
        digits, levels = encoded._Digits(), Levels()
        for start in range(0, len(samples), block):
            digits.add(samples[start : start + block])
            levels.add(samples[start : start + block])
        digits.finish()
        assert digits.too_few is expected
        assert levels.lasting == Levels([samples]).lasting < 1e-3


def test_loud_sounds_between_pauses_are_no_clicks(tmp_path: Path) -> None:
    """Tones of 60 ms in noise 70 dB below them, as of an ordinary recording at another rate."""
    loud = np.arange(len(SPEECH)) % 8000 < 960
    samples = SPEECH * loud * np.sin(np.arange(len(SPEECH)) % 8000 / 960 * np.pi) * loud
    samples += np.random.default_rng(0).normal(0, 1e-4, len(SPEECH))
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    found, _ = kept(tmp_path / "a.wav", tmp_path)
    assert (found.form, found.notes) == ("int16+shifts", ())


@pytest.mark.parametrize(
    ("value", "rate"), [(500.0, RATE), (-500.0, RATE), (1e30, RATE), (-1e30, RATE), (2000.0, 44100), (-1e30, 44100)]
)
def test_a_click_beside_which_nothing_is_left_is_refused(value: float, rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", with_click(SPEECH, value), rate, subtype="FLOAT")
    pattern = r"a click of -?[0-9.e+]+ at [0-9.]+ s, all other samples are within \+/-0\.[0-9]+; cut the click out or"
    with pytest.raises(AudioError, match=pattern):
        encode(str(tmp_path / "a.wav"), 0.0, duration=None, scratch=tmp_path)


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_near_the_largest_float_give_no_warning(channels: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([SPEECH] * channels, axis=1) * 2e38, RATE, subtype="FLOAT")
    found, content = kept(tmp_path / "a.wav", tmp_path)  # numpy's warnings would be errors
    assert (found.form, found.notes) == ("int16+shifts", ())
    assert np.abs(content).max() > 8000


def test_a_stretch_without_the_click_is_fine(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", with_click(SPEECH, 1e30), RATE, subtype="FLOAT")
    found = encode(str(tmp_path / "a.wav"), 1.3, duration=1.0, scratch=tmp_path)
    assert found.gain == 0.5
    assert found.notes == ()


@pytest.mark.parametrize("kind", KINDS)
def test_long_utterances_are_stored_like_short_ones(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KINDS[kind](tmp_path / "a.wav")
    whole, content = kept(tmp_path / "a.wav", tmp_path)
    monkeypatch.setattr(encoded, "_WHOLE", 1000)
    monkeypatch.setattr(encoded, "_BLOCK", 800)
    found = encode(str(tmp_path / "a.wav"), 0.0, duration=None, scratch=tmp_path)
    assert isinstance(found.content, Path)
    with (tmp_path / "stored").open("w+b") as file:
        found.append_to(file)
        file.seek(0)
        again = np.frombuffer(file.read(), dtype=content.dtype)
    assert len(again) == len(content)
    assert found.samples == whole.samples
    assert (found.gain, found.form, found.notes) == (whole.gain, whole.form, whole.notes)
    step = 0 if content.dtype == np.dtype("<f4") else 1  # resampling in blocks rounds differently
    exact = "resampled" not in kind and "kHz" not in kind
    if exact:
        assert (found.crc32, found.digest) == (whole.crc32, whole.digest)
    np.testing.assert_allclose(again, content, atol=0 if exact else step or 1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "stored"]


def test_the_same_audio_has_the_same_digest(tmp_path: Path) -> None:
    speech = np.rint(SPEECH * 32767).astype(np.int16)
    other = np.roll(speech, 1)
    for name, samples in {"a.wav": speech, "b.flac": speech, "moved.aiff": speech, "other.wav": other}.items():
        soundfile.write(tmp_path / name, samples, RATE, subtype="PCM_16")
    names = ["a.wav", "b.flac", "moved.aiff", "other.wav"]
    pack([Utterance(audio=str(tmp_path / name), duration=0.0) for name in names], tmp_path / "out")
    pack([Utterance(audio=str(tmp_path / "b.flac"), duration=0.0)], tmp_path / "again")
    ids = WaveformStore(tmp_path / "out").content_ids()
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert WaveformStore(tmp_path / "again").content_ids() == ids[:1]
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in ids)


@pytest.mark.slow
def test_memory_does_not_follow_the_length(tmp_path: Path) -> None:
    """Twenty minutes at 16 kHz are 77 MB of float32; half a minute at 192 kHz is held whole."""
    with soundfile.SoundFile(tmp_path / "a.flac", "w", RATE, 1) as file:
        for _ in range(20):
            file.write(np.tile(SPEECH, 20))
    tracemalloc.start()
    try:
        found = encode(str(tmp_path / "a.flac"), 0.0, duration=None, scratch=tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.samples == 20 * 60 * RATE
    assert isinstance(found.content, Path)
    assert found.content.stat().st_size == 2 * found.samples
    assert peak < 20e6


def long_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    monkeypatch.setattr(encoded, "_WHOLE", 1000)
    folder.mkdir()
    for index in range(5):
        soundfile.write(folder / f"{index}.wav", np.roll(SPEECH, 100 * index), RATE)
    return [Utterance(audio=str(folder / f"{index}.wav"), duration=0.0) for index in range(5)]


def test_a_full_disk_ends_the_call_and_the_next_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = long_corpus(tmp_path / "audio", monkeypatch)
    pack(corpus, tmp_path / "whole")
    original = encoded.encode

    def full(audio: str, offset: float, **options: Any) -> Encoded:
        if audio.endswith("3.wav"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(options["scratch"]))
        return original(audio, offset, **options)

    with monkeypatch.context() as patch:
        patch.setattr(waveforms, "encode", full)
        with pytest.raises(OSError, match="No space left on device"):
            pack(corpus, tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").glob(".decoding-*"))
    assert pack(corpus, tmp_path / "out").resumed == 3
    for name in ("waveforms.i16", "waveforms.json", "manifest.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_where_memory_ends_the_file_is_rejected_and_the_rest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = long_corpus(tmp_path / "audio", monkeypatch)
    blocks = OpenStretch.blocks

    def ended(self: OpenStretch) -> Any:
        if self.info.path.endswith("3.wav"):
            raise MemoryError
        return blocks(self)

    monkeypatch.setattr(OpenStretch, "blocks", ended)
    report = pack(corpus, tmp_path / "out")
    assert (report.accepted, report.rejected) == (4, 1)
    assert "memory ran out while it was decoded" in (tmp_path / "out" / "rejects.jsonl").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("manifest.jsonl", "rejects.jsonl", "waveforms.i16", "waveforms.json")
    ]


def test_what_a_killed_call_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = long_corpus(tmp_path / "audio", monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".decoding-abc").write_bytes(bytes(1000))
    pack(corpus, tmp_path / "out")
    assert not (tmp_path / "out" / ".decoding-abc").exists()


def test_notes_name_their_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SPEECH, RATE)
    soundfile.write(tmp_path / "b.wav", with_click(SPEECH * 1e-3, 0.1), RATE, subtype="FLOAT")
    corpus = [Utterance(audio=str(tmp_path / name), duration=0.0) for name in ("missing.wav", "a.wav", "b.wav")]
    expected = (f"{tmp_path / 'b.wav'}: a click of 0.1 at 1.250 s, all other samples are within +/-0.00049",)
    assert pack(corpus, tmp_path / "out").notes == expected
    assert pack(corpus, tmp_path / "out").notes == expected  # of a finished corpus

"""Every kind of broken or odd file: its one-line reason, and that it never stops the files beside it.

Each case writes its file; the same cases are then strewn among good files and packed together.
"""

import json
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import AudioError, check_waveform, decode, probe
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack

RATE = 16000
SECOND = (0.3 * np.sin(np.arange(RATE) / 7)).astype(np.float32)
NOISE = np.random.default_rng(0).uniform(-0.1, 0.1, 10 * RATE).astype(np.float32)  # makes large compressed files
LONG = np.tile(SECOND, 10) * np.linspace(0.1, 1, 10 * RATE, dtype=np.float32) + NOISE


@dataclass(frozen=True)
class Case:
    """One kind of file.

    Attributes:
        name: file name, the id of the test.
        write: makes the file at the path.
        reason: the exact one-line reason (a pattern when it starts with "^"); None for an odd file that is fine.
        stretch: offset and duration of the utterance.
        quiet: the header alone shows the fault (`probe` raises too).
    """

    name: str
    write: Callable[[Path], object]
    reason: str | None
    stretch: dict[str, float] = field(default_factory=dict)
    header: bool = False


def encoded(path: Path, samples: np.ndarray = SECOND, *, rate: int = RATE, **options: str | float) -> bytes:
    """The bytes of an audio file with the suffix of `path`."""
    scratch = path.with_name(f"scratch{path.suffix}")
    soundfile.write(scratch, samples, rate, **options)
    content = scratch.read_bytes()
    scratch.unlink()
    return content


def wav_header(samples: int, *, channels: int = 1, rate: int = RATE, riff: int | None = None) -> bytes:
    """The 44 bytes in front of 16-bit samples."""
    length = 2 * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    size = 36 + length if riff is None else riff
    return struct.pack("<4sI4s", b"RIFF", size & 0xFFFFFFFF, b"WAVE") + form + struct.pack("<4sI", b"data", length)


PCM = (SECOND * 32767).astype("<i2").tobytes()


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def samples(values: np.ndarray, *, rate: int = RATE, **options: str | float) -> Callable[[Path], object]:
    return lambda path: soundfile.write(path, values, rate, **options)


def cut(values: np.ndarray, fraction: float, **options: str | float) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        whole = encoded(path, values, **options)
        path.write_bytes(whole[: int(len(whole) * fraction)])

    return write


def damaged(values: np.ndarray, place: float) -> Callable[[Path], object]:
    """A hundred bytes overwritten at a fraction of the file."""

    def write(path: Path) -> None:
        whole = bytearray(encoded(path, values))
        start = int(len(whole) * place)
        whole[start : start + 100] = np.random.default_rng(0).bytes(100)
        path.write_bytes(whole)

    return write


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """A file of ten seconds with its bytes changed."""
    return lambda path: path.write_bytes(change(encoded(path, LONG)))


def flac_of_length(promised: int) -> Callable[[Path], object]:
    """A FLAC whose header states another number of samples (36 bits of STREAMINFO, bytes 21 to 26)."""

    def write(path: Path) -> None:
        whole = bytearray(encoded(path))
        whole[21] = whole[21] & 0xF0 | promised >> 32
        whole[22:26] = struct.pack(">I", promised & 0xFFFFFFFF)
        path.write_bytes(whole)

    return write


def without_length_header(mode: str) -> Callable[[Path], object]:
    """An mp3 whose first frame, which holds the length, is taken away."""

    def write(path: Path) -> None:
        whole = encoded(path, LONG * (np.arange(10 * RATE) < 3 * RATE), bitrate_mode=mode, compression_level=0.5)
        second = whole.index(whole[:2], 100)
        tag = b"ID3\x03\x00\x00\x00\x00\x7f\x76" + bytes(127 * 128 + 118)
        path.write_bytes((tag if mode == "CONSTANT" else b"") + whole[second:])

    return write


def spoiled(value: float) -> np.ndarray:
    values = SECOND.copy()
    values[5000:5003] = value
    return values


def ffmpeg(name: str, stem: str) -> str:
    return f"ffmpeg -i {name} {stem}.wav"


FTYP = b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00" + bytes(500)
ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9" + bytes(500)
MATROSKA = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81" + bytes(500)

BAD = [
    Case("missing.wav", lambda path: None, "no such file", header=True),
    Case("empty.wav", content(b""), "an empty file (0 bytes)", header=True),
    Case("empty.flac", content(b""), "an empty file (0 bytes)", header=True),
    Case("directory.wav", lambda path: path.mkdir(), "a directory, not an audio file", header=True),
    Case("link.wav", lambda path: path.symlink_to("nowhere"), "a link to a missing file", header=True),
    Case(
        "loop.wav", lambda path: path.symlink_to(path), "not readable (Too many levels of symbolic links)", header=True
    ),
    Case("pipe.wav", os.mkfifo, "a pipe or device, not an audio file", header=True),
    Case(
        "link_to_pipe.wav",
        lambda path: (os.mkfifo(path.with_suffix(".p")), path.symlink_to(path.with_suffix(".p"))),
        "a pipe or device, not an audio file",
        header=True,
    ),
    Case("text.wav", content(b"These are the words of a song.\n" * 50), "not audio (plain text)", header=True),
    Case("page.mp3", content(b"<!DOCTYPE html><html>404</html>" * 50), "not audio (a web page or XML)", header=True),
    Case("record.wav", content(b'{"error": "quota exceeded"}'), "not audio (JSON text)", header=True),
    Case("picture.wav", content(b"\x89PNG\r\n\x1a\n" + bytes(900)), "not audio (a PNG picture)", header=True),
    Case("archive.wav", content(b"PK\x03\x04" + bytes(900)), "not audio (a zip archive)", header=True),
    Case(
        "pointer.flac",
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "not audio (a Git LFS pointer; fetch the file itself with git lfs pull)",
        header=True,
    ),
    Case("noise.wav", content(np.random.default_rng(0).bytes(9000)), "not audio (no known format)", header=True),
    Case("noise.mp3", content(np.random.default_rng(0).bytes(9000)), "not audio (no known format)", header=True),
    Case("zeros.wav", content(bytes(9000)), "not audio (no known format)", header=True),
    Case(
        "voice.m4a",
        content(FTYP),
        f"MPEG-4 audio (m4a) cannot be read; convert it: {ffmpeg('voice.m4a', 'voice')}",
        header=True,
    ),
    Case(
        "mpeg4.wav",
        content(FTYP),
        f"MPEG-4 (mp4, m4a) cannot be read; convert it: {ffmpeg('mpeg4.wav', 'mpeg4.converted')}",
        header=True,
    ),
    Case(
        "a song.wma",
        content(ASF),
        "Windows Media (wma) cannot be read; convert it: ffmpeg -i 'a song.wma' 'a song.wav'",
        header=True,
    ),
    Case(
        "raw.aac",
        content(b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(500)),
        f"AAC (aac) cannot be read; convert it: {ffmpeg('raw.aac', 'raw')}",
        header=True,
    ),
    Case(
        "talk.webm",
        content(MATROSKA),
        f"Matroska or WebM cannot be read; convert it: {ffmpeg('talk.webm', 'talk')}",
        header=True,
    ),
    Case(
        "unknown.ape",
        content(np.random.default_rng(1).bytes(900)),
        f"Monkey's Audio (ape) cannot be read; convert it: {ffmpeg('unknown.ape', 'unknown')}",
        header=True,
    ),
    Case("headerless.raw", content(PCM), "samples without a header (raw); convert it to wav", header=True),
    Case(
        "half.wav",
        cut(SECOND, 0.5),
        "truncated: the header states 32000 bytes of samples, the file holds 15978",
        header=True,
    ),
    Case(
        "only_header.wav",
        content(wav_header(RATE)),
        "truncated: the header states 32000 bytes of samples, the file holds 0",
        header=True,
    ),
    Case(
        "no_samples.wav",
        content(wav_header(0)),
        "no samples (a header with nothing after it, or cut off in the first block)",
        header=True,
    ),
    Case(
        "half_a_header.wav",
        content(wav_header(RATE)[:30]),
        "damaged or truncated: libsndfile cannot open it (Error in WAV file. No 'data' chunk marker)",
        header=True,
    ),
    Case(
        "unfinished.wav",
        content(wav_header(0, riff=0) + PCM),
        "the header counts 0.000 s of samples, the file holds 1.000 s; write the header again: "
        "ffmpeg -ignore_length 1 -i unfinished.wav -c copy unfinished.fixed.wav",
        header=True,
    ),
    Case(
        "absurd.wav",
        content(wav_header(0x7FFFFFF0) + PCM),
        "an absurd length in the header: 4294967264 bytes of samples, the file holds 32000",
        header=True,
    ),
    Case(
        "absurd.flac",
        flac_of_length(2**36 - 1),
        "^an absurd length in the header: 68719476735 samples in a file of [0-9]+ bytes$",
        header=True,
    ),
    Case(
        "unknown_length.flac",
        flac_of_length(0),
        "the header leaves out the length (written to a pipe), the frames reach to 1.000 s; "
        "write it again: ffmpeg -i unknown_length.flac -c:a flac unknown_length.fixed.flac",
        header=True,
    ),
    Case("too_much.flac", flac_of_length(20 * RATE), "^(damaged or truncated: decoding fails|truncated: the header)"),
    Case("half.flac", cut(LONG, 0.5), "damaged or truncated: decoding fails (flac decoder lost sync)"),
    Case("almost.flac", cut(LONG, 0.99), "^damaged or truncated: decoding fails"),
    Case("damaged.flac", damaged(LONG, 0.5), "^damaged or truncated: decoding fails"),
    Case("half.ogg", cut(LONG, 0.5), "truncated: the file ends in the middle of an Ogg page", header=True),
    Case(
        "half.opus",
        cut(LONG, 0.5, format="OGG", subtype="OPUS"),
        "truncated: the file ends in the middle of an Ogg page",
        header=True,
    ),
    Case("damaged.ogg", damaged(LONG, 0.5), "damaged: the checksum of Ogg page 8 is wrong", header=True),
    Case("damaged_end.ogg", damaged(LONG, 0.95), "damaged: the checksum of Ogg page 13 is wrong", header=True),
    Case(
        "lost_page.ogg",
        changed(lambda data: data.replace(b"OggS", b"oops", 5).replace(b"oops", b"OggS", 4)),
        "^damaged: [0-9]+ bytes behind Ogg page 4 belong to no page$",
        header=True,
    ),
    Case(
        "half.mp3",
        cut(LONG, 0.5),
        r"^truncated: the header states 10\.[0-9]+ s, [45]\.[0-9]+ s can be decoded$",
        header=True,
    ),
    Case(
        "half.aiff",
        cut(SECOND, 0.5),
        "^truncated: the header states a file of 320.. bytes, it has 160..$",
        header=True,
    ),
    Case("half.au", cut(SECOND, 0.5), "truncated: the header states a file of 32024 bytes, it has 16012", header=True),
    Case(
        "half.w64",
        cut(SECOND, 0.5),
        "^truncated: the header states a file of 321.. bytes, it has 160..$",
        header=True,
    ),
    Case(
        "half.rf64",
        cut(SECOND, 0.5, format="RF64"),
        "^truncated: the header states a file of 32... bytes, it has 16...$",
        header=True,
    ),
    Case(
        "half.sph",
        cut(SECOND, 0.5, format="NIST"),
        "truncated: the header states a file of 33024 bytes, it has 16512",
        header=True,
    ),
    Case(
        "half.caf",
        cut(SECOND, 0.5),
        "truncated: the header states 32004 bytes of samples, the file holds 13956",
        header=True,
    ),
    Case(
        "variable.mp3",
        without_length_header("VARIABLE"),
        r"^an mp3 without a length header, which counts [0-9.]+ s of 10\.\d+ s; write the header again: "
        r"ffmpeg -i variable.mp3 -c copy variable.fixed.mp3$",
        header=True,
    ),
    Case("no_channel.wav", content(wav_header(RATE, channels=0) + PCM), "a header with zero channels", header=True),
    Case(
        "no_rate.wav",
        content(wav_header(RATE, rate=0) + PCM),
        "a header with an impossible rate, channel count or length",
        header=True,
    ),
    Case(
        "slow.wav",
        content(wav_header(RATE, rate=2000) + PCM),
        "a rate of 2000 Hz; 4000 to 192000 Hz can be read",
        header=True,
    ),
    Case(
        "fast.wav",
        content(wav_header(RATE, rate=1000000) + PCM),
        "a rate of 1000000 Hz; 4000 to 192000 Hz can be read",
        header=True,
    ),
    Case("nan.wav", samples(spoiled(np.nan), subtype="FLOAT"), "3 of 16000 samples are NaN or infinite"),
    Case("infinite.wav", samples(spoiled(-np.inf), subtype="DOUBLE"), "3 of 16000 samples are NaN or infinite"),
    Case("nan_8k.wav", samples(spoiled(np.nan), subtype="FLOAT", rate=8000), "3 of 16000 samples are NaN or infinite"),
    Case("silence.wav", samples(0 * SECOND), "all silence (every sample is zero)"),
    Case("silence.flac", samples(0 * SECOND), "all silence (every sample is zero)"),
    Case(
        "dither.wav",
        content(wav_header(RATE) + np.random.default_rng(0).integers(-1, 2, RATE).astype("<i2").tobytes()),
        "all silence (a peak of 3e-05 of full scale, below -90 dBFS)",
    ),
    Case("offset.wav", samples(np.full(RATE, 0.25)), "all silence (a constant offset of 0.2500 and nothing else)"),
    Case("short.wav", samples(SECOND[:399]), "too short: 399 samples at 16 kHz, one frame of the model needs 400"),
    Case(
        "short_48k.wav",
        samples(SECOND[:1100], rate=48000),
        "too short: 367 samples at 16 kHz, one frame of the model needs 400",
    ),
    Case("one_sample.wav", samples(SECOND[1:2]), "too short: 1 samples at 16 kHz, one frame of the model needs 400"),
    Case("late.wav", samples(SECOND), "offset 1 s lies beyond the end at 1.000 s", {"offset": 1.0}),
    Case(
        "too_long.wav",
        samples(SECOND),
        "offset 0.5 s and duration 0.6 s reach beyond the end at 1.000 s",
        {"offset": 0.5, "duration": 0.6},
    ),
    Case("before.wav", samples(SECOND), "offset must be at least 0 s, got -0.1 s", {"offset": -0.1}),
    Case("backwards.wav", samples(SECOND), "duration must be above 0 s, got -1 s", {"duration": -1.0}),
    Case("never.wav", samples(SECOND), "offset must be at least 0 s, got nan s", {"offset": float("nan")}),
    Case("for_ever.wav", samples(SECOND), "duration must be above 0 s, got inf s", {"duration": float("inf")}),
]

ODD = [
    Case("sixteen_channels.wav", samples(np.tile(SECOND[:, None], (1, 16))), None),
    Case("junk_behind.wav", content(wav_header(RATE) + PCM + b"LIST but not really" * 20), None),
    Case(
        "piped_by_ffmpeg.wav",
        content(wav_header(0x7FFFFFFF, riff=-1).replace(b"\xfe\xff\xff\xff", b"\xff" * 4) + PCM),
        None,
    ),
    Case("piped_by_sox.wav", content(wav_header(0x7FFFF000 // 2) + PCM), None),
    Case("header_counted_in.wav", content(wav_header(RATE + 22) + PCM), None),
    Case("eight_kilohertz.wav", samples(SECOND[::2], rate=8000), None),
    Case("wave_in_mp3.mp3", content(wav_header(RATE) + PCM), None),
    Case("SUFFIX.WAV", samples(SECOND), None),
    Case("no_suffix", content(wav_header(RATE) + PCM), None),
    Case("речь «тест» 音声 🎙.wav", content(wav_header(RATE) + PCM), None),
    Case("two\nlines.wav", content(wav_header(RATE) + PCM), None),
    Case("garbage_in_front.mp3", lambda path: path.write_bytes(b"\x13garbage" * 200 + encoded(path, LONG)), None),
    Case("tag_in_front.mp3", without_length_header("CONSTANT"), None),
    Case("quiet.wav", samples(SECOND * 1e-3), None),
    Case("over_full_scale.wav", samples(SECOND * 40, subtype="FLOAT"), None),
    Case("rounded_up.wav", samples(SECOND[:15999]), None, {"duration": 1.0}),
    *(Case(f"good.{suffix}", samples(LONG), None) for suffix in ("flac", "ogg", "mp3", "aiff", "au", "caf", "w64")),
    *(
        Case(f"{kind}.wav", samples(SECOND, subtype=kind), None)
        for kind in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "MS_ADPCM", "GSM610")
    ),
]


def utterance(path: Path, case: Case) -> Utterance:
    return Utterance(audio=str(path), **{"duration": 0.0, **case.stretch})


def matches(reason: str, expected: str) -> bool:
    return bool(re.match(expected, reason)) if expected.startswith("^") else reason == expected


def read(path: Path, case: Case) -> None:
    duration = case.stretch.get("duration")
    check_waveform(decode(path, case.stretch.get("offset", 0.0), duration=duration), path)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_file_has_its_reason(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    case.write(path)
    with pytest.raises(AudioError) as caught:
        read(path, case)
    error = caught.value
    assert case.reason is not None
    assert matches(error.reason, case.reason), error.reason
    assert error.path == str(path)
    assert "\n" not in str(error)
    assert str(error).endswith(error.reason)
    if case.header:
        with pytest.raises(AudioError, match=re.escape(error.reason)):
            probe(path)


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_odd_file_is_fine(case: Case, tmp_path: Path) -> None:
    path = tmp_path / case.name
    case.write(path)
    read(path, case)
    assert probe(path).num_samples > 0


def test_there_are_enough_kinds() -> None:
    assert len(BAD) >= 25
    assert len({case.name for case in BAD + ODD}) == len(BAD + ODD)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "locked.wav"
    soundfile.write(path, SECOND, RATE)
    path.chmod(0)
    with pytest.raises(AudioError, match=r"not readable \(permission denied\)"):
        probe(path)


def test_file_without_permission_told_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "locked.wav"
    soundfile.write(path, SECOND, RATE)

    def refuse(self: Path, *mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"locked.wav: not readable \(permission denied\)"):
        probe(path)


def test_name_that_is_no_name() -> None:
    with pytest.raises(AudioError, match="not the name of a file"):
        probe("a\0b.wav")


def test_bad_files_do_not_stop_the_good_ones(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    todo: list[Utterance] = []
    good: list[str] = []
    for number, case in enumerate([*BAD, *ODD]):
        name = folder / f"{number:03}.wav"
        soundfile.write(name, SECOND * (0.2 + number / 200), RATE)
        path = folder / case.name
        case.write(path)
        todo += [Utterance(audio=str(name), duration=1.0), utterance(path, case)]
        good += [str(name), *([str(path)] if case.reason is None else [])]
    undecodable = os.fsdecode(str(folder / "caf").encode() + b"\xe9.wav")
    soundfile.write(os.fsencode(undecodable), SECOND, RATE)
    todo += [Utterance(audio=undecodable, duration=1.0), todo[0]]

    report = pack(todo, tmp_path / "corpus", workers=3)

    store = WaveformStore(tmp_path / "corpus")
    assert [one.audio for one in store.utterances] == good
    assert report.accepted == len(good) == len(store)
    assert report.rejected == len(BAD) + 2
    assert report.accepted + report.rejected == len(todo)
    assert report.upsampled == 1  # eight_kilohertz.wav
    store.verify()
    rows = [json.loads(line) for line in (tmp_path / "corpus" / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == report.rejected
    for case, row in zip(BAD, rows, strict=False):
        assert row["audio"] == str(folder / case.name)
        assert matches(row["reason"], str(case.reason))
    assert rows[-2]["reason"] == "a name or text that is not UTF-8, which no manifest can hold"
    assert rows[-2]["audio"].endswith(r"caf\udce9.wav")
    assert rows[-1] == {
        "audio": str(folder / "000.wav"),
        "reason": "a duplicate: the same stretch of the same file as an earlier utterance",
        "duration": 1.0,
    }

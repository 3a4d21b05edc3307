"""Files that hold more than their headers count: everything is read, or the reason has both lengths."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import AudioError, behind, decode, flac, probe
from speechssl.audio.mp3 import mp3_frames
from speechssl.audio.ogg import _ogg_crc
from tests.toys import tones

RATE = 16000
SPEECH = tones(2.0)


def written(path: Path, samples: np.ndarray = SPEECH, **options: str | float) -> bytes:
    """The bytes of an audio file with the suffix of the path."""
    scratch = path.with_name(f"scratch{path.suffix}")
    soundfile.write(scratch, samples, RATE, **options)
    content = scratch.read_bytes()
    scratch.unlink()
    return content


def reason(path: Path) -> str:
    """Why a file cannot be used, the same for its header and its samples."""
    with pytest.raises(AudioError) as of_samples:
        decode(path)
    with pytest.raises(AudioError) as of_header:
        probe(path)
    assert of_samples.value.reason == of_header.value.reason
    return of_samples.value.reason


# Recordings that are joined

JOINED: dict[str, tuple[str, dict[str, str | float]]] = {
    "wav": ("a.wav", {}),
    "wav of float": ("a.wav", {"subtype": "FLOAT"}),
    "wav of mu-law": ("a.wav", {"subtype": "ULAW"}),
    "wav of ADPCM": ("a.wav", {"subtype": "IMA_ADPCM"}),
    "big-endian wav": ("a.wav", {"endian": "BIG"}),
    "rf64": ("a.rf64", {"format": "RF64"}),
    "w64": ("a.w64", {}),
    "aiff": ("a.aiff", {}),
    "aifc": ("a.aiff", {"subtype": "FLOAT"}),
    "au": ("a.au", {}),
    "caf": ("a.caf", {}),
    "sphere": ("a.sph", {"format": "NIST"}),
    "flac": ("a.flac", {}),
    "vorbis": ("a.ogg", {}),
    "opus": ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    "mp3": ("a.mp3", {}),
    "mp3 of variable bit rate": ("a.mp3", {"bitrate_mode": "VARIABLE"}),
    "mp3 of average bit rate": ("a.mp3", {"bitrate_mode": "AVERAGE"}),
}


@pytest.mark.parametrize("kind", JOINED)
def test_joined_recordings_are_refused_with_both_lengths(kind: str, tmp_path: Path) -> None:
    name, options = JOINED[kind]
    path = tmp_path / name
    once = written(path, **options)
    path.write_bytes(once)
    assert len(decode(path)) >= len(SPEECH)
    assert probe(path).num_samples >= len(SPEECH)
    path.write_bytes(once + once)
    words = reason(path)
    figures = [float(number) for number in re.findall(r"(\d+\.\d+) s", words)]
    assert figures[0] == pytest.approx(2.0, abs=0.15)
    if path.suffix != ".flac":  # the second length is not known without decoding
        assert figures[1] == pytest.approx(4.0, abs=0.3)


@pytest.mark.parametrize("tag", [b"", b"ID3\x03\x00\x00\x00\x00\x02\x00" + b"\xff\xfb" * 128, b"TAG" + bytes(125)])
def test_mp3_without_length_headers_is_read_whole(tag: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    whole = written(path, bitrate_mode="CONSTANT", compression_level=0.5)
    plain = whole[whole.index(whole[:2], 100) :]  # without the first frame, which holds the length
    path.write_bytes(plain + tag + plain)
    frames = mp3_frames(path, path.stat().st_size, 1)
    assert frames is not None
    (tmp_path / "whole.mp3").write_bytes(whole)
    once = mp3_frames(tmp_path / "whole.mp3", len(whole), 1)
    assert once is not None
    assert frames.frames == 2 * once.frames
    assert len(decode(path)) == pytest.approx(4 * RATE, abs=4 * 1152)
    assert not frames.length_header


def test_bytes_between_the_frames_of_an_mp3(tmp_path: Path) -> None:
    """Of a part that is missing, and of titles that a radio station sends between the frames."""
    path = tmp_path / "a.mp3"
    whole = written(path, bitrate_mode="CONSTANT", compression_level=0.5)
    plain = whole[whole.index(whole[:2], 100) :]
    for tag in (b"", b"TAG" + bytes(125), b"ID3\x03" + bytes(6)):  # between two parts: a warning would be an error
        path.write_bytes(plain + tag + plain)
        decode(path)
    path.write_bytes(plain[:5000] + plain[9001:])
    with pytest.warns(
        UserWarning, match=r"bytes between frames belong to none, in 1 place \(the first at byte 5\d\d\d\)"
    ):
        decode(path)
    title = b"\x02StreamTitle='Song of the day';\0\0"
    path.write_bytes(title.join(plain[start : start + 4000] for start in range(0, len(plain), 4000)))
    with pytest.warns(UserWarning, match=r"belong to none, in \d+ places \(the first at byte 4\d\d\d\)"):
        decode(path, 0.1, duration=0.5)


def test_sphere_without_the_order_of_bytes(tmp_path: Path) -> None:
    content = written(tmp_path / "a.sph", format="NIST")
    head = re.sub(rb"sample_byte_format[^\n]*\n", b"", content[:1024]).ljust(1024)
    (tmp_path / "a.sph").write_bytes(head + content[1024:])
    assert reason(tmp_path / "a.sph") == (
        "the header leaves out the order of bytes (sample_byte_format); add it: -s2 01 for little-endian samples"
    )


@pytest.mark.parametrize(
    ("counted", "words"), [(10, "whose length header counts 0.360 s of 2."), (900, "truncated: the")]
)
def test_mp3_whose_header_counts_wrong(counted: int, words: str, tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "a.mp3"))
    place = max(content.find(b"Xing"), content.find(b"Info"))
    content[place + 8 : place + 12] = struct.pack(">I", counted)
    (tmp_path / "a.mp3").write_bytes(content)
    assert words in reason(tmp_path / "a.mp3")


def test_mp3_with_another_rate_in_the_middle(tmp_path: Path) -> None:
    first = written(tmp_path / "a.mp3")
    soundfile.write(tmp_path / "b.mp3", SPEECH, 32000)
    (tmp_path / "a.mp3").write_bytes(first[first.index(first[:2], 100) :] + (tmp_path / "b.mp3").read_bytes())
    assert "its rate, channels or MPEG layer change at 2." in reason(tmp_path / "a.mp3")


def test_mp3_frames_do_not_depend_on_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"junk" * 50 + written(tmp_path / "a.mp3", np.tile(SPEECH, 20)) + b"TAG" + bytes(125)
    (tmp_path / "a.mp3").write_bytes(content)
    expected = mp3_frames(tmp_path / "a.mp3", len(content), 1)
    assert expected is not None
    assert expected.promised == expected.frames
    for window in (1500, 4096, 10001):
        monkeypatch.setattr("speechssl.audio.mp3._WINDOW", window)
        assert mp3_frames(tmp_path / "a.mp3", len(content), -window) == expected


# Headers that were not updated, or wrapped


def wav(counted: int, held: int, *, riff_size: int | None = None, behind: bytes = b"") -> bytes:
    """Samples behind a header that counts another number of them."""
    samples = (np.resize(SPEECH, held) * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    size = 36 + 2 * counted if riff_size is None else riff_size
    head = struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + form + struct.pack("<4sI", b"data", 2 * counted)
    return head + samples + behind


@pytest.mark.parametrize(("counted", "held"), [(8000, 32000), (0, 32000), (31000, 32000), (32000 - 160, 32000)])
def test_wav_that_was_not_finished(counted: int, held: int, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(counted, held))
    assert reason(tmp_path / "a.wav") == (
        f"the header counts {counted / RATE:.3f} s of samples, the file holds {held / RATE:.3f} s; "
        "write the header again: ffmpeg -ignore_length 1 -i a.wav -c copy a.fixed.wav"
    )


def test_wav_whose_length_wrapped(tmp_path: Path) -> None:
    """4 GiB and a second, of which the header counts the second; the rest of the file takes no room on the disk."""
    held = (1 << 32) + 2 * RATE
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(wav(RATE, 0))
        file.truncate(44 + held)
        file.seek(1 << 20)
        file.write(b"\x01\x02" * 1000)  # not a card's last block filled up with zeros
    assert reason(tmp_path / "a.wav").startswith(
        f"the header counts 1.000 s of samples, the file holds {held / 2 / RATE:.3f} s; write the header again: "
        "ffmpeg -ignore_length 1 -i a.wav -c copy -rf64 auto a.fixed.wav"
    )


CHUNKS = {
    "LIST": struct.pack("<4sI", b"LIST", 26) + b"INFOISFT\x0e\x00\x00\x00Lavf58.76.100\0",
    "odd id3": struct.pack("<4sI", b"id3 ", 5) + b"ID3\x03\x00\x00",
    "two": struct.pack("<4sI", b"cue ", 4) + bytes(4) + struct.pack("<4sI", b"smpl", 36) + bytes(36),
    "unknown": struct.pack("<4sI", b"Abcd", 20000) + b"\x01" * 20000,
    "cut short": struct.pack("<4sI", b"LIST", 9000) + b"INFO" * 1000,
    "zeros": bytes(100_000),
    "few bytes": b"\x01\x02\x03" * 30,
    "tag": b"TAG" + b"x" * 125,
    "chunk and zeros": struct.pack("<4sI", b"PAD ", 4) + bytes(4) + bytes(5000),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_chunks_behind_the_samples_are_harmless(kind: str, tmp_path: Path) -> None:
    content = wav(32000, 32000, behind=CHUNKS[kind])
    (tmp_path / "a.wav").write_bytes(content)
    expected = np.frombuffer(content[44 : 44 + 64000], "<i2") / np.float32(32768)
    np.testing.assert_array_equal(decode(tmp_path / "a.wav"), expected)


def test_second_data_chunk_is_left_out_by_nobody(tmp_path: Path) -> None:
    behind = struct.pack("<4sI", b"LIST", 4) + b"INFO" + struct.pack("<4sI", b"data", 32000) + b"\x01" * 32000
    (tmp_path / "a.wav").write_bytes(wav(32000, 32000, behind=behind))
    assert "the header counts 2.000 s" in reason(tmp_path / "a.wav")


def test_streamed_wavs_joined(tmp_path: Path) -> None:
    once = (
        wav(32000, 32000).replace(struct.pack("<I", 64000), b"\xff" * 4).replace(struct.pack("<I", 64036), b"\xff" * 4)
    )
    (tmp_path / "a.wav").write_bytes(once)
    assert len(decode(tmp_path / "a.wav")) == 32000
    (tmp_path / "a.wav").write_bytes(once + once)
    assert "several recordings in one file: the first holds 2.00" in reason(tmp_path / "a.wav")


def stale(path: Path, change: Callable[[bytearray], object], **options: str) -> None:
    content = bytearray(written(path, **options))
    change(content)
    path.write_bytes(content)


def test_other_headers_that_were_not_updated(tmp_path: Path) -> None:
    def halve(mark: bytes, at: int, layout: str, name: str, **options: str) -> str:
        def change(content: bytearray) -> None:
            place = content.index(mark) + at
            [value] = struct.unpack_from(layout, content, place)
            struct.pack_into(layout, content, place, value // 2)

        stale(tmp_path / name, change, **options)
        return reason(tmp_path / name)

    pattern = r"the header counts 1\.0\d\d s of samples, the file holds 2\.0\d\d s; write the header again: "
    assert re.match(pattern + "with the program", halve(b"SSND", 4, ">I", "a.aiff"))
    assert re.match(pattern, halve(b".snd", 8, ">I", "a.au"))
    assert re.match(pattern, halve(b"data", 4, ">q", "a.caf"))
    assert re.match(pattern, halve(b"data\xf3", 16, "<Q", "a.w64"))
    assert re.match(pattern + "ffmpeg", halve(b"ds64", 16, "<Q", "a.rf64", format="RF64"))
    sphere = written(tmp_path / "a.sph", format="NIST")
    (tmp_path / "a.sph").write_bytes(sphere[:1024].replace(b"32000", b"16000") + sphere[1024:])
    assert re.match(pattern, reason(tmp_path / "a.sph"))


def test_flac_whose_header_counts_less(tmp_path: Path) -> None:
    def change(content: bytearray) -> None:
        content[22:26] = struct.pack(">I", 16000)

    stale(tmp_path / "a.flac", change)
    assert reason(tmp_path / "a.flac").startswith(
        "the header counts 1.000 s, the frames reach to 2.000 s; write the header again: ffmpeg -i a.flac"
    )


def test_bytes_that_look_like_the_header_of_a_frame(tmp_path: Path) -> None:
    """Frame 1,000,000 of 4096 samples, with the right checksum of its header, but no frame."""
    header = b"\xff\xf8\xc9\x18" + b"\xf3\xb4\x89\x80"
    span = flac._frame(header + bytes([flac._crc8(header)]) + bytes(16), 4096)
    assert span == range(1_000_000 * 4096, 1_000_001 * 4096)
    content = written(tmp_path / "a.flac")
    (tmp_path / "a.flac").write_bytes(content + header + bytes([flac._crc8(header)]) + bytes(500))
    assert len(decode(tmp_path / "a.flac")) == 32000


# MPEG audio in a wav


@pytest.mark.parametrize("fact", [b"", struct.pack("<4sII", b"fact", 4, 5 * len(SPEECH))])
def test_mp3_in_a_wav(fact: bytes, tmp_path: Path) -> None:
    """Without a length header, as Windows wrote it."""
    whole = written(tmp_path / "a.mp3", np.tile(SPEECH, 5), bitrate_mode="CONSTANT", compression_level=0.5)
    plain = whole[whole.index(whole[:2], 100) :]
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, len(plain) // 10, 1, 0, 12, 1, 2, 576, 1, 1393)
    body = b"WAVE" + struct.pack("<4sI", b"fmt ", len(form)) + form + fact
    body += struct.pack("<4sI", b"data", len(plain)) + plain + CHUNKS["LIST"]
    (tmp_path / "a.wav").write_bytes(struct.pack("<4sI", b"RIFF", len(body)) + body)
    assert len(decode(tmp_path / "a.wav")) == pytest.approx(10 * RATE, abs=2 * 1152)
    assert probe(tmp_path / "a.wav").subtype == "MPEG_LAYER_III"


# Lengths by bytes are not lengths by samples


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        *[("wav", each) for each in ("IMA_ADPCM", "MS_ADPCM", "GSM610", "G721_32", "NMS_ADPCM_16", "ULAW", "ALAW")],
        *[("aiff", each) for each in ("IMA_ADPCM", "GSM610", "ULAW")],
        *[("caf", each) for each in ("ALAC_16", "ALAC_24", "ULAW")],
        *[("au", each) for each in ("G721_32", "G723_24", "G723_40", "ULAW", "DOUBLE")],
        *[("w64", each) for each in ("IMA_ADPCM", "GSM610", "FLOAT")],
    ],
)
@pytest.mark.parametrize("count", [31777, 32000])
def test_coded_samples_are_all_there(suffix: str, subtype: str, count: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", SPEECH[:count], RATE, subtype=subtype)
    assert count <= len(decode(tmp_path / f"a.{suffix}")) < count + 2048


# Ogg


def page(serial: int, number: int, samples: int, body: bytes, flags: int = 0) -> bytes:
    """One page that holds one packet."""
    segments = b"\xff" * (len(body) // 255) + bytes([len(body) % 255])
    head = b"OggS\0" + struct.pack("<BqII", flags, samples, serial, number)
    tail = bytes([len(segments)]) + segments + body
    return head + struct.pack("<I", _ogg_crc(head + bytes(4) + tail)) + tail


def pages(content: bytes) -> list[bytes]:
    return [b"OggS" + part for part in content.split(b"OggS")[1:]]


def test_video_beside_the_sound_is_passed_over(tmp_path: Path) -> None:
    """Its positions count frames of pictures in one half of their bits, far beyond the samples of the sound."""
    path = tmp_path / "a.ogg"
    once = written(path)
    path.write_bytes(once)
    whole = decode(path)
    first, *rest = pages(once)
    video = [page(7, 0, 0, b"\x80theora" + bytes(35), flags=2)]
    video += [page(7, number, number << 40, bytes(1000)) for number in range(1, 5)]
    path.write_bytes(b"".join([first, video[0], *rest[:2], *video[1:3], *rest[2:], *video[3:]]))
    np.testing.assert_array_equal(decode(path), whole)
    for start in (0.5, 1.5, 1.9):
        np.testing.assert_allclose(decode(path, start), whole[round(start * RATE) :], atol=1e-6)


def test_two_streams_of_sound_at_once(tmp_path: Path) -> None:
    first, *rest = pages(written(tmp_path / "a.ogg"))
    other, *others = pages(written(tmp_path / "a.opus", format="OGG", subtype="OPUS"))
    (tmp_path / "a.ogg").write_bytes(b"".join([first, other, *rest, *others]))
    assert reason(tmp_path / "a.ogg") == (
        "2 streams of sound at once (Vorbis of 2.000 s, Opus of 2.000 s); choose one: ffmpeg -i a.ogg -map 0:a:0 a.wav"
    )


def test_a_chain_of_different_codecs(tmp_path: Path) -> None:
    vorbis = written(tmp_path / "a.ogg")
    opus = written(tmp_path / "a.opus", np.tile(SPEECH, 2), format="OGG", subtype="OPUS")
    (tmp_path / "a.ogg").write_bytes(opus + vorbis)
    assert reason(tmp_path / "a.ogg") == (
        "several recordings in one file: the first holds 4.000 s, all of them 6.000 s, the second (Ogg Vorbis) starts "
        f"at byte {len(opus)}; split it: head -c {len(opus)} a.ogg > a.first.ogg && "
        f"tail -c +{len(opus) + 1} a.ogg > a.second.ogg"
    )


def test_blocks_of_zeros_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "_BLOCK", 1000)
    (tmp_path / "a.wav").write_bytes(wav(32000, 32000, behind=bytes(5000)))
    assert len(decode(tmp_path / "a.wav")) == 32000
    (tmp_path / "a.wav").write_bytes(wav(32000, 32000, behind=bytes(5000) + b"\x01" * 400))
    assert "the header counts 2.000 s of samples, the file holds 2.169 s" in reason(tmp_path / "a.wav")


def test_aiff_whose_samples_start_later(tmp_path: Path) -> None:
    """The offset is for samples that are aligned to blocks."""
    content = written(tmp_path / "a.aiff")
    place = content.index(b"SSND")
    length = struct.unpack(">I", content[place + 4 : place + 8])[0]
    head = struct.pack(">4sIII", b"SSND", length + 1000, 1000, 0)
    whole = content[:place] + head + b"\1" * 1000 + content[place + 16 :]
    (tmp_path / "b.aiff").write_bytes(content)
    (tmp_path / "a.aiff").write_bytes(whole[:4] + struct.pack(">I", len(whole) - 8) + whole[8:])
    np.testing.assert_array_equal(decode(tmp_path / "a.aiff"), decode(tmp_path / "b.aiff"))

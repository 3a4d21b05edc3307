"""Files of older formats that are cut short or hold more than they count, which libsndfile takes as they are."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from speechssl.audio import decode, probe
from tests.audio.test_lengths import RATE, SPEECH, reason, written

COUNTED = [
    ("VOC", "PCM_16"),
    ("VOC", "PCM_U8"),
    ("VOC", "ULAW"),
    ("AVR", "PCM_16"),
    ("AVR", "PCM_U8"),
    ("SVX", "PCM_16"),
    ("SVX", "PCM_S8"),
    ("WVE", "ALAW"),
    ("SDS", "PCM_S8"),
    ("SDS", "PCM_16"),
    ("SDS", "PCM_24"),
    ("MPC2K", "PCM_16"),
    ("NIST", "ULAW"),
]
NOT_COUNTED = ["PAF", "IRCAM", "PVF", "MAT4", "MAT5"]


@pytest.mark.parametrize(("name", "subtype"), COUNTED)
def test_lengths_of_older_formats(name: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = written(path, format=name, subtype=subtype)
    path.write_bytes(content)
    length = probe(path).num_samples
    assert length == pytest.approx(len(SPEECH), abs=1) or name == "WVE"  # 8 kHz always
    for short in (len(content) // 2, len(content) - 200):
        path.write_bytes(content[:short])
        promised, held = map(int, re.findall(r"\d+", reason(path).removeprefix("truncated: the header states ")))
        assert promised == pytest.approx(held + len(content) - short, abs=1)  # the mark of the end of a VOC
    path.write_bytes(content + b"a note on the recording\n" * 100)
    assert reason(path).startswith("2400 bytes of plain text behind the ")
    if (name, subtype) != ("VOC", "PCM_U8"):  # libsndfile takes nothing behind it
        path.write_bytes(content + b"\x55" * 30)  # less than is looked at
        assert probe(path).num_samples == length
    path.write_bytes(content + content)
    assert f"starts at byte {len(content)};" in reason(path)


@pytest.mark.parametrize("name", NOT_COUNTED)
def test_formats_that_do_not_count_are_doubtful(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = written(path, format=name, subtype="PCM_16")
    path.write_bytes(content)
    words = (
        rf"the length of files of its format \({name}\) is not checked: it may be cut short, or hold more than sound"
    )
    with pytest.warns(UserWarning, match=words):
        assert len(decode(path)) == len(SPEECH)
    path.write_bytes(content + content)
    assert f"the second starts at byte {len(content)};" in reason(path)


def voc(*blocks: tuple[int, bytes]) -> bytes:
    content = b"".join(bytes([kind]) + len(block).to_bytes(3, "little") + block for kind, block in blocks)
    return b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129) + content + b"\0"


def test_blocks_of_voc(tmp_path: Path) -> None:
    """libsndfile reads the heads of more blocks as samples, and text behind the sound too."""
    path, samples = tmp_path / "a.voc", (SPEECH[:RATE] * 32767).astype("<i2")
    sound = struct.pack("<IBBHI", RATE, 16, 1, 4, 0) + samples.tobytes()
    for blocks in ([(9, sound)], [(5, b"a text\0"), (9, sound)], [(9, sound), (5, b"a text " * 40)]):
        path.write_bytes(voc(*blocks))
        np.testing.assert_array_equal(decode(path), samples / np.float32(32768))
    slow = struct.pack("<I", RATE // 2) + sound[4:]
    cases = (([(9, sound)], True), ([(2, sound)], True), ([(3, b"\x10\x27\x83"), (9, sound)], False))
    for others, alike in (*cases, ([(9, slow)], False)):  # ffmpeg leaves out silence, and takes the first rate for all
        path.write_bytes(voc((9, sound), *others))
        figures = f"{1 + len(others)} blocks of sound, the first holds 1.000 s"
        if alike:
            assert reason(path) == f"{figures}; convert it: ffmpeg -i a.voc a.wav"
        else:
            assert reason(path).startswith(f"{figures}, some are silence or have another rate; convert it with the")


@pytest.mark.parametrize("suffix", ["au", "snd"])
def test_sun_audio_without_a_header_is_not_guessed(suffix: str, tmp_path: Path) -> None:
    """libsndfile takes whatever has this suffix for mu-law at 8 kHz, a damaged header too."""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"\x55" + written(tmp_path / "a.au")[1:])
    assert reason(path) == (
        "no header of a known format; if it is mu-law at 8000 Hz without one, convert it: "
        f"ffmpeg -f mulaw -ar 8000 -i a.{suffix} a.wav"
    )


def test_gsm_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.gsm"
    content = written(path, format="RAW", subtype="GSM610")
    content = content[: len(content) // 33 * 33]
    path.write_bytes(content)
    assert len(decode(path)) == len(content) // 33 * 160 * 2
    path.write_bytes(content[:-10])
    assert reason(path) == "truncated: it ends with 23 bytes of a GSM frame of 33 bytes"
    path.write_bytes(content + b"a note on the recording, of more bytes than a frame has")
    assert reason(path) == f"no header of a known format, and byte {len(content)} starts no GSM frame"
    path.write_bytes(b"\0" * 5000)
    assert reason(path) == "no header of a known format, and byte 0 starts no GSM frame"

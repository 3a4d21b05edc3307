"""What was appended to files whose header leaves out the length: it is no samples, and the reason names it."""

import gzip
import io
import re
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from speechssl.audio import AudioError, decode
from speechssl.audio.appended import appended
from tests.audio.test_behind import NOISE, TAGS, coded_frames, pieces, streamed
from tests.audio.test_lengths import reason, wav, written
from tests.toys import tones

SPEECH = tones(0.6)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes.bin", NOISE[:3000])
    return file.getvalue()


APPENDED = {
    "MPEG-4": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + NOISE[:5000],
    "Matroska or WebM": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01" + NOISE[:5000],
    "Windows Media": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + NOISE[:5000],
    "AAC": coded_frames()["AAC"],
    "Dolby Digital (AC-3)": coded_frames()["Dolby Digital (AC-3)"],
    "a zip archive": zipped(),
    "a gzip archive": gzip.compress(NOISE[:3000]),
    "a PNG picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + NOISE[:3000],
    "a JPEG picture": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + NOISE[:3000],
    "a PDF document": b"%PDF-1.7\n" + NOISE[:3000],
    "plain text": b"Take two, the door was open.\n" * 4,
    "plain text in Greek": "Δεύτερη λήψη, η πόρτα ήταν ανοιχτή. ".encode() * 4,
    "JSON text": b'{"start": 0.5, "end": 0.75, "text": "hello there", "who": 1}\n' * 20,
}
STREAMED = {"a.wav": (4, 40), "a.au": (8,), "a.aiff": (), "a.w64": (), "a.sph": ()}


def stream(name: str, path: Path) -> bytes:
    """A recording whose header leaves out the length."""
    content = written(path.with_name(name), SPEECH, **({"format": "NIST"} if name == "a.sph" else {}))
    if name == "a.sph":
        return re.sub(rb"sample_count[^\n]*\n", b"", content[:1024]).ljust(1024) + content[1024:]
    if name == "a.aiff":
        place = content.index(b"SSND") + 4
        return content[:4] + bytes(4) + content[8:place] + bytes(4) + content[place + 4 :]
    if name == "a.w64":
        place = content.index(b"data\xf3") + 16
        left_out = b"\xff" * 7 + b"\x7f"
        return content[:16] + b"\xff" * 8 + content[24:place] + left_out + content[place + 8 :]
    return streamed(content, *STREAMED[name])


@pytest.mark.parametrize("name", STREAMED)
def test_other_things_behind_a_stream(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    once = stream(name, path)
    path.write_bytes(once)
    expected = decode(path)
    assert len(expected) == len(SPEECH)
    for kind, rest in APPENDED.items():
        path.write_bytes(once + rest)
        words = reason(path)
        if "split it: " in words:
            assert f"the second ({kind}) starts at byte {len(once)};" in words
            command = words.split("split it: ")[1].split(" && ")[0]
        else:
            assert f"{len(rest)} bytes of {kind.removesuffix(' in Greek')} behind the 0.600 s of samples; " in words
            command = words.split("cut it off: ")[1]
        assert command.startswith(f"head -c {len(once)} {name} > ")
        subprocess.run(command, shell=True, check=True, cwd=tmp_path)
        made = tmp_path / command.rsplit("> ", 1)[1]
        np.testing.assert_array_equal(decode(made), expected, err_msg=kind)
        made.unlink()


@pytest.mark.parametrize("second", ["mp3", "flac", "ogg", "wav"])
@pytest.mark.parametrize("tag", ["none", "ID3v2", "APE of version 2 with a picture"])
def test_a_recording_with_a_tag_behind_a_stream(second: str, tag: str, tmp_path: Path) -> None:
    """The tag belongs to the second: the first part must not end with it, where it would be read as samples."""
    between = TAGS.get(tag, b"")
    once, other = stream("a.wav", tmp_path / "a.wav"), written(tmp_path / f"b.{second}", tones(0.9))
    (tmp_path / "a.wav").write_bytes(once + between + other)
    words = reason(tmp_path / "a.wav")
    assert f"head -c {len(once)} a.wav > a.first.wav" in words
    assert pieces(tmp_path / "a.wav", words) == pytest.approx([0.6, 0.9], abs=0.15)


@pytest.mark.parametrize("second", ["flac", "ogg", "aiff", "w64", "sph", "mp3"])
def test_a_recording_behind_a_sphere_file_without_a_length(second: str, tmp_path: Path) -> None:
    once = stream("a.sph", tmp_path / "a.sph")
    options = {"format": "NIST"} if second == "sph" else {}
    (tmp_path / "a.sph").write_bytes(once + written(tmp_path / f"b.{second}", tones(0.9), **options))
    assert f"starts at byte {len(once)};" in reason(tmp_path / "a.sph")
    (tmp_path / "a.sph").write_bytes(once + b"TAG" + bytes(125))
    assert len(decode(tmp_path / "a.sph")) == len(SPEECH)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW"])
def test_samples_are_not_taken_for_something_else(subtype: str, tmp_path: Path) -> None:
    """Loud, quiet and constant samples, noise, and samples that end with a few letters."""
    rng = np.random.default_rng(1)
    parts = [SPEECH, SPEECH * 1e-3, 1.9 * SPEECH, np.zeros(4000), np.full(4000, 0.36), rng.uniform(-1, 1, 60_000)]
    parts += [scale * rng.standard_normal(30_000) for scale in (1e-5, 1e-3, 0.3)]
    for last in parts:
        samples = np.clip(np.concatenate([*parts, last]), -1, 0.99)
        content = written(tmp_path / "a.wav", samples, subtype=subtype)
        content = streamed(content, 4, content.index(b"data") + 4)
        (tmp_path / "a.wav").write_bytes(content)
        with (tmp_path / "a.wav").open("rb") as file:
            assert appended(file, content.index(b"data") + 8, len(content)) is None


def test_text_that_is_short_or_in_the_middle(tmp_path: Path) -> None:
    content = wav(9600, 9600)
    for text, found in ((b"take two, it is open", False), (b"take two, the door was open\n" * 3, True)):
        (tmp_path / "a").write_bytes(content + text)
        with (tmp_path / "a").open("rb") as file:
            assert (appended(file, 44, len(content + text)) is not None) == found


def test_a_chunk_in_front_of_what_was_appended(tmp_path: Path) -> None:
    once = stream("a.wav", tmp_path / "a.wav")
    chunk = b"LIST" + struct.pack("<I", 26) + b"INFOISFT\x0e\x00\x00\x00Lavf58.76.100\0"
    (tmp_path / "a.wav").write_bytes(once + chunk + APPENDED["a zip archive"])
    with pytest.raises(AudioError, match=f"cut it off: head -c {len(once)} a.wav"):
        decode(tmp_path / "a.wav")

"""Headers whose fields cannot all be right are refused with the figures; libsndfile would read noise."""

import struct
from pathlib import Path

import pytest

from speechssl.audio import decode
from tests.audio.test_lengths import RATE, SPEECH, reason, written


def wav_of(
    tag: int = 1,
    channels: int = 1,
    bits: int = 16,
    *,
    align: int = 2,
    byte_rate: int = 2 * RATE,
    valid: int | None = None,
) -> bytes:
    """A second of int16 samples behind a header that says anything."""
    form = struct.pack("<HHIIHH", tag if valid is None else 0xFFFE, channels, RATE, byte_rate, align, bits)
    if valid is not None:
        form += struct.pack("<HHIH", 22, valid, 4, tag) + bytes.fromhex("000000001000800000aa00389b71")
    samples = (SPEECH[:RATE] * 32767).astype("<i2").tobytes()
    body = (
        b"WAVE" + struct.pack("<4sI", b"fmt ", len(form)) + form + struct.pack("<4sI", b"data", len(samples)) + samples
    )
    return struct.pack("<4sI", b"RIFF", len(body)) + body


CONTRADICTORY: dict[str, tuple[dict[str, int], str]] = {
    "packed like 32 bits": (
        {"bits": 24, "align": 4, "byte_rate": 4 * RATE},
        "1 channel of 24 bits is 3 bytes per sample, it says 4",
    ),
    "8 bits": ({"bits": 8}, "1 channel of 8 bits is 1 byte per sample, it says 2"),
    "stereo": ({"channels": 2}, "2 channels of 16 bits are 4 bytes per sample, it says 2"),
    "stereo of one": ({"align": 4, "byte_rate": 4 * RATE}, "1 channel of 16 bits is 2 bytes per sample, it says 4"),
    "another rate": ({"byte_rate": RATE}, "1 channel of 16 bits at 16000 Hz is 32000 bytes per second, it says 16000"),
    "no bits": ({"bits": 0}, "0 bits per sample"),
    "valid bits": ({"valid": 24}, "24 valid bits in samples of 16 bits"),
    "half floats": ({"tag": 3}, "floating point samples of 16 bits"),
    "mu-law": ({"tag": 7, "bits": 8}, "1 channel of mu-law is 1 byte per sample, it says 2"),
}


@pytest.mark.parametrize("kind", CONTRADICTORY)
def test_contradictory_formats_of_wav(kind: str, tmp_path: Path) -> None:
    fields, words = CONTRADICTORY[kind]
    content = wav_of(**fields)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason(tmp_path / "a.wav") == (
        f"a contradictory header: {words}; "
        "write the header again: with the program that recorded it, or from its source"
    )
    wave64 = bytearray(written(tmp_path / "a.w64"))
    place = wave64.index(b"fmt ") + 24
    if "valid" not in fields:
        wave64[place : place + 16] = content[20:36]
        (tmp_path / "a.w64").write_bytes(wave64)
        assert f"a contradictory header: {words};" in reason(tmp_path / "a.w64")


@pytest.mark.parametrize(
    "fields",
    [
        {"bits": 12},
        {"byte_rate": 0},
        {"align": 0},
        {"valid": 16},
        {"valid": 12},
        {"valid": 0},
        {"tag": 7, "bits": 16, "align": 1, "byte_rate": RATE},
        {"tag": 6, "bits": 0, "align": 1, "byte_rate": RATE},
    ],
)
def test_formats_that_leave_something_out(fields: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_of(**fields))
    assert len(decode(tmp_path / "a.wav")) == RATE * (1 + ("tag" in fields))


def test_contradictory_formats_of_others(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "a.aiff"))
    content[content.index(b"COMM") + 9] = 2  # channels
    (tmp_path / "a.aiff").write_bytes(content)
    words = "a contradictory header: 32000 samples of 4 bytes are 128000 bytes, it says 64000; write the header again: "
    assert reason(tmp_path / "a.aiff").startswith(words)
    sphere = written(tmp_path / "a.sph", format="NIST")
    (tmp_path / "a.sph").write_bytes(sphere.replace(b"sig_bits -i 16", b"sig_bits -i 24", 1))
    assert reason(tmp_path / "a.sph").startswith("a contradictory header: 24 bits in 2 bytes per sample; ")


@pytest.mark.parametrize(
    ("tag", "name"),
    [(0x161, "Windows Media Audio"), (0xFF, "AAC"), (0x2000, "Dolby Digital (AC-3)"), (0x1234, "coding 0x1234")],
)
def test_codings_that_libsndfile_does_not_know_are_named(tag: int, name: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_of(tag))
    assert reason(tmp_path / "a.wav") == f"{name} in a wav cannot be read; convert it: ffmpeg -i a.wav a.converted.wav"

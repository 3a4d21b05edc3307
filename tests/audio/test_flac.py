"""Frames of FLAC files: they follow each other by their numbers, and the samples are those of the MD5 in the header."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.audio import AudioError, decode, flac
from tests.audio.test_lengths import reason, written
from tests.toys import tones

SPEECH = tones(3.0)


def frames(content: bytes) -> list[bytes]:
    """Everything in front of the first frame, and each frame."""
    [_, *starts] = [0, *(place for place, _ in flac._headers(content + bytes(16), 4096))]
    starts = [place for place in starts if place >= 42]
    assert len(starts) == -(-len(SPEECH) // 4096)
    return [content[:first] for first in starts[:1]] + [
        content[first:stop] for first, stop in zip(starts, [*starts[1:], len(content)], strict=True)
    ]


@pytest.fixture
def parts(tmp_path: Path) -> list[bytes]:
    """A file of twelve frames behind its header."""
    return frames(written(tmp_path / "a.flac", SPEECH))


def test_frames_that_are_lost_repeated_or_exchanged(parts: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    head, *rest = parts
    start = len(b"".join(parts[:6]))
    path.write_bytes(b"".join(parts))
    assert len(decode(path)) == len(SPEECH)
    changed = {
        "lost": ([*rest[:5], *rest[6:]], "1.536"),
        "repeated": ([*rest[:5], rest[4], *rest[5:]], "1.024"),
        "exchanged": ([*rest[:5], rest[6], rest[5], *rest[7:]], "1.536"),
    }
    for kind, (wrong, found) in changed.items():
        path.write_bytes(b"".join([head, *wrong]))
        assert reason(path) == (
            "damaged: FLAC frames are missing, repeated or out of order: behind those up to 1.280 s comes "
            f"(byte {start}) the one that starts at {found} s; get the file again from its source"
        ), kind
        with pytest.raises(AudioError, match="out of order"):  # of a stretch before it too
            decode(path, 0.1, duration=0.2)


def test_blocks_of_the_walk_have_no_effect(parts: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    for size in (100, 1001):
        monkeypatch.setattr(flac, "_BLOCK", size)
        for content, gap in ((parts, False), (parts[:3] + parts[4:], True)):
            path.write_bytes(b"".join(content))
            assert (flac.flac_frames(path, len(path.read_bytes()), -size, len(SPEECH)).gap is not None) == gap


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_not_those_of_the_md5(subtype: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    samples = np.stack([SPEECH, tones(3.0, seed=1)][:channels], axis=1)
    content = bytearray(written(path, samples, subtype=subtype))
    path.write_bytes(content)
    assert len(decode(path)) == len(SPEECH)
    content[30] ^= 1
    path.write_bytes(content)
    with pytest.raises(AudioError, match="are not those that were encoded, by the MD5 in the header; if they are"):
        decode(path)
    assert len(decode(path, 0.5, duration=1.0)) == 16000  # the MD5 is that of all samples
    content[26:42] = bytes(16)  # left out by the encoder
    path.write_bytes(content)
    assert len(decode(path)) == len(SPEECH)


def test_a_frame_of_another_recording(parts: list[bytes], tmp_path: Path) -> None:
    """Its number and its checksums are right."""
    others = frames(written(tmp_path / "a.flac", tones(3.0, seed=1)))
    (tmp_path / "a.flac").write_bytes(b"".join([*parts[:4], others[4], *parts[5:]]))
    with pytest.raises(AudioError, match="by the MD5 in the header"):
        decode(tmp_path / "a.flac")


def test_a_stream_that_ends_in_the_middle_of_a_frame(parts: list[bytes], tmp_path: Path) -> None:
    content = bytearray(b"".join(parts[:8]))
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # the length is left out
    path = tmp_path / "a.flac"
    path.write_bytes(content)
    assert reason(path).startswith("the header leaves out the length (written to a pipe), the frames reach to 1.792 s;")
    for missing in (2, 500):
        path.write_bytes(content[:-missing])
        words = "truncated: the file ends in the middle of a frame, and the header leaves out the length (written to"
        assert reason(path).startswith(f"{words} a pipe), the frames reach to 1.536 s; get the file again, or write")

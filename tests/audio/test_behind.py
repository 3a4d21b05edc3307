"""What is behind the end of a recording: tags, padding and chunks are skipped, anything else is an error."""

import itertools
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import AudioError, behind, decode
from speechssl.audio.likeness import likeness
from speechssl.audio.ogg import _ogg_crc
from tests.audio.test_lengths import page, reason, wav, written
from tests.toys import tones

FIRST, SECOND = tones(0.6), tones(0.9)[::-1].copy()
CONTAINERS: dict[str, dict[str, str | float]] = {
    **{suffix: {} for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64")},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "sph": {"format": "NIST"},
    "rf64": {"format": "RF64"},
}
NOISE = np.random.default_rng(0).bytes(200_000)
LYRICS = b"LYRICSBEGININD0000200LYR03000" + b"la " * 1000


def ape(content: bytes, version: int = 2000) -> bytes:
    """A tag of version 2 with a header and a footer, or of version 1 with a footer alone."""
    newer = version == 2000
    fields = struct.pack("<III", version, len(content) + 32, 1)
    footer = b"APETAGEX" + fields + struct.pack("<I", newer << 31) + bytes(8)
    return (b"APETAGEX" + fields + struct.pack("<I", 5 << 29) + bytes(8) if newer else b"") + content + footer


TAGS = {
    "ID3v1": b"TAG" + b"Title".ljust(125),
    "enhanced ID3v1": b"TAG+" + b"Title".ljust(223) + b"TAG" + bytes(125),
    "ID3v2": b"ID3\x03\x00\x00\x00\x00\x02\x00" + b"\xff\xfb" * 128,
    "ID3v2 with a footer": b"ID3\x04\x00\x10\x00\x00\x02\x00" + NOISE[:256] + b"3DI\x04\x00\x10\x00\x00\x02\x00",
    "APE of version 2 with a picture": ape(NOISE),
    "APE and ID3v1": ape(NOISE[:300]) + b"TAG" + bytes(125),
    "Lyrics3": LYRICS + b"%06d" % len(LYRICS) + b"LYRICS200" + b"TAG" + bytes(125),
    "Lyrics3 of version 1": LYRICS + b"LYRICSEND" + b"TAG" + bytes(125),
    "zeros": bytes(5000),
    "line end": b"\r\n",
    "one zero": b"\0",
}
AT_THE_END = TAGS | {
    "APE of version 1": ape(NOISE[:6000], 1000),
    "zeros and APE": bytes(700) + ape(NOISE[:6000]),
    "few unknown bytes": b"\x55" * 40,
    "ID3v1 that is cut": b"TAG" + b"x" * 60,
}


def streamed(content: bytes, *places: int) -> bytes:
    """The lengths at some places left out."""
    changed = bytearray(content)
    for place in places:
        changed[place : place + 4] = b"\xff" * 4
    return bytes(changed)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, bytes]]:
    """A recording of 0.6 s and one of 0.9 s in each container."""
    folder = tmp_path_factory.mktemp("contents")

    def both(suffix: str, options: dict[str, str | float]) -> tuple[bytes, bytes]:
        path = folder / f"a.{suffix}"
        return written(path, FIRST, **options), written(path, SECOND, **options)

    return {suffix: both(suffix, options) for suffix, options in CONTAINERS.items()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_tags_and_padding_are_harmless(
    container: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{container}"
    path.write_bytes(contents[container][0])
    expected = decode(path)
    assert len(expected) == pytest.approx(len(FIRST), abs=2 * 1152)
    for name, tag in AT_THE_END.items():
        path.write_bytes(contents[container][0] + tag)
        try:
            heard = decode(path)
        except AudioError as error:  # libsndfile does not find the last page of a short file
            if container != "opus":
                raise
            subprocess.run(error.reason.split("cut them off: ")[1], shell=True, check=True, cwd=tmp_path)
            heard = decode(tmp_path / "a.fixed.opus")
        np.testing.assert_array_equal(heard, expected, err_msg=f"{container} {name}")


def pieces(path: Path, words: str) -> list[float]:
    """Lengths of the two files that the advice makes, s."""
    commands = words.split("split it: ")[1]
    made = [path.with_name(name) for name in re.findall(r"> (\S+)", commands)]
    subprocess.run(commands, shell=True, check=True, cwd=path.parent)
    lengths = [len(decode(piece)) / 16000 for piece in made]
    for piece in made:
        piece.unlink()
    return lengths


@pytest.mark.slow
@pytest.mark.parametrize("first", CONTAINERS)
def test_another_recording_behind(first: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    """In any container, with any tag between; the advice makes both recordings whole."""
    path = tmp_path / f"a.{first}"
    cases = [(second, "no tag", b"") for second in CONTAINERS]
    cases += [(first, name, tag) for name, tag in TAGS.items()]
    cases += [(second, name, TAGS[name]) for second, name in itertools.product(("wav", "mp3"), ("ID3v2", "zeros"))]
    for second, name, tag in cases:
        path.write_bytes(contents[first][0] + tag + contents[second][1])
        words = reason(path)
        if first == second == "mp3":
            assert "whose length header counts 0." in words, name
            continue
        assert "several recordings in one file: the first holds 0.6" in words, (second, name)
        if first != second or first not in ("ogg", "opus"):
            assert f"starts at byte {len(contents[first][0] + tag)};" in words, (second, name)
            assert pieces(path, words) == pytest.approx([0.6, 0.9], abs=0.15), (second, name)


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac"])
def test_many_unknown_bytes_behind_compressed_audio(
    suffix: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(contents[suffix][0] + b"\x55" * 3000)
    assert len(decode(path)) == pytest.approx(len(FIRST), abs=2 * 1152)
    path.write_bytes(contents[suffix][0] + b"\x55" * 300_000)
    assert re.search("300[0-9]{3} bytes of no known kind behind the", reason(path))


def test_an_intact_file_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(behind, "find_recording", refuse)
    (tmp_path / "a.wav").write_bytes(wav(32000, 32000, behind=TAGS["APE of version 2 with a picture"]))
    assert len(decode(tmp_path / "a.wav")) == 32000


@pytest.mark.parametrize(("part", "block"), [(0, 64), (17, 1000), (63, 64)])
def test_heads_are_found_across_blocks(part: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "_BLOCK", block)
    heads = [b"RIFF\1\2\3\4WAVE", b"fLaC\0\0\0\x22", b"OggS\0\2" + bytes(8), b"FORM\1\2\3\4AIFC", b"caff\0\1\0\0"]
    for head, name in zip(heads, ("WAV", "FLAC", "Ogg", "AIFF", "CAF"), strict=True):
        (tmp_path / "a").write_bytes(b"\x55" * (5 * block + part) + head + b"\x55" * 200)
        with (tmp_path / "a").open("rb") as file:
            found = behind.find_recording(file, 3, 10 * block + 300)
        assert found is not None
        assert (found.at, found.name) == (5 * block + part, name)


@pytest.mark.parametrize(
    "head",
    [b"ID3\x03\x00\x00\x00\x7f\x7f\x7f", ape(b"")[:12] + b"\xff\xff\xff\0" + ape(b"")[16:32], b"LIST\xff\xff\xff\0"],
)
def test_a_tag_that_promises_more_than_the_file_hides_nothing(head: bytes, tmp_path: Path) -> None:
    once = wav(32000, 32000)
    (tmp_path / "a.wav").write_bytes(once + head + b"x" * 3000)
    assert len(decode(tmp_path / "a.wav")) == 32000
    (tmp_path / "a.wav").write_bytes(once + head + b"x" * 3000 + once)
    assert f"the second (WAV) starts at byte {len(once) + len(head) + 3000};" in reason(tmp_path / "a.wav")


# Remedies of wav files


@pytest.mark.parametrize(
    "between", [struct.pack("<4sI", b"LIST", 12) + b"INFOISFT" + bytes(4), b"\n", b"", bytes(3000)]
)
@pytest.mark.parametrize("second", ["wav", "flac", "ogg", "mp3", "aiff", "w64"])
def test_headers_are_not_advised_to_be_played(
    between: bytes, second: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(contents["wav"][0] + between + contents[second][1])
    words = reason(path)
    assert "ignore_length" not in words
    assert pieces(path, words) == pytest.approx([0.6, 0.9], abs=0.15)


def test_a_second_recording_behind_samples_that_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(8000, 32000) + wav(16000, 16000))
    words = reason(tmp_path / "a.wav")
    assert "ignore_length" not in words
    assert f"the second (WAV) starts at byte {44 + 64000};" in words


BEHIND_SAMPLES = {
    "a tag": TAGS["APE of version 2 with a picture"],
    "a chunk": b"LIST" + struct.pack("<I", 5000) + b"INFO" + NOISE[:4996],
    "two chunks and a tag": b"LIST\4\0\0\0INFO" + b"bext" + struct.pack("<I", 700) + NOISE[:700] + TAGS["ID3v1"],
}


@pytest.mark.parametrize("kind", BEHIND_SAMPLES)
def test_tags_and_chunks_behind_samples_that_are_not_counted(kind: str, tmp_path: Path) -> None:
    """They are not played after the advice."""
    content = wav(8000, 32000)
    (tmp_path / "a.wav").write_bytes(content + BEHIND_SAMPLES[kind])
    words, command = reason(tmp_path / "a.wav").split("write the header again: ")
    assert words == "the header counts 0.500 s of samples, the file holds 2.000 s; "
    assert command == f"head -c {len(content)} a.wav | ffmpeg -ignore_length 1 -f wav -i - -c copy a.fixed.wav"
    if shutil.which("ffmpeg"):
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
        np.testing.assert_array_equal(decode(tmp_path / "a.fixed.wav"), np.frombuffer(content[44:], "<i2") / 32768)


OTHER_THINGS = {
    "plain text": b"Take two of the second sentence, the door was open.\n" * 60,
    "JSON text": b'[{"start": 0.5, "end": 0.75, "text": "hello"}]' * 60,
    "a zip archive": b"PK\3\4" + NOISE[:5000],
    "": NOISE[:5000],
}


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
@pytest.mark.parametrize("name", [b"ID3 ", b"id3 "])
@pytest.mark.parametrize("thing", ["nothing", "mp3", *OTHER_THINGS])
def test_a_chunk_that_holds_a_tag(
    thing: str, name: bytes, suffix: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """The head of the chunk is not that of the tag: what is behind the chunk is found."""
    path, content = tmp_path / f"a.{suffix}", contents[suffix][0]
    path.write_bytes(content)
    expected = decode(path)
    tag = b"ID3\3\0\0\0\0\0 TIT2" + struct.pack(">I", 22) + b"\0\0" + b"\0Interview number 0003"
    order = "<" if suffix == "wav" else ">"
    whole = content + name + struct.pack(order + "I", len(tag)) + tag
    changed = content[:4] + struct.pack(order + "I", len(whole) - 8) + whole[8:]
    if thing == "nothing":
        path.write_bytes(changed)
        np.testing.assert_array_equal(decode(path), expected)
        return
    path.write_bytes(changed + (contents["mp3"][1] if thing == "mp3" else OTHER_THINGS[thing]))
    words = reason(path)
    if thing == "mp3":
        assert f"the second (MPEG audio) starts at byte {len(changed)};" in words
        return
    command = f"head -c {len(changed)} a.{suffix} > a.fixed.{suffix}"
    assert f"cut it off: {command}" in words
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    np.testing.assert_array_equal(decode(tmp_path / f"a.fixed.{suffix}"), expected)


@pytest.mark.parametrize("thing", OTHER_THINGS)
@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "caf", "w64", "sph"])
def test_what_was_appended_is_not_advised_to_be_played(
    thing: str, suffix: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    path, content = tmp_path / f"a.{suffix}", contents[suffix][0]
    path.write_bytes(content)
    expected = decode(path)
    path.write_bytes(content + OTHER_THINGS[thing])
    words = reason(path)
    command = f"head -c {len(content)} a.{suffix} > a.fixed.{suffix}"
    if thing:
        count = len(OTHER_THINGS[thing])
        front = f"{count} bytes of {thing} behind the 0.600 s of samples that the header counts; cut it off: "
        assert words == front + command
    else:
        assert f"if the rest is no sound, cut it off: {command}; if it is, write the header again: " in words
        assert ("ffmpeg -ignore_length 1 -i a.wav" in words) == (suffix == "wav")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    np.testing.assert_array_equal(decode(tmp_path / f"a.fixed.{suffix}"), expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_known_from_other_bytes(subtype: str, channels: int, tmp_path: Path) -> None:
    speech = np.concatenate([tones(1.0), 3e-4 * np.random.default_rng(0).standard_normal(8000), tones(1.0, seed=1)])
    content = written(tmp_path / "a.wav", np.stack([speech] * channels, axis=1), subtype=subtype)
    frame = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}.get(subtype, 1) * channels
    start = content.index(b"data") + 8
    end = start + 10_000 * frame
    stop = start + len(speech) * frame

    def like(rest: bytes) -> str:
        (tmp_path / "a.wav").write_bytes(content[:end] + rest)
        with (tmp_path / "a.wav").open("rb") as file:
            return likeness(file, start, end, first=end, stop=end + len(rest), frame=frame)

    samples = content[end:stop]
    linear = subtype.startswith("PCM")  # of a pause in other codings it cannot be told
    assert like(samples if linear else samples[: 5000 * frame]) == "samples"
    assert like(NOISE) == ""
    assert like(samples + NOISE) == ""
    assert like(b"x" * 10_000) == "plain text"
    assert like(b"\0" * 10_000) == ""


def test_a_header_that_counts_nothing_was_not_finished(tmp_path: Path) -> None:
    noise = (3000 * np.random.default_rng(0).standard_normal(16000)).astype("<i2").tobytes()
    (tmp_path / "a.wav").write_bytes(wav(0, 0) + noise)
    assert reason(tmp_path / "a.wav") == (
        "the header counts 0.000 s of samples, the file holds 1.000 s; "
        "write the header again: ffmpeg -ignore_length 1 -i a.wav -c copy a.fixed.wav"
    )


# Recordings among the samples


COMPRESSED = {
    "FLAC": "flac",
    "Ogg": "ogg",
    "MPEG audio": "mp3",
}


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("container", ["wav", "aiff", "au", "w64", "sph", "pipe"])
def test_compressed_audio_where_samples_should_be(
    kind: str, container: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """A file with a header in front that takes its bytes for samples; the advice takes it out."""
    suffix = "wav" if container == "pipe" else container
    inside = contents[COMPRESSED[kind]][0]
    samples = np.frombuffer(inside + bytes(len(inside) % 2), ">i2" if suffix == "aiff" else "<i2").astype(np.int16)
    path = tmp_path / f"a.{suffix}"
    content = written(path, samples, **{**CONTAINERS[suffix], **({"endian": "LITTLE"} if suffix == "au" else {})})
    for tag in (b"", TAGS["ID3v2"]) if kind == "MPEG audio" and container == "wav" else (b"",):
        front = content[: content.index(inside)]
        if tag:
            content = wav(0, 0)[:-4] + struct.pack("<I", len(tag + inside)) + tag + inside
            content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
            front = content[:44]
        path.write_bytes(streamed(content, 4, 40) if container == "pipe" else content)
        words = reason(path)
        assert words.startswith(
            f"the header announces raw samples, but another file ({kind}) starts at byte {len(front)}; extract it: "
        )
        subprocess.run(words.split("extract it: ")[1], shell=True, check=True, cwd=tmp_path)
        made = tmp_path / f"a.inside.{COMPRESSED[kind]}"
        if not made.exists():
            made = tmp_path / f"a.{COMPRESSED[kind]}"
        assert len(decode(made)) == pytest.approx(len(FIRST), abs=2 * 1152)
        made.unlink()


def coded_frames() -> dict[str, bytes]:
    adts = b"\xff\xf1\x60\x40\x19\x1f\xfc".ljust(200, b"\x55")
    return {"AAC": adts * 50, "Dolby Digital (AC-3)": b"\x0b\x77\0\0\x14".ljust(768, b"\x55") * 20}


@pytest.mark.parametrize("kind", ["AAC", "Dolby Digital (AC-3)", "S/PDIF (Dolby Digital or DTS)", "DTS"])
def test_frames_where_samples_should_be(kind: str, tmp_path: Path) -> None:
    marks = {"S/PDIF (Dolby Digital or DTS)": b"\x72\xf8\x1f\x4e", "DTS": b"\xff\x1f\x00\xe8"}
    inside = (marks[kind] + NOISE[:9996]) if kind in marks else coded_frames()[kind]
    (tmp_path / "a.wav").write_bytes(wav(len(inside) // 2, 0) + inside)
    assert reason(tmp_path / "a.wav").startswith(
        f"the header announces raw samples, but another file ({kind}) starts at byte 44; extract it:"
    )


@pytest.mark.parametrize("second", ["wav", "flac", "ogg"])
def test_joined_files_whose_header_counts_both(
    second: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    """As programs leave them that join files and then write the length of all into the first header."""
    first, other = contents["wav"][0], contents[second][1]
    other += bytes(len(other) % 2)
    whole = first[44:] + other
    form = wav(0, 0)
    content = form[:4] + struct.pack("<I", 36 + len(whole)) + form[8:40] + struct.pack("<I", len(whole)) + whole
    (tmp_path / "a.wav").write_bytes(content)
    words = reason(tmp_path / "a.wav")
    assert words.startswith("several recordings in one file: the first holds 0.600 s, all of them ")
    assert (
        f"the second ({ {'wav': 'WAV', 'flac': 'FLAC', 'ogg': 'Ogg'}[second] }) starts at byte {len(first)};" in words
    )
    if shutil.which("ffmpeg"):
        commands = words.split("split it: ")[1]
        subprocess.run(commands, shell=True, check=True, cwd=tmp_path, capture_output=True)
        made = [tmp_path / "a.first.wav", tmp_path / commands.rsplit("> ", 1)[1]]
        assert [len(decode(path)) / 16000 for path in made] == pytest.approx([0.6, 0.9], abs=0.01)


# Files whose samples reach to the end


@pytest.mark.parametrize("tag", ["ID3v1", *(name for name in AT_THE_END if "APE" in name)])
def test_tags_behind_a_stream_are_not_samples(
    tag: str, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    for name, places in {"a.wav": (4, 40), "a.au": (8,)}.items():
        once = streamed(contents[name[2:]][0], *places)
        (tmp_path / name).write_bytes(once)
        expected = decode(tmp_path / name)
        assert len(expected) == len(FIRST)
        end = TAGS["APE and ID3v1"] if tag == "zeros and APE" else AT_THE_END[tag]
        (tmp_path / name).write_bytes(once + end)
        np.testing.assert_array_equal(decode(tmp_path / name), expected)
        (tmp_path / name).write_bytes(once + contents["flac"][1] + end)
        assert f"the second (FLAC) starts at byte {len(once)};" in reason(tmp_path / name)


@pytest.mark.parametrize("length", [3000, 3001])
@pytest.mark.parametrize("more", [b"", b"bext" + struct.pack("<I", 4) + b"abcd"])
def test_chunks_behind_a_stream_are_not_samples(
    length: int, more: bytes, contents: dict[str, tuple[bytes, bytes]], tmp_path: Path
) -> None:
    once = streamed(contents["wav"][0], 4, 40)
    (tmp_path / "a.wav").write_bytes(once)
    expected = decode(tmp_path / "a.wav")
    chunk = b"LIST" + struct.pack("<I", length) + b"INFO" + b"x" * (length - 4)
    padded = chunk + b"\0" * (length % 2 if more else 0)  # at the end of a file the padding may be missing
    (tmp_path / "a.wav").write_bytes(once + padded + more)
    np.testing.assert_array_equal(decode(tmp_path / "a.wav"), expected)
    (tmp_path / "a.wav").write_bytes(once + chunk[:-50])  # no chunk that ends with the file: these are samples
    assert len(decode(tmp_path / "a.wav")) > len(expected)


def test_tags_behind_a_stream_of_coded_samples(tmp_path: Path) -> None:
    content = written(tmp_path / "a.wav", FIRST, subtype="IMA_ADPCM")
    once = streamed(content, 4, content.index(b"data") + 4)
    (tmp_path / "a.wav").write_bytes(once)
    length = len(decode(tmp_path / "a.wav"))
    (tmp_path / "a.wav").write_bytes(once + TAGS["APE of version 2 with a picture"])
    words = reason(tmp_path / "a.wav")
    assert words.endswith(f"cut them off: head -c {len(once)} a.wav > a.fixed.wav")
    subprocess.run(words.split("cut them off: ")[1], shell=True, check=True, cwd=tmp_path)
    assert len(decode(tmp_path / "a.fixed.wav")) == length


def test_wave64_that_is_cut_or_coded(tmp_path: Path) -> None:
    """Its chunk is compared with the file, whatever the length in front says."""
    content = bytearray(written(tmp_path / "a.w64", FIRST))
    (tmp_path / "a.w64").write_bytes(content[:10_000])
    assert "truncated: the header states a file of" in reason(tmp_path / "a.w64")
    content[16:24] = struct.pack("<Q", 10_000)
    (tmp_path / "a.w64").write_bytes(content[:10_000])
    assert reason(tmp_path / "a.w64") == "truncated: the header states 19200 bytes of samples, the file holds 9896"
    coded = written(tmp_path / "a.w64", FIRST, subtype="IMA_ADPCM")
    (tmp_path / "a.w64").write_bytes(coded + TAGS["ID3v1"])
    assert f"cut them off: head -c {len(coded)} a.w64" in reason(tmp_path / "a.w64")


@pytest.mark.parametrize(("mark", "at", "layout", "suffix"), [(b"SSND", 4, ">I", "aiff"), (b"data", 4, ">q", "caf")])
def test_chunks_that_are_cut(mark: bytes, at: int, layout: str, suffix: str, tmp_path: Path) -> None:
    """The length of the whole file is right, that of the samples is not."""
    content = bytearray(written(tmp_path / f"a.{suffix}", FIRST))
    place = content.index(mark) + at
    struct.pack_into(layout, content, place, 80_000)
    (tmp_path / f"a.{suffix}").write_bytes(content)
    assert reason(tmp_path / f"a.{suffix}").startswith("truncated: the header states 80000 bytes of samples, the file")


# Lengths that were left out


def pipe_aiff(form: int, chunk: int) -> bytes:
    common = bytes.fromhex("0001 00000000 0010 400cfa00000000000000")
    samples = (FIRST * 32767).astype(">i2").tobytes()
    head = struct.pack(">4sI4s4sI", b"FORM", form, b"AIFF", b"COMM", 18) + common
    return head + struct.pack(">4sIII", b"SSND", chunk, 0, 0) + samples


def pipe_wav(riff: int, data: int) -> bytes:
    content = bytearray(wav(9600, 9600))
    content[4:8], content[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ffmpeg.aiff", pipe_aiff(0, 0)),
        ("sox.aiff", pipe_aiff(0x7F000050, 0x7F000008)),
        ("one.wav", pipe_wav(0x7FFFFFFF, 0x7FFFFFFF - 36)),
        ("both.wav", pipe_wav(0x7FFFFFFF, 0x7FFFFFFF)),
        ("ffmpeg.wav", pipe_wav(0xFFFFFFFF, 0xFFFFFFFF)),
    ],
)
def test_files_written_to_a_pipe_are_read_to_the_end(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert len(decode(tmp_path / name)) == len(FIRST)
    (tmp_path / name).write_bytes(content + content)
    assert f"starts at byte {len(content)};" in reason(tmp_path / name)


def test_wave64_and_caf_written_to_a_pipe(contents: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    content = bytearray(contents["w64"][0])
    place = content.index(b"data\xf3") + 16
    content[16:24], content[place : place + 8] = b"\xff" * 8, b"\xff" * 7 + b"\x7f"  # as ffmpeg does
    (tmp_path / "a.w64").write_bytes(content)
    assert len(decode(tmp_path / "a.w64")) == len(FIRST)
    content[16:24], content[place : place + 8] = bytes(8), struct.pack("<Q", 0x17)  # as sox does, with the header again
    (tmp_path / "a.w64").write_bytes(content[: place + 8] + content)
    twice = "its header is there twice, without a length, as sox writes to a pipe; write it to a file instead"
    assert reason(tmp_path / "a.w64") == twice
    content = bytearray(contents["caf"][0])
    place = content.index(b"data") + 4
    content[place : place + 8] = b"\xff" * 8
    (tmp_path / "a.caf").write_bytes(content)
    assert reason(tmp_path / "a.caf") == (
        "the header leaves out the length (written to a pipe); convert it: ffmpeg -i a.caf a.wav"
    )
    content[place : place + 8] = struct.pack(">Q", 4)
    (tmp_path / "a.caf").write_bytes(content[: place + 12] + content)
    assert reason(tmp_path / "a.caf") == twice


@pytest.mark.slow
def test_more_than_four_gigabytes_written_to_a_pipe(tmp_path: Path) -> None:
    """libsndfile stops where the length would be."""
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(pipe_wav(0xFFFFFFFF, 0xFFFFFFFF))
        file.truncate(44 + (1 << 32) + 32000)
        file.seek(44 + (1 << 32))
        file.write(b"\1\2" * 16000)
    assert reason(tmp_path / "a.wav").startswith(
        f"the header counts {0xFFFFFFFF / 32000:.3f} s of samples, the file holds {(1 << 32) / 32000 + 1:.3f} s; "
    )


def test_flac_without_a_length(tmp_path: Path) -> None:
    content = bytearray(written(tmp_path / "a.flac", FIRST))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    assert reason(tmp_path / "a.flac") == (
        "the header leaves out the length (written to a pipe), the frames reach to 0.600 s; "
        "write it again: ffmpeg -i a.flac -c:a flac a.fixed.flac"
    )


def test_an_encoding_that_libsndfile_does_not_know(contents: dict[str, tuple[bytes, bytes]], tmp_path: Path) -> None:
    (tmp_path / "a.caf").write_bytes(contents["caf"][0].replace(b"lpcm", b"ima4", 1))
    assert reason(tmp_path / "a.caf").endswith("; convert it: ffmpeg -i a.caf a.wav")


# Figures


def test_figures_of_adpcm_are_those_of_its_blocks(tmp_path: Path) -> None:
    """The rate of bytes in the header is not looked at; some programs write that of another block length."""
    content = bytearray(written(tmp_path / "a.wav", tones(4.0), subtype="IMA_ADPCM"))
    place = content.index(b"data") + 4
    [length] = struct.unpack_from("<I", content, place)
    struct.pack_into("<I", content, place, length // 512 * 256)
    struct.pack_into("<I", content, content.index(b"fmt ") + 16, 99)
    (tmp_path / "a.wav").write_bytes(content)
    figures = [float(number) for number in re.findall(r"(\d+\.\d+) s", reason(tmp_path / "a.wav"))]
    assert figures == pytest.approx([2.0, 4.0], abs=0.04)


def test_figures_are_bytes_where_there_is_no_rate(tmp_path: Path) -> None:
    content = bytearray(wav(9600, 9600, behind=wav(9600, 9600)))
    content[28:32], content[20:22] = bytes(4), struct.pack("<H", 0x31)  # GSM without a rate of bytes
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"the first holds 19200 bytes, all of them 38444 bytes, the second \(WAV\)"):
        decode(tmp_path / "a.wav")


# MPEG


@pytest.mark.parametrize("rates", [(44100, 22050), (44100, 16000), (16000, 44100), (48000, 32000), (22050, 16000)])
@pytest.mark.parametrize("tag", ["none", "ID3v2", "ID3v1", "zeros", "APE of version 2 with a picture"])
def test_mp3_of_two_versions(rates: tuple[int, int], tag: str, tmp_path: Path) -> None:
    for rate in rates:
        soundfile.write(tmp_path / f"{rate}.mp3", tones(1.0), rate)
    first, second = ((tmp_path / f"{rate}.mp3").read_bytes() for rate in rates)
    between = TAGS.get(tag, b"")
    (tmp_path / "a.mp3").write_bytes(first + between + second)
    words = reason(tmp_path / "a.mp3")
    assert "its rate, channels or MPEG layer change at " in words
    assert f"(byte {len(first + between)})" in words
    lengths = [16000 / rate for rate in rates]
    assert pieces(tmp_path / "a.mp3", words) == pytest.approx(lengths, abs=0.2)


def test_a_chance_frame_of_another_rate_is_damage(tmp_path: Path) -> None:
    """Two headers that fit each other are in damaged bytes now and then; four in a row are not."""
    first = written(tmp_path / "a.mp3", tones(2.0))
    frame = b"\xff\xfb\x90\xc0".ljust(417, b"\x55")  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono
    (tmp_path / "a.mp3").write_bytes(first + b"\x55" * 10 + frame * 2 + b"\x55" * 10 + first)
    assert "whose length header counts 2." in reason(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(first + b"\x55" * 10 + frame * 4 + b"\x55" * 10 + first)
    assert f"layer change at 2.088 s (byte {len(first) + 10})" in reason(tmp_path / "a.mp3")


@pytest.mark.parametrize("missing", [1, 50])
def test_mp3_cut_in_the_middle_of_a_frame(missing: int, tmp_path: Path) -> None:
    content = written(tmp_path / "a.mp3", FIRST)
    (tmp_path / "a.mp3").write_bytes(content[:-missing])
    with pytest.warns(UserWarning, match="it may be cut short: it ends in the middle of a frame"):
        decode(tmp_path / "a.mp3")
    assert len(decode(tmp_path / "a.mp3", 0.1, duration=0.2)) == 3200  # a stretch before the end is all there


# Ogg


def test_flac_in_ogg(tmp_path: Path) -> None:
    flac = written(tmp_path / "a.flac", FIRST)
    head = b"\x7fFLAC\x01\x00\x00\x01" + flac[:42]
    comment = b"\x84\x00\x00\x08" + bytes(8)
    (tmp_path / "a.oga").write_bytes(
        page(5, 0, 0, head, flags=2) + page(5, 1, 0, comment) + page(5, 2, 9600, flac[-3000:], flags=4)
    )
    assert reason(tmp_path / "a.oga") == ("FLAC in Ogg cannot be read; convert it: ffmpeg -i a.oga a.wav")


@pytest.mark.parametrize("options", [{}, {"format": "OGG", "subtype": "OPUS"}])
def test_ogg_cut_between_two_pages(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    whole = written(path, tones(4.0), **options)
    path.write_bytes(whole)
    length = len(decode(path))  # a warning would be an error
    path.write_bytes(whole[: whole.rindex(b"OggS")])
    with pytest.warns(UserWarning, match="may be cut short: the mark of the end of the stream is not there"):
        assert len(decode(path)) < length
    assert len(decode(path, 0.5, duration=0.2)) == 3200  # a stretch before the end is all there


def test_ogg_that_starts_in_the_middle(tmp_path: Path) -> None:
    """A cut without decoding; its pages have nothing wrong in them."""
    content = written(tmp_path / "a.opus", tones(3.0), format="OGG", subtype="OPUS")
    parts = [b"OggS" + part for part in content.split(b"OggS")[1:]]
    third = parts[2]
    segments = third[26]
    body = third[27 + segments :]
    lengths = third[27 : 27 + segments]
    changed = b"OggS\0" + struct.pack("<BqII", 0, 100, *struct.unpack("<II", third[14:22]))
    tail = bytes([segments]) + lengths + body
    parts[2] = changed + struct.pack("<I", _ogg_crc(changed + bytes(4) + tail)) + tail
    (tmp_path / "a.opus").write_bytes(b"".join(parts))
    assert reason(tmp_path / "a.opus").endswith("convert it: ffmpeg -i a.opus a.wav")


def numbered(content: bytes, *, number: int | None = None, samples: int | None = None) -> bytes:
    """A page with another number or position, and the checksum that belongs to it."""
    changed = bytearray(content)
    if number is not None:
        changed[18:22] = struct.pack("<I", number)
    if samples is not None:
        changed[6:14] = struct.pack("<q", samples)
    changed[22:26] = bytes(4)
    changed[22:26] = struct.pack("<I", _ogg_crc(bytes(changed)))
    return bytes(changed)


@pytest.mark.parametrize("options", [{}, {"format": "OGG", "subtype": "OPUS"}])
def test_ogg_pages_in_another_order(options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    parts = [b"OggS" + part for part in written(path, tones(20.0), **options).split(b"OggS")[1:]]
    assert len(parts) > 7
    *first, fourth, fifth = parts[:5]
    rest = parts[5:]
    path.write_bytes(b"".join(parts))
    assert len(decode(path)) == 20 * 16000  # a warning would be an error
    path.write_bytes(b"".join([*first, fifth, fourth, *rest]))
    assert reason(path) == "damaged: Ogg page 5 has the number 3 behind a page with the number 4"
    path.write_bytes(b"".join([*first, fourth, fourth, fifth, *rest]))
    assert reason(path) == "damaged: Ogg page 5 has the number 3 behind a page with the number 3"
    [end] = struct.unpack("<q", fourth[6:14])
    path.write_bytes(b"".join([*first, fourth, numbered(fifth, samples=end - 10), *rest]))
    assert reason(path) == f"damaged: Ogg page 5 ends at sample {end - 10}, a page before it at {end}"
    path.write_bytes(b"".join([*first, fourth, *rest]))
    with pytest.warns(UserWarning, match="Ogg pages are missing in 1 place, by their numbers"):
        decode(path, 0.1, duration=0.2)

"""WebDataset shards and plain tars: samples, texts and labels, patterns, and damage."""

import gc
import json
import tarfile
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.webdataset import Settings, expand, prepare
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from tests.data.test_members import wav, write_tar


def test_samples_with_everything(tmp_path: Path) -> None:
    about = {"speaker": 7, "language": "de", "duration": 0.25, "start": 31.5, "snr": 20.5, "note": None}
    write_tar(
        tmp_path / "train-000000.tar",
        {
            "x/one.wav": wav(200),
            "x/one.txt": "cafe\u0301 \n".encode(),
            "x/one.json": json.dumps(about).encode(),
            "x/one.cls": b"3",
            "x/two.json": json.dumps({"text": "hi", "emotion": "sad"}).encode(),
            "x/two.flac": wav(300, "FLAC"),
            "x/two.txt": b"hi",
            "x/two.npy": b"???",
        },
    )
    write_tar(tmp_path / "train-000001.tar", {"three.wav": wav(400), "three.speaker": b"s9", "._three.wav": b"x"})
    source = prepare(tmp_path)
    found = list(source)
    assert [each.audio.rpartition("/train-")[2] for each in found] == [
        "000000.tar::x/one.wav",
        "000000.tar::x/two.flac",
        "000001.tar::three.wav",
    ]
    assert [(each.text, each.label, each.speaker, each.language) for each in found] == [
        ("café", "3", "7", "de"),
        ("hi", "sad", None, None),
        (None, None, "s9", None),
    ]
    assert [each.split for each in found] == ["train"] * 3
    assert found[0].extras == {"duration": 0.25, "start": 31.5, "snr": 20.5}
    assert (found[0].offset, found[0].duration) == (0.0, 0.0)  # times tell where the sample was cut from
    assert source.findings.notes == ["files of the tars that are not used: .npy (1)"]
    assert source.findings.unused == ["snr", "note", "duration", "start"]
    report = pack(found, tmp_path / "out")
    assert (report.accepted, report.seconds) == (3, 0.75)


def test_patterns() -> None:
    assert [str(path) for path in expand("a/{x,y}-{9..11}.tar")] == [
        f"a/{name}-{number}.tar" for name in "xy" for number in (9, 10, 11)
    ]
    with pytest.raises(UserError, match="more than 100000 paths"):
        expand("{0..99}{0..99}{0..99}.tar")


def test_a_pattern_names_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"s-{number:02}.tar", {f"{number}.wav": wav(200)})
    assert len(list(prepare(tmp_path / "s-{01..02}.tar"))) == 2
    assert len(list(prepare(tmp_path / "s-00.tar"))) == 1
    with pytest.raises(UserError, match=r"s-03\.tar: no such file or folder; the nearest that exists: .*s-02.tar"):
        list(prepare(tmp_path / "s-{02..03}.tar"))


def test_a_plain_tar_with_dots_in_its_names(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"2024.01_a.wav": wav(200), "2024.01_b.wav": wav(300), "2024.01_b.txt": b"hi"})
    found = list(prepare(tar))
    assert [(each.audio, each.text) for each in found] == [
        (f"{tar}::2024.01_a.wav", None),
        (f"{tar}::2024.01_b.wav", "hi"),
    ]
    store_of = pack(found, tmp_path / "out")
    assert store_of.accepted == 2
    assert not (WaveformStore(tmp_path / "out").read(0) == WaveformStore(tmp_path / "out").read(1)).all()


def test_several_recordings_in_a_sample(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"k.near.wav": wav(200), "k.far.wav": wav(300), "k.txt": b"hi"})
    with pytest.raises(
        UserError, match=r"sample 'k' holds 2 recordings \(near\.wav, far\.wav\); .* --set audio=near\.wav"
    ):
        list(prepare(tar))
    (found,) = prepare(tar, Settings(audio="far.wav"))
    assert (found.audio, found.text) == (f"{tar}::k.far.wav", "hi")


def test_a_number_and_its_text_are_the_same(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": wav(), "a.cls": b"3", "a.json": b'{"label": 3}'})
    assert [each.label for each in prepare(tar)] == ["3"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": b"x"}, "no audio in 1 tars"),
        ({"a.wav": b"", "b.wav": b"", "a.txt": b"x"}, "the files of sample 'a' are not neighbours"),
        (
            {"a.wav": b"", "a.txt": b"x", "a.json": b'{"text": "y"}'},
            "sample 'a': two files have different values of 'text'",
        ),
        ({"a.wav": b"", "a.txt": b"x", "a.json": b'{"sentence": "y"}'}, "'text' and 'sentence' both mean the text"),
        ({"a.wav": b"", "a.json": b"{"}, r"a\.tar: a\.json: not JSON"),
        ({"a.wav": b"", "a.json": b"[1]"}, r"a\.tar: a\.json: given list, allowed: a JSON object"),
        ({"a.wav": b"", "a.txt": b"\xff"}, r"a\.tar: a\.txt: not UTF-8 text at byte 0"),
        ({"a.wav": b"", "a.txt": b"x" * (1 << 20) + b"y"}, r"'a\.txt' has 1048577 bytes; at most 1048576 are read"),
    ],
)
def test_what_is_not_understood_is_one_line(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        list(prepare(write_tar(tmp_path / "a.tar", files)))
    assert len(str(error.value)) < 500


def test_a_damaged_shard_is_used_up_to_the_damage(tmp_path: Path) -> None:
    samples = {
        f"{number}.{kind}": wav(200) if kind == "wav" else b"hi" for number in range(4) for kind in ("wav", "txt")
    }
    bad, good = write_tar(tmp_path / "1.tar", samples), write_tar(tmp_path / "2.tar", samples)
    with tarfile.open(good) as tar:
        cut = tar.getmember("2.txt").offset + 10
    bad.write_bytes(bad.read_bytes()[:cut])
    source = prepare(tmp_path)
    found = list(source)
    assert [Path(each.audio).name for each in found] == [
        *(f"1.tar::{number}.wav" for number in range(2)),  # of the third the text is gone
        *(f"2.tar::{number}.wav" for number in range(4)),
    ]
    assert source.findings.notes == [
        f"{bad}: truncated: it stops at byte {cut} without the end mark of a tar; the 2 samples before that are used"
    ]
    bad.write_bytes(bad.read_bytes()[:600])
    good.unlink()
    with pytest.raises(UserError, match=r"1\.tar: truncated"):
        list(prepare(tmp_path))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_webdataset_writes_and_reads(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    with webdataset.ShardWriter(f"{tmp_path}/s-%02d.tar", maxcount=2, verbose=0) as writer:
        for number in range(5):
            writer.write(
                {"__key__": f"n{number}", "wav": wav(200 + number), "txt": f"text {number}", "cls": number % 2}
            )
    ours = list(prepare(tmp_path / "s-{00..02}.tar"))
    theirs = list(webdataset.WebDataset(f"{tmp_path}/s-{{00..02}}.tar", shardshuffle=False))
    assert [each.text for each in ours] == [each["txt"].decode() for each in theirs]
    assert [each.label for each in ours] == [each["cls"].decode() for each in theirs]
    for number, each in enumerate(theirs):
        (tmp_path / f"{number}.wav").write_bytes(each["wav"])
    pack(ours, tmp_path / "ours")
    pack([Utterance(audio=f"{tmp_path}/{n}.wav", duration=0.0) for n in range(5)], tmp_path / "theirs")
    one, other = WaveformStore(tmp_path / "ours"), WaveformStore(tmp_path / "theirs")
    assert all((one.read(number) == other.read(number)).all() for number in range(5))
    gc.collect()  # here, where the warnings about its files are ignored


@pytest.mark.parametrize("prefix", ["./", "", "x/"])
def test_what_a_mac_writes_beside_each_file_divides_no_sample(tmp_path: Path, prefix: str) -> None:
    files: dict[str, bytes] = {}
    for name in ("a", "b"):
        for suffix, content in ((".cls", b"joy"), (".txt", b"hi"), (".wav", wav(200))):
            files[f"{prefix}._{name}{suffix}"] = b"\0\5\x16\7"
            files[f"{prefix}{name}{suffix}"] = content
            files[f"__MACOSX/{prefix}{name}{suffix}"] = b"\0\5\x16\7"
    source = prepare(write_tar(tmp_path / "a.tar", files))
    assert [(each.text, each.label) for each in source] == [("hi", "joy")] * 2
    assert source.findings.notes == []


def test_a_text_without_audio_is_told(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": wav(200), "b.txt": b"hi", "c.npy": b"?", "d.json": b"{}"})
    source = prepare(tar)
    assert len(list(source)) == 1
    assert source.findings.notes[0] == (
        f"2 samples have a text, label or columns and no audio of the same name; the first is {tar}::b with .txt"
    )


def test_a_number_of_a_sentence_beside_its_text(tmp_path: Path) -> None:
    about = json.dumps({"sentence": "01"}).encode()
    write_tar(tmp_path / "a.tar", {"one.wav": wav(200), "one.txt": b"kids talk", "one.json": about})
    assert [(each.text, each.extras) for each in prepare(tmp_path)] == [("kids talk", {"sentence": "01"})]


def test_the_split_is_in_the_name_of_the_tar_or_in_a_folder_within(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    root.mkdir()
    write_tar(root / "all.tar", {"x/train/one.wav": wav(200), "x/two.wav": wav(300), "test/three.wav": wav(400)})
    write_tar(root / "test.tar", {"four.wav": wav(500)})
    assert [each.split for each in prepare(root)] == ["train", None, "test", "test"]

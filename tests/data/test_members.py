"""Audio within tars, tables and archives: read exactly, named in every reject, and never mistaken for a plain file."""

import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.audio import AudioError, decode
from speechssl.config import UserError
from speechssl.data import arrow
from speechssl.data.lists import utterance_id
from speechssl.data.manifest import read_manifest, validate_manifest
from speechssl.data.members import file_status, find_member, local_file
from speechssl.data.tars import iterate_tar
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import WaveformStore, pack


def tone(pitch: float = 220.0, seconds: float = 0.25) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(16000 * seconds)) / 16000)


def wav(pitch: float = 220.0, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(pitch), 16000, format=kind)
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def audio_table(rows: list[tuple[bytes | None, str | None]]) -> pa.Table:
    values = [{"bytes": data, "path": name} for data, name in rows]
    return pa.table({"audio": pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})


def content(location: str) -> bytes:
    with local_file(location) as path:
        return Path(path).read_bytes()


def test_a_file_of_a_tar(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", {"./x/one.wav": wav(200), "x/two.flac": wav(300, "FLAC"), "long/" * 40 + "n": b"z"}
    )
    assert content(f"{tar}::x/one.wav") == wav(200)
    assert content(f"{tar}::{'long/' * 40}n") == b"z"
    with local_file(f"{tar}::x/two.flac") as path:
        assert Path(path).name == "two.flac"
        assert len(decode(path)) == 4000
    assert not Path(path).parent.exists()
    with (
        pytest.raises(AudioError, match=r"a\.tar::x/three\.wav: no file 'x/three\.wav' in the tar$"),
        local_file(f"{tar}::x/three.wav"),
    ):
        pass


def test_a_tar_that_changes_is_read_anew(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.wav": wav(200)})
    assert content(f"{tar}::a.wav") == wav(200)
    write_tar(tar, {"b.wav": b"other", "a.wav": wav(400)})
    assert content(f"{tar}::a.wav") == wav(400)


def test_what_looks_like_a_member_may_be_a_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"b.wav": wav(200)})
    plain = tmp_path / "a.tar::b.wav"
    plain.write_bytes(wav(500))
    assert find_member(str(plain)) is None
    assert content(str(plain)) == wav(500)
    folder = tmp_path / "x::y"
    write_tar(folder / "c::d.tar", {"e::f.wav": wav(600)})
    assert content(f"{folder}/c::d.tar::e::f.wav") == wav(600)
    assert file_status(f"{folder}/c::d.tar::e::f.wav").st_size == (folder / "c::d.tar").stat().st_size


@pytest.mark.parametrize(
    "damage", ["cut in a file", "cut in a header", "no end mark", "zeroed header", "compressed", "text"]
)
def test_a_tar_that_is_not_whole_is_never_read_in_silence(tmp_path: Path, damage: str) -> None:
    tar = write_tar(tmp_path / "a.tar", dict.fromkeys("abc", b"x" * 5000))
    whole = tar.read_bytes()
    second = 512 + 5120
    bad = {
        "cut in a file": whole[: second + 2000],
        "cut in a header": whole[: second + 100],
        "no end mark": whole[:second],
        "zeroed header": whole[:second] + b"?" * 512 + whole[second + 512 :],
        "compressed": b"\x1f\x8b" + whole,
        "text": b"not a tar" * 400,
    }[damage]
    tar.write_bytes(bad)
    with pytest.raises(UserError, match=r"a\.tar: (truncated|damaged|a compressed tar|not a tar)"):
        list(iterate_tar(tar))


def test_names_that_are_twice_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for data in (b"one", b"two"):
            member = tarfile.TarInfo("a.wav")
            member.size = 3
            tar.addfile(member, io.BytesIO(data))
    with pytest.raises(AudioError, match=r"holds 'a\.wav' more than once"), local_file(f"{tmp_path}/a.tar::a.wav"):
        pass


def test_links_are_the_files_that_they_lead_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_tar(tmp_path / "a.tar", {"x/one.wav": b"one"})
    with tarfile.open(tar, "a") as file:
        for name, kind, target in (
            ("hard.wav", tarfile.LNKTYPE, "x/one.wav"),
            ("x/soft.wav", tarfile.SYMTYPE, "one.wav"),
            ("out.wav", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            file.addfile(member)
    assert [each.name for each in iterate_tar(tar)] == ["x/one.wav", "hard.wav", "x/soft.wav"]
    assert [content(f"{tar}::{name}") for name in ("hard.wav", "x/soft.wav")] == [b"one", b"one"]
    assert "out.wav is a link to /etc/passwd, which is no file of the tar; left out" in caplog.text


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])
def test_rows_of_a_table_in_any_order(tmp_path: Path, kind: str) -> None:
    rows = [(b"%d" % number * 50, f"{number}.wav") for number in range(60)]
    table = audio_table(rows)
    path = tmp_path / f"t.{kind.split()[0]}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=25)
    else:
        write = pa.ipc.new_stream if kind == "arrow stream" else pa.ipc.new_file
        with write(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=7)
    order = [*range(60), 59, 0, 26, 24, 25, 5, 4, 59, 40, 20, 0]
    assert [content(f"{path}::audio/{row}") for row in order] == [rows[row][0] for row in order]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: content(f"{path}::audio/{row}"), order)) == [rows[row][0] for row in order]
    with local_file(f"{path}::audio/17") as copy:
        assert Path(copy).name == "17.wav"
    for bad, reason in (
        ("audio/60", "no row 60; there are 60"),
        ("sound/1", "no column 'sound'"),
        ("audio/x", "COLUMN/ROW"),
    ):
        with pytest.raises(AudioError, match=reason), local_file(f"{path}::{bad}"):
            pass


def test_rows_of_a_parquet_file_are_decoded_once_when_read_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(audio_table([(b"%d" % number, None) for number in range(200)]), path)
    decoded = []
    read = arrow._ParquetRows._read

    def counted(self: arrow._ParquetRows, group: int) -> Iterator[pa.Array]:
        for batch in read(self, group):
            decoded.append(len(batch))
            yield batch

    monkeypatch.setattr(arrow._ParquetRows, "_read", counted)
    assert [content(f"{path}::audio/{row}") for row in range(200)] == [b"%d" % row for row in range(200)]
    assert sum(decoded) == 200


def test_a_row_may_point_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    pq.write_table(
        audio_table([(None, "a.wav"), (None, "b.wav"), (None, None), (None, "/a.wav")]), tmp_path / "t.parquet"
    )
    assert content(f"{tmp_path}/t.parquet::audio/0") == b"sound"
    with (
        pytest.raises(AudioError, match=r"the file that it names is not there: .*b\.wav"),
        local_file(f"{tmp_path}/t.parquet::audio/1"),
    ):
        pass
    with (
        pytest.raises(AudioError, match="outside the folder of the table"),
        local_file(f"{tmp_path}/t.parquet::audio/3"),
    ):
        pass
    with pytest.raises(AudioError, match="no audio in row 2"), local_file(f"{tmp_path}/t.parquet::audio/2"):
        pass


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_damaged_table_is_one_line(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"t.{suffix}").write_bytes(b"PAR1" + b"no table" * 10)
    with pytest.raises(AudioError, match="cannot be read"), local_file(f"{tmp_path}/t.{suffix}::audio/0"):
        pass


def test_a_wav_in_a_kaldi_archive(tmp_path: Path) -> None:
    one, two = wav(200), wav(300)
    path = tmp_path / "w.ark"
    path.write_bytes(b"u1 " + one + b"u2 " + two)
    assert content(f"{path}::3") == one
    assert content(f"{path}::{3 + len(one) + 3}") == two
    for place, reason in ((0, "no wav file at byte 0"), (10**9, "no wav file at byte")):
        with pytest.raises(AudioError, match=reason), local_file(f"{path}::{place}"):
            pass
    path.write_bytes(b"u1 " + one[:-10])
    with pytest.raises(AudioError, match=r"truncated: the wav file at byte 3 has \d+ bytes"), local_file(f"{path}::3"):
        pass
    path.write_bytes(b"u1 RIFF\xff\xff\xff\xff" + one[8:])
    with pytest.raises(AudioError, match="does not say its length"), local_file(f"{path}::3"):
        pass


def test_packing_members_and_plain_files_gives_the_same(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", {"x.wav": wav(200), "bad.wav": b"nothing", "m.m4a": b"\0\0\0\x20ftypM4A " + b"\0" * 40}
    )
    (tmp_path / "x.wav").write_bytes(wav(200))
    found = [
        f"{tar}::x.wav",
        f"{tmp_path}/x.wav",
        f"{tar}::bad.wav",
        f"{tar}::m.m4a",
        f"{tar}::gone.wav",
        f"{tar}::x.wav",
    ]
    report = pack([Utterance(audio=each, duration=0.0) for each in found], tmp_path / "out")
    assert (report.accepted, report.rejected) == (2, 4)
    store = WaveformStore(tmp_path / "out")
    assert np.array_equal(store.read(0), store.read(1))
    assert [each.audio for each in read_manifest(tmp_path / "out" / "manifest.jsonl")] == found[:2]
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [each["audio"] for each in rejects] == found[2:]
    assert "m.m4a" in rejects[1]["reason"]
    assert "no file 'gone.wav' in the tar" in rejects[2]["reason"]
    assert "duplicate" in rejects[3]["reason"]
    write_tar(tar, {"x.wav": wav(900)})
    assert pack([Utterance(audio=found[0], duration=0.0)], tmp_path / "out").resumed == 0


def test_members_in_manifests_and_lists(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"x.wav": wav()})
    here = [Utterance(audio=f"{tar}::x.wav", duration=1.0), Utterance(audio=f"{tmp_path}/b.tar::x.wav", duration=1.0)]
    assert validate_manifest(here, check_files=True) == [f"utterance 1 ({tmp_path}/b.tar::x.wav): no such file"]
    rows = [f"/d/{file}.parquet::audio/{row}" for file in ("p", "q") for row in range(3)]
    assert len({utterance_id(Utterance(audio=each, duration=1.0)) for each in rows}) == 6

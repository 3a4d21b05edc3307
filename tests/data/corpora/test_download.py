"""Downloads and archives, against a loopback server that breaks in all the ways servers break."""

import hashlib
import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.download import Limits, download, extract, mirror

BODY = bytes(range(256)) * 40  # 10,240 bytes; every stretch of it differs from its neighbours
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(BODY)
    return tmp_path / "here" / "file"


@pytest.mark.parametrize("checksum", [SHA256, f"md5:{hashlib.md5(BODY).hexdigest()}", None])
def test_arrives_whole_and_is_not_fetched_twice(serve: Callable, target: Path, checksum: str | None) -> None:
    server = serve()
    download(server.address + "file", target, checksum=checksum)
    download(server.address + "file", target, checksum=checksum)
    assert target.read_bytes() == BODY
    assert server.requests == [("/file", None)]
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_goes_on_where_the_connection_broke(serve: Callable, target: Path) -> None:
    server = serve(cut_after=4000)
    download(server.address + "file", target, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == [("/file", None), ("/file", 4000), ("/file", 8000)]


def test_goes_on_where_an_earlier_call_broke(serve: Callable, target: Path) -> None:
    server = serve(cut_after=1000, cuts=1)
    target.parent.mkdir()
    target.with_name("file.part").write_bytes(BODY[:500])
    download(server.address + "file", target, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == [("/file", 500), ("/file", 1500)]


def test_a_server_without_ranges_begins_again(serve: Callable, target: Path) -> None:
    server = serve(ranges=False, cut_after=6000, cuts=1)
    download(server.address + "file", target, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == [("/file", None), ("/file", 6000)]


def test_all_there_but_not_yet_renamed(serve: Callable, target: Path) -> None:
    server = serve()
    target.parent.mkdir()
    target.with_name("file.part").write_bytes(BODY)
    download(server.address + "file", target, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == [("/file", len(BODY))]


def test_a_part_of_a_longer_file_is_thrown_away(serve: Callable, target: Path) -> None:
    server = serve()
    target.parent.mkdir()
    target.with_name("file.part").write_bytes(BODY * 2)
    download(server.address + "file", target, checksum=SHA256)
    assert target.read_bytes() == BODY


def test_a_failed_download_leaves_no_new_folder(serve: Callable, target: Path) -> None:
    server = serve()
    root = target.parent / "typo" / "deeper"
    with pytest.raises(UserError, match="404"):
        download(server.address + "none", root / "none")
    assert not target.parent.exists()
    target.parent.mkdir()
    with pytest.raises(UserError, match="404"):
        download(server.address + "none", root / "none")
    assert list(target.parent.iterdir()) == []


def test_a_wrong_checksum_leaves_nothing(serve: Callable, target: Path) -> None:
    server = serve()
    with pytest.raises(UserError, match=r"file: wrong sha256 checksum: given [0-9a-f]{64}, expected 00; deleted"):
        download(server.address + "file", target, checksum="sha256:00")
    assert not target.parent.exists()


def test_a_missing_file_is_one_line(serve: Callable, target: Path) -> None:
    server = serve()
    with pytest.raises(UserError, match=r"^http://127.0.0.1:\d+/nothing: the server says 404 Not Found: check the add"):
        download(server.address + "nothing", target)
    assert len(server.requests) == 1


def test_a_server_that_gives_nothing_more_is_given_up(serve: Callable, target: Path) -> None:
    server = serve(cut_after=0)
    target.parent.mkdir()
    target.with_name("file.part").write_bytes(BODY[:500])
    with pytest.raises(UserError, match=r"the connection broke; 500 bytes are kept, run the command again to resume$"):
        download(server.address + "file", target, checksum=SHA256)
    assert target.with_name("file.part").read_bytes() == BODY[:500]


def test_no_server_is_one_line(serve: Callable, target: Path) -> None:
    serve()  # for the short pause between attempts
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/file: .*refused"):
        download("http://127.0.0.1:9/file", target)


def test_mirror_takes_only_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_MIRROR_FSDD", "http://localhost/a/")
    assert mirror("fsdd", "https://example.org") == "http://localhost/a/"
    monkeypatch.setenv("SPEECHSSL_MIRROR_FSDD", "/home/me/mirror")
    with pytest.raises(UserError, match="SPEECHSSL_MIRROR_FSDD: given '/home/me/mirror', allowed: an http or https"):
        mirror("fsdd", "https://example.org")


def _tar(path: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member in members:
            member.size = 4 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"text") if member.isreg() else None)
    return path


def _link(name: str, to: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_extract(tmp_path: Path, mode: str) -> None:
    archive = _tar(tmp_path / "a.tar", tarfile.TarInfo("b/c.txt"), mode=mode)
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "b" / "c.txt").read_text() == "text"


@pytest.mark.parametrize(
    "members",
    [
        [tarfile.TarInfo("../outside")],
        [tarfile.TarInfo("a/../../outside")],
        [_link("a", ".."), tarfile.TarInfo("a/outside")],
        [_link("a", "/etc")],
    ],
    ids=["dots", "dots within", "link up", "absolute link"],
)
def test_extract_stays_inside(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    archive = _tar(tmp_path / "a.tar.gz", *members)
    with pytest.raises(UserError, match=r"a.tar.gz: refused to unpack it"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "outside").exists()


def test_extract_says_that_an_archive_is_broken(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar.gz", tarfile.TarInfo("b"))
    whole = archive.read_bytes()
    for bad in (whole[:60], b"not an archive", b"", whole[:40] + b"\0\0\0\0" + whole[44:]):
        archive.write_bytes(bad)
        with pytest.raises(UserError, match=r"a.tar.gz: (not a whole tar archive|cannot be unpacked)"):
            extract(archive, tmp_path / "out")


def test_extract_a_zip_stays_inside_and_says_that_it_is_broken(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("b/c.txt", "text")
        file.writestr("../outside", "text")
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out" / "b" / "c.txt").read_text() == "text"
    assert not (tmp_path / "outside").exists()
    whole = archive.read_bytes()
    for bad in (whole[:60], b"not an archive", b"", whole.replace(b"text", b"tent")):
        archive.write_bytes(bad)
        with pytest.raises(UserError, match=r"a.zip: not a whole zip archive"):
            extract(archive, tmp_path / "out")


@pytest.mark.parametrize("suffix", ["tar.gz", "tar", "zip"])
def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_written(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"bomb.{suffix}"
    names = [f"{number}.wav" for number in range(5)]
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name in names:
                file.writestr(name, b"\0" * 200_000)
    else:
        with tarfile.open(archive, "w:gz" if suffix == "tar.gz" else "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 200_000
                tar.addfile(member, io.BytesIO(b"\0" * 200_000))
    size = archive.stat().st_size
    limits = Limits(ratio=10 if suffix != "tar" else 0, free=500_000)
    words = rf"refused to unpack it: 600000 bytes with '2\.wav', from an archive of {size} bytes; at most 500000"
    with pytest.raises(UserError, match=words):
        extract(archive, tmp_path / "out", limits=limits)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()) <= 500_000
    with pytest.raises(UserError, match="refused to unpack it: more than 4 members"):
        extract(archive, tmp_path / "out", limits=Limits(files=4))
    extract(archive, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def test_a_header_in_the_middle_that_is_damaged_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar", *(tarfile.TarInfo(name) for name in "abc"), mode="w")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:1024] + b"?" * 512 + whole[1536:])
    with pytest.raises(UserError, match=r"a\.tar: not a whole tar archive \(a damaged header"):
        extract(archive, tmp_path / "out")


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _tar(tmp_path / "a.tar", tarfile.TarInfo("a"), tarfile.TarInfo("b"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(UserError, match=r"a\.tar: not unpacked: 8 bytes, and 5 are free on the disk"):
        extract(archive, tmp_path / "out")

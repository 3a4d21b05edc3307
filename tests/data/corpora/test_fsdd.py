"""The digits, from a miniature of GitHub's archive on a loopback server."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora.fsdd import COMMIT, prepare


@pytest.fixture
def served(serve: Callable, tmp_path: Path, write_tone: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """`served(names, **server)`: an archive with these recordings."""

    def build(names: list[str], **options: object) -> object:
        top = tmp_path / f"free-spoken-digit-dataset-{COMMIT}"
        (top / "recordings").mkdir(parents=True)
        (top / "README.md").write_text("about")
        for name in names:
            write_tone(top / "recordings" / name, rate=8000, seconds=0.3)
        server = serve(**options)
        with tarfile.open(server.folder / f"{COMMIT}.tar.gz", "w:gz") as tar:
            tar.add(top, arcname=top.name)
        monkeypatch.setenv("SPEECHSSL_MIRROR_FSDD", server.address)
        return server

    return build


def test_the_official_layout(served: Callable, tmp_path: Path) -> None:
    names = ["7_theo_4.wav", "7_theo_5.wav", "0_george_12.wav", "7_theo_10.wav", "notes.wav"]
    server = served(names, cut_after=200, cuts=2)
    root = tmp_path / "root"
    utterances = list(prepare(root))
    rows = [(Path(each.audio).name, each.label, each.text, each.speaker, each.split) for each in utterances]
    assert rows == [
        ("0_george_12.wav", "0", "zero", "george", "train"),
        ("7_theo_4.wav", "7", "seven", "theo", "test"),
        ("7_theo_5.wav", "7", "seven", "theo", "train"),
        ("7_theo_10.wav", "7", "seven", "theo", "train"),
    ]
    assert {(each.language, round(each.duration, 3)) for each in utterances} == {("en", 0.3)}
    assert [start for _, start in server.requests] == [None, 200, 400]
    assert [path.name for path in root.iterdir()] == ["free-spoken-digit-dataset"]
    assert list(prepare(root)) == utterances
    assert len(server.requests) == 3


def test_an_archive_without_recordings(served: Callable, tmp_path: Path) -> None:
    served([])
    with pytest.raises(UserError, match=r"no recordings/DIGIT_SPEAKER_INDEX.wav in it; delete it to fetch it again"):
        list(prepare(tmp_path / "root"))


def test_a_wrong_archive_leaves_no_corpus(served: Callable, tmp_path: Path) -> None:
    server = served([])
    with tarfile.open(server.folder / f"{COMMIT}.tar.gz", "w:gz") as tar:
        tar.add(__file__, arcname="readme")
    with pytest.raises(UserError, match=r"no '\*/recordings' in it"):
        list(prepare(tmp_path / "root"))
    assert [path.name for path in (tmp_path / "root").iterdir()] == [f"{COMMIT}.tar.gz"]

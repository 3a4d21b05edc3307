"""The Russian corpus, with stand-ins for apt-get and dpkg-deb that serve a miniature of the package."""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.corpora import festvox_ru
from speechssl.data.corpora.festvox_ru import INFO, prepare

LINES = '( ru_0001 "Это м+ой тест." )\n( ru_0002 "И это тоже, - да!" )\n( ru_0003 "Нет файла" )\n'

# dpkg-deb -x PACKAGE FOLDER: the stand-in package is a zip.
DPKG = f"#!{sys.executable}\nimport shutil, sys\nshutil.unpack_archive(sys.argv[2], sys.argv[3], 'zip')\n"
APT = f"""#!{sys.executable}
import pathlib, shutil, sys
assert sys.argv[1:] == ["download", "festvox-ru"]
shutil.copy({{package!r}}, pathlib.Path.cwd() / "festvox-ru_1_all.deb")
"""
APT_UNKNOWN = f"#!{sys.executable}\nimport sys\nsys.exit('W: a warning\\nE: Unable to locate package festvox-ru')\n"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`tools(**{"apt-get": script, ...})` makes these the only programs there are."""
    monkeypatch.delenv("SPEECHSSL_MIRROR_FESTVOX_RU", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(**scripts: str) -> None:
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(script)
            path.chmod(0o755)

    return install


@pytest.fixture
def package(tmp_path: Path, write_tone: Callable) -> Path:
    tree = tmp_path / "tree"
    voice = tree / festvox_ru._VOICE
    for index, seconds in ((1, 0.5), (2, 0.75)):
        write_tone(voice / "wav" / f"ru_000{index}.wav", seconds=seconds)
    (voice / "etc").mkdir()
    (voice / "etc" / "txt.done.data").write_text(LINES, encoding="utf-8")
    (tree / festvox_ru._COPYRIGHT).parent.mkdir(parents=True)
    (tree / festvox_ru._COPYRIGHT).write_text("BSD-like")
    return Path(shutil.make_archive(str(tmp_path / "package"), "zip", tree))


def test_from_apt(tmp_path: Path, package: Path, tools: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    tools(apt_get=APT.format(package=str(package)), dpkg_deb=DPKG)
    root = tmp_path / "root"
    with caplog.at_level(logging.WARNING):
        first, second, third = prepare(root)
    assert first.text == "Это мой тест."
    assert first.extras == {"stressed_text": "Это м+ой тест."}
    assert (first.duration, first.speaker, first.language, first.label) == (0.5, "nsh", "ru", None)
    assert (second.text, second.extras) == ("И это тоже, - да!", {})
    assert third.duration == 0.0
    assert "3 utterances, expected 620" in caplog.text
    assert [path.name for path in root.iterdir()] == ["festvox-ru"]
    assert sorted(path.name for path in (root / "festvox-ru").iterdir()) == ["copyright", "etc", "wav"]
    tools(apt_get="#!/bin/false\n", dpkg_deb="#!/bin/false\n")
    assert list(prepare(root)) == [first, second, third], "what is unpacked is not fetched again"


def test_from_a_package_that_lies_there(tmp_path: Path, package: Path, tools: Callable[..., None]) -> None:
    tools(dpkg_deb=DPKG)
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(package, root / "festvox-ru_2_all.deb")
    assert len(list(prepare(root))) == 3
    assert (root / "festvox-ru_2_all.deb").exists(), "it is the user's"


def test_from_a_mirror(
    tmp_path: Path, package: Path, tools: Callable[..., None], serve: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(dpkg_deb=DPKG)
    server = serve(cut_after=900, cuts=1)
    shutil.copy(package, server.folder / festvox_ru._DEB)
    monkeypatch.setenv("SPEECHSSL_MIRROR_FESTVOX_RU", server.address)
    with pytest.raises(UserError, match="wrong sha256 checksum"):
        list(prepare(tmp_path / "root"))
    assert not (tmp_path / "root" / "festvox-ru").exists()
    monkeypatch.setattr(festvox_ru, "_DEB_CHECKSUM", f"sha256:{_sha256(package)}")
    assert len(list(prepare(tmp_path / "root"))) == 3
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["festvox-ru"]


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_troubles_are_one_line(tmp_path: Path, package: Path, tools: Callable[..., None]) -> None:
    root = tmp_path / "root"

    def complaint() -> str:
        with pytest.raises(UserError) as caught:
            list(prepare(root))
        assert "\n" not in str(caught.value)
        assert not (root / "festvox-ru").exists()
        assert not root.exists()
        return str(caught.value)

    assert complaint().startswith("festvox_ru needs apt-get, which Debian and Ubuntu have, and it is not here; or put")
    tools(apt_get=APT_UNKNOWN)
    assert complaint().startswith(
        "apt-get download: Unable to locate package festvox-ru; a fresh package list may help (as root: apt-get update)"
    )
    tools(apt_get=APT.format(package=str(package)))
    assert complaint().startswith("festvox_ru needs dpkg-deb")
    tools(dpkg_deb=f"#!{sys.executable}\nimport sys\nsys.exit('dpkg-deb: error: not a Debian archive')\n")
    assert complaint() == "dpkg-deb -x: dpkg-deb: error: not a Debian archive"
    tools(dpkg_deb=f"#!{sys.executable}\n")
    assert "no usr/share/festival/voices/russian/msu_ru_nsh_clunits/wav in it" in complaint()


def test_broken_transcripts_name_the_line(tmp_path: Path) -> None:
    data = tmp_path / "festvox-ru" / "etc" / "txt.done.data"
    data.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"txt.done.data: No such file"):
        list(prepare(tmp_path))
    data.write_text('( ru_0001 "да" )\nru_0002 нет\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"txt.done.data:2: given 'ru_0002 нет', allowed: "):
        list(prepare(tmp_path))


def test_the_real_package(tmp_path: Path) -> None:
    root = os.environ.get("SPEECHSSL_DATA")
    if not root or not (Path(root) / "festvox_ru" / "festvox-ru").exists():
        pytest.skip("festvox_ru does not lie under SPEECHSSL_DATA")
    utterances = list(prepare(Path(root) / "festvox_ru"))
    assert len(utterances) == INFO.utterances
    assert sum(each.duration for each in utterances) / 3600 == pytest.approx(INFO.hours, abs=0.005)

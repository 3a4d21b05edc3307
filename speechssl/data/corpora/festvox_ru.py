"""The Russian speaker of Festival: real read speech from a Debian package.

Story: 620 sentences of Russian prose read by one man ("nsh") for `msu_ru_nsh_clunits`, a unit selection voice of the
Festival synthesiser (Nickolay V. Shmyrev, 2005). The package has the recordings themselves (16 kHz, 16 bit, mono
wav), the transcripts and phone labels, so that 1.66 h of transcribed speech are available from a package manager.
Licence: BSD-like (free use, notice and names kept; the package's `copyright` file is beside the audio).
Citation: Nickolay V. Shmyrev, festvox-ru, http://sourceforge.net/projects/festlang.berlios

The package is fetched by `apt-get download` and unpacked by `dpkg-deb -x`; neither needs root. A `festvox-ru_*.deb`
in the root folder is used instead, and so is one from `SPEECHSSL_MIRROR_FESTVOX_RU` (the address of a folder
that holds it, such as http://deb.debian.org/debian/pool/main/f/festvox-ru).
"""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import rich.console

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import download, mirror, new_folder, say_fetching
from speechssl.data.manifest import Utterance
from speechssl.files import move

INFO = CorpusInfo(
    name="festvox_ru",
    story="Real: 620 sentences of Russian prose read by one man for a voice of the Festival synthesiser (2005).",
    licence="BSD-like",
    citation="Nickolay V. Shmyrev, festvox-ru, http://sourceforge.net/projects/festlang.berlios",
    source="Debian package festvox-ru",
    hours=1.66,
    utterances=620,
    speakers=1,
    synthetic=False,
)

_PACKAGE = "festvox-ru"
# The package of Debian 12; only used with a mirror, as apt-get finds its own.
_DEB = "festvox-ru_0.5+dfsg-6_all.deb"
_DEB_CHECKSUM = "sha256:21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4"
_DOWNLOADED = f".{_PACKAGE}.download"
_VOICE = Path("usr/share/festival/voices/russian/msu_ru_nsh_clunits")
_COPYRIGHT = Path("usr/share/doc/festvox-ru/copyright")
_TRANSCRIPTS = Path("etc/txt.done.data")
_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Unpacks the package at once if it is missing; then yields its utterances in the transcripts' order.

    Args:
        root: `root/festvox-ru` will hold `wav/`, `etc/txt.done.data` and `copyright`.
        settings: none.

    Returns:
        Utterances with text, speaker "nsh" and language "ru". Stress marks ("+" before the vowel) are removed from
        the text; the text with them is the extra `stressed_text`.

    Raises:
        UserError: apt-get or dpkg-deb is missing or fails, or the package is not laid out as expected.
    """
    folder = Path(root).resolve() / _PACKAGE
    if not folder.exists():
        _unpack(folder)
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    count = 0
    for name, stressed in _read_transcripts(folder / _TRANSCRIPTS):
        path = folder / "wav" / f"{name}.wav"
        text = stressed.replace("+", "")
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker="nsh",
            text=text,
            language="ru",
            extras={"stressed_text": stressed} if stressed != text else {},
        )
        count += 1
    if count != INFO.utterances:
        _log.warning("%s: %d utterances, expected %d", folder, count, INFO.utterances)


def _read_transcripts(path: Path) -> Iterator[tuple[str, str]]:
    """Festvox's own format: one `( NAME "TEXT" )` per line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; delete {path.parents[1]} to unpack it again") from None
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise UserError(f'{path}:{number}: given {line[:60]!r}, allowed: ( NAME "TEXT" )')
        yield match[1], match[2]


def _unpack(folder: Path) -> None:
    """Puts wav/, etc/ and the licence into `folder`, completely or not at all."""
    root = folder.parent
    with new_folder(root):
        _unpack_into(folder, root)


def _unpack_into(folder: Path, root: Path) -> None:
    work = root / f".{_PACKAGE}.part"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir()
    try:
        package = _find_package(root, work)
        _run(["dpkg-deb", "-x", str(package), str(work / "tree")], cwd=work, what=f"unpacking {package.name}")
        whole = work / "whole"
        whole.mkdir()
        for part in (_VOICE / "wav", _VOICE / "etc", _COPYRIGHT):
            if not (work / "tree" / part).exists():
                raise UserError(f"{package.name}: no {part} in it; another version than the supported one?")
            move(work / "tree" / part, whole / part.name)
        move(whole, folder)
        shutil.rmtree(root / _DOWNLOADED, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _find_package(root: Path, work: Path) -> Path:
    """The package: in `root`, from a mirror, or from apt-get."""
    lying = sorted(root.glob(f"{_PACKAGE}_*.deb"))
    if lying:
        return lying[-1]
    say_fetching(root, _PACKAGE, f"{_PACKAGE}_*.deb")
    if os.environ.get("SPEECHSSL_MIRROR_FESTVOX_RU"):
        path = root / _DOWNLOADED / _DEB  # not in the work folder, so that a broken download can be resumed
        download(mirror("festvox_ru", "") + _DEB, path, checksum=_DEB_CHECKSUM)
        return path
    _run(["apt-get", "download", _PACKAGE], cwd=work, what=f"apt-get download {_PACKAGE} (179 MB)")
    return next(work.glob(f"{_PACKAGE}_*.deb"))


def _run(command: Sequence[str], *, cwd: Path, what: str) -> None:
    """Runs a Debian tool; its errors become one line with what to do."""
    hint = f"or put {_DEB} into {cwd.parent}, or set SPEECHSSL_MIRROR_FESTVOX_RU"
    if shutil.which(command[0]) is None:
        raise UserError(f"festvox_ru needs {command[0]}, which Debian and Ubuntu have, and it is not here; {hint}")
    with rich.console.Console(stderr=True).status(what):
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    said = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
    reason = (said or done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
    if command[0] == "apt-get":
        reason = f"{reason}; a fresh package list may help (as root: apt-get update), {hint}"
    raise UserError(f"{' '.join(command[:2])}: {reason}")

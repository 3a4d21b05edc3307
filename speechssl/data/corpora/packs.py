"""Packs of real speech: a corpus as a few plain tars with a `metadata.jsonl` beside them.

`SPEECHSSL_PACKS` is a folder with one folder per corpus. The tars hold the audio; each line of the metadata is
one utterance as `folder` reads it (`audio` relative to the tar's root, `duration`, `speaker`, `text`, `label`,
`language`, `split`; all else becomes extras). An unpacked pack is used in place.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.corpora.download import extract
from speechssl.data.corpora.folder import prepare as prepare_folder
from speechssl.data.corpora.folder_metadata import read_metadata
from speechssl.data.utterance import Utterance
from speechssl.files import replacing_path

_METADATA = "metadata.jsonl"


def find_pack(name: str) -> Path | None:
    """The folder of a pack below `SPEECHSSL_PACKS`; None when the variable is unset or there is no such pack.

    Args:
        name: of the pack.

    Raises:
        UserError: the variable names no folder.

    >>> find_pack("no-such-pack") is None
    True
    """
    packs = os.environ.get("SPEECHSSL_PACKS")
    if not packs:
        return None
    if not Path(packs).is_dir():
        raise UserError(f"SPEECHSSL_PACKS: given {packs!r}, allowed: a folder of packs")
    folder = Path(packs, name).resolve()
    return folder if (folder / _METADATA).is_file() else None


def unpack_pack(name: str, root: Path) -> Path | None:
    """Unpacks a pack below a corpus's root, once, completely or not at all.

    Args:
        name: of the pack.
        root: the corpus's folder; the pack is unpacked into `root/NAME.pack`.

    Returns:
        The unpacked folder; the pack's own when it has no tars; None when there is no such pack.

    Raises:
        UserError: a tar is broken, or has a member outside of it.

    >>> unpack_pack("no-such-pack", Path("root")) is None
    True
    """
    folder = Path(root).resolve() / f"{name}.pack"
    if folder.is_dir():
        return folder
    pack = find_pack(name)
    if pack is None:
        return None
    archives = sorted(pack.glob("*.tar"))
    if not archives or _lies_unpacked(pack):
        return pack
    with replacing_path(folder, flush=False) as work:
        for archive in archives:
            extract(archive, work)
        for text in (_METADATA, "README.md"):  # the licence stays with the copy
            if (pack / text).is_file():
                shutil.copyfile(pack / text, work / text)
    return folder


def pack_utterances(folder: Path) -> Iterator[Utterance]:
    """The utterances of an unpacked pack, in the order of its metadata.

    Args:
        folder: from `unpack_pack`.

    Yields:
        Utterances with absolute paths; a file that is missing or broken has duration 0.0, so that packing gives the
        reason.

    Raises:
        UserError: the metadata cannot be read, or none of its files exists.
    """
    return prepare_folder(folder)


def _lies_unpacked(pack: Path) -> bool:
    rows = read_metadata(pack / _METADATA)
    return bool(rows) and rows[0].path.is_file() and rows[-1].path.is_file()

"""What is beside a file that is not there: recordings whose names differ in the suffix or in capitals alone."""

import os
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from speechssl.audio.formats import AUDIO_SUFFIXES, FOREIGN_SUFFIXES

NO_FILE = "no such file"
THERE = "; there is "
"""What is between `NO_FILE` and the name of a neighbour, in a reason."""


def no_file(path: str | Path) -> str:
    """The reason for a file that is not there, with the recording of the same name beside it where there is one.

    A folder is listed once until it changes.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "a01.wav").touch()
    ...     no_file(folder + "/a01.mp3"), no_file(folder + "/A01"), no_file(folder + "/a02.wav")
    ('no such file; there is a01.wav', 'no such file; there is a01.wav', 'no such file')
    """
    name, folder = Path(path).name, Path(path).parent
    try:
        beside = _recordings(str(folder), folder.stat().st_mtime_ns)
    except (OSError, ValueError):
        return NO_FILE
    for wanted in (_known(name), _known(os.path.splitext(name)[0])):  # noqa: PTH122 -- as in `_recordings`
        if wanted in beside:
            return f"{NO_FILE}{THERE}{beside[wanted]}"
    return NO_FILE


@lru_cache(maxsize=64)
def _recordings(folder: str, changed: int) -> Mapping[str, str]:  # noqa: ARG001 (listed anew when the folder changes)
    """The first recording of a folder by each name, with and without its suffix."""
    found: dict[str, str] = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 -- names alone, of many files
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 -- a million times
        if suffix.lower() in AUDIO_SUFFIXES | FOREIGN_SUFFIXES:
            found.setdefault(_known(name), name)
            found.setdefault(_known(stem), name)
    return found


def _known(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()

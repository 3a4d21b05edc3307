"""The Free Spoken Digit Dataset: real recordings of the digits 0 to 9.

Story: six men say each digit 50 times into their own microphones; closely trimmed, 8 kHz, mono wav. Small and easy, for
first tests of few-label word recognition with disjoint speakers.
Licence: CC BY-SA 4.0 (share-alike: changed copies of the audio keep the licence).
Citation: Zohar Jackson et al., Free Spoken Digit Dataset v1.0.10,
https://github.com/Jakobovski/free-spoken-digit-dataset

Layout: `recordings/{digit}_{speaker}_{index}.wav`. Recordings 0 to 4 of each digit and speaker are the official test
set.
The archive is GitHub's of a fixed commit; a mirror (`SPEECHSSL_MIRROR_FSDD`) serves `COMMIT.tar.gz`.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="fsdd",
    story="Real: six men say the digits 0 to 9, 50 times each, into their own microphones (8 kHz).",
    licence="CC BY-SA 4.0",
    citation="Zohar Jackson et al., Free Spoken Digit Dataset, v1.0.10",
    source="https://github.com/Jakobovski/free-spoken-digit-dataset",
    hours=0.36,
    utterances=3000,
    speakers=6,
    synthetic=False,
)

_BASE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive"
COMMIT = "d6938f9bf1545aa66d8489fc9f1385a7abd64282"  # tag v1.0.10
_FOLDER = "free-spoken-digit-dataset"
_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEST_INDICES = range(5)

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Fetch the archive when it is not there yet, at once; then yield its utterances by speaker, digit and index.

    Args:
        root: holds `free-spoken-digit-dataset/recordings` (as a clone of the repository does), or will.
        settings: none.

    Returns:
        Utterances with label (the digit), text (its English word), speaker, language "en" and the official split.

    Raises:
        UserError: the download or the archive fails.
    """
    folder = Path(root).resolve() / _FOLDER
    if not folder.exists():
        say_fetching(folder.parent, f"{_FOLDER}/recordings")
        # GitHub guarantees no checksum, but the commit identifies the content, and gzip's own checksum detects damage.
        fetch_folder(f"{mirror('fsdd', _BASE)}{COMMIT}.tar.gz", folder, holds="*/recordings")
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    names = [match for path in (folder / "recordings").glob("*.wav") if (match := _NAME.fullmatch(path.name))]
    if not names:
        raise UserError(f"{folder}: no recordings/DIGIT_SPEAKER_INDEX.wav in it; delete it to fetch it again")
    if len(names) != INFO.utterances:
        _log.warning("%s: %d recordings, expected %d", folder, len(names), INFO.utterances)
    for match in sorted(names, key=lambda each: (each[2], each[1], int(each[3]))):
        path = folder / "recordings" / match[0]
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=match[2],
            text=_WORDS[int(match[1])],
            label=match[1],
            language="en",
            split="test" if int(match[3]) in _TEST_INDICES else "train",
        )

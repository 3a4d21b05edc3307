"""RAVDESS, the speech part: acted English, two sentences in eight emotions.

Story: 24 actors say "Kids are talking by the door" and "Dogs are sitting by the door" in eight emotions, twice each,
at two intensities (neutral has one). 1,440 clips, 60 per actor.
Licence: CC BY-NC-SA 4.0 (not for commercial use; share-alike).
Citation: Livingstone, Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)", PLoS ONE
13(5): e0196391, 2018.

Layout, as published: `Actor_01/03-01-06-01-02-01-12.wav` is modality (03: audio), channel (01: speech), emotion,
intensity, sentence, repetition, actor (odd: man). Known: two happy clips of actor 07 are the same recording.
It also comes as the pack `ravdess` (`SPEECHSSL_PACKS`). A mirror (`SPEECHSSL_MIRROR_RAVDESS`) serves
`Audio_Speech_Actors_01-24.zip`. There is no official split: keep actors apart.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="ravdess",
    story="Real: 24 North American actors say two sentences in eight emotions, at two intensities.",
    licence="CC BY-NC-SA 4.0",
    citation="Livingstone and Russo, RAVDESS, PLoS ONE 13(5): e0196391, 2018",
    source="https://zenodo.org/records/1188976",
    hours=1.48,
    utterances=1440,
    speakers=24,
    synthetic=False,
)

_BASE = "https://zenodo.org/records/1188976/files"
_ARCHIVE = "Audio_Speech_Actors_01-24.zip"
CHECKSUM = "md5:bc696df654c87fed845eb13823edef8a"  # as Zenodo's page of record 1188976 gives it
_NAME = re.compile(r"03-01-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)\.wav")
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_SENTENCES = ("kids are talking by the door", "dogs are sitting by the door")
_INTENSITIES = ("normal", "strong")

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Find, unpack or fetch the recordings, at once; then yield them by actor and name.

    Args:
        root: holds `Actor_01` to `Actor_24`, itself or in `Audio_Speech_Actors_01-24`, or will.
        settings: none.

    Returns:
        Utterances with label, speaker ("01" to "24"), text, language "en"; extras `sex`, `intensity` ("normal" or
        "strong"), `sentence` and `repetition`.

    Raises:
        UserError: the download or the archive fails, or there are no recordings in the folders.
    """
    root = Path(root).resolve()
    folder = next((each for each in (root, root / _ARCHIVE.removesuffix(".zip")) if any(each.glob("Actor_*"))), None)
    if folder is None:
        pack = unpack_pack("ravdess", root)
        if pack is not None:
            return pack_utterances(pack)
        folder = root / _ARCHIVE.removesuffix(".zip")
        say_fetching(root, "Actor_*", f"{folder.name}/Actor_*")
        fetch_folder(f"{mirror('ravdess', _BASE)}{_ARCHIVE}", folder, holds="Actor_*", checksum=CHECKSUM)
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    paths = [path for path in sorted(folder.glob("Actor_*/*.wav")) if _NAME.fullmatch(path.name)]
    if not paths:
        raise UserError(f"{folder}: no Actor_NN/03-01-*.wav in it")
    if len(paths) != INFO.utterances:
        _log.warning("%s: %d recordings, expected %d", folder, len(paths), INFO.utterances)
    for path in paths:
        emotion, intensity, sentence, repetition, actor = (int(part) for part in path.stem.split("-")[2:])
        if not (1 <= emotion <= len(_EMOTIONS) and intensity in (1, 2) and sentence in (1, 2)):
            _log.warning("%s: not a name of the corpus; skipped", path)
            continue
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=f"{actor:02d}",
            text=_SENTENCES[sentence - 1],
            label=_EMOTIONS[emotion - 1],
            language="en",
            extras={
                "sex": "male" if actor % 2 else "female",
                "intensity": _INTENSITIES[intensity - 1],
                "sentence": f"{sentence:02d}",
                "repetition": repetition,
            },
        )

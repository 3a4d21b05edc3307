"""The Berlin Database of Emotional Speech (EmoDB): acted German.

Story: ten actors speak ten everyday sentences in seven emotions in an anechoic room; recordings that listeners
recognised and found natural were kept. The words do not depend on the emotion, so only the voice shows it.
Licence: CC0 1.0.
Citation: Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss, "A Database of German Emotional Speech", Interspeech 2005.

Layout, as published: `wav/03a01Fa.wav` is speaker, sentence, emotion (a German initial) and version.
Four of the emotions also come as the pack `emodb4` (`SPEECHSSL_PACKS`). A mirror (`SPEECHSSL_MIRROR_EMODB`) serves
`download.zip`. There is no official split: keep speakers apart.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="emodb",
    story="Real: ten German actors speak ten sentences angry, happy, neutral and sad (three more emotions on demand).",
    licence="CC0 1.0",
    citation="Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
    source="http://emodb.bilderbar.info",
    hours=0.27,
    utterances=339,
    speakers=10,
    synthetic=False,
)

_BASE = "http://emodb.bilderbar.info/download"
_ARCHIVE = "download.zip"
_FOLDER = "emodb"
_PACK = "emodb4"
_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])\.wav")
_EMOTIONS: Mapping[str, str] = MappingProxyType(
    {  # initials of Wut, Freude, Neutral, Trauer, Langeweile, Ekel, Angst
        "W": "angry",
        "F": "happy",
        "N": "neutral",
        "T": "sad",
        "L": "bored",
        "E": "disgust",
        "A": "fearful",
    }
)
_FOUR = "WFNT"
_EXPECTED = MappingProxyType({"four": 339, "all": 535})
_AGES: Mapping[str, int] = MappingProxyType(  # years; the corpus's own table of speakers
    {"03": 31, "08": 34, "09": 21, "10": 32, "11": 26, "12": 30, "13": 32, "14": 35, "15": 25, "16": 31}
)
_WOMEN = frozenset({"08", "09", "13", "14", "16"})

_log = logging.getLogger(__name__)


class Settings(Config):
    """Options of EmoDB.

    Attributes:
        classes: "four" is angry, happy, neutral and sad, which other corpora have, too (339 utterances); "all" adds
            bored, disgust and fearful (535).
    """

    classes: Literal["four", "all"] = "four"


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: B008 -- settings are frozen
    """Find, unpack or fetch the recordings, at once; then yield them by name.

    Args:
        root: holds `wav/`, itself or in `emodb`, or will.
        settings: see `Settings`.

    Returns:
        Utterances with label, speaker, language "de"; extras `sentence` (its code), `sex` and `age` (years).

    Raises:
        UserError: the download or the archive fails, or there are no recordings in the folder.
    """
    root = Path(root).resolve()
    folder = next((each for each in (root, root / _FOLDER) if (each / "wav").is_dir()), None)
    if folder is None:
        pack = unpack_pack(_PACK, root) if settings.classes == "four" else None
        if pack is not None:
            return pack_utterances(pack)
        folder = root / _FOLDER
        say_fetching(root, "wav", f"{_FOLDER}/wav")
        # The publisher gives no checksum; a zip has one of each file.
        fetch_folder(f"{mirror('emodb', _BASE)}{_ARCHIVE}", folder, holds="wav")
    return _read(folder / "wav", settings.classes)


def _read(folder: Path, classes: str) -> Iterator[Utterance]:
    initials = _FOUR if classes == "four" else "".join(_EMOTIONS)
    names = [match for path in sorted(folder.glob("*.wav")) if (match := _NAME.fullmatch(path.name))]
    names = [match for match in names if match[3] in initials]
    if not names:
        raise UserError(f"{folder}: no SPEAKER SENTENCE EMOTION VERSION.wav such as 03a01Fa.wav in it")
    if len(names) != _EXPECTED[classes]:
        _log.warning("%s: %d recordings, expected %d", folder, len(names), _EXPECTED[classes])
    for match in names:
        path = folder / match[0]
        age = {"age": _AGES[match[1]]} if match[1] in _AGES else {}
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=match[1],
            label=_EMOTIONS[match[3]],
            language="de",
            extras={"sex": "female" if match[1] in _WOMEN else "male", **age, "sentence": match[2]},
        )

"""CREMA-D: acted English, twelve sentences in six emotions, 91 actors of many ages and backgrounds.

Story: actors between 20 and 74 years say twelve sentences in six emotions, at one of four levels; crowd workers rated
the recordings. The label here is the intended emotion.
Licence: Open Database License (ODbL) 1.0.
Citation: Cao, Cooper, Keutmann, Gur, Nenkova, Verma, "CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset", IEEE
Transactions on Affective Computing 5(4), 2014.

Layout, as published: `AudioWAV/1001_DFA_ANG_XX.wav` is actor, sentence, emotion and level; `VideoDemographics.csv` has
the actors' sex and age. Known: `1076_MTI_SAD_XX.wav` is silent. The repository stores its audio in Git LFS, which
archives do not include, so it must be cloned. There is no official split: keep actors apart.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance
from speechssl.data.tables import open_table

INFO = CorpusInfo(
    name="crema_d",
    story="Real: 91 actors of many ages and backgrounds say twelve English sentences in six emotions.",
    licence="ODbL 1.0",
    citation="Cao et al., CREMA-D, IEEE Transactions on Affective Computing 5(4), 2014",
    source="https://github.com/CheyneyComputerScience/CREMA-D",
    hours=5.26,
    utterances=7442,
    speakers=91,
    synthetic=False,
)

_FOLDER = "CREMA-D"
_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})\.wav")
_EMOTIONS: Mapping[str, str] = MappingProxyType(
    {"ANG": "angry", "DIS": "disgust", "FEA": "fearful", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
)
_LEVELS: Mapping[str, str] = MappingProxyType({"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"})
_SENTENCES: Mapping[str, str] = MappingProxyType(  # as the corpus's README lists them
    {
        "IEO": "It's eleven o'clock",
        "TIE": "That is exactly what happened",
        "IOM": "I'm on my way to the meeting",
        "IWW": "I wonder what this is about",
        "TAI": "The airplane is almost full",
        "MTI": "Maybe tomorrow it will be cold",
        "IWL": "I would like a new alarm clock",
        "ITH": "I think I have a doctor's appointment",
        "DFA": "Don't forget a jacket",
        "ITS": "I think I've seen this before",
        "TSI": "The surface is slick",
        "WSI": "We'll stop in a couple of minutes",
    }
)

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Yield the recordings by name.

    Args:
        root: holds `AudioWAV/`, itself or in `CREMA-D` (a clone).
        settings: none.

    Returns:
        Utterances with label, speaker ("1001" to "1091"), text, language "en"; extras `sentence` (its code), `level`
        and, where VideoDemographics.csv is there, `sex` and `age` (years).

    Raises:
        UserError: the recordings are missing, or are pointers of Git LFS.
    """
    root = Path(root).resolve()
    folder = next((each for each in (root, root / _FOLDER) if (each / "AudioWAV").is_dir()), None)
    if folder is None:
        pack = unpack_pack("crema_d", root)
        if pack is not None:
            return pack_utterances(pack)
        raise UserError(
            f"{root}: no AudioWAV in it; fetch CREMA-D with "
            f"`git lfs install && git clone --depth 1 {INFO.source} {root / _FOLDER}`"
        )
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    names = [match for path in sorted((folder / "AudioWAV").glob("*.wav")) if (match := _NAME.fullmatch(path.name))]
    names = [match for match in names if match[3] in _EMOTIONS]
    if not names:
        raise UserError(f"{folder / 'AudioWAV'}: no ACTOR_SENTENCE_EMOTION_LEVEL.wav in it")
    if (folder / "AudioWAV" / names[0][0]).read_bytes()[:8] == b"version ":
        raise UserError(f"{folder}: its wav files are pointers of Git LFS; run `git lfs pull` in it")
    if len(names) != INFO.utterances:
        _log.warning("%s: %d recordings, expected %d", folder / "AudioWAV", len(names), INFO.utterances)
    actors = _read_actors(folder / "VideoDemographics.csv")
    for match in names:
        path = folder / "AudioWAV" / match[0]
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=match[1],
            text=_SENTENCES.get(match[2]),
            label=_EMOTIONS[match[3]],
            language="en",
            extras={
                **actors.get(match[1], {}),
                "sentence": match[2],
                "level": _LEVELS.get(match[4], match[4]),
            },
        )


def _read_actors(path: Path) -> Mapping[str, dict[str, str | int]]:
    """VideoDemographics.csv: ActorID, Age, Sex, Race, Ethnicity."""
    if not path.is_file():
        return {}
    table = open_table(path)
    found: dict[str, dict[str, str | int]] = {}
    for each in table.rows():
        row = dict(zip(table.columns, each.values, strict=True))
        sex, age = (row.get("Sex") or "").strip().lower(), (row.get("Age") or "").strip()
        known: dict[str, str | int] = {"sex": sex} if sex else {}
        found[(row.get("ActorID") or "").strip()] = known | ({"age": int(age)} if age.isdecimal() else {})
    return found

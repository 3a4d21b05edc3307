"""speechocean762: short English sentences read by 250 Mandarin speakers, half of them children.

Story: recorded to score pronunciation; nearly every sentence is different and the speakers of train and test do not
overlap, so that it is a good small corpus for recognition. Learners may have misread a prompt.
Licence: free for commercial and non-commercial use, as its README says.
Citation: Zhang, Zhang, Wang, Yan, Song, Huang, Li, Povey, Wang, "speechocean762: An Open-Source Non-native English
Speech Corpus For Pronunciation Assessment", Interspeech 2021, arXiv 2104.01378.

Layout, as published (OpenSLR 101): `speechocean762/WAVE/SPEAKER0001/000010011.WAV`; `train/` and `test/` are Kaldi
folders with `wav.scp`, `text`, `utt2spk`, `spk2age`, `spk2gender`. Recordings that they do not list are left out.
It also comes as the pack `speechocean762` (`SPEECHSSL_PACKS`). A mirror (`SPEECHSSL_MIRROR_SPEECHOCEAN762`) serves
`speechocean762.tar.gz`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="speechocean762",
    story="Real: 250 native speakers of Mandarin, half of them children, read short English sentences; transcribed.",
    licence="free for commercial and non-commercial use",
    citation="Zhang et al., speechocean762, Interspeech 2021",
    source="https://www.openslr.org/101",
    hours=5.57,
    utterances=5000,
    speakers=250,
    synthetic=False,
)

_BASE = "https://www.openslr.org/resources/101"
_NAME = "speechocean762"
_SPLITS = ("train", "test")
_SEXES = {"m": "male", "f": "female"}

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Find, unpack or fetch the recordings, at once; then yield the official train and test utterances.

    Args:
        root: holds `WAVE/`, `train/` and `test/`, itself or in `speechocean762`, or will.
        settings: none.

    Returns:
        Utterances with text (lower case), speaker, language "en" and the official split; extras `sex`, `age` (years).

    Raises:
        UserError: the download or the archive fails, or a list is missing.
    """
    root = Path(root).resolve()
    folder = next((each for each in (root, root / _NAME) if (each / "WAVE").is_dir()), None)
    if folder is None:
        pack = unpack_pack(_NAME, root)
        if pack is not None:
            return pack_utterances(pack)
        folder = root / _NAME
        say_fetching(root, "WAVE", f"{_NAME}/WAVE")
        # OpenSLR guarantees no checksum; gzip's own detects damage.
        fetch_folder(f"{mirror(_NAME, _BASE)}{_NAME}.tar.gz", folder, holds=f"{_NAME}/WAVE")
    return _read(folder)


def _read(folder: Path) -> Iterator[Utterance]:
    tables = {split: _read_table(folder / split / "wav.scp") for split in _SPLITS}
    count = sum(len(table) for table in tables.values())
    if count != INFO.utterances:
        _log.warning("%s: %d utterances in its lists, expected %d", folder, count, INFO.utterances)
    for split, table in tables.items():
        texts = _read_table(folder / split / "text")
        speakers = _read_table(folder / split / "utt2spk")
        ages = _read_table(folder / split / "spk2age", optional=True)
        sexes = _read_table(folder / split / "spk2gender", optional=True)
        for name in sorted(table):
            path = folder / table[name]
            speaker = speakers.get(name)
            age = ages.get(speaker or "", "")
            sex = _SEXES.get(sexes.get(speaker or "", "").lower())
            yield Utterance(
                audio=str(path),
                duration=duration_of(path),
                speaker=speaker,
                text=texts[name].lower() if name in texts else None,
                language="en",
                split=split,
                extras={
                    **({"sex": sex} if sex is not None else {}),
                    **({"age": int(age)} if age.isdecimal() else {}),
                },
            )


def _read_table(path: Path, *, optional: bool = False) -> dict[str, str]:
    """A Kaldi table: one `KEY VALUE` per line, blanks or a tab between them."""
    if optional and not path.exists():
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; delete the corpus's folder to fetch it again") from None
    pairs = [line.split(maxsplit=1) for line in lines]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}

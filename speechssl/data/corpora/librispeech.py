"""LibriSpeech, and the subsets of 10 min, 1 h and 10 h of Libri-Light for few-label results.

Story: volunteers read English books for LibriVox; Panayotov et al. cut 960 h of it into transcribed utterances, "clean"
and "other" by the error rate of a recogniser of 2015 on the speaker. Libri-Light (Kahn et al.) chose small labelled
subsets.
Licence: CC BY 4.0 (LibriSpeech; the Libri-Light subsets are taken from it).
Citation: Panayotov, Chen, Povey, Khudanpur, "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP
2015; Kahn et al., "Libri-Light: A Benchmark for ASR with Limited or No Supervision", ICASSP 2020, arXiv 1912.07875.

Layouts, as published: `LibriSpeech/SUBSET/SPEAKER/CHAPTER/*.flac`, `*.trans.txt`, and `LibriSpeech/SPEAKERS.TXT`;
`librispeech_finetuning/{1h/0..5,9h}/{clean,other}/SPEAKER/CHAPTER/...`. 10min is
1h/0, 1h is all of 1h, 10h is 1h and 9h.
`torchaudio.datasets` reads the same layouts, and the tests compare with it; it is not used here because its downloads
do not resume and take no other address, and because one missing transcript ends its run.
Addresses: `SPEECHSSL_MIRROR_LIBRISPEECH` and `SPEECHSSL_MIRROR_LIBRILIGHT`.
"""

import dataclasses
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pydantic

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import download, extract, mirror, say_fetching
from speechssl.data.corpora.folder_walk import visible_files
from speechssl.data.manifest import Utterance
from speechssl.files import move

INFO = CorpusInfo(
    name="librispeech",
    story="Real: volunteers read English books for LibriVox; cut and transcribed. With Libri-Light's few-label sets.",
    licence="CC BY 4.0",
    citation="Panayotov et al., LibriSpeech, ICASSP 2015; Kahn et al., Libri-Light, ICASSP 2020",
    source="https://www.openslr.org/12",
    hours=100.6,
    utterances=28539,
    speakers=251,
    synthetic=False,
)

_BASE = "https://www.openslr.org/resources/12"
_LIMITED_BASE = "https://dl.fbaipublicfiles.com/librilight/data"
_LIMITED_ARCHIVE = "librispeech_finetuning"

Subset = Literal[
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "10min",
    "1h",
    "10h",
]


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive of LibriSpeech.

    Attributes:
        checksum: as torchaudio 2.11 has it.
        utterances: their number (openslr.org/12).
    """

    checksum: str
    utterances: int


ARCHIVES: Mapping[str, Archive] = MappingProxyType(
    {
        "dev-clean": Archive("sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 2703),
        "dev-other": Archive("sha256:12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365", 2864),
        "test-clean": Archive("sha256:39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 2620),
        "test-other": Archive("sha256:d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29", 2939),
        "train-clean-100": Archive("sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 28539),
        "train-clean-360": Archive("sha256:146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf", 104014),
        "train-other-500": Archive("sha256:ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2", 148688),
    }
)
LIMITED_CHECKSUM = "sha256:5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af"  # torchaudio 2.11
_LIMITED_FOLDERS = {"10min": ("1h/0",), "1h": ("1h",), "10h": ("1h", "9h")}

_log = logging.getLogger(__name__)


class Settings(Config):
    """Options of LibriSpeech.

    Attributes:
        subsets: subsets, in this order; "10min", "1h" and "10h" are Libri-Light's.
    """

    subsets: Annotated[tuple[Subset, ...], pydantic.Field(min_length=1)] = ("train-clean-100",)


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: B008 -- settings are frozen
    """Fetches missing subsets at once; then yields the utterances, sorted by path.

    Args:
        root: holds `LibriSpeech/` and `librispeech_finetuning/`, or will.
        settings: see `Settings`.

    Returns:
        Utterances with text (upper case, as published), speaker, language "en" and split ("train", "dev", "test");
        extras `subset`, `chapter` and, where SPEAKERS.TXT is there, `sex`. Without a transcript the text is None.

    Raises:
        UserError: a download or an archive fails, or a subset is empty.
    """
    root = Path(root).resolve()
    for subset in settings.subsets:
        if subset not in ARCHIVES:
            if not (root / _LIMITED_ARCHIVE).exists():
                say_fetching(root, _LIMITED_ARCHIVE)
                _fetch_limited(root)
        elif not (root / "LibriSpeech" / subset).exists():
            say_fetching(root, f"LibriSpeech/{subset}")
            _fetch_subset(root, subset)
    return _read_all(root, settings.subsets)


def _read_all(root: Path, subsets: Sequence[str]) -> Iterator[Utterance]:
    sexes = _read_sexes(root / "LibriSpeech" / "SPEAKERS.TXT")
    for subset in dict.fromkeys(subsets):
        if subset in ARCHIVES:
            folders = [root / "LibriSpeech" / subset]
        else:
            folders = [root / _LIMITED_ARCHIVE / name for name in _LIMITED_FOLDERS[subset]]
        yield from _read(folders, subset, sexes=sexes)


def _read(folders: Sequence[Path], subset: str, *, sexes: Mapping[str, str]) -> Iterator[Utterance]:
    paths = [path for folder in folders for path in visible_files(folder, "**/*-*-*.flac")]
    if not paths:
        raise UserError(f"{folders[0]}: no flac files in it; delete it to fetch {subset} again")
    if subset in ARCHIVES and len(paths) != ARCHIVES[subset].utterances:
        _log.warning("%s: %d utterances, expected %d", folders[0], len(paths), ARCHIVES[subset].utterances)
    transcripts: dict[str, str] = {}
    chapter_folder: Path | None = None
    for path in paths:
        if path.parent != chapter_folder:
            chapter_folder = path.parent
            transcripts = _read_transcripts(chapter_folder)
        speaker, chapter, _ = path.stem.split("-", 2)
        sex = {"sex": sexes[speaker]} if speaker in sexes else {}
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=speaker,
            text=transcripts.get(path.stem),
            language="en",
            split=subset.split("-")[0] if subset in ARCHIVES else "train",
            extras={"subset": subset, "chapter": chapter, **sex},
        )


def _read_transcripts(folder: Path) -> dict[str, str]:
    """All of a chapter: one `ID TEXT` per line."""
    lines = [line for path in visible_files(folder, "*.trans.txt") for line in path.read_text("utf-8").splitlines()]
    return {name: text.strip() for name, _, text in (line.partition(" ") for line in lines) if text.strip()}


def _read_sexes(path: Path) -> dict[str, str]:
    """SPEAKERS.TXT: one `ID | SEX | SUBSET | MINUTES | NAME` per line, comments after ";"."""
    if not path.exists():
        return {}
    names = {"F": "female", "M": "male"}
    rows = [line.split("|") for line in path.read_text("utf-8").splitlines() if not line.startswith(";")]
    return {row[0].strip(): names[row[1].strip()] for row in rows if len(row) > 1 and row[1].strip() in names}


def _fetch_subset(root: Path, subset: str) -> None:
    """One archive: the subset's folder and, beside it, the texts about the whole corpus."""
    work = _fetch(root, f"{mirror('librispeech', _BASE)}{subset}.tar.gz", checksum=ARCHIVES[subset].checksum)
    unpacked = work / "LibriSpeech"
    if not (unpacked / subset).is_dir():
        raise UserError(f"{subset}.tar.gz: no LibriSpeech/{subset} in it")
    (root / "LibriSpeech").mkdir(exist_ok=True)
    for text in unpacked.glob("*.TXT"):
        move(text, root / "LibriSpeech" / text.name)
    move(unpacked / subset, root / "LibriSpeech" / subset)
    _clean(root, work)


def _fetch_limited(root: Path) -> None:
    url = f"{mirror('librilight', _LIMITED_BASE)}{_LIMITED_ARCHIVE}.tgz"
    work = _fetch(root, url, checksum=LIMITED_CHECKSUM)
    if not (work / _LIMITED_ARCHIVE).is_dir():
        raise UserError(f"{url}: no folder {_LIMITED_ARCHIVE} in it")
    move(work / _LIMITED_ARCHIVE, root / _LIMITED_ARCHIVE)
    _clean(root, work)


def _fetch(root: Path, url: str, *, checksum: str) -> Path:
    """Downloads and unpacks an archive; returns the folder with its content."""
    archive = root / url.rpartition("/")[2]
    download(url, archive, checksum=checksum)
    work = root / f".{archive.name}.unpacked"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    extract(archive, work)
    return work


def _clean(root: Path, work: Path) -> None:
    """Removes the archive and the rest of its content."""
    shutil.rmtree(work)
    (root / work.name.removeprefix(".").removesuffix(".unpacked")).unlink()

"""Any folder of audio: the user's own recordings, or packs of corpora.

Story: whatever lies there. What is known about the clips comes from a `metadata.csv` or `metadata.jsonl` at the root or
in sub-folders, else from the names of the sub-folders (the audiofolder convention of Hugging Face datasets).
Licence and citation: those of the recordings.

With metadata: every line is an utterance; columns `file_name` (or `audio`), `text`, `label`, `speaker`, `language`,
`split`, `offset` and `duration` (s), all others become extras. Where several sub-folders have metadata of their own,
each is a corpus of its own ("pack"): speakers are prefixed with the sub-folder's name, for ids are only unique within a
corpus, and the extra `corpus` names it. Sub-folders called train, test and so on are splits, not packs.
Without metadata: every audio file is an utterance; the label is the sub-folder's name when all clips lie exactly one
level down in at least two sub-folders, or two levels down below split folders.
"""

import functools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

from speechssl.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.folder_metadata import METADATA_NAMES, MetadataRow, read_metadata
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="folder",
    story="Any folder of audio files, labelled by metadata.csv, metadata.jsonl or the names of its sub-folders.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_SPLIT_NAMES = frozenset("train training dev devel development valid validation val eval test testing".split())  # noqa: SIM905
_END_TOLERANCE = 0.05  # s; a stated duration this near the file's own means the whole file

_log = logging.getLogger(__name__)


class Settings(Config):
    """Options of a folder.

    Attributes:
        only: names of sub-folders of the root to read; empty for all.
        prefix_speakers: whether the sub-folder's name goes before the speaker: "auto" does so for packs (see above).
    """

    only: tuple[str, ...] = ()
    prefix_speakers: Literal["auto", "always", "never"] = "auto"


def prepare(
    root: Path,
    settings: Settings = Settings(),  # noqa: B008 -- settings are frozen
    *,
    probe: Callable[[Path], float] | None = duration_of,
) -> Iterator[Utterance]:
    """Yield the utterances of a folder, in the order of their paths or of the metadata.

    Hidden files and folders are passed over, links are followed, loops of links are survived.

    Args:
        root: the folder.
        settings: see `Settings`.
        probe: tells the duration of a file, s. None: no file is opened, and a duration is what the metadata says, or
            0.0: not known.

    Yields:
        Utterances. A file that is missing or cannot be read has duration 0.0, so that packing gives the reason.

    Raises:
        UserError: no such folder, no audio in it, broken metadata, or metadata that names no file that is there.
    """
    root = Path(root).resolve()
    files = _list_files(root, settings.only)
    metadata = [path for path in files if path.name in METADATA_NAMES]
    if metadata:
        yield from _with_metadata(root, files, metadata, settings=settings, probe=probe)
    else:
        yield from _without_metadata(root, files, probe=probe)


def sound_files(root: Path) -> list[Path]:
    """Every file below a folder that has the suffix of a sound file, by path; metadata is not read.

    Raises:
        UserError: no such folder.
    """
    return [path for path in _list_files(Path(root), ()) if _is_audio(path)]


def _list_files(root: Path, only: Sequence[str]) -> list[Path]:
    """All files that are not hidden, sorted; each folder once, however many links lead to it."""
    if not root.is_dir():
        raise UserError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    for name in only:
        if not (root / name).is_dir():
            raise UserError(f"{root}: no sub-folder {name!r}, named in 'only'")
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_report_unreadable):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        at_root = Path(folder) == root
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and not (at_root and only and name not in only)
        )
        if not (at_root and only):
            files += (Path(folder, name) for name in sorted(names) if not name.startswith("."))
    return files


def _report_unreadable(error: OSError) -> None:
    _log.warning("%s: %s; passed over", error.filename, error.strerror)


def _is_audio(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in AUDIO_SUFFIXES or suffix in FOREIGN_SUFFIXES


# With metadata


def _with_metadata(
    root: Path,
    files: Sequence[Path],
    metadata: Sequence[Path],
    *,
    settings: Settings,
    probe: Callable[[Path], float] | None,
) -> Iterator[Utterance]:
    folders = [path.parent for path in metadata]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise UserError(f"{twice}: both {' and '.join(METADATA_NAMES)}; keep one of them")
    rows = [row for path in metadata for row in read_metadata(path)]
    named = {Path(os.path.normpath(row.path)) for row in rows}
    if not any(path.exists() for path in named):
        raise UserError(f"{metadata[0]}: none of the {len(named)} files named in the metadata is there")
    unnamed = sum(_is_audio(path) and path not in named for path in files)
    if unnamed:
        _log.warning("%s: %d audio files are not named in the metadata and are left out", root, unnamed)
    packs = {folder for folder in folders if folder != root and folder.name.lower() not in _SPLIT_NAMES}
    # The stretches of one long file come one after another.
    probe_once = None if probe is None else functools.lru_cache(maxsize=16)(probe)
    for row in rows:
        is_pack = len(packs) > 1 and row.folder in packs
        whole = None if probe_once is None else probe_once(Path(os.path.normpath(row.path)))
        yield _from_row(root, row, whole=whole, is_pack=is_pack, prefix=settings.prefix_speakers)


def _from_row(root: Path, row: MetadataRow, *, whole: float | None, is_pack: bool, prefix: str) -> Utterance:
    known = dict(row.known)
    extras = dict(row.extras)
    name = row.folder.relative_to(root).as_posix() if row.folder != root else root.name
    if is_pack:
        extras.setdefault("corpus", name)
    if "speaker" in known and (prefix == "always" or (prefix == "auto" and is_pack)):
        known["speaker"] = f"{name}/{known['speaker']}"
    if "split" not in known and row.folder != root and row.folder.name.lower() in _SPLIT_NAMES:
        known["split"] = row.folder.name
    path = os.path.normpath(row.path)
    offset = row.offset or 0.0
    duration = (row.duration or 0.0) if whole is None else _stretch(whole, offset, row.duration)
    return Utterance(audio=path, offset=offset, duration=duration, extras=extras, **known)


def _stretch(whole: float, offset: float, duration: float | None) -> float:
    """Duration of the utterance, s: what the metadata says as long as the file has it; 0.0 for a bad file."""
    rest = whole - offset
    if whole == 0.0:
        return 0.0
    if duration is None or rest <= 0 or abs(rest - duration) < _END_TOLERANCE:
        return max(rest, 0.0)
    return duration if offset else min(duration, rest)


# Without metadata


def labels_of_folders(folders: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, str]]:
    """What the names of the folders with audio say of the clips in them: `label`, `split`, both or nothing.

    Args:
        folders: each as its parts below the root.

    >>> labels_of_folders({("train", "sad"), ("train", "glad")})[("train", "sad")]
    {'label': 'sad', 'split': 'train'}
    >>> labels_of_folders({("sad",), ("glad", "loud")})[("sad",)]
    {}
    """
    in_splits = all(part and part[0].lower() in _SPLIT_NAMES for part in folders)
    below = {part: part[1:] if in_splits else part for part in folders}
    labelled = all(len(part) == 1 for part in below.values()) and len(set(below.values())) > 1
    return {
        part: ({"label": rest[0]} if labelled else {}) | ({"split": part[0]} if in_splits else {})
        for part, rest in below.items()
    }


def _without_metadata(
    root: Path, files: Sequence[Path], *, probe: Callable[[Path], float] | None
) -> Iterator[Utterance]:
    audio = [path for path in files if _is_audio(path)]
    if not audio:
        raise UserError(f"{root}: no audio files in it ({len(files)} other files)")
    parts = [path.relative_to(root).parts[:-1] for path in audio]
    meanings = labels_of_folders(set(parts))
    for path, part in zip(audio, parts, strict=True):
        duration = 0.0 if probe is None else probe(path)
        meaning = meanings[part]
        yield Utterance(audio=str(path), duration=duration, label=meaning.get("label"), split=meaning.get("split"))

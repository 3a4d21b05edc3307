"""Any folder of audio: the user's own recordings, or packs of corpora.

Story: any recordings. Labels and other fields of the clips come from a `metadata.csv`, `metadata.tsv` or
`metadata.jsonl` at the root or in sub-folders, else from the names of the sub-folders (the audiofolder convention of
Hugging Face datasets).
Licence and citation: those of the recordings.

With metadata: every row is an utterance, of a whole file or of a stretch of it; which columns are understood is in
docs/data.md, all others become extras. Where several sub-folders have metadata of their own, each is a corpus of its
own ("pack"): speakers are prefixed with the sub-folder's name, as ids are only unique within a corpus, and the extra
`corpus` names it. Sub-folders called train, test and so on are splits, not packs.
Without metadata: every audio file is an utterance; the label is the sub-folder's name when all clips are one level
down in two or more sub-folders (or beside these), not counting folders that are splits.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.folder_metadata import Metadata, MetadataRow
from speechssl.data.corpora.folder_names import (
    is_split,
    labels_of_folders,
    note_on_labels,
    note_on_splits,
    split_of_folders,
)
from speechssl.data.corpora.folder_walk import TablesNotRead, is_audio, is_metadata, walk
from speechssl.data.corpora.foreign import find_foreign, refuse_described
from speechssl.data.coverage import Coverage
from speechssl.data.findings import Findings, Found, some
from speechssl.data.places import is_address, nearest
from speechssl.data.utterance import Utterance
from speechssl.data.values import composed

INFO = CorpusInfo(
    name="folder",
    story="Any folder of audio files, labelled by metadata.csv, .tsv or .jsonl or the names of its sub-folders.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

Probe = Callable[[Path], float]

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
    probe: Probe | None = duration_of,
) -> Found:
    """The utterances of a folder, in the order of their paths or of the metadata.

    Hidden files and folders are skipped; links are followed, also in loops.

    Args:
        root: the folder.
        settings: see `Settings`.
        probe: gives the duration of a file, s. None: no file is opened, and a duration is that of the metadata, or
            0.0: not known.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. A file that is missing or cannot be read has
        the duration of the metadata or 0.0, so that packing gives the reason.

    Raises:
        UserError: no such folder, no audio in it, broken metadata, or metadata that names no file that is there.
    """
    folder = AudioFolder(root, settings)
    return Found(folder.utterances(probe), folder.findings)


def sound_files(root: Path) -> list[Path]:
    """Every file below a folder that has the suffix of a sound file, by path; metadata is not read.

    Raises:
        UserError: no such folder.
    """
    return [Path(folder, name) for folder, names in walk(Path(root)) for name in names if is_audio(name)]


class AudioFolder:
    """A folder of audio, searched once without opening audio; its utterances are read at each iteration.

    Args:
        root: the folder.
        settings: see `Settings`.
        tables: the tables that name the clips, under any name; None: metadata below the root.

    Attributes:
        root: the folder, links resolved.
        clips: audio files directly in each folder, by its parts below the root.
        meanings: fields from the names of the folders, where there is no metadata.
        metadata: the tables that name the clips; empty where fields come from the names of the folders.
        findings: complete when all utterances have been read once.

    Raises:
        UserError: no such folder, no audio in it, or metadata that is not understood.
    """

    def __init__(
        self,
        root: Path,
        settings: Settings = Settings(),  # noqa: B008 -- settings are frozen
        *,
        tables: list[Path] | None = None,
    ):
        self.root, self._settings = Path(root) if tables else Path(root).resolve(), settings
        self.clips: dict[tuple[str, ...], int] = {}
        self.meanings: dict[tuple[str, ...], dict[str, str]] = {}
        self.findings = Findings()
        self._complete = False
        self._in_several: dict[str, None] = {}  # files below folders of several splits
        if tables is None:
            tables = self._look_through()
        _refuse_two(tables)
        self.metadata = [Metadata(path) for path in tables]
        for table in self.metadata:
            self.findings.unused += [name for name in table.meaning.unused if name not in self.findings.unused]
            columns = {name: table.meaning.column(name) for name in table.meaning.fields}
            if label := columns.get("label"):
                self.findings.no_label = f"no clip has a value in the column {label!r}"
            self.findings.columns |= {name: each for name, each in columns.items() if each and each.lower() != name}

    def _look_through(self) -> list[Path]:
        """Count the clips of each folder and find the tables."""
        first: dict[tuple[str, ...], str] = {}
        tables: list[Path] = []
        others, not_read = 0, TablesNotRead(self.root)
        for folder, names in walk(self.root, self._settings.only):
            audio = [name for name in names if is_audio(name)]
            others += len(names) - len(audio)
            tables += (Path(folder, name) for name in names if is_metadata(name))
            not_read.look(folder, names)
            if audio:
                part = Path(folder).relative_to(self.root).parts
                self.clips[part], first[part] = len(audio), audio[0]
        self.findings.not_read, self.findings.archives = not_read.listed(), not_read.archives()
        self.findings.sounds = not_read.sounds()
        if not tables:
            refuse_described(self.root)
            if not self.clips:
                foreign = find_foreign(self.root)
                command = "" if foreign is None else f"; it holds {foreign.story}: {foreign.command(self.root)}"
                sounds = f"; sound that is not read: {some(self.findings.sounds)}" if self.findings.sounds else ""
                raise UserError(f"{self.root}: no audio files in it ({others} other files){sounds}{command}")
            self.meanings = labels_of_folders(self.clips)
            self.findings.notes.append(note_on_labels(self.clips, first))
            if split := note_on_splits(self.clips, first):
                self.findings.notes.append(split)
        return tables

    def utterances(self, probe: Probe | None = None) -> Iterator[Utterance]:
        """All utterances in order.

        Args:
            probe: as in `prepare`.

        Raises:
            UserError: broken metadata, or metadata that names no existing file.
        """
        if self.metadata:
            yield from self._named(probe)
            return
        for path, part in self.files():
            meaning = self.meanings[part]
            duration = 0.0 if probe is None else probe(Path(path))
            yield Utterance(audio=path, duration=duration, label=meaning.get("label"), split=meaning.get("split"))

    def files(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Path of every audio file that was found, and the parts of its folder below the root."""
        if not self.clips:
            return
        for folder, names in walk(self.root, self._settings.only):
            part = Path(folder).relative_to(self.root).parts
            if part in self.clips:
                yield from ((os.path.join(folder, name), part) for name in names if is_audio(name))  # noqa: PTH118

    def _named(self, probe: Probe | None) -> Iterator[Utterance]:
        folders = {table.folder for table in self.metadata}
        packs = {folder for folder in folders if folder != self.root and not is_split(folder.name)}
        coverage = Coverage()
        # The stretches of one long file are adjacent.
        probe_once = None if probe is None else functools.lru_cache(maxsize=16)(probe)
        named: set[str] = set()
        missing: tuple[MetadataRow, Metadata] | None = None
        for table in self.metadata:
            for row in table.rows():
                address = is_address(row.audio)
                if address and probe is not None:
                    raise UserError(f"{table.path}:{row.line}: {row.audio} is an address; prepare reads local files")
                if not self._complete and row.audio not in named:
                    missing = missing or (row, table)
                    named.add(row.audio)
                whole = None if probe_once is None else probe_once(row.path)
                if whole:
                    end = None if row.duration is None else (row.offset or 0.0) + row.duration
                    coverage.add(os.path.relpath(row.audio, self.root), end=end, whole=whole)
                yield self._utterance(row, whole=whole, packs=packs if len(packs) > 1 else set())
        if not self._complete:
            self._finish(named, missing, coverage)

    def _finish(self, named: set[str], first: tuple[MetadataRow, Metadata] | None, coverage: Coverage) -> None:
        """Checks after the first reading of all rows: existing files, and findings."""
        if first is None:
            raise UserError(f"{self.metadata[0].path}: no rows in it")
        if not any(is_address(name) or os.path.exists(name) for name in named):  # noqa: PTH110 -- a million times
            raise UserError(
                f"{first[1].path}: none of the {len(named)} files that it names is there; the first is looked for as "
                f"{first[0].audio}; {nearest(first[0].audio, first[0].folder)}"
            )
        unnamed = sum(path not in named for path, _ in self.files())
        if unnamed:
            _log.warning("%s: %d audio files are not named in the metadata and are left out", self.root, unnamed)
        covered = coverage.note()
        self.findings.notes += [note for table in self.metadata for note in table.notes(self.root)]
        self.findings.notes += [covered] if covered else []
        if self._in_several:
            example = os.path.relpath(next(iter(self._in_several)), self.root)
            self.findings.notes.append(
                f"no split: {len(self._in_several)} files are below folders of several splits ({example}); give them a "
                "column 'split'"
            )
        self._complete = True

    def _utterance(self, row: MetadataRow, *, whole: float | None, packs: set[Path]) -> Utterance:
        known, extras = row.known, row.extras
        prefix = self._settings.prefix_speakers
        at_root = row.folder == self.root
        name = self.root.name if at_root else row.folder.relative_to(self.root).as_posix()
        is_pack = row.folder in packs
        if packs:  # in every row: a table at the root has rows of its own
            extras.setdefault("corpus", name if is_pack else self.root.name)
        if "speaker" in known and (prefix == "always" or (prefix == "auto" and is_pack)):
            known["speaker"] = composed(f"{name}/{known['speaker']}")
        if "split" not in known and (split := self._split_of(row)) is not None:
            known["split"] = split
        offset = row.offset or 0.0
        duration = row.duration
        if duration is None:
            duration = max(0.0, (whole or 0.0) - offset)
        # All values have their final form already, and there may be a million rows: they are not checked again.
        values = {"audio": row.audio, "offset": offset, "duration": duration, "extras": extras, **known}
        return Utterance.model_construct(None, **values)

    def _split_of(self, row: MetadataRow) -> str | None:
        """Split by the folders of the file below the root, or else by those of its table."""
        below = row.audio[len(str(self.root)) + 1 :] if row.audio.startswith(f"{self.root}/") else ""
        folders = below.split("/")[:-1]
        if any(map(is_split, folders)):
            split = split_of_folders(folders)
            if split is None and not self._complete:
                self._in_several.setdefault(row.audio)
            return split
        return split_of_folders(row.folder.relative_to(self.root).parts)


def _refuse_two(tables: list[Path]) -> None:
    folders = [path.parent for path in tables]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        names = " and ".join(path.name for path in tables if path.parent == twice)
        raise UserError(f"{twice}: both {names}; keep one of them")

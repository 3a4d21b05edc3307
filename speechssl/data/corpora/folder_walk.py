"""Search of a folder of audio: its files in a fixed order, its metadata, and tables that are not read."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechssl.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, UNREAD_SUFFIXES
from speechssl.config import UserError
from speechssl.data.findings import some
from speechssl.data.places import advice_on, located, missing_path
from speechssl.data.tables import is_table


def _suffixes(words: str) -> frozenset[str]:
    return frozenset(f".{word}" for word in words.split())


_TABLES = _suffixes(
    "csv tsv tab psv ssv jsonl json ndjson xlsx xls xlsm xlsb ods numbers parquet feather orc avro arrow sqlite "
    "sqlite3 db mdb accdb sav dta rdata rds scp pkl pickle mat npy npz yaml yml xml dat lst list tdf"
)
_ANNOTATIONS = _suffixes(
    "textgrid eaf pfsx trs ctm stm rttm uem mlf lab lbl hlab srt vtt ass ssa lrc sbv ttml dfxp phn wrd phones phonemes "
    "words syl cha exb exs trn par ltr flextext antx anvil jams vad seg marks labels annot ort sgm sgml ref"
)
_PICTURES = _suffixes("png jpg jpeg gif bmp webp svg tif tiff pdf eps")
_OF_PROGRAMS = _suffixes("asd pkf reapeaks sfk peak md5 sha1 sha256 bak tmp log")
_NOBODYS = frozenset({"thumbs.db", "desktop.ini"})
_ARCHIVES = (
    *(".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"),
    *(".tfrecord", ".h5", ".hdf5", ".ark"),
)
_KALDI = frozenset({"text", "segments", "utt2spk", "spk2utt", "utt2lang", "utt2dur", "spk2gender"})
_TEXTS = (".txt", ".data", ".prompts", ".text", ".trans", ".md", "")
_TEXT_PEEKED = 64  # text files that are opened to detect tables
_TOGETHER = 3  # more tables with one suffix are counted, not listed
_ABOUT = ("readme", "licen", "changelog", "copying", "requirements", "notes")

_log = logging.getLogger(__name__)


def is_audio(name: str) -> bool:
    """Whether a file has the suffix of a sound file, in any case.

    >>> [is_audio(name) for name in ("a.WAVE", "a.bwf", "a.mp2", "a.gsm", "a.m4a", "a.ac3", "a.txt", "wav")]
    [True, True, True, True, True, True, False, False]
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 -- a million times
    return suffix in AUDIO_SUFFIXES or suffix in FOREIGN_SUFFIXES


def is_metadata(name: str) -> bool:
    """Whether a file is `metadata.csv`, `metadata.tsv` or `metadata.jsonl`, in any case.

    >>> is_metadata("Metadata.TSV"), is_metadata("list.csv")
    (True, False)
    """
    return name.lower().startswith("metadata.") and is_table(name) and name.count(".") == 1


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Matches of a pattern below a folder, sorted, without names that begin with ".", such as a Mac's `._a.wav`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "a.wav").touch(); Path(folder, "._a.wav").touch()
    ...     [path.name for path in visible_files(Path(folder), "*.wav")]
    ['a.wav']
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def walk(root: Path, only: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of their files, sorted, without hidden ones; each once, for any number of links to it.

    Args:
        root: the folder.
        only: sub-folders of the root to read; empty for all, and for the files at the root.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        if not root.exists():
            raise missing_path(root)
        raise UserError(f"{root}: {advice_on(root) or 'not a folder'}")
    chosen = {located(root, name) for name in only}
    for name in only:
        if not Path(located(root, name)).is_dir():
            raise UserError(f"{root}: no sub-folder {name!r}, named in 'only'")
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_report_unreadable):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        partly = bool(only) and Path(folder) == root
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and (not partly or os.path.join(folder, name) in chosen)  # noqa: PTH118
        )
        if not partly:
            yield folder, sorted(name for name in names if not name.startswith("."))


def _report_unreadable(error: OSError) -> None:
    _log.warning("%s: %s; skipped", error.filename, error.strerror)


def note_on_others(root: Path, used: Sequence[str], name: str, *, audio: bool) -> list[str]:
    """Messages about unused files that may hold audio in a folder of which only some files are used.

    Args:
        root: the folder; a file gives no message.
        used: suffixes of the files that are used.
        name: of these files, for the message.
        audio: whether files of audio are not used either.

    Raises:
        UserError: no such folder.
    """
    if not root.is_dir():
        return []
    others = _Names()
    for folder, names in walk(root):
        for each in names:
            if not each.lower().endswith(tuple(used)) and ((audio and is_audio(each)) or _is_container(each)):
                others.add(root, folder, each)
    return [f"beside the {name}, these are not read: {some(found)}"] if (found := others.listed()) else []


def _is_container(name: str) -> bool:
    return name.lower().endswith((*_ARCHIVES, ".parquet", ".arrow"))


class _Names:
    """Names of files below a folder; those with one suffix are counted where they are many."""

    def __init__(self) -> None:
        self._names: list[tuple[int, str, str]] = []  # rank, group, name

    def add(self, root: Path, folder: str, name: str, *, rank: int = 0) -> None:
        """Add a file; those of the lowest rank are listed first."""
        inside = Path(folder).relative_to(root).as_posix()
        kind = os.path.splitext(name)[1] or name  # noqa: PTH122 -- a million times
        self._names.append((rank, kind, name if inside == "." else f"{inside}/{name}"))

    def listed(self) -> list[str]:
        counts = Counter((rank, kind) for rank, kind, _ in self._names)
        found = [(rank, 0, name) for rank, kind, name in self._names if counts[rank, kind] <= _TOGETHER]
        many = [(rank, 1, f"{count} x *{kind}") for (rank, kind), count in counts.items() if count > _TOGETHER]
        return [name for _, _, name in sorted(found + many, key=lambda each: each[:2])]


class TablesNotRead:
    """Tables, annotations, archives and other sound beside the audio that are not read, by name; tables first."""

    def __init__(self, root: Path):
        self._root, self._peeked = root, 0
        self._tables, self._archives, self._sounds = _Names(), _Names(), _Names()

    def look(self, folder: str, names: Sequence[str]) -> None:
        """Adds the files of one folder."""
        stems = {each for name in names if is_audio(name) for each in (name, os.path.splitext(name)[0])}  # noqa: PTH122 -- a million times
        for name in names:
            if is_audio(name) or is_metadata(name) or name.lower() in _NOBODYS:
                continue
            if name.lower().endswith(_ARCHIVES):
                self._archives.add(self._root, folder, name)
            elif os.path.splitext(name)[1].lower() in UNREAD_SUFFIXES:  # noqa: PTH122 -- a million times
                self._sounds.add(self._root, folder, name)
            elif (rank := self._rank(folder, name, names, stems)) is not None:
                self._tables.add(self._root, folder, name, rank=rank)

    def _rank(self, folder: str, name: str, names: Sequence[str], stems: set[str]) -> int | None:
        """0 for a table, 1 for an annotation, such as any file that is named like a recording beside it."""
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 -- a million times
        suffix = suffix.lower()
        if suffix in _PICTURES or suffix in _OF_PROGRAMS:
            return None
        if stem in stems or suffix in _ANNOTATIONS:
            return 1
        if suffix in _TABLES or (name in _KALDI and "wav.scp" in names):
            return 0
        return 0 if suffix in _TEXTS and self._is_text_table(folder, name, stems) else None

    def _is_text_table(self, folder: str, name: str, stems: set[str]) -> bool:
        """Whether the first two lines of a text have the same separators, or begin with recordings."""
        if name.lower().startswith(_ABOUT) or self._peeked >= _TEXT_PEEKED:
            return False
        self._peeked += 1
        try:
            with Path(folder, name).open(encoding="utf-8", errors="replace") as file:
                first, second = file.readline(4096), file.readline(4096)
        except OSError:
            return False
        if all(_names_a_recording(line, stems) for line in (first, second or first)):
            return True
        return any(first.count(sign) == second.count(sign) > 0 for sign in "\t,;|")

    def listed(self) -> list[str]:
        """The tables and annotations, those with one suffix counted where they are many."""
        return self._tables.listed()

    def archives(self) -> list[str]:
        """The archives, in the same way."""
        return self._archives.listed()

    def sounds(self) -> list[str]:
        """Files that may hold sound by their suffix and are not read, in the same way."""
        return self._sounds.listed()


def _names_a_recording(line: str, stems: set[str]) -> bool:
    """Whether the first word of a line is a file of audio, or the name of one beside it."""
    word = next(iter(line.replace("(", " ").replace('"', " ").split()), "")
    return is_audio(word) or word.rpartition("/")[2] in stems

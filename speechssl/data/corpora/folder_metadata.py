"""`metadata.csv`, `metadata.tsv`, `metadata.jsonl`: tables about the files of a folder of audio.

The audiofolder convention (Hugging Face datasets): one row per clip or stretch, the file named relative to the
metadata's own folder. Which columns are understood is in `speechssl.data.column_names`.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from speechssl.data.channels import OneChannel
from speechssl.data.columns import EmptyStretchError, Meaning, empty_note, understand
from speechssl.data.findings import missing_note
from speechssl.data.places import is_address, local_path, located
from speechssl.data.tables import open_table
from speechssl.data.values import Extra


@dataclasses.dataclass(slots=True)
class MetadataRow:
    """One row of metadata.

    Attributes:
        audio: the audio file with its spelling on the disk, or the path that was tried where it is missing; or an
            address.
        folder: the metadata's folder.
        known: speaker, text, label, language, split, as far as given.
        offset: s, or None.
        duration: s, or None.
        extras: all other columns; nested values as JSON text.
        line: the line that it starts in.
    """

    audio: str
    folder: Path
    known: dict[str, str]
    offset: float | None
    duration: float | None
    extras: dict[str, Extra]
    line: int

    @property
    def path(self) -> Path:
        """The audio file."""
        return Path(self.audio)


class Metadata:
    """One metadata file with the meaning of its columns; rows are read at each iteration.

    Raises:
        UserError: the file cannot be read, or its columns are not understood.
    """

    def __init__(self, path: Path):
        self.path, self.folder = path, path.parent
        self.meaning: Meaning = understand(open_table(path))
        self._empty: list[int] = []

    def rows(self) -> Iterator[MetadataRow]:
        """The rows in order.

        Raises:
            UserError: names the file and the line of the fault.
        """
        folder = os.fspath(self.folder)
        self.meaning.missing.clear()
        self._empty.clear()
        last = audio = ""
        channels = OneChannel(self.meaning.table.columns)
        for row in self.meaning.table.rows():
            try:
                entry = self.meaning.entry(row)
            except EmptyStretchError:
                self._empty.append(row.line)
                continue
            if entry.file != last:  # the stretches of a file are adjacent
                last = entry.file
                name = local_path(last)
                audio = name if is_address(name) else located(folder, name)
            place = None if is_address(audio) else audio
            channels.check(entry.file, entry.extras, f"{self.path}:{row.line}", place=place)
            yield MetadataRow(audio, self.folder, entry.known, entry.offset, entry.duration, entry.extras, entry.line)

    def notes(self, root: Path) -> list[str]:
        """Messages with findings, when all rows have been read; the table is named relative to the root."""
        found = list(self.meaning.hints)
        if self._empty:
            found.append(empty_note(self._empty))
        if self.meaning.missing:
            found.append(missing_note(self.meaning.missing))
        if "label" not in self.meaning.fields:
            found.append("no label: no column is called 'label', 'class', 'emotion' or 'category'")
        return [f"{os.path.relpath(self.path, root)}: {note}" for note in found]


def read_metadata(path: Path) -> list[MetadataRow]:
    r"""Read one metadata file.

    Args:
        path: comma-, semicolon- or tab-separated with a header line, or JSON lines (see `speechssl.data.tables`).

    Returns:
        Its rows in order.

    Raises:
        UserError: the file cannot be read, or a line of it cannot be; the message names file and line.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "metadata.csv")
    ...     _ = path.write_text("file_name,label,room\na.wav,dog,kitchen\n")
    ...     (row,) = read_metadata(path)
    >>> row.path.name, dict(row.known), dict(row.extras)
    ('a.wav', {'label': 'dog'}, {'room': 'kitchen'})
    """
    return list(Metadata(path).rows())

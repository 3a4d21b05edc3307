"""Data sets of Hugging Face: Parquet files, folders of `save_to_disk`, or one of the hub (`hf:org/name`).

Story: any data set with audio.
Licence and citation: those of the data set.

The audio is read in place, row by row: an utterance is `FILE.parquet::COLUMN/ROW`, and nothing is unpacked. Columns
are understood as in tables (`text`, `sentence`, `label`, `speaker_id` …); a column of class numbers gets the names in
the file's own description. A row is an utterance: times beside it are extras, and so are all other plain columns.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speechssl.config import Config, UserError
from speechssl.data.columns import LOOKED_AT
from speechssl.data.corpora import CorpusInfo
from speechssl.data.corpora.folder_walk import note_on_others
from speechssl.data.corpora.huggingface_files import DataFile, find_files
from speechssl.data.corpora.rows import Describer
from speechssl.data.findings import Findings, Found
from speechssl.data.utterance import Utterance
from speechssl.data.values import extra_of

INFO = CorpusInfo(
    name="huggingface",
    story="Any data set of Hugging Face with a column of audio: local Parquet or Arrow files, or hf:org/name.",
    licence="that of the data set",
    citation="",
    source="--root FOLDER, FILE or hf:org/name",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_BATCH = 1024  # rows of everything but audio
_AUDIO_WORDS = frozenset({"audio", "speech", "wav", "waveform", "sound", "recording", "flac", "mp3", "file", "path"})


class Settings(Config):
    """Options of a data set of Hugging Face.

    Attributes:
        audio: name of the column of audio; empty: the only one.
        splits: splits to read; empty for all.
        config: configuration of a data set of the hub, for example a language; empty: the only one.
    """

    audio: str = ""
    splits: tuple[str, ...] = ()
    config: str = ""


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of a data set, split by split, in the order of its rows.

    Args:
        root: a Parquet or Arrow file, a folder of them, a folder of `save_to_disk`, or `hf:org/name[@revision]`.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Their duration is 0.0 (not known): no
        audio is opened.

    Raises:
        UserError: no such data set, or not exactly one column of audio and none is named.
    """
    findings = Findings(no_label="no column called 'label', 'class', 'emotion' or 'category' has a value")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    files = find_files(root, config=settings.config, splits=settings.splits)
    if any(part.startswith("partial-") for file in files for part in file.path.parts):
        findings.notes.append("the hub's copy in Parquet holds only the first part of this data set")
    unused: set[str] = set()
    for file in files:
        yield from _read(file, settings.audio, unused, findings)
    if not any(file.remote for file in files):
        used = {file.path.suffix.lower() for file in files}
        findings.notes += note_on_others(root, tuple(used), "tables", audio=False)  # rows may name the files of audio
    if unused:
        findings.notes.append(f"columns left out, as they hold no plain values: {', '.join(sorted(unused))}")


def _read(file: DataFile, audio: str, unused: set[str], findings: Findings) -> Iterator[Utterance]:
    import pyarrow as pa

    from speechssl.data.members import member_location

    try:
        table = _Rows(file.path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.path}: not a table that can be read ({' '.join(str(error).split())})") from None
    column = _audio_column(file.path, table, audio)
    plain = [name for name in table.schema.names if name != column and _is_plain(table.schema.field(name).type)]
    unused.update(name for name in table.schema.names if name != column and name not in plain)
    try:
        all_rows = table.iterate(plain, column)
        first = list(itertools.islice(all_rows, LOOKED_AT))
        rows = Describer(file.path, plain, findings, first=[values for _, values, _ in first])
        times = rows.times
        for number, values, name in itertools.chain(first, all_rows):
            if name is not None and any(extra_of(values.get(each)) not in (None, 0) for each in times):
                raise UserError(
                    f"{file.path}, row {number} (from 0): names a file ({name}) with times ({', '.join(times)}), and "
                    "stretches of files are not read from Parquet or Arrow; save the table as metadata.csv beside the "
                    "audio, or leave these columns out if the files are cut already"
                )
            found = rows.describe(values, number)
            if name is not None and file.remote and (Path(name).is_absolute() or ".." in Path(name).parts):
                raise UserError(
                    f"{file.path}: names the local file {name}; a data set of the hub may name its own only"
                )
            place = member_location(file.path, f"{column}/{number}") if name is None else str(file.path.parent / name)
            yield found.utterance(place, split=file.split)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.path}: damaged ({' '.join(str(error).split())})") from None


class _Rows:
    """The rows of a file without their audio."""

    def __init__(self, path: Path):
        from speechssl.data.arrow import open_arrow

        self._path = path
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            self._parquet: Any = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
            self._table: Any = None
            self.schema = self._parquet.schema_arrow
        else:
            self._parquet, self._table = None, open_arrow(str(path))
            self.schema = self._table.schema
        self.features = _features(self.schema)

    def iterate(self, plain: list[str], audio: str) -> Iterator[tuple[int, Mapping[str, Any], str | None]]:
        """Number, values of the plain columns with class names, and the file if the audio is one."""
        import pyarrow as pa

        names = {name: _class_names(self.features.get(name)) for name in plain}
        paths = self._path_column(audio)
        wanted = [*plain, *([paths] if paths else [])]
        number = 0
        for batch in self._batches(wanted, paths):
            columns = {name: batch.column(name).to_pylist() for name in plain}
            files: list[str | None] = [None] * batch.num_rows
            if paths:
                found = batch.column(audio)
                found = found.field("path") if pa.types.is_struct(found.type) else found
                files = [each or "" for each in found.to_pylist()]
            for place in range(batch.num_rows):
                where = (self._path, number + place)
                values = {name: _named(column[place], names[name], name, where) for name, column in columns.items()}
                yield number + place, values, files[place]
            number += batch.num_rows

    def _batches(self, wanted: list[str], paths: str | None) -> Iterator[Any]:
        if self._parquet is not None:
            yield from self._parquet.iter_batches(_BATCH, columns=wanted)
            return
        names = [each.removesuffix(".path") if each == paths else each for each in wanted]
        yield from self._table.select(names).to_batches(_BATCH)

    def _path_column(self, audio: str) -> str | None:
        """Locations of the files that hold the audio; None where it is in the table."""
        import pyarrow as pa

        kind = self.schema.field(audio).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return audio
        if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
            return None
        return f"{audio}.path" if kind.get_field_index("bytes") < 0 or self._bytes_missing(audio) else None

    def _bytes_missing(self, audio: str) -> bool:
        """Whether no row holds bytes, by the statistics of the file; False where there are none."""
        if self._parquet is None:
            return all(chunk.field("bytes").null_count == len(chunk) for chunk in self._table.column(audio).chunks)
        metadata = self._parquet.metadata
        for group in range(metadata.num_row_groups):
            columns = (metadata.row_group(group).column(place) for place in range(metadata.num_columns))
            found = next((each for each in columns if each.path_in_schema == f"{audio}.bytes"), None)
            if found is None or found.statistics is None or found.statistics.null_count != found.num_values:
                return False
        return metadata.num_row_groups > 0


def _audio_column(path: Path, table: _Rows, wanted: str) -> str:
    """The column of audio: the one named, else by the file's own description, else by its type and name."""
    names = table.schema.names
    if wanted:
        if wanted not in names:
            raise UserError(f"{path}: no column {wanted!r}; there are: {', '.join(names)}")
        _refuse_decoded(path, table, [wanted])
        return wanted
    found = [name for name in names if _kind(table.features.get(name)) == "Audio"]
    found = found or [name for name in names if _holds_bytes(table.schema.field(name).type)]
    found = found or [
        name for name in names if name.lower() in _AUDIO_WORDS and _is_text(table.schema.field(name).type)
    ]
    if len(found) > 1:
        raise UserError(
            f"{path}: columns {', '.join(found)} all hold audio; name one: speechssl prepare huggingface --set "
            f"audio={found[0]}"
        )
    _refuse_decoded(path, table, found or names)
    if not found:
        raise UserError(f"{path}: no column of audio (bytes, or a path); there are: {', '.join(names)}")
    return found[0]


def _refuse_decoded(path: Path, table: _Rows, names: list[str]) -> None:
    """Refuses samples as lists of numbers where a column of audio is expected."""
    for name in names:
        kind = str(table.schema.field(name).type)
        decoded = kind.startswith("struct<") and "array: " in kind and "bytes: " not in kind
        numbers = name.lower() in _AUDIO_WORDS and re.match(r"(large_|fixed_size_)?list(_view)?<", kind) is not None
        if decoded or numbers:
            raise UserError(
                f"{path}: column {name!r} holds decoded arrays of samples, which are not read; store the audio as "
                "encoded bytes (a column of the type Audio of Hugging Face's datasets) or as wav files"
            )


def _features(schema: Any) -> dict[str, Any]:
    """The data set's own description of its columns."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(feature: Any) -> list[str]:
    names = feature.get("names") if _kind(feature) == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _named(value: Any, names: list[str], column: str, where: tuple[Path, int]) -> Any:
    """A class number as its name; pandas makes 1.0 of 1 where others are missing."""
    if not names or not isinstance(value, int | float):
        return value
    if value == -1 or math.isnan(value):  # Hugging Face writes -1 for no label
        return None
    if value not in range(len(names)):
        path, row = where
        raise UserError(f"{path}, row {row} (from 0): {column}: class number {value}, and there are {len(names)} names")
    return names[int(value)]


def _is_plain(kind: Any) -> bool:
    """Whether a column holds one number, text or truth value per row."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # pandas' type category
    return re.fullmatch(r"(large_)?string(_view)?|bool|u?int\d+|float|double|halffloat|null", str(kind)) is not None


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)

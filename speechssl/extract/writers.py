"""Shards to the output of an extraction: one file or folder, in the format that the extension of its name says.

    OUT.parquet   one row per clip: path, offset, duration, vector (fixed-size list), columns of a manifest, key; every
                  layer in a column of its own (`vector_0` …); frames as a list column `frames` (`frames_0` …)
    OUT.npz       vectors (clips, dim) or (clips, layers, dim), path, offset, duration …; frames: one array per clip,
                  `frames_000000` …
    OUT.h5        the same as datasets; frames one after another (frames, dim), with first_frame and num_frames
    OUT.zarr      the same as arrays
    OUT           a folder: a tree of .npy files that mirrors the source's, and index.parquet

An output appears under its name when it is complete; until then the shards can be read (see `shards`). One file was
chosen over a folder of shards because every tool opens one file by its name, and because half a run cannot be taken for
a whole one. It is written from the shards one after another, in bounded memory; at frame level in Parquet, the frames
of one clip are in memory at once. Every number is written twice in all: once to a shard, once to the output.

Settings, version and model hash are in it as one JSON object: in Parquet's metadata under `speechssl`, in h5 and zarr
as the attribute `speechssl`, in npz as the array `speechssl`, of a folder in its index.parquet.
"""

import importlib
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from speechssl.config import UserError
from speechssl.extract.formats import arrays, hdf5
from speechssl.extract.formats.rows import Finished, Layout
from speechssl.extract.resume import Results
from speechssl.extract.shards import METADATA_KEY
from speechssl.files import replacing_path

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".npz", ".h5", ".zarr", "")
_LIBRARY = {".h5": "h5py", ".zarr": "zarr"}  # that an extension needs in addition to the core packages
_ROW_GROUP_BYTES = 1 << 25


def check_out(out: Path) -> None:
    """Refuses an output that cannot be written, before the first clip is encoded.

    Raises:
        UserError: an unknown extension, or its library is not installed; a folder that is no output.
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: end it in .parquet, .npz, .h5 or .zarr, or in nothing for a folder of .npy files")
    if out.suffix in _LIBRARY:
        try:
            importlib.import_module(_LIBRARY[out.suffix])
        except ImportError:
            extra = "hdf5" if out.suffix == ".h5" else "zarr"
            raise UserError(f"{out}: pip install 'speechssl[{extra}]' to write it") from None
    if out.is_dir() and out.suffix not in (".zarr", ""):
        raise UserError(f"{out}: is a folder; give the name of a file")
    if out.is_dir() and out.suffix == "" and any(out.iterdir()) and not (out / "index.parquet").exists():
        raise UserError(f"{out}: a folder with other things in it; give the name of a new one")


class VectorFile:
    """The output of an extraction, as `resume.Run` needs it. A finished one has its rows and settings in itself.

    Args:
        path: its name; the extension is the format.
        layout: of its rows.
    """

    def __init__(self, path: Path, layout: Layout):
        self._layout = layout
        self.path, self.errors = path, path.with_name(f"{path.name}.errors.jsonl")
        self.rows = path if path.suffix == ".parquet" and not layout.frames else None

    def settings(self) -> dict[str, Any] | None:
        """The settings in a finished output; None where there is none, or an empty folder.

        Raises:
            UserError: the file is something else.
        """
        out = self.path
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
        try:
            return json.loads(_READ[out.suffix](out))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{out}: is there, and no output of extract; remove it or give another name") from error

    def write(self, results: Results, settings: dict[str, Any], scratch: Path) -> None:
        """Writes the output, completely or not at all; an older one is replaced.

        Args:
            results: the rows.
            settings: JSON values that the output keeps.
            scratch: a folder on the same disk.
        """
        out = self.path
        with replacing_path(out, partial=scratch / f".finished{out.suffix}") as partial:
            _WRITE[out.suffix](partial, Finished(self._layout, results.shards, results.places, settings))


def _write_parquet(out: Path, finished: Finished) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = finished.layout
    names = ("frames",) if layout.layers == 1 else tuple(f"frames_{number}" for number in range(layout.layers))
    fields = list(layout.schema(own=False))
    if layout.frames:
        kind = pa.list_(pa.list_(pa.float32(), layout.dim))
        place = 1 + [field.name for field in fields].index("num_frames")
        fields[place:place] = [pa.field(name, kind) for name in names]
    schema = pa.schema(fields, metadata={METADATA_KEY: finished.described()})
    waiting: list[pa.Table] = []
    frames = finished.frames() if layout.frames else iter(())
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for _, table in finished.shards.tables(finished.places):
            for piece in [table.slice(row, 1) for row in range(table.num_rows)] if layout.frames else [table]:
                whole = _with_frames(piece, next(frames), names) if layout.frames else piece
                waiting.append(whole.select(schema.names).replace_schema_metadata(schema.metadata))
                if sum(each.nbytes for each in waiting) >= _ROW_GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
        writer.write_table(pa.concat_tables(waiting) if waiting else schema.empty_table())


def _with_frames(row: "pa.Table", frames: Float32[np.ndarray, "frames layers dim"], names: Sequence[str]) -> "pa.Table":
    import pyarrow as pa

    for place, name in enumerate(names):
        flat = pa.array(np.ascontiguousarray(frames[:, place]).reshape(-1), pa.float32())
        inner = pa.FixedSizeListArray.from_arrays(flat, frames.shape[2])
        row = row.append_column(name, pa.ListArray.from_arrays(pa.array([0, len(frames)], pa.int32()), inner))
    return row


def _read_parquet(out: Path) -> bytes:
    import pyarrow.parquet as pq

    return pq.read_schema(out / "index.parquet" if out.is_dir() else out).metadata[METADATA_KEY]


_WRITE: dict[str, Callable[[Path, Finished], None]] = {
    ".parquet": _write_parquet,
    ".npz": arrays.write_npz,
    ".h5": hdf5.write_h5,
    ".zarr": arrays.write_zarr,
    "": arrays.write_tree,
}
_READ: dict[str, Callable[[Path], str | bytes]] = {
    ".parquet": _read_parquet,
    ".npz": arrays.read_npz,
    ".h5": hdf5.read_h5,
    ".zarr": arrays.read_zarr,
    "": _read_parquet,
}

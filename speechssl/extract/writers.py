"""What a finished run leaves: one file or folder, by the extension of its name, made of the run's parts at the end.

    OUT.parquet   one row a clip: path, offset, duration, vector (fixed-size list), what a manifest knew, key; every
                  layer in a column of its own (`vector_0` …); frames as a list column `frames` (`frames_0` …)
    OUT.npz       vectors (clips, dim) or (clips, layers, dim), path, offset, duration …; frames: one array a clip,
                  `frames_000000` …
    OUT.h5        the same as datasets; frames one after another (frames, dim), with first_frame and num_frames
    OUT.zarr      the same as arrays
    OUT           a folder: a tree of .npy files that mirrors the source's, and index.parquet

All appear under their name when they are whole, so that what lies there is always a finished run; the parts can be
read meanwhile (see `parts`). One file was chosen over a folder of parts because every tool opens one file by its name,
and because half a run cannot be taken for a whole one. It is written from the parts one after another, in bounded
memory; at frame level in Parquet, the frames of one clip are in memory at once.

Settings, version and model hash lie in it as one JSON object: in Parquet's metadata under `speechssl`, in h5 and zarr
as the attribute `speechssl`, in npz as the array `speechssl`, of a folder in its index.parquet.
"""

import importlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from speechssl.config import UserError
from speechssl.extract import arrays
from speechssl.extract.finished import Finished
from speechssl.extract.layout import Layout
from speechssl.extract.parts import METADATA_KEY

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".npz", ".h5", ".zarr", "")
_LIBRARY = {".h5": "h5py", ".zarr": "zarr"}  # what an extension needs beside the core packages
_ROW_GROUP_BYTES = 1 << 25


def check_out(out: Path) -> None:
    """Refuses an extension that is not known, before hours of work.

    Raises:
        UserError: unknown, or its library is not installed; a folder that no run has made.
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


def settings_of(out: Path) -> dict[str, Any] | None:
    """The settings kept in a finished output; None when there is none, or an empty folder.

    Raises:
        UserError: the file is something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return json.loads(_READ[out.suffix](out))
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{out}: is there, and no output of extract; remove it or give another name") from error


def write(out: Path, finished: Finished, scratch: Path) -> None:
    """Write the output, whole or not at all.

    Args:
        out: its name; an older one is replaced.
        finished: what goes into it.
        scratch: a folder on the same disk.
    """
    partial = scratch / f".finished{out.suffix}"
    _remove(partial)
    _WRITE[out.suffix](partial, finished)
    _flush(partial)
    if out.is_dir() and partial.is_dir():
        old = scratch / ".replaced"
        _remove(old)
        out.rename(old)
        partial.rename(out)
        _remove(old)
    else:
        partial.replace(out)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """To the disk, a folder with all in it."""
    for each in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with each.open("rb") as file:
            os.fsync(file.fileno())


def _write_parquet(out: Path, finished: Finished) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = finished.layout
    names = frame_columns(layout) if layout.frames else ()
    fields = list(layout.schema(own=False))
    if layout.frames:
        kind = pa.list_(pa.list_(pa.float32(), layout.dim))
        place = 1 + [field.name for field in fields].index("num_frames")
        fields[place:place] = [pa.field(name, kind) for name in names]
    schema = pa.schema(fields, metadata={METADATA_KEY: finished.described()})
    waiting: list[pa.Table] = []
    frames = finished.frames()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for _, table in finished.tables():
            for piece in [table.slice(row, 1) for row in range(table.num_rows)] if layout.frames else [table]:
                whole = _with_frames(piece, next(frames), names) if layout.frames else piece
                waiting.append(whole.select(schema.names).replace_schema_metadata(schema.metadata))
                if sum(each.nbytes for each in waiting) >= _ROW_GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
        writer.write_table(pa.concat_tables(waiting) if waiting else schema.empty_table())


def frame_columns(layout: Layout) -> tuple[str, ...]:
    """Names of the columns of frames."""
    return ("frames",) if layout.layers == 1 else tuple(f"frames_{number}" for number in range(layout.layers))


def _with_frames(row: "pa.Table", frames: Float32[np.ndarray, "frames layers dim"], names: Sequence[str]) -> "pa.Table":
    import pyarrow as pa

    for place, name in enumerate(names):
        flat = pa.array(np.ascontiguousarray(frames[:, place]).reshape(-1), pa.float32())
        inner = pa.FixedSizeListArray.from_arrays(flat, frames.shape[2])
        row = row.append_column(name, pa.ListArray.from_arrays(pa.array([0, len(frames)], pa.int32()), inner))
    return row


def _read_parquet(out: Path) -> bytes:
    import pyarrow.parquet as pq

    return pq.read_schema(out).metadata[METADATA_KEY]


def _read_index(out: Path) -> bytes:
    return _read_parquet(out / "index.parquet")


_WRITE: dict[str, Callable[[Path, Finished], None]] = {
    ".parquet": _write_parquet,
    ".npz": arrays.write_npz,
    ".h5": arrays.write_h5,
    ".zarr": arrays.write_zarr,
    "": arrays.write_tree,
}
_READ: dict[str, Callable[[Path], str | bytes]] = {
    ".parquet": _read_parquet,
    ".npz": arrays.read_npz,
    ".h5": arrays.read_h5,
    ".zarr": arrays.read_zarr,
    "": _read_index,
}

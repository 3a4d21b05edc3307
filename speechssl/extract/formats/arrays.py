"""Outputs that are arrays: npz, Zarr, and a tree of .npy files. See `writers` for the content of each."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Shaped

from speechssl.data.stretches import start_mark
from speechssl.extract.formats.rows import CHUNK_ROWS, Finished
from speechssl.extract.shards import METADATA_KEY

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can hold: the same run gives the same bytes


def write_npz(out: Path, finished: Finished) -> None:
    """Writes one file for `numpy.load`, array by array, with few rows in memory at once."""
    layout = finished.layout
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, column in finished.columns():
            if name != "first_frame":
                _add(archive, name, column.shape, [column], column.dtype)
        settings = np.array(finished.described())
        _add(archive, "speechssl", (), [settings], settings.dtype)
        if layout.frames:
            for number, frames in enumerate(finished.frames()):
                own = frames[:, 0] if layout.layers == 1 else frames
                _add(archive, f"frames_{number:06d}", own.shape, [own], own.dtype)
        else:
            name, shape = finished.body()
            _add(archive, name, shape, finished.blocks(), np.dtype(np.float32))


def read_npz(out: Path) -> str:
    """The settings in an npz file."""
    with np.load(out, allow_pickle=False) as file:
        return str(file["speechssl"])


def write_zarr(out: Path, finished: Finished) -> None:
    """Writes a Zarr group in format 2, which every version of every reader supports."""
    import zarr

    group: Any = zarr.open_group(str(out), mode="w", zarr_format=2)
    for name, column in finished.columns():
        data = column.astype("<U1") if column.dtype.kind == "U" and not column.dtype.itemsize else column
        array = group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=(max(1, len(data)),))
        if len(data):
            array[:] = data
    name, shape = finished.body()
    array = group.create_array(name, shape=shape, dtype=np.float32, chunks=(CHUNK_ROWS, *shape[1:]))
    start = 0
    for block in finished.blocks():
        array[start : start + len(block)] = block
        start += len(block)
    group.attrs["speechssl"] = finished.described()  # last: a group with it is complete


def read_zarr(out: Path) -> str:
    """The settings in a Zarr group."""
    import zarr

    group: Any = zarr.open_group(str(out), mode="r")
    return str(group.attrs["speechssl"])


def write_tree(out: Path, finished: Finished) -> None:
    """Writes a folder of one .npy per clip, and an index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = finished.layout
    names: list[str] = []
    taken: Counter[str] = Counter()
    blocks = finished.frames() if layout.frames else (row for rows in finished.vectors() for row in rows)
    kept = [name for name in layout.schema(own=False).names if name not in layout.vectors]
    tables: list[pa.Table] = []
    out.mkdir()
    for _, table in finished.shards.tables(finished.places):
        tables.append(table.select(kept))
        for path, offset in zip(table["path"].to_pylist(), table["offset"].to_pylist(), strict=True):
            name = npy_name(path, offset)
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name}~{taken[name]}"
            names.append(f"{name}.npy")
            target = out / names[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            block = next(blocks)
            if layout.layers == 1:
                block = block[:, 0] if layout.frames else block[0]
            with target.open("wb") as file:  # numpy.save gives no reason when a write fails
                _write_array(file, block.shape, [block], block.dtype)
    index = pa.concat_tables(tables) if tables else layout.schema(own=False).empty_table().select(kept)
    index = index.add_column(0, "file", pa.array(names, pa.string()))
    pq.write_table(index.replace_schema_metadata({METADATA_KEY: finished.described()}), out / "index.parquet")


def npy_name(path: str, offset: float) -> str:
    """Name of a clip's file in the tree, without its suffix: its path, kept inside, and its offset where it has one.

    >>> npy_name("calm/a.wav", 0.0), npy_name("/data/../b.flac", 1.5), npy_name("s3://bucket/c.wav", 0.0)
    ('calm/a.wav', 'data/b.flac@1.5', 's3/bucket/c.wav')
    """
    inside = [part for part in PurePosixPath(re.sub(r":/+", "/", path)).parts if part not in ("/", "..", ".")]
    return "/".join(inside or ["clip"]) + start_mark(offset)


def _add(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    blocks: Iterable[Shaped[np.ndarray, "..."]],
    dtype: np.dtype[Any],
) -> None:
    """Adds an .npy to a zip, block by block."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as file:
        _write_array(file, shape, blocks, dtype)


def _write_array(
    file: Any, shape: tuple[int, ...], blocks: Iterable[Shaped[np.ndarray, "..."]], dtype: np.dtype[Any]
) -> None:
    """Writes the content of an .npy, block by block."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, described)
    file.write(header.getvalue())
    for block in blocks:
        for piece in [block[at : at + CHUNK_ROWS] for at in range(0, len(block), CHUNK_ROWS)] if shape else [block]:
            file.write(np.ascontiguousarray(piece).tobytes())

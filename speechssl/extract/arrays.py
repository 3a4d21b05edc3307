"""Outputs that are arrays: npz, HDF5, Zarr, and a tree of .npy files. See `writers` for what lies in each."""

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from speechssl.data.stretches import start_mark
from speechssl.extract.finished import Finished
from speechssl.extract.h5_file import WritableFile
from speechssl.extract.parts import METADATA_KEY

_CHUNK_ROWS = 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: the same run gives the same bytes


def columns_of(finished: Finished) -> Iterator[tuple[str, Shaped[np.ndarray, " rows"]]]:
    """Every column but the vectors as an array, by name: words, whole numbers, numbers.

    What is not known is an empty word, or not a number; a truth is 1, 0, or -1 where it is not known.
    """
    for field in finished.layout.schema():
        if field.name in finished.layout.vectors:
            continue
        values = finished.column(field.name)
        kind = finished.layout.columns.get(field.name)
        if kind == "truth":
            yield field.name, np.array([-1 if value is None else int(value) for value in values], dtype=np.int8)
        elif kind == "text" or field.name in ("path", "key"):
            yield field.name, np.array(["" if value is None else value for value in values], dtype=np.str_)
        elif field.name in ("num_frames", "first_frame") or (kind == "integer" and None not in values):
            yield field.name, np.array(values, dtype=np.int64)
        else:
            yield field.name, np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def write_npz(out: Path, finished: Finished) -> None:
    """One file that `numpy.load` reads; array after array, some rows of it in memory."""
    layout = finished.layout
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, column in columns_of(finished):
            if name != "first_frame":
                _add(archive, name, column.shape, [column], column.dtype)
        _add(archive, "speechssl", (), [np.array(finished.described())], np.array(finished.described()).dtype)
        if layout.frames:
            for number, frames in enumerate(finished.frames()):
                own = _squeezed(frames)
                _add(archive, f"frames_{number:06d}", own.shape, [own], own.dtype)
        else:
            rows = (_squeezed(each) for each in finished.vectors())
            _add(archive, "vectors", (len(finished.places), *_inner(finished)), rows, np.dtype(np.float32))


def read_npz(out: Path) -> str:
    """The settings in it."""
    with np.load(out, allow_pickle=False) as file:
        return str(file["speechssl"])


def write_h5(out: Path, finished: Finished) -> None:
    """One HDF5 file."""
    import h5py

    with WritableFile(out) as target:
        with h5py.File(target, "w") as file:
            _fill_h5(file, finished, target)
        target.check()


def _fill_h5(file: Any, finished: Finished, target: WritableFile) -> None:
    import h5py

    file.attrs["speechssl"] = finished.described()
    for name, column in _with_new_starts(finished):
        words = column.dtype.kind == "U"
        file.create_dataset(
            name, data=column.astype(object) if words else column, dtype=h5py.string_dtype() if words else None
        )
        target.check()
    name, rows = _body(finished)
    body = file.create_dataset(name, (rows, *_inner(finished)), np.float32)
    for start, piece in _pieces(_blocks(finished)):
        body[start : start + len(piece)] = piece
        target.check()


def read_h5(out: Path) -> str:
    """The settings in it."""
    import h5py

    with h5py.File(out, "r") as file:
        return str(file.attrs["speechssl"])


def write_zarr(out: Path, finished: Finished) -> None:
    """A Zarr group in format 2, which every version of every reader knows."""
    import zarr

    group: Any = zarr.open_group(str(out), mode="w", zarr_format=2)
    for name, column in _with_new_starts(finished):
        data = column.astype("<U1") if column.dtype.kind == "U" and not column.dtype.itemsize else column
        array = group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=(max(1, len(data)),))
        if len(data):
            array[:] = data
    name, rows = _body(finished)
    inner = _inner(finished)
    array = group.create_array(name, shape=(rows, *inner), dtype=np.float32, chunks=(_CHUNK_ROWS, *inner))
    _fill(array, _blocks(finished))
    group.attrs["speechssl"] = finished.described()  # last: what has it is whole


def read_zarr(out: Path) -> str:
    """The settings in it."""
    import zarr

    group: Any = zarr.open_group(str(out), mode="r")
    return str(group.attrs["speechssl"])


def write_tree(out: Path, finished: Finished) -> None:
    """A folder of one .npy a clip, and an index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = finished.layout
    names: list[str] = []
    taken: Counter[str] = Counter()
    blocks = finished.frames() if layout.frames else (row for rows in finished.vectors() for row in rows)
    kept = [name for name in layout.schema(own=False).names if name not in layout.vectors]
    tables: list[pa.Table] = []
    out.mkdir()
    for _, table in finished.tables():
        tables.append(table.select(kept))
        for path, offset in zip(table["path"].to_pylist(), table["offset"].to_pylist(), strict=True):
            name = npy_name(path, offset)
            taken[name] += 1
            name = name if taken[name] == 1 else f"{name}~{taken[name]}"
            names.append(f"{name}.npy")
            target = out / names[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            block = next(blocks)
            own = block[:, 0] if layout.frames and layout.layers == 1 else _vector_shape(block, layout.frames)
            with target.open("wb") as file:  # numpy.save has no reason for what it could not write
                _write_array(file, own.shape, [own], own.dtype)
    index = pa.concat_tables(tables) if tables else layout.schema(own=False).empty_table().select(kept)
    index = index.add_column(0, "file", pa.array(names, pa.string()))
    pq.write_table(index.replace_schema_metadata({METADATA_KEY: finished.described()}), out / "index.parquet")


def npy_name(path: str, offset: float) -> str:
    """Where a clip's file lies in the tree, without its suffix: its path, kept inside; the offset where it has one.

    >>> npy_name("calm/a.wav", 0.0), npy_name("/data/../b.flac", 1.5), npy_name("s3://bucket/c.wav", 0.0)
    ('calm/a.wav', 'data/b.flac@1.5', 's3/bucket/c.wav')
    """
    inside = [part for part in PurePosixPath(re.sub(r":/+", "/", path)).parts if part not in ("/", "..", ".")]
    return "/".join(inside or ["clip"]) + start_mark(offset)


def _vector_shape(block: Float32[np.ndarray, "..."], frames: bool) -> Float32[np.ndarray, "..."]:
    """(layers, dim) of one layer as (dim,)."""
    return block[0] if not frames and block.shape[0] == 1 else block


def _squeezed(block: Float32[np.ndarray, "rows layers dim"]) -> Float32[np.ndarray, "..."]:
    """Without the axis of layers where there is one."""
    return block[:, 0] if block.shape[1] == 1 else block


def _inner(finished: Finished) -> tuple[int, ...]:
    layout = finished.layout
    return (layout.dim,) if layout.layers == 1 else (layout.layers, layout.dim)


def _with_new_starts(finished: Finished) -> Iterator[tuple[str, Shaped[np.ndarray, " rows"]]]:
    """The columns, with first_frame counted over all clips and not over those of a part."""
    count: Shaped[np.ndarray, " rows"] | None = None
    for name, column in columns_of(finished):
        if name == "num_frames":
            count = column
        if name == "first_frame" and count is not None:
            yield name, np.cumsum(count) - count
        else:
            yield name, column


def _body(finished: Finished) -> tuple[str, int]:
    """Name and length of the array of all vectors, or of all frames."""
    if finished.layout.frames:
        return "frames", sum(finished.column("num_frames"))
    return "vectors", len(finished.places)


def _blocks(finished: Finished) -> Iterator[Float32[np.ndarray, "..."]]:
    return (_squeezed(each) for each in (finished.frames() if finished.layout.frames else finished.vectors()))


def _fill(array: Any, blocks: Iterable[Float32[np.ndarray, "..."]]) -> None:
    """Write blocks one after another, in steps that keep what is in memory small."""
    for start, piece in _pieces(blocks):
        array[start : start + len(piece)] = piece


def _pieces(blocks: Iterable[Float32[np.ndarray, "..."]]) -> Iterator[tuple[int, Float32[np.ndarray, "..."]]]:
    """Blocks in pieces of at most `_CHUNK_ROWS` rows, each with the number of rows before it."""
    start = 0
    for block in blocks:
        for at in range(0, len(block), _CHUNK_ROWS):
            piece = block[at : at + _CHUNK_ROWS]
            yield start, piece
            start += len(piece)


def _add(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    blocks: Iterable[Shaped[np.ndarray, "..."]],
    dtype: np.dtype[Any],
) -> None:
    """An .npy inside a zip, block by block."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as file:
        _write_array(file, shape, blocks, dtype)


def _write_array(
    file: Any, shape: tuple[int, ...], blocks: Iterable[Shaped[np.ndarray, "..."]], dtype: np.dtype[Any]
) -> None:
    """What an .npy holds, block by block."""
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, described)
    file.write(header.getvalue())
    for block in blocks:
        for piece in [block[at : at + _CHUNK_ROWS] for at in range(0, len(block), _CHUNK_ROWS)] if shape else [block]:
            file.write(np.ascontiguousarray(piece).tobytes())

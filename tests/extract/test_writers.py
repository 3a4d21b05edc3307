"""Every kind of output holds what the run gave: vectors and frames, one layer and all, metadata and settings."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl import files
from speechssl.config import UserError
from speechssl.data.manifest import Utterance, write_manifest
from speechssl.embed.embedder import load
from speechssl.extract import decode, encode, writers
from speechssl.extract.formats import rows
from speechssl.extract.formats.columns import SeenColumns
from speechssl.extract.run import extract
from speechssl.models.storage import model_hash
from tests.micro import tone

PATHS = ["a.wav", "deep/b.wav", "c.wav"]
KINDS = ["parquet", "npz", "h5", "zarr", "npy"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A manifest of three clips that each know something else."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "deep").mkdir()
    for number, path in enumerate(PATHS):
        soundfile.write(folder / path, tone(6000 + 4000 * number, 100 + 90 * number), 16000)
    extras = [
        {"age": 31, "old": True, "mixed": 1, "path": "p"},
        {"age": None, "score": 0.5, "mixed": "one"},
        {"score": 2},
    ]
    known = [{"speaker": "s", "label": "x"}, {}, {"text": "hé"}]
    items = [
        Utterance(audio=path, duration=0.0, extras=extra, **told)
        for path, extra, told in zip(PATHS, extras, known, strict=True)
    ]
    write_manifest(items, folder / "m.jsonl")
    return folder / "m.jsonl"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(decode, "PART_CLIPS", 2)


def made(model_folder, source, tmp_path, kind, **settings):
    out = tmp_path / ("v" if kind == "npy" else f"v.{kind}")
    extract(model_folder, source, out, **settings)
    return out


def arrays_of(out, *, frames=False):
    """All of an output, by name; frames as a list of arrays."""
    if out.suffix == ".parquet":
        table = pq.ParquetFile(out).read()
        names = [name for name in table.column_names if name.startswith(("vector", "frames"))]
        columns = [[np.stack(row) if frames else row for row in table[name].to_pandas()] for name in names]
        body = [
            np.stack([column[row] for column in columns], axis=-2 if len(names) > 1 else 0) for row in range(len(table))
        ]
        body = [each[0] if len(names) == 1 else each for each in body]
        return {"path": table["path"].to_pylist(), "body": body, "settings": table.schema.metadata[b"speechssl"]}
    if out.suffix == ".npz":
        with np.load(out, allow_pickle=False) as file:
            body = [file[f"frames_{row:06d}"] for row in range(3)] if frames else list(file["vectors"])
            return {"path": file["path"].tolist(), "body": body, "settings": str(file["speechssl"])}
    if out.suffix in (".h5", ".zarr"):
        if out.suffix == ".h5":
            file = pytest.importorskip("h5py").File(out)
            paths = file["path"].asstr()[:].tolist()
        else:
            file = pytest.importorskip("zarr").open_group(str(out), mode="r")
            paths = file["path"][:].tolist()
        if frames:
            spans = zip(file["first_frame"][:].tolist(), file["num_frames"][:].tolist(), strict=True)
            body = [file["frames"][first : first + count] for first, count in spans]
        else:
            body = list(file["vectors"][:])
        return {"path": paths, "body": body, "settings": file.attrs["speechssl"]}
    index = pq.ParquetFile(out / "index.parquet").read()
    assert index["file"].to_pylist() == [f"{path}.npy" for path in PATHS]
    body = [np.load(out / name) for name in index["file"].to_pylist()]
    return {"path": index["path"].to_pylist(), "body": body, "settings": index.schema.metadata[b"speechssl"]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [-1, "all"])
def test_vectors_come_back(model_folder, source, tmp_path, kind, layer):
    found = arrays_of(made(model_folder, source, tmp_path, kind, layer=layer, pooling="mean+std"))
    model = load(model_folder, device="cpu")
    clips = [source.parent / path for path in PATHS]
    each = [
        model.embed(clips, pooling="mean+std", layer=number) for number in (range(3) if layer == "all" else [layer])
    ]
    expected = np.stack(each, axis=1) if layer == "all" else each[0]
    np.testing.assert_allclose(np.stack(found["body"]), expected, atol=1e-5)
    assert found["path"] == PATHS
    settings = json.loads(found["settings"])
    assert (settings["model_hash"], settings["written"]) == (model_hash(model_folder), 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [1, "all"])
def test_frames_come_back(model_folder, source, tmp_path, kind, layer):
    found = arrays_of(made(model_folder, source, tmp_path, kind, layer=layer, pooling="none"), frames=True)
    model = load(model_folder, device="cpu")
    for path, frames in zip(PATHS, found["body"], strict=True):
        states = model.hidden_states(source.parent / path)
        expected = np.stack(states, axis=1) if layer == "all" else states[layer]
        np.testing.assert_allclose(frames, expected, atol=1e-5)


def test_columns_hold_what_the_manifest_knew(model_folder, source, tmp_path):
    table = pq.ParquetFile(made(model_folder, source, tmp_path, "parquet")).read()
    assert table.column_names == [
        *("path", "offset", "duration", "vector", "speaker", "label", "text"),
        *("age", "old", "mixed", "extra_path", "score", "key"),
    ]
    assert table["age"].to_pylist() == [31, None, None]
    assert table["mixed"].to_pylist() == ["1", "one", None]
    assert table["score"].to_pylist() == [None, 0.5, 2.0]
    assert table["text"].to_pylist() == [None, None, "hé"]
    types = {field.name: field.type for field in table.schema}
    assert types["vector"] == pa.list_(pa.float32(), 24)
    assert (types["age"], types["old"], types["score"]) == (pa.int64(), pa.bool_(), pa.float64())


def test_arrays_hold_it_too(model_folder, source, tmp_path):
    with np.load(made(model_folder, source, tmp_path, "npz"), allow_pickle=False) as file:
        assert file["age"].tolist()[0] == 31.0
        assert np.isnan(file["age"].tolist()[1])
        assert file["old"].tolist() == [1, -1, -1]
        assert file["text"].tolist() == ["", "", "hé"]
        assert file["duration"].tolist() == [6000 / 16000, 10000 / 16000, 14000 / 16000]


def test_pandas_reads_it_as_it_is(model_folder, source, tmp_path):
    frame = pd.read_parquet(made(model_folder, source, tmp_path, "parquet"))
    assert np.stack(frame["vector"]).shape == (3, 24)


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails_leaves_nothing_and_is_done_again(model_folder, source, tmp_path, monkeypatch, kind):
    flush = files._flush
    monkeypatch.setattr(files, "_flush", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(model_folder, source, tmp_path, kind)
    out = tmp_path / ("v" if kind == "npy" else f"v.{kind}")
    assert not out.exists()
    monkeypatch.setattr(files, "_flush", flush)
    monkeypatch.setattr(encode.PartEncoder, "__call__", lambda *_: 1 / 0)  # all parts are there
    assert arrays_of(made(model_folder, source, tmp_path, kind))["path"] == PATHS
    assert extract(model_folder, source, out).finished_before


def test_the_same_run_gives_the_same_bytes(model_folder, source, tmp_path):
    for kind in ("parquet", "npz"):
        one = made(model_folder, source, tmp_path, kind).read_bytes()
        (tmp_path / f"v.{kind}").unlink()
        assert made(model_folder, source, tmp_path, kind).read_bytes() == one


def test_rows_of_several_parts_are_read_in_any_order(model_folder, source, tmp_path, monkeypatch):
    seen = []
    init = rows.Finished.__init__
    monkeypatch.setattr(rows.Finished, "__init__", lambda own, *args: init(own, *args) or seen.append(own))
    monkeypatch.setattr(files, "_flush", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made(model_folder, source, tmp_path, "parquet")
    [run] = seen
    assert list(run.places) == [0, 1, 1 << 32]
    backwards = rows.Finished(run.layout, run.shards, [1 << 32, 1, 0], {})
    assert backwards.column("path") == PATHS[::-1]
    np.testing.assert_array_equal(np.concatenate(list(backwards.vectors())), np.concatenate(list(run.vectors()))[::-1])


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install 'speechssl\[hdf5\]'"):
        writers.check_out(tmp_path / "v.h5")


def test_types_are_the_narrowest_that_fit():
    seen = SeenColumns()
    for extras in ({"age": 3, "old": True}, {"age": 2.5, "note": None, "mixed": 1}, {"mixed": "one", "old": 1}):
        seen.add({}, extras)
    assert seen.ordered() == {"age": "number", "old": "text", "mixed": "text"}


ODD_NAMES = ["a.b", "Room", "room", "ä ö", "a:b", "[1]", "x" * 200]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_column_names_are_held(model_folder, tmp_path, kind):
    soundfile.write(tmp_path / "a.wav", tone(6000), 16000)
    extras = {name: f"value {place}" for place, name in enumerate(ODD_NAMES)}
    write_manifest([Utterance(audio="a.wav", duration=0, extras=extras)], tmp_path / "m.jsonl")
    out = made(model_folder, tmp_path / "m.jsonl", tmp_path, kind)
    for name, value in extras.items():
        if kind == "npz":
            found = np.load(out)[name].tolist()
        elif kind == "h5":
            found = pytest.importorskip("h5py").File(out)[name].asstr()[:].tolist()
        elif kind == "zarr":
            found = pytest.importorskip("zarr").open_group(str(out), mode="r")[name][:].tolist()
        else:
            found = pq.ParquetFile(out if kind == "parquet" else out / "index.parquet").read()[name].to_pylist()
        assert found == [value]


@pytest.mark.parametrize(
    ("extras", "kinds", "message"),
    [
        ({"": 1}, KINDS, "column '': an empty name; rename it"),
        ({"a\0b": 1}, KINDS, r"column 'a\\x00b': a name with the character of code 0"),
        ({"a/b": 1}, ["npz", "h5", "zarr"], "column 'a/b': a name with '/' is a path in this format; rename it"),
        ({".": 1}, ["npz", "h5", "zarr"], "column '.': a name that begins with '.' is hidden in this format"),
        ({"x" * 201: 1}, ["npz", "h5", "zarr"], "a name of more than 200 bytes is too long for this format"),
        ({"note": "a\0b"}, ["npz", "h5", "zarr"], "column 'note': a text with the character of code 0"),
        (
            {"note": "x" * 100_000},
            ["npz", "zarr"],
            r"column 'note': a text of 100,000 characters makes each of 700 rows",
        ),
        ({"id": 2**60}, ["npz", "h5", "zarr"], r"column 'id': whole numbers above 2\^53 beside missing ones"),
        ({"path": 1, "extra_path": 2}, KINDS, "columns 'path' and 'extra_path' would both be called 'extra_path'"),
    ],
)
def test_what_cannot_be_held_is_found_before_the_first_clip(
    model_folder, tmp_path, monkeypatch, extras, kinds, message
):
    monkeypatch.setattr(encode.PartEncoder, "__call__", lambda *_: 1 / 0)
    items = [Utterance(audio=f"{number}.wav", duration=0) for number in range(699)]
    write_manifest([Utterance(audio="a.wav", duration=0, extras=extras), *items], tmp_path / "m.jsonl")
    for kind in kinds:
        with pytest.raises(UserError, match=message) as caught:
            made(model_folder, tmp_path / "m.jsonl", tmp_path, kind)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("v*"))


def test_numbers_keep_their_digits(model_folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(6000), 16000)
    soundfile.write(tmp_path / "b.wav", tone(7000), 16000)
    extras = [{"huge": 10**30, "mixed": 2**60 + 1, "id": 2**60 + 1}, {"mixed": 0.5}]
    items = [Utterance(audio=f"{name}.wav", duration=0, extras=each) for name, each in zip("ab", extras, strict=True)]
    write_manifest(items, tmp_path / "m.jsonl")
    table = pq.ParquetFile(made(model_folder, tmp_path / "m.jsonl", tmp_path, "parquet")).read()
    assert table["huge"].to_pylist() == [str(10**30), None]
    assert table["mixed"].to_pylist() == [str(2**60 + 1), "0.5"]
    assert table["id"].to_pylist() == [2**60 + 1, None]

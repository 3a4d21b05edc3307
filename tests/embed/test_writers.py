"""Parquet: columns and types follow the manifest, the file is whole or not there."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.data.manifest import Utterance
from speechssl.embed.writers import METADATA_KEY, VectorWriter

CLIPS = [
    Utterance(
        audio="a.wav", duration=1.0, speaker="s", label="x", extras={"age": 31, "old": True, "mixed": 1, "path": "p"}
    ),
    Utterance(audio="b.wav", duration=2.0, offset=0.5, extras={"age": None, "score": 0.5, "mixed": "one"}),
    Utterance(audio="c.wav", duration=3.0, text="hé", extras={"score": 2}),
]


def write(out, clips=CLIPS, **settings):
    vectors = np.arange(len(clips) * 3, dtype=np.float32).reshape(-1, 3)
    with VectorWriter(out, CLIPS, dim=3, settings=settings) as writer:
        writer.write([clip.audio for clip in clips[:1]], clips[:1], vectors=vectors[:1])
        writer.write([clip.audio for clip in clips[1:]], clips[1:], vectors=vectors[1:])
    return pq.read_table(out)


def test_columns_hold_what_the_manifest_knew(tmp_path):
    table = write(tmp_path / "v.parquet")
    assert table.column_names == [
        *("path", "offset", "duration", "vector", "speaker", "text", "label"),
        *("age", "old", "mixed", "extra_path", "score"),
    ]
    assert table["vector"].to_pylist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    np.testing.assert_array_equal(np.stack(table["vector"].to_numpy()), np.arange(9).reshape(3, 3))
    assert table["age"].to_pylist() == [31, None, None]
    assert table["mixed"].to_pylist() == ["1", "one", None]
    assert table["score"].to_pylist() == [None, 0.5, 2.0]
    assert table["text"].to_pylist() == [None, None, "hé"]
    types = {field.name: field.type for field in table.schema}
    assert types["vector"] == pa.list_(pa.float32(), 3)
    assert (types["age"], types["old"], types["score"]) == (pa.int64(), pa.bool_(), pa.float64())


def test_settings_lie_in_the_files_metadata(tmp_path):
    table = write(tmp_path / "v.parquet", pooling="mean", layer=-1)
    assert json.loads(table.schema.metadata[METADATA_KEY]) == {"pooling": "mean", "layer": -1}


def test_an_interrupted_file_leaves_nothing_and_keeps_the_old_one(tmp_path):
    out = tmp_path / "deep" / "v.parquet"
    write(out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"1 paths and 1 utterances for vectors \(1, 4\)"):
        _write_wrong(out)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["v.parquet"]


def _write_wrong(out):
    with VectorWriter(out, CLIPS, dim=3, settings={}) as writer:
        writer.write(["a.wav"], CLIPS[:1], vectors=np.zeros((1, 3), dtype=np.float32))
        writer.write(["a.wav"], CLIPS[:1], vectors=np.zeros((1, 4), dtype=np.float32))

"""Folder or manifest in, Parquet out: rows in order, bad files named, memory bounded, nothing half-written."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.audio import AudioError
from speechssl.config import UserError
from speechssl.data.manifest import Utterance, write_manifest
from speechssl.embed import extract as module
from speechssl.embed.embedder import load
from speechssl.embed.extract import extract
from speechssl.embed.writers import METADATA_KEY
from speechssl.models.storage import model_hash

from .conftest import tone


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    for number, label in enumerate(["calm", "calm", "glad", "glad", "glad"]):
        path = folder / label / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(8000 + 3000 * number, 100 + 50 * number), 16000)
    return folder


def test_a_folder_becomes_a_table(audio, model_folder, tmp_path):
    out = tmp_path / "out" / "v.parquet"
    calls = []
    report = extract(
        model_folder, audio, out, pooling="mean+std", progress=lambda done, total: calls.append((done, total))
    )
    table = pq.read_table(out)
    assert (report.written, report.failed, report.dim, report.errors) == (5, 0, 48, None)
    assert report.seconds == pytest.approx((5 * 8000 + 3000 * 10) / 16000)
    assert table["path"].to_pylist() == ["calm/0.wav", "calm/1.wav", "glad/2.wav", "glad/3.wav", "glad/4.wav"]
    assert table["label"].to_pylist() == ["calm", "calm", "glad", "glad", "glad"]
    model = load(model_folder, device="cpu")
    expected = model.embed([audio / path for path in table["path"].to_pylist()], pooling="mean+std")
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), expected, atol=1e-5)
    settings = json.loads(table.schema.metadata[METADATA_KEY])
    assert settings["model_hash"] == model_hash(model_folder)
    assert (settings["pooling"], settings["layer"], settings["dim"]) == ("mean+std", -1, 48)
    assert calls[0] == (0, 5)
    assert calls[-1] == (5, 5)
    assert sorted(path.name for path in out.parent.iterdir()) == ["v.parquet"]


def test_a_manifest_keeps_its_stretches_and_metadata(audio, model_folder, tmp_path):
    items = [
        Utterance(audio="audio/glad/4.wav", offset=0.25, duration=0.5, speaker="anna", text="hi", extras={"age": 7}),
        Utterance(audio=str(audio / "calm" / "0.wav"), duration=0.5),
    ]
    write_manifest(items, tmp_path / "m.jsonl")
    extract(model_folder, tmp_path / "m.jsonl", tmp_path / "v.parquet", layer=1)
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["path"].to_pylist() == ["audio/glad/4.wav", "audio/calm/0.wav"]
    assert table["offset"].to_pylist() == [0.25, 0.0]
    assert table["duration"].to_pylist() == [0.5, 0.5]
    assert table["age"].to_pylist() == [7, None]
    whole, _ = soundfile.read(audio / "glad" / "4.wav", dtype="float32")
    expected = load(model_folder, device="cpu").embed(whole[4000:12000], layer=1)
    np.testing.assert_allclose(table["vector"].to_pylist()[0], expected, atol=1e-5)


def test_bad_files_are_named_and_stop_nothing(audio, model_folder, tmp_path):
    (audio / "calm" / "empty.wav").write_bytes(b"")
    (audio / "calm" / "noise.flac").write_bytes(b"not audio at all" * 100)
    (audio / "glad" / "film.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + b"\0" * 100)
    soundfile.write(audio / "glad" / "short.wav", tone(200), 16000)
    soundfile.write(audio / "glad" / "still.wav", np.zeros(16000), 16000)
    out = tmp_path / "v.parquet"
    report = extract(model_folder, audio, out)
    assert (report.written, report.failed) == (5, 5)
    assert report.errors == tmp_path / "v.parquet.errors.jsonl"
    rejects = [json.loads(line) for line in report.errors.read_text().splitlines()]
    reasons = {reject["audio"].split("/")[-1]: reject["reason"] for reject in rejects}
    assert set(reasons) == {"empty.wav", "noise.flac", "film.m4a", "short.wav", "still.wav"}
    assert "too short" in reasons["short.wav"]
    assert "ffmpeg" in reasons["film.m4a"]
    for name in ("empty.wav", "noise.flac"):
        next(audio.rglob(name)).unlink()
    for name in ("film.m4a", "short.wav", "still.wav"):
        next(audio.rglob(name)).unlink()
    assert extract(model_folder, audio, out).errors is None
    assert not (tmp_path / "v.parquet.errors.jsonl").exists()  # of the earlier run


def test_a_folder_of_bad_files_gives_an_empty_table(model_folder, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"")
    report = extract(model_folder, tmp_path / "audio", tmp_path / "v.parquet")
    assert (report.written, report.failed) == (0, 1)
    assert pq.read_table(tmp_path / "v.parquet").num_rows == 0


def test_chunks_do_not_change_the_result(audio, model_folder, tmp_path, monkeypatch):
    extract(model_folder, audio, tmp_path / "one.parquet")
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0.9)
    extract(model_folder, audio, tmp_path / "many.parquet")
    one, many = pq.read_table(tmp_path / "one.parquet"), pq.read_table(tmp_path / "many.parquet")
    assert one.drop_columns("vector").equals(many.drop_columns("vector"))
    np.testing.assert_allclose(np.stack(one["vector"].to_numpy()), np.stack(many["vector"].to_numpy()), atol=1e-5)


def test_at_most_two_chunks_are_decoded_at_once(audio, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_CLIPS", 2)
    items = [Utterance(audio=str(audio / "calm" / "0.wav"), duration=0.5)] * 20
    decoded, ahead = [], []
    decode = module._decode
    monkeypatch.setattr(module, "_decode", lambda item: decoded.append(item) or decode(item))
    for number, chunk in enumerate(module._decoded(items)):
        assert len(chunk) == 2
        ahead.append(len(decoded) - 2 * (number + 1))
    assert max(ahead) <= 2


def test_a_fault_of_the_program_is_no_bad_file(audio, model_folder, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "check_waveform", broken)
    with pytest.raises(ZeroDivisionError):
        extract(model_folder, audio, tmp_path / "v.parquet")
    assert not list(tmp_path.glob("*.parquet"))
    monkeypatch.setattr(module, "check_waveform", lambda _, path: (_ for _ in ()).throw(AudioError(path, "no")))
    assert extract(model_folder, audio, tmp_path / "v.parquet").failed == 5


def test_what_is_no_source_is_refused(model_folder, audio, tmp_path):
    out = tmp_path / "v.parquet"
    with pytest.raises(UserError, match="no such folder or manifest"):
        extract(model_folder, tmp_path / "nowhere", out)
    with pytest.raises(UserError, match="give a folder of audio or a manifest"):
        extract(model_folder, audio / "calm" / "0.wav", out)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError):
        extract(model_folder, tmp_path / "none", out)
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(UserError, match="the manifest is empty"):
        extract(model_folder, tmp_path / "m.jsonl", out)
    with pytest.raises(UserError, match="is a folder"):
        extract(model_folder, audio, tmp_path)
    (tmp_path / "none" / "waveforms.json").write_text("{}")
    with pytest.raises(UserError, match="a prepared corpus"):
        extract(model_folder, tmp_path / "none", out)
    with pytest.raises(UserError, match="not a model folder"):
        extract(tmp_path, audio, out)
    assert not out.exists()

"""From recordings to vectors: rows in order, bad files named, nothing mixed, nothing lost, nothing done twice."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.audio import Levels
from speechssl.cli import main
from speechssl.config import UserError
from speechssl.data.manifest import Utterance, write_manifest
from speechssl.embed.embedder import load
from speechssl.extract import decode, encode, writers
from speechssl.extract import run as module
from speechssl.extract.run import extract
from speechssl.extract.shards import METADATA_KEY, locked
from speechssl.inference import precision
from speechssl.models.storage import model_hash, save_model
from tests.micro import micro_encoder, tone

from ..toys import files_of_at_most


@pytest.fixture
def audio(tmp_path):
    folder = tmp_path / "audio"
    for number, label in enumerate(["calm", "calm", "glad", "glad", "glad"]):
        path = folder / label / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(8000 + 3000 * number, 100 + 50 * number), 16000)
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(decode, "PART_CLIPS", 2)


def table_of(out):
    return pq.ParquetFile(out).read()


def vectors_of(out):
    return np.stack(table_of(out)["vector"].to_numpy())


def test_a_folder_becomes_a_table(audio, model_folder, tmp_path, small_parts):
    out = tmp_path / "out" / "v.parquet"
    told = []
    report = extract(model_folder, audio, out, pooling="mean+std", progress=told.append)
    table = table_of(out)
    assert (report.written, report.failed, report.dim, report.errors) == (5, 0, 48, None)
    assert (report.resumed, report.finished_before, report.dtype, report.cosine) == (0, False, "float32", None)
    assert report.seconds == pytest.approx((5 * 8000 + 3000 * 10) / 16000)
    assert report.times_real_time == pytest.approx(report.seconds / report.wall_seconds)
    assert report.peak_memory > 1 << 20
    assert table["path"].to_pylist() == ["calm/0.wav", "calm/1.wav", "glad/2.wav", "glad/3.wav", "glad/4.wav"]
    assert table["label"].to_pylist() == ["calm", "calm", "glad", "glad", "glad"]
    assert table.column_names == ["path", "offset", "duration", "vector", "label", "key"]
    expected = load(model_folder, device="cpu").embed(
        [audio / path for path in table["path"].to_pylist()], pooling="mean+std"
    )
    np.testing.assert_allclose(vectors_of(out), expected, atol=1e-5)
    settings = json.loads(table.schema.metadata[METADATA_KEY])
    assert settings["model_hash"] == model_hash(model_folder)
    assert (settings["pooling"], settings["layer"], settings["dim"]) == ("mean+std", -1, 48)
    assert (told[0].files, told[0].total_files, told[0].total_seconds) == (0, 5, None)
    assert (told[-1].files, told[-1].failed) == (5, 0)
    assert told[-1].seconds == pytest.approx(report.seconds)
    assert sorted(path.name for path in out.parent.iterdir()) == ["v.parquet"]


def test_a_manifest_keeps_its_stretches_and_metadata(audio, model_folder, tmp_path):
    items = [
        Utterance(audio="audio/glad/4.wav", offset=0.25, duration=0.5, speaker="anna", text="hi", extras={"age": 7}),
        Utterance(audio=str(audio / "calm" / "0.wav"), duration=0.5),
    ]
    write_manifest(items, tmp_path / "m.jsonl")
    extract(model_folder, tmp_path / "m.jsonl", tmp_path / "v.parquet", layer=1)
    table = table_of(tmp_path / "v.parquet")
    assert table["path"].to_pylist() == ["audio/glad/4.wav", "audio/calm/0.wav"]
    assert table["offset"].to_pylist() == [0.25, 0.0]
    assert table["duration"].to_pylist() == [0.5, 0.5]
    assert table["age"].to_pylist() == [7, None]
    whole, _ = soundfile.read(audio / "glad" / "4.wav", dtype="float32")
    expected = load(model_folder, device="cpu").embed(whole[4000:12000], layer=1)
    np.testing.assert_allclose(vectors_of(tmp_path / "v.parquet")[0], expected, atol=1e-5)


def test_bad_files_are_named_and_stop_nothing(audio, model_folder, tmp_path, monkeypatch):
    (audio / "calm" / "empty.wav").write_bytes(b"")
    (audio / "calm" / "noise.flac").write_bytes(b"not audio at all" * 100)
    soundfile.write(audio / "glad" / "short.wav", tone(200), 16000)
    soundfile.write(audio / "glad" / "odd.wav", tone(9000), 16000)
    (audio / "glad" / "gone.wav").symlink_to("nowhere.wav")
    check = Levels.check

    def odd(levels, path):
        if path.endswith("odd.wav"):
            raise ZeroDivisionError("by\nzero")
        return check(levels, path)

    monkeypatch.setattr(Levels, "check", odd)
    out = tmp_path / "v.parquet"
    report = extract(model_folder, audio, out)
    assert (report.written, report.failed) == (5, 5)
    assert report.errors == tmp_path / "v.parquet.errors.jsonl"
    told = [json.loads(line) for line in report.errors.read_text().splitlines()]
    assert [each["path"] for each in told] == [f"calm/{n}" for n in ("empty.wav", "noise.flac")] + [
        f"glad/{n}" for n in ("gone.wav", "odd.wav", "short.wav")
    ]
    reasons = {each["path"]: each["reason"] for each in told}
    assert "too short" in reasons["glad/short.wav"]
    assert reasons["glad/odd.wav"] == "decoding fails (ZeroDivisionError: by zero)"
    assert "missing file" in reasons["glad/gone.wav"]
    for each in told:
        (audio / each["path"]).unlink()
    assert extract(model_folder, audio, out).errors is None
    assert not (tmp_path / "v.parquet.errors.jsonl").exists()  # of the earlier run


def test_a_folder_of_bad_files_gives_an_empty_table(model_folder, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(b"")
    report = extract(model_folder, tmp_path / "audio", tmp_path / "v.parquet", dtype="auto")
    assert (report.written, report.failed) == (0, 1)
    assert table_of(tmp_path / "v.parquet").num_rows == 0


def test_a_list_names_what_is_no_file(audio, model_folder, tmp_path):
    (tmp_path / "x.wav").mkdir()
    report = extract(model_folder, [audio / "calm" / "0.wav", tmp_path / "x.wav", "no.wav"], tmp_path / "v.npz")
    assert (report.written, report.failed) == (1, 2)
    reasons = [json.loads(line)["reason"] for line in report.errors.read_text().splitlines()]
    assert reasons == ["a directory, not an audio file", "no such file"]


def test_a_missing_file_has_its_neighbour(audio, model_folder, tmp_path):
    report = extract(model_folder, [audio / "calm" / "0.wav", audio / "calm" / "0.MP3"], tmp_path / "v.npz")
    assert (report.written, report.failed) == (1, 1)
    [line] = report.errors.read_text().splitlines()
    assert json.loads(line)["reason"] == "no such file; there is 0.wav"


def test_vectors_do_not_depend_on_parts_and_memory(audio, model_folder, tmp_path, monkeypatch):
    extract(model_folder, audio, tmp_path / "one.parquet")
    monkeypatch.setattr(decode, "PART_SECONDS", 0.9)
    extract(model_folder, audio, tmp_path / "many.parquet", memory=900 << 20, threads=1)
    assert (
        table_of(tmp_path / "one.parquet")
        .drop_columns("vector")
        .equals(table_of(tmp_path / "many.parquet").drop_columns("vector"))
    )
    np.testing.assert_allclose(vectors_of(tmp_path / "one.parquet"), vectors_of(tmp_path / "many.parquet"), atol=1e-5)


def interrupted(audio, model_folder, out, monkeypatch, after):
    """A run that dies after so many parts."""
    commit = module.Run.commit

    def dying(run, part):
        if run.shards.count == after:
            raise KeyboardInterrupt
        commit(run, part)

    with monkeypatch.context() as patch:
        patch.setattr(module.Run, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            extract(model_folder, audio, out)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_run_goes_on_and_ends_the_same(audio, model_folder, tmp_path, small_parts, monkeypatch, after):
    (audio / "calm" / "bad.wav").write_bytes(b"RIFF")
    whole, out = tmp_path / "whole.parquet", tmp_path / "v.parquet"
    extract(model_folder, audio, whole)
    interrupted(audio, model_folder, out, monkeypatch, after)
    assert not out.exists()
    parts = sorted((tmp_path / "v.parquet.parts").glob("*.parquet"))
    assert len(parts) == after
    if parts:  # readable while the run goes on
        assert pq.read_table(tmp_path / "v.parquet.parts").num_rows == sum(pq.read_table(p).num_rows for p in parts)
    encoded = []
    work = encode.PartEncoder.__call__
    monkeypatch.setattr(encode.PartEncoder, "__call__", lambda own, part: encoded.extend(part) or work(own, part))
    report = extract(model_folder, audio, out)
    assert len(encoded) == 6 - 2 * after
    assert (report.written, report.failed) == (5, 1)
    assert report.resumed == len(table_of(whole)) - sum(not isinstance(c, decode.Failed) for c in encoded)
    assert table_of(out).equals(table_of(whole))  # to the last bit
    assert report.errors.read_text() == (tmp_path / "whole.parquet.errors.jsonl").read_text()
    assert not (tmp_path / "v.parquet.parts").exists()


def test_a_finished_output_is_left_alone(audio, model_folder, tmp_path, monkeypatch):
    out = tmp_path / "v.parquet"
    (audio / "calm" / "bad.wav").write_bytes(b"RIFF")
    first = extract(model_folder, audio, out)
    monkeypatch.setattr(module, "run_local", None)
    before = out.stat().st_mtime_ns
    again = extract(model_folder, audio, out)
    assert again.finished_before
    assert (again.written, again.failed, again.seconds) == (first.written, first.failed, first.seconds)
    assert out.stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio", "v.parquet", "v.parquet.errors.jsonl"]


def test_added_changed_and_removed_files_are_brought_up_to_date(audio, model_folder, tmp_path, monkeypatch):
    out = tmp_path / "v.parquet"
    extract(model_folder, audio, out)
    soundfile.write(audio / "calm" / "00.wav", tone(9000, 500), 16000)
    soundfile.write(audio / "glad" / "3.wav", tone(7000, 70), 16000)
    (audio / "calm" / "1.wav").unlink()
    encoded = []
    work = encode.PartEncoder.__call__
    monkeypatch.setattr(encode.PartEncoder, "__call__", lambda own, part: encoded.extend(part) or work(own, part))
    report = extract(model_folder, audio, out)
    assert [clip.item.path for clip in encoded] == ["calm/00.wav", "glad/3.wav"]
    assert (report.written, report.resumed) == (5, 3)
    monkeypatch.undo()
    extract(model_folder, audio, tmp_path / "new.parquet")
    assert table_of(out).drop_columns("vector").equals(table_of(tmp_path / "new.parquet").drop_columns("vector"))
    np.testing.assert_allclose(vectors_of(out), vectors_of(tmp_path / "new.parquet"), atol=1e-5)
    extract(model_folder, audio, tmp_path / "v.npz")
    (audio / "calm" / "00.wav").unlink()
    with pytest.raises(UserError, match=r"v\.npz: finished, and the files of .* have changed since"):
        extract(model_folder, audio, tmp_path / "v.npz")


def test_another_model_or_setting_is_refused(audio, model_folder, tmp_path, monkeypatch, small_parts):
    other = tmp_path / "other"
    encoder = micro_encoder()
    encoder.projection.bias.data += 1
    save_model(other, encoder)
    done, half = tmp_path / "done.parquet", tmp_path / "half.parquet"
    extract(model_folder, audio, done)
    interrupted(audio, model_folder, half, monkeypatch, 1)
    for out, where in ((done, "done.parquet"), (half, "half.parquet.parts")):
        with pytest.raises(
            UserError,
            match=rf"{where}: made with model {model_hash(model_folder)}, now {model_hash(other)}; the model has "
            "changed; give another name, or remove it to begin anew$",
        ):
            extract(other, audio, out)
        with pytest.raises(UserError, match=rf"{where}: made with pooling mean, now mean\+std; use the same settings"):
            extract(model_folder, audio, out, pooling="mean+std")
        with pytest.raises(UserError, match="made with dtype float32, now bfloat16"):
            extract(model_folder, audio, out, dtype="bfloat16")
        with pytest.raises(UserError, match="made with source"):
            extract(model_folder, audio / "calm", out)
    assert extract(model_folder, audio, half, dtype="auto").written == 5  # what the first run has chosen
    done.write_text("something else")
    with pytest.raises(UserError, match=r"done\.parquet: is there, and no output of extract"):
        extract(model_folder, audio, done)


def test_two_runs_at_once_on_one_output_are_refused(audio, model_folder, tmp_path):
    out = tmp_path / "v.parquet"
    with locked(tmp_path / "v.parquet.parts"), pytest.raises(UserError, match="another run is writing there"):
        extract(model_folder, audio, out)
    assert not (tmp_path / "v.parquet.parts").exists()
    assert extract(model_folder, audio, out).written == 5


def test_two_devices_share_the_work_and_keep_the_order(audio, model_folder, tmp_path, small_parts):
    extract(model_folder, audio, tmp_path / "one.parquet", device="cpu")
    extract(model_folder, audio, tmp_path / "two.parquet", device="cpu,cpu")
    assert table_of(tmp_path / "one.parquet").equals(table_of(tmp_path / "two.parquet"))


def test_bfloat16_is_chosen_once_and_kept(audio, model_folder, tmp_path, monkeypatch, small_parts):
    out = tmp_path / "v.parquet"
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    commit = module.Run.commit
    monkeypatch.setattr(module.Run, "commit", lambda run, part: 1 / 0 if run.shards.count else commit(run, part))
    with pytest.raises(ZeroDivisionError):
        extract(model_folder, audio, out, dtype="auto")
    monkeypatch.setattr(module.Run, "commit", commit)
    monkeypatch.setattr(encode, "choose", None)  # not asked again
    report = extract(model_folder, audio, out, dtype="auto")
    assert report.dtype == "bfloat16"
    assert 0.999 < report.cosine < 1.0001
    np.testing.assert_allclose(
        vectors_of(out), load(model_folder, device="cpu").embed(sorted(audio.rglob("*.wav"))), atol=0.1
    )


def test_long_clips_are_streamed_and_equal_the_whole(audio, model_folder, tmp_path, monkeypatch):
    clip = np.concatenate([tone(40000, 100 + 60 * part, seed=part) for part in range(6)])
    soundfile.write(audio / "calm" / "long.flac", clip, 8000)
    monkeypatch.setattr(module, "divide", lambda *_, **__: module_resources(window=9.0))
    extract(model_folder, audio, tmp_path / "v.parquet", layer=0)
    table = table_of(tmp_path / "v.parquet")
    paths = table["path"].to_pylist()
    expected = load(model_folder, device="cpu").embed([audio / path for path in paths], layer=0)
    np.testing.assert_allclose(vectors_of(tmp_path / "v.parquet"), expected, atol=2e-4)
    assert table["duration"].to_pylist()[paths.index("calm/long.flac")] == 30.0


def module_resources(window):
    from speechssl.extract.machine.resources import Resources

    return Resources(audio_bytes=1 << 20, batch_seconds=20.0, window_seconds=window, threads=2)


def test_a_long_file_that_vanishes_in_the_middle_is_named(audio, model_folder, tmp_path, monkeypatch):
    path = audio / "calm" / "long.wav"
    soundfile.write(path, tone(200000), 16000)
    monkeypatch.setattr(module, "divide", lambda *_, **__: module_resources(window=9.0))
    scan = decode.scan

    def vanishing(blocks, name):
        found = scan(blocks, name)
        path.unlink()
        return found

    monkeypatch.setattr(decode, "scan", vanishing)
    for pooling in ("mean", "none"):
        soundfile.write(path, tone(200000), 16000)
        report = extract(model_folder, audio, tmp_path / f"{pooling}.parquet", pooling=pooling)
        assert (report.written, report.failed) == (5, 1)
        assert json.loads(report.errors.read_text()) == {"path": "calm/long.wav", "reason": "no such file"}


def test_globs_lists_and_addresses_are_sources(audio, model_folder, tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    glob = str(audio / "**" / "*.wav")
    assert extract(model_folder, glob, tmp_path / "glob.parquet").written == 5
    lines = "".join(f"{path}\n" for path in sorted(audio.rglob("*.wav")))
    (tmp_path / "lines").write_text(lines)
    with (tmp_path / "lines").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        assert extract(model_folder, "-", tmp_path / "list.parquet").written == 5
    memory = fsspec.filesystem("memory")
    for path in audio.rglob("*.wav"):
        memory.pipe(f"/bucket/{path.parent.name}/{path.name}", path.read_bytes())
    assert extract(model_folder, "memory://bucket", tmp_path / "bucket.parquet").written == 5
    assert table_of(tmp_path / "bucket.parquet")["path"].to_pylist()[0] == "calm/0.wav"
    assert extract(model_folder, "memory://bucket/glad/*.wav", tmp_path / "some.parquet").written == 3
    addresses = [f"file://{audio}/calm/0.wav", "memory://bucket/none.wav"]
    report = extract(model_folder, addresses, tmp_path / "a.parquet")
    assert (report.written, report.failed) == (1, 1)
    assert "cannot be fetched" in report.errors.read_text()
    assert "cannot be fetched" in extract(model_folder, addresses, tmp_path / "a.parquet").errors.read_text()
    monkeypatch.setattr(encode.PartEncoder, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a try that is broken off
        extract(model_folder, addresses, tmp_path / "a.parquet")
    assert "cannot be fetched" in report.errors.read_text()
    monkeypatch.undo()
    memory.pipe("/bucket/none.wav", (audio / "calm" / "1.wav").read_bytes())
    again = extract(model_folder, addresses, tmp_path / "a.parquet")  # what failed far away is tried again
    assert (again.written, again.failed, again.resumed, again.errors) == (2, 0, 1, None)
    assert extract(model_folder, addresses, tmp_path / "a.parquet").finished_before
    (tmp_path / "empty.wav").touch()
    mixed = [addresses[0], str(tmp_path / "empty.wav")]
    assert extract(model_folder, mixed, tmp_path / "m.parquet").failed == 1
    assert extract(model_folder, mixed, tmp_path / "m.parquet").finished_before  # no address has failed
    one = vectors_of(tmp_path / "glob.parquet")
    for other in ("list", "bucket"):
        np.testing.assert_array_equal(vectors_of(tmp_path / f"{other}.parquet"), one)


def test_what_is_no_source_is_refused(model_folder, audio, tmp_path):
    out = tmp_path / "v.parquet"
    (tmp_path / "none").mkdir()
    (tmp_path / "m.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"audio": 3}\n')
    for name in ("notes.txt", "more.zip", "more.tar.gz", "list.xlsx", "odd.bin"):
        (tmp_path / name).write_text("no audio")
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "waveforms.json").write_text("{}")
    for source, words in (
        (tmp_path / "nowhere", "no such file or folder"),
        (tmp_path / "notes.txt", "a text; .* allowed: a folder of audio, a manifest .*, a .tar, a .parquet or .arrow"),
        (tmp_path / "more.zip", "more.zip: an archive; unpack it and give its folder; allowed: "),
        (tmp_path / "more.tar.gz", r"more.tar.gz: a compressed file, which is not read; unpack it.* \(\.tar, "),
        (tmp_path / "list.xlsx", "list.xlsx: a spreadsheet; save the table as .csv; allowed: "),
        (tmp_path / "odd.bin", "odd.bin: not a source of audio; allowed: "),
        (tmp_path / "note.txt", "note.txt: no such file or folder; the nearest that exists: .*notes.txt$"),
        (tmp_path / "odd.csv", "odd.csv: no such file or folder; the nearest that exists: .*odd.bin$"),
        (tmp_path / "none", "no audio files in it"),
        (tmp_path / "m.jsonl", "the manifest is empty"),
        (tmp_path / "bad.jsonl", "bad.jsonl line 1: audio: "),
        (str(tmp_path / "*.wav"), "no file fits"),
        ([], "an empty list"),
        (prepared, "a prepared corpus"),
    ):
        with pytest.raises(UserError, match=words):
            extract(model_folder, source, out)
    with pytest.raises(UserError, match="is a folder"):
        extract(model_folder, audio, _folder(tmp_path / "f.parquet"))
    with pytest.raises(UserError, match=r"end it in \.parquet, \.npz, \.h5 or \.zarr"):
        extract(model_folder, audio, tmp_path / "v.csv")
    with pytest.raises(UserError, match="a folder with other things in it"):
        extract(model_folder, audio, audio)
    with pytest.raises(UserError, match="no model in it"):
        extract(tmp_path, audio, out)
    with pytest.raises(UserError, match="layer must be"):
        extract(model_folder, audio, out, layer=9)
    with pytest.raises(UserError, match="memory of 100 MiB is too little"):
        extract(model_folder, audio, out, memory=100 << 20)
    assert not out.exists()
    assert not list(tmp_path.glob("*.parts"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_what_cannot_be_read_is_named_and_passed_over(audio, model_folder, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (audio / "calm" / "0.wav").chmod(0)
    report = extract(model_folder, audio, tmp_path / "v.parquet")
    assert (report.written, report.failed) == (4, 1)
    assert "permission denied" in report.errors.read_text()


def test_decoded_audio_stays_within_its_budget(audio, tmp_path):
    from speechssl.extract.plan import read_plan

    items = [*read_plan(audio).items()] * 20
    clips = decode.Decoding(iter(items), budget=400_000, long_samples=960000, spool=tmp_path)
    with clips.running([clips.decode] * 4, name="decode"):
        paths = []
        for clip in clips:
            paths.append(clip.item.path)
            clips.free(clip)
        assert paths == [item.path for item in items]
        assert 100_000 < clips.most_held <= 400_000 + 2 * 80_000  # a clip that is waited for is let through
        assert clips.held == 0


def test_an_error_of_the_program_ends_the_run(audio, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(encode.PartEncoder, "_vectors", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(model_folder, audio, tmp_path / "v.parquet")
    assert not (tmp_path / "v.parquet").exists()
    shutil.rmtree(tmp_path / "v.parquet.parts")


def test_names_and_columns_that_an_output_cannot_hold_are_told_otherwise(audio, model_folder, tmp_path):
    """A name that is not UTF-8, as old archives have them, and columns that an output has already."""
    (audio / "calm" / "0.wav").rename(os.fsdecode(bytes(audio / "calm" / "caf") + b"\xe9.wav"))
    (audio / "calm" / "1.wav").rename(os.fsdecode(bytes(audio / "calm" / "bad") + b"\xe9.wav"))
    os.truncate(os.fsdecode(bytes(audio / "calm" / "bad") + b"\xe9.wav"), 5)
    (audio / "metadata.csv").write_text("file_name,key,num_frames\nglad/2.wav,one,7\n")
    extract(model_folder, audio, tmp_path / "v.parquet")
    (audio / "metadata.csv").unlink()
    report = extract(model_folder, audio, tmp_path / "w.npz")
    table = pq.ParquetFile(tmp_path / "v.parquet").read()
    assert table["extra_key"].to_pylist() == ["one"]
    assert table["extra_num_frames"].to_pylist() == ["7"]
    with np.load(tmp_path / "w.npz") as found:
        assert "calm/caf\\xe9.wav" in found["path"].tolist()
    assert "bad" in report.errors.read_text()


def test_a_damaged_part_is_named(audio, model_folder, tmp_path, monkeypatch, small_parts):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writers.VectorFile, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(model_folder, audio, tmp_path / "v.parquet")
    monkeypatch.undo()
    os.truncate(tmp_path / "v.parquet.parts" / "part-00001.parquet", 100)
    with pytest.raises(UserError, match=r"part-00001\.parquet: damaged"):
        extract(model_folder, audio, tmp_path / "v.parquet")


FORMATS = ["v.parquet", "v.npz", "v.h5", "v.zarr", "tree"]


@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_names_the_output_that_is_written(audio, model_folder, tmp_path, monkeypatch, capfd, name, pooling):
    write = writers.VectorFile.write

    def limited(*given):
        with files_of_at_most(300):
            write(*given)

    monkeypatch.setattr(writers.VectorFile, "write", limited)
    words = ["extract", str(model_folder), str(audio), "-o", str(tmp_path / name), "--pooling", pooling]
    code = main(words)
    said = capfd.readouterr().err
    assert code == 2, said
    assert said.splitlines()[-1].startswith(f"speechssl: {tmp_path / name}: ")
    assert said.splitlines()[-1].endswith("File too large")
    assert not (tmp_path / name).exists()
    monkeypatch.setattr(writers.VectorFile, "write", write)
    assert main(words) == 0
    assert (tmp_path / name).exists()


def test_a_full_disk_names_the_file_of_frames(audio, model_folder, tmp_path, monkeypatch, capfd):
    write = encode.PartEncoder._frames

    def limited(*given):
        with files_of_at_most(5000):
            return write(*given)

    monkeypatch.setattr(encode.PartEncoder, "_frames", limited)
    words = ["extract", str(model_folder), str(audio), "-o", str(tmp_path / "v.h5"), "--pooling", "none"]
    assert main(words) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert re.fullmatch(rf"speechssl: {tmp_path}/v\.h5\.parts/\.[\d-]+\.f32: File too large", last)
    monkeypatch.setattr(encode.PartEncoder, "_frames", write)
    assert main(words) == 0

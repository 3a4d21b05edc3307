"""Predictions in files: sources, resuming, what is refused, hostile names, disks that are full."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import cli
from speechssl.config import UserError
from speechssl.extract.plan import read_plan
from speechssl.extract.predict import parts, run
from speechssl.extract.predict.rows import RowWriter
from speechssl.extract.predict.run import predict_to, read_sources
from speechssl.extract.shards import locked
from speechssl.inference import heads, windows
from speechssl.inference.heads import TooLongError, classify, emissions
from speechssl.inference.predictor import Predictor, Transcript
from speechssl.inference.windows import LongClip, scan
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel
from speechssl.models.heads import save_head
from speechssl.text import Vocabulary
from tests.micro import micro_encoder, tone

CLASSES = ("calm", "glad")


def save_classifier(folder, seed=0):
    torch.manual_seed(seed)
    save_head(folder, Classifier(micro_encoder(), CLASSES, ClassifierConfig()), extra={})
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    torch.manual_seed(0)
    save_head(folder, CTCModel(micro_encoder(), Vocabulary.from_texts(["ab c"]), CTCConfig()), extra={})
    return folder


@pytest.fixture
def audio(tmp_path):
    """Five good files and a bad one."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(5):
        soundfile.write(folder / f"{number}.wav", tone(8000 + 1600 * number, 100 + 70 * number, seed=number), 16000)
    (folder / "bad.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(words, capfd):
    capfd.readouterr()
    code = cli.main([str(word) for word in words])
    told = capfd.readouterr()
    return code, told.out, told.err


@contextlib.contextmanager
def counted(monkeypatch):
    """Paths of the clips that a model is asked about."""
    asked = []
    whole = parts._predict_part

    def counting(predictor, part, *, release):
        asked.extend(clip.item.path for clip in part)
        return whole(predictor, part, release=release)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "_predict_part", counting)
        yield asked


def broken_off(model, audio, out, monkeypatch, after):
    commit = run.Run.commit

    def dying(run, part):
        if run.shards.count == after:
            raise KeyboardInterrupt
        return commit(run, part)

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "commit", dying)
        with pytest.raises(KeyboardInterrupt):
            predict_to(Predictor(model, device="cpu"), [str(audio)], out)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_that_was_broken_off_resumes(model, audio, tmp_path, monkeypatch, after):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    predictor = Predictor(model, device="cpu")
    predict_to(predictor, [str(audio)], whole)
    broken_off(model, audio, out, monkeypatch, after)
    assert not out.exists()
    with counted(monkeypatch) as asked:
        report = predict_to(predictor, [str(audio)], out)
    assert len(asked) == 6 - 2 * after
    assert (report.written, report.failed, report.resumed) == (5, 1, [0, 2, 4][after])
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "audio", "p.jsonl", "p.jsonl.run.parquet", "whole.jsonl", "whole.jsonl.run.parquet",
    ]  # fmt: skip


def test_a_finished_output_is_left_alone(model, audio, tmp_path, monkeypatch, capfd):
    out = tmp_path / "p.csv"
    words = ["predict", model, audio, "--out", out]
    assert command(words, capfd)[0] == 0
    before = out.stat().st_mtime_ns
    with counted(monkeypatch) as asked:
        code, _, err = command(words, capfd)
    assert (code, asked) == (0, [])
    assert out.stat().st_mtime_ns == before
    assert err.splitlines()[-3:] == [
        f"{out}: 5 predictions, 0.00 h of audio",
        "all of it was there already; nothing was done",
        "1 of 6 files could not be used",
    ]


@pytest.mark.parametrize("layout", ["jsonl", "csv", "table"])
def test_changed_files_alone_are_predicted_again(model, audio, tmp_path, monkeypatch, layout):
    out = tmp_path / "p"
    predictor = Predictor(model, device="cpu")
    predict_to(predictor, [str(audio)], out, layout=layout)
    soundfile.write(audio / "1.wav", tone(9000, 900), 16000)
    soundfile.write(audio / "6.wav", tone(9000, 300), 16000)
    (audio / "2.wav").unlink()
    with counted(monkeypatch) as asked:
        report = predict_to(predictor, [str(audio)], out, layout=layout)
    assert asked == [str(audio / name) for name in ("1.wav", "6.wav", "bad.wav")]
    assert (report.written, report.failed, report.resumed) == (5, 1, 3)
    predict_to(predictor, [str(audio)], tmp_path / "new", layout=layout)
    one, new = (
        [line.replace("\t", " ").split(" 0.")[0] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("p", "new")
    )
    assert [line.split("calm")[0].split("glad")[0] for line in one] == [
        line.split("calm")[0].split("glad")[0] for line in new
    ]


def test_another_model_or_setting_is_refused(model, audio, tmp_path, monkeypatch, small_parts, capfd):
    other = save_classifier(tmp_path / "other", seed=1)
    done, half = tmp_path / "done.jsonl", tmp_path / "half.jsonl"
    predict_to(Predictor(model, device="cpu"), [str(audio)], done)
    broken_off(model, audio, half, monkeypatch, 1)
    content = done.read_bytes()
    for out, where in ((done, done), (half, tmp_path / "half.jsonl.parts")):
        code, _, err = command(["predict", other, audio, "--out", out], capfd)
        assert code == 2
        assert err.startswith(f"speechssl: {where}: made with model ")
        assert err.endswith("; the model has changed; give another name, or remove it to begin anew\n")
        code, _, err = command(["predict", model, audio, "--out", out, "--format", "csv"], capfd)
        assert (code, err.count("\n")) == (2, 1)
        assert "made with format jsonl, now csv; use the same settings, or give another name" in err
        assert "made with source" in command(["predict", model, audio / "1.wav", "--out", out], capfd)[2]
    assert done.read_bytes() == content
    done.unlink()
    assert command(["predict", other, audio, "--out", done], capfd)[0] == 0
    assert done.exists()


def test_another_decoder_is_refused(writer, audio, tmp_path):
    out = tmp_path / "p.jsonl"
    predictor = Predictor(writer, device="cpu")
    predict_to(predictor, [str(audio)], out)

    class Weighted(Predictor):
        def settings(self):
            return super().settings() | {"decoder": "n-gram abc"}

    with pytest.raises(UserError, match="made with decoder greedy, now n-gram abc"):
        predict_to(Weighted(writer, device="cpu"), [str(audio)], out)


def test_what_is_not_ours_is_not_replaced(model, audio, tmp_path, capfd):
    out = tmp_path / "p.csv"
    out.write_text("my notes")
    code, _, err = command(["predict", model, audio, "--out", out], capfd)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{out}: is there, and p.csv.run.parquet, which `predict` writes beside its outputs, is not" in err
    assert out.read_text() == "my notes"
    out.unlink()
    command(["predict", model, audio, "--out", out], capfd)
    out.write_text(out.read_text() + "a note\n")
    code, _, err = command(["predict", model, audio, "--out", out], capfd)
    assert code == 2
    assert "p.csv: was changed after `predict` wrote it; remove it or give another name" in err
    (tmp_path / "p.csv.run.parquet").write_bytes(b"PAR1")
    assert "p.csv.run.parquet: damaged (" in command(["predict", model, audio, "--out", out], capfd)[2]
    assert f"{audio}: is a folder" in command(["predict", model, audio, "--out", audio], capfd)[2]
    assert not (tmp_path / "p.csv.parts").exists()


def test_a_file_that_appeared_while_a_run_was_away_is_kept(model, audio, tmp_path, monkeypatch, small_parts):
    out = tmp_path / "p.jsonl"
    broken_off(model, audio, out, monkeypatch, 1)
    out.write_text("my notes")
    with pytest.raises(UserError, match=r"p\.jsonl: is there, and p\.jsonl\.run\.parquet, .* is not"):
        predict_to(Predictor(model, device="cpu"), [str(audio)], out)
    assert out.read_text() == "my notes"


def test_a_second_process_is_refused(model, audio, tmp_path, capfd):
    out = tmp_path / "p.jsonl"
    with locked(tmp_path / "p.jsonl.parts"):
        code, _, err = command(["predict", model, audio, "--out", out], capfd)
    assert (code, err.count("\n")) == (2, 1)
    assert "another run is writing there; wait for it, or give another name" in err
    assert command(["predict", model, audio, "--out", out], capfd)[0] == 0
    assert len(lines_of(out)) == 6


def test_a_full_disk_names_the_file_and_loses_nothing(model, audio, tmp_path, monkeypatch, small_parts, capfd):
    out = tmp_path / "p.jsonl"
    words = ["predict", model, audio, "--out", out]
    synced = os.fsync
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = command(words, capfd)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"speechssl: {tmp_path}/p.jsonl.parts/")
    assert err.endswith(": No space left on device\n")
    assert not out.exists()
    with counted(monkeypatch) as asked:
        assert command(words, capfd)[0] == 0
    assert len(asked) < 6
    assert [Path(line["path"]).name for line in lines_of(out)] == sorted(each.name for each in audio.iterdir())


def test_a_disk_that_is_full_at_the_end_leaves_no_half_output(model, audio, tmp_path, monkeypatch, capfd):
    out = tmp_path / "p.csv"
    words = ["predict", model, audio, "--out", out]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("row", "failed"):
        with monkeypatch.context() as patch:
            patch.setattr(RowWriter, name, full)
            code, _, err = command(words, capfd)
        assert (code, err.splitlines()[-1]) == (2, f"speechssl: {out}: No space left on device")
        assert not out.exists()
    with counted(monkeypatch) as asked:
        assert command(words, capfd)[0] == 0
    assert asked == []


@pytest.mark.parametrize("moment", ["rows", "output"])
def test_an_end_between_the_two_files_is_made_up_for(model, audio, tmp_path, monkeypatch, moment):
    """The process ends before or between the renames of the rows and of the output, in a first run and in an update."""
    out, predictor = tmp_path / "p.jsonl", Predictor(model, device="cpu")
    replace = Path.replace

    def ending(path, target):
        if Path(target) == (out if moment == "output" else tmp_path / "p.jsonl.run.parquet"):
            raise KeyboardInterrupt
        return replace(path, target)

    for number in (1, 2):
        soundfile.write(audio / "7.wav", tone(9000, 300 * number), 16000)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", ending)
            with pytest.raises(KeyboardInterrupt):
                predict_to(predictor, [str(audio)], out)
        report = predict_to(predictor, [str(audio)], out)
        assert (report.written, report.failed, report.finished_before) == (6, 1, False)
        assert len(lines_of(out)) == 7
        assert predict_to(predictor, [str(audio)], out).finished_before


def test_a_folder_that_cannot_be_written_is_one_line(model, audio, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    code, _, err = command(["predict", model, audio, "--out", tmp_path / "file" / "p.csv"], capfd)
    assert (code, err.count("\n")) == (2, 1)
    assert "p.csv.parts: cannot be made (" in err
    if os.geteuid() == 0:
        return  # root writes everywhere
    locked_folder = tmp_path / "locked"
    locked_folder.mkdir(mode=0o500)
    code, _, err = command(["predict", model, audio, "--out", locked_folder / "p.csv"], capfd)
    assert (code, err.count("\n")) == (2, 1)


def test_stretches_are_predicted_alone(model, writer, tmp_path, capfd):
    """By a manifest and by the metadata of a folder: each stretch is what its samples are, not the whole file."""
    folder = tmp_path / "talks"
    folder.mkdir()
    wave = np.concatenate([tone(16000, 120), tone(16000, 600, seed=1), tone(16000, 300, seed=2)])
    soundfile.write(folder / "talk.wav", wave, 16000, subtype="FLOAT")
    stretches = [(0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.0, 3.0)]
    (folder / "metadata.csv").write_text(
        "file_name,offset,duration\n" + "".join(f"talk.wav,{start},{length}\n" for start, length in stretches)
    )
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        "".join(
            json.dumps({"audio": "talks/talk.wav", "offset": start, "duration": length}) + "\n"
            for start, length in stretches
        )
    )
    predictor = Predictor(model, device="cpu")
    alone = [
        predictor.predict([wave[round(start * 16000) : round((start + length) * 16000)]])[0]
        for start, length in stretches
    ]
    for source in (folder, manifest):
        out = tmp_path / f"{source.name}.out.jsonl"
        assert command(["predict", model, source, "--out", out], capfd)[0] == 0
        found = lines_of(out)
        assert [(row["offset"], row["duration"]) for row in found] == stretches
        assert [row["probability"] for row in found] == pytest.approx([each.probability for each in alone], abs=1e-5)
    assert len({row["probability"] for row in found}) == 4


def test_sources_of_every_kind_one_after_the_other(model, audio, tmp_path, monkeypatch, capfd):
    odd = tmp_path / "recording"  # no suffix
    shutil.copy(audio / "0.wav", odd)
    (tmp_path / "list").write_text(f"{audio}/3.wav\n")
    with (tmp_path / "list").open() as file:
        monkeypatch.setattr("sys.stdin", file)
        code, out, _ = command(
            ["predict", model, odd, audio / "[12].wav", "-", tmp_path / "none.wav", "--format", "jsonl"], capfd
        )
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(odd), f"{audio}/1.wav", f"{audio}/2.wav", f"{audio}/3.wav", f"{tmp_path}/none.wav",
    ]  # fmt: skip
    assert json.loads(out.splitlines()[-1])["error"] == "no such file"
    assert read_sources([str(audio), str(odd)]).files == 7
    with pytest.raises(UserError, match=r"none.jsonl: no such file or folder; .* holds audio, list, rec"):
        read_sources([str(tmp_path / "none.jsonl")])


def test_manifests_name_addresses_by_leave_only(model, audio, tmp_path, capfd):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/d/0.wav", (audio / "0.wav").read_bytes())
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": "memory://d/0.wav", "duration": 0}))
    code, _, err = command(["predict", model, manifest, "--format", "jsonl"], capfd)
    assert code == 2
    assert "names memory://d/0.wav, an address; --allow-remote" in err
    code, out, _ = command(["predict", model, manifest, "--format", "jsonl", "--allow-remote"], capfd)
    assert (code, "label" in json.loads(out)) == (0, True)


HOSTILE = ("=1+1.wav", "+cmd.wav", "-a.wav", "@sum.wav", "\tb.wav", "a\x1b[2Jb.wav", "c\rd.wav", "e\nf.wav", "-1.wav")


def test_hostile_names(model, tmp_path, monkeypatch, capfd):
    """Names that a terminal or a spreadsheet would obey, and one that is no UTF-8."""
    folder = tmp_path / "names"
    folder.mkdir()
    names = [*HOSTILE, os.fsdecode(b"caf\xe9.wav")]
    for number, name in enumerate(names):
        soundfile.write(os.fsencode(folder / "x.wav"), tone(8000, 100 + number), 16000)
        (folder / "x.wav").rename(folder / name)
    (folder / os.fsdecode(b"bad\xe9\x1b[31m.wav")).write_bytes(b"RIFF")
    monkeypatch.chdir(folder)
    shown = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names]
    code, out, err = command(["predict", model, ".", "--format", "table"], capfd)
    assert code == 0
    assert "\x1b" not in out + err
    assert len(out.splitlines()) == 11
    assert "a\\x1b[2Jb.wav\t" in out
    assert "bad\\xe9\\x1b[31m.wav: " in err
    for kind in ("jsonl", "csv"):
        assert command(["predict", model, ".", "--out", tmp_path / f"p.{kind}"], capfd)[0] == 0
    rows = lines_of(tmp_path / "p.jsonl")
    assert {row["path"] for row in rows if "error" not in row} == set(shown)
    assert "\x1b" not in (tmp_path / "p.jsonl").read_text()
    with (tmp_path / "p.csv").open(newline="") as file:
        cells = [row["path"] for row in csv.DictReader(file)]
    assert len(cells) == 11
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    for name in names:  # what is changed is the same file still
        cell = next(cell for cell in cells if cell.removeprefix("./") == shown[names.index(name)])
        assert Path(cell.replace("\\xe9", os.fsdecode(b"\xe9"))).samefile(folder / name)


def test_warnings_about_hostile_names_move_no_cursor(model, audio, tmp_path, capfd):
    folder = audio.rename(tmp_path / "a\x1b[2Jb")
    (folder / "metadata.csv").write_text("file_name,label\n0.wav,calm\n")
    code, _, err = command(["predict", model, folder], capfd)
    assert code == 0
    assert "a\\x1b[2Jb: 5 audio files are not named in the metadata and are left out\n" in err
    assert "\x1b" not in err


def test_cells_that_spreadsheets_obey():
    file = io.StringIO(newline="")
    writer = RowWriter(file, "csv", ("=a", "-1"))
    writer.header()
    writer.row("=a.wav", 0.0, 1.5, {"label": "=a", "probability": 1.0, "probabilities": {"=a": 1.0, "-1": 0.0}})
    writer.row("-1", 0.0, 1.5, {"label": "-1", "probability": 1.0, "probabilities": {"=a": 0.0, "-1": 1.0}})
    writer.failed("b\rc.wav", 2.0, "@ not audio")
    assert file.getvalue().split("\n") == [
        "path,offset,duration,label,probability,p_=a,p_-1,error",
        "./=a.wav,0,1.5,'=a,1.0000,1.0000,0.0000,",
        "-1,0,1.5,-1,1.0000,0.0000,1.0000,",
        '"b\rc.wav",2,,,,,,\'@ not audio',
        "",
    ]
    file = io.StringIO()
    RowWriter(file, "jsonl", None).row("\x9b=a", 0.0, 1.0, {"text": "=a\u2028", "confidence": 1.0})
    assert (
        file.getvalue()
        == '{"path": "\\u009b=a", "offset": 0.0, "duration": 1.0, "text": "=a\\u2028", "confidence": 1.0}\n'
    )
    assert json.loads(file.getvalue())["path"] == "\x9b=a"


def test_csv_on_a_terminal_moves_no_cursor():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    RowWriter(file, "csv", CLASSES).failed("\x1b[2J.wav", 0.0, "not audio")
    assert file.getvalue() == "\\x1b[2J.wav,0,,,,,,not audio\n"


def test_rows_come_while_a_run_is_under_way(model, audio, monkeypatch, small_parts):
    """A reader of the stream has the first rows before the last files are predicted."""
    from speechssl.extract.predict.run import predict_to_stream

    seen, file = [], io.StringIO()
    whole = parts._predict_part

    def looking(predictor, part, *, release):
        seen.append(file.getvalue().count("\n"))
        return whole(predictor, part, release=release)

    monkeypatch.setattr(parts, "_predict_part", looking)
    report = predict_to_stream(Predictor(model, device="cpu"), [str(audio)], file, layout="jsonl")
    assert (report.written, report.failed) == (5, 1)
    assert seen == [0, 2, 4]


def test_a_pipe_or_a_device_is_written_as_it_is(model, audio, capfd):
    assert command(["predict", model, audio, "--out", "/dev/null", "--format", "csv"], capfd)[0] == 0
    assert not Path("/dev/null.parts").exists()
    code, _, err = command(["predict", model, audio, "--out", "/dev/full", "--format", "csv"], capfd)
    assert code == 2
    assert err.splitlines()[-1] == "speechssl: /dev/full: No space left on device"


@pytest.mark.parametrize("layout", ["csv", "jsonl", "table"])
def test_a_full_standard_output_is_named(model, audio, capfd, monkeypatch, layout):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = command(["predict", model, audio, "--format", layout], capfd)
    assert (code, err.splitlines()[-1]) == (2, "speechssl: standard output: No space left on device")


# Recordings that are never whole in memory


def long_clip(wave, block=30_000):
    return scan(lambda: (wave[at : at + block] for at in range(0, len(wave), block)), "long.wav")


@pytest.fixture
def short_windows(monkeypatch):
    """Windows of three seconds, and files of more than two that are long."""
    monkeypatch.setattr(heads, "HEAD_WINDOW_SECONDS", 3.0)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.5)
    monkeypatch.setattr(parts, "LONG_SECONDS", 2.0)


@pytest.mark.usefixtures("short_windows")
def test_windows_of_a_stream_are_those_of_the_waveform(model, writer):
    classifier, recogniser = Predictor(model, device="cpu").model, Predictor(writer, device="cpu").model
    assert isinstance(classifier, Classifier)
    assert isinstance(recogniser, CTCModel)
    for samples in (48_001, 100_000):
        wave = tone(samples) * np.linspace(0.1, 1, samples, dtype=np.float32)
        clip = long_clip(wave)
        np.testing.assert_allclose(classify(classifier, [clip])[0], classify(classifier, [wave])[0], atol=1e-5)
        np.testing.assert_allclose(emissions(recogniser, [clip])[0], emissions(recogniser, [wave])[0], atol=1e-4)


@pytest.mark.usefixtures("short_windows")
def test_long_files_are_read_window_by_window(model, writer, tmp_path, monkeypatch, capfd):
    wave = np.concatenate([tone(16000, 90 + 90 * n, seed=n) for n in range(7)])
    soundfile.write(tmp_path / "long.flac", wave, 16000)
    soundfile.write(tmp_path / "short.wav", tone(16000), 16000)
    sources = [tmp_path / "long.flac", tmp_path / "short.wav"]
    for folder in (model, writer):
        with monkeypatch.context() as patch:
            patch.setattr(parts, "LONG_SECONDS", 60.0)
            whole = command(["predict", folder, *sources, "--format", "jsonl"], capfd)[1].splitlines()
        with monkeypatch.context() as patch:
            patch.setattr("speechssl.inference.predictor.classify", lambda own, waves: classify(own, few(waves)))
            patch.setattr("speechssl.inference.predictor.emissions", lambda own, waves: emissions(own, few(waves)))
            streamed = command(["predict", folder, *sources, "--format", "jsonl"], capfd)[1].splitlines()
        for one, other in zip(map(json.loads, whole), map(json.loads, streamed), strict=True):
            assert one["path"] == other["path"]
            assert one["duration"] == other["duration"]
            assert one.get("text") == other.get("text")
            assert one.get("words") == other.get("words")
            assert one.get("probability") == pytest.approx(other.get("probability"), abs=1e-5)


def few(waves):
    assert all(isinstance(wave, LongClip) or len(wave) < 2 * 16000 for wave in waves)
    return waves


@pytest.mark.usefixtures("short_windows")
def test_what_cannot_be_held_is_a_reason_and_stops_nothing(writer, tmp_path, monkeypatch, capfd):
    soundfile.write(tmp_path / "long.wav", tone(5 * 16000), 16000)
    soundfile.write(tmp_path / "short.wav", tone(16000), 16000)
    monkeypatch.setattr(heads, "MAX_BYTES", 1000)
    code, out, _ = command(["predict", writer, tmp_path, "--format", "jsonl"], capfd)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert rows[0]["error"].startswith("too long to write down at once: 0.0 h with 5 symbols take ")
    assert "text" in rows[1]
    model = Predictor(writer, device="cpu").model
    assert isinstance(model, CTCModel)
    with pytest.raises(TooLongError):
        emissions(model, [long_clip(tone(5 * 16000))])


@pytest.mark.usefixtures("short_windows")
def test_a_long_file_that_vanishes_is_a_reason(model, tmp_path, monkeypatch, capfd):
    from speechssl.extract import decode

    path = tmp_path / "long.wav"
    soundfile.write(path, tone(5 * 16000), 16000)
    found = decode.scan

    def vanishing(blocks, name):
        clip = found(blocks, name)
        path.unlink()
        return clip

    monkeypatch.setattr(decode, "scan", vanishing)
    code, out, _ = command(["predict", model, path, "--format", "jsonl"], capfd)
    assert code == 2
    assert json.loads(out)["error"] == "no such file"


@pytest.mark.slow
def test_much_text_in_a_long_recording_ends_no_process(writer, tmp_path):
    """As many frames x symbols as end torchaudio's forced alignment with a segmentation fault."""
    frames, vocabulary = 72_000, Vocabulary.from_texts(["abcdefghijklmnopqrstuvwxyz"])
    rng = np.random.default_rng(0)
    symbols = rng.integers(2, len(vocabulary), size=frames // 4)
    symbols[5::6] = 1
    path = np.zeros(frames, dtype=int)
    path[1::4] = symbols
    rows = np.full((frames, len(vocabulary)), np.log(0.1 / len(vocabulary)), dtype=np.float32)
    rows[np.arange(frames), path] = np.log(0.9)
    predictor = Predictor(writer, device="cpu")
    model = CTCModel(micro_encoder(), vocabulary, CTCConfig())
    found = predictor._transcript(model, rows)
    assert isinstance(found, Transcript)
    assert frames * (2 * len(found.text) + 1) > 2**31
    assert len(found.words) == len(found.text.split()) > 2500
    assert found.words_error == ""
    assert found.words[-1].end == pytest.approx(frames * 0.02, abs=0.5)


# The same run in a process of its own, slow enough to be killed in the middle.
CHILD = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from speechssl.extract.predict import parts, run as module
from speechssl.inference.predictor import Predictor
parts.PART_CLIPS = 2
commit = module.Run.commit
module.Run.commit = lambda run, part: (time.sleep(0.05), commit(run, part), time.sleep(0.05))[1]
module.predict_to(Predictor(Path(sys.argv[1]), device="cpu"), [sys.argv[2]], Path(sys.argv[3]))
"""


def begun(arguments, after):
    """A run in a process of its own that has written so many parts."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, *map(str, arguments)], stderr=subprocess.PIPE)
    folder = Path(f"{arguments[2]}.parts")
    end = time.monotonic() + 120
    while process.poll() is None and len(list(folder.glob("part-*.parquet"))) < after:
        assert time.monotonic() < end, "no part within two minutes"
        time.sleep(0.005)
    return process


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(24):
        soundfile.write(folder / f"{number:02d}.wav", tone(4000 + 400 * (number * 7 % 20), 90 + 9 * number), 16000)
    (folder / "11.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture
def one_thread():
    """Sums are split between threads, and their last bits with them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_ends_as_if_it_had_not_been(model, many, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_CLIPS", 2)
    predictor = Predictor(model, device="cpu")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "p.jsonl"
    predict_to(predictor, [str(many)], whole)
    for after in (2, 6):
        process = begun((model, many, out), after)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    report = predict_to(predictor, [str(many)], out)
    assert report.resumed >= 10
    assert (report.written, report.failed) == (23, 1)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_two_processes_do_not_mix(model, many, tmp_path, capfd):
    out = tmp_path / "p.jsonl"
    process = begun((model, many, out), 1)
    code, _, err = command(["predict", model, many, "--out", out], capfd)
    assert process.poll() is None, "the first run was through before the second began"
    assert (code, err.count("\n")) == (2, 1)
    assert "another run is writing there" in err
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    assert [Path(row["path"]).name for row in lines_of(out)] == [f"{number:02d}.wav" for number in range(24)]


@pytest.mark.parametrize("words", [["--format", "jsonl"], ["--format", "csv"], [], ["-o"]])
def test_what_was_not_used_is_told(model, tmp_path, capfd, words):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("a", "b"):
        soundfile.write(corpus / f"{name}.wav", tone(9600, seed=len(name)), 16000)
    (corpus / "metadata.csv").write_text(
        "file_name,start,end,emotion,room,speaker\na.wav,0,.3,joy,4,Anna\nb.wav,,,Joy,,anna\na.wav,0,.3,sad,,nan\n"
    )
    (corpus / "list.csv").write_text("file\n")
    words = [*words, tmp_path / "out.csv"] if words == ["-o"] else words
    assert cli.main(["extract", str(model), str(corpus), "-o", str(tmp_path / "vectors.parquet")]) == 0
    extracted = capfd.readouterr().err.splitlines()
    code, _, told = command(["predict", model, corpus, *words], capfd)
    assert code == 0
    lines = told.splitlines()
    first = (
        "label 3 of 3 (column 'emotion') · text 0 of 3 · speakers 2 · columns not used: room · "
        "tables not read: list.csv"
    )
    own, others = (
        [line for line in told[told.index(first) :] if "more audio" not in line] for told in (lines, extracted)
    )
    assert own == [*others, "1 of 3 files could not be used"]
    for part in (
        "labels differ only in capitals",
        "speakers differ only in capitals",
        "counted as missing: 'nan'",
        "1 clip left out contradicts",
    ):
        assert part in "\n".join(own)
    assert "1 file has more audio than its stretches cover, 0.3 s in all: " in "\n".join(lines)
    code, _, told = command(["predict", model, corpus / "a.wav", corpus / "b.wav"], capfd)
    assert code == 0
    assert "label" not in told


def test_what_was_understood_of_several_sources(model, tmp_path, capfd):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", tone(9600, seed=len(name)), 16000)
    (tmp_path / "one" / "metadata.csv").write_text("file_name,mood\na.wav,good\n")
    code, _, told = command(["predict", model, tmp_path / "one", tmp_path / "two"], capfd)
    assert code == 0
    start = f"{tmp_path / 'one'}: label 0 of 1 · text 0 of 1 · speakers 0 · columns not used: mood\n"
    assert start in told
    assert str(tmp_path / "two") + ":" not in told


def test_a_folder_that_is_not_there_has_a_neighbour(model, audio, tmp_path, capfd):
    for others in ([], [audio]):
        code, out, told = command(["predict", model, *others, tmp_path / "audi"], capfd)
        assert (code, out) == (2, "")
        assert told == f"speechssl: {tmp_path / 'audi'}: no such file or folder; the nearest that exists: {audio}\n"


def test_a_clip_that_is_named_twice_is_a_duplicate(model, audio, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(audio)
    words = ["predict", model, audio / "0.wav", "0.wav", "1.wav", audio, "--format", "jsonl"]
    code, out, _ = command(words, capfd)
    assert code == 0
    errors = [json.loads(line).get("error") or "" for line in out.splitlines()]
    assert [error.startswith("a duplicate") for error in errors] == [False, True, False, *[True] * 2, *[False] * 4]
    again = read_plan(["0.wav", "1.wav", str(audio / "0.wav")])
    assert [bool(item.fault) for item in again.items()] == [False, False, True]

"""Data sets of Hugging Face: saved folders, Parquet, class names, splits, and a hub without the network."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.config import UserError
from speechssl.data.corpora.huggingface import Settings, prepare
from speechssl.data.waveforms import WaveformStore, pack
from tests.data.test_members import wav

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {
    "audio": {"sampling_rate": 16000, "_type": "Audio"},
    "emotion": {"names": ["sad", "glad"], "_type": "ClassLabel"},
}


def table(pitches: list[int], *, features: dict[str, Any] = FEATURES, **columns: list[Any]) -> pa.Table:
    rows = [{"bytes": wav(pitch), "path": f"{pitch}.wav"} for pitch in pitches]
    found = pa.table({"audio": pa.array(rows, AUDIO), **columns})
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path: Path, content: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(content, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(str(path), content.schema) as writer:
            writer.write_table(content, max_chunksize=2)
    return path


def save(folder: Path, content: pa.Table) -> None:
    """As `Dataset.save_to_disk` does."""
    write(folder / "data-00000-of-00001.arrow", content)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_parquet_file_with_everything(tmp_path: Path) -> None:
    content = table(
        [200, 300, 400],
        emotion=[0, 1, -1],
        sentence=["cafe\u0301", "", None],
        **{"Speaker ID": [1, 2, 2]},
        path=["x/1.wav", "x/2.wav", "x/3.wav"],
        begin_time=[0.5, 1.5, 2.5],
        room=pa.array(["hall", "hall", None]).dictionary_encode(),
        vector=[[1.0], [2.0], [3.0]],
    )
    path = write(tmp_path / "train-00000-of-00001.parquet", content)
    source = prepare(path)
    found = list(source)
    assert [each.audio for each in found] == [f"{path}::audio/{row}" for row in range(3)]
    assert [(each.label, each.text, each.speaker, each.split) for each in found] == [
        ("sad", "café", "1", "train"),
        ("glad", None, "2", "train"),
        (None, None, "2", "train"),
    ]
    assert found[0].extras == {"path": "x/1.wav", "begin_time": 0.5, "room": "hall"}
    assert (found[0].offset, found[0].duration) == (0.0, 0.0)
    assert source.findings.columns == {"label": "emotion", "text": "sentence", "speaker": "Speaker ID"}
    assert source.findings.unused == ["room", "path", "begin_time"]
    assert source.findings.notes == ["columns left out, as they hold no plain values: vector"]
    report = pack(found, tmp_path / "out")
    assert (report.accepted, report.seconds) == (3, 0.75)
    store = WaveformStore(tmp_path / "out")
    assert not (store.read(0) == store.read(1)).all()


def test_a_saved_data_set(tmp_path: Path) -> None:
    save(tmp_path / "set", table([200, 300], emotion=[1, 0]))
    write(tmp_path / "set" / "data-00000-of-00009.arrow", table([900]))  # left from an earlier save
    assert [each.label for each in prepare(tmp_path / "set")] == ["glad", "sad"]
    for split in ("train", "my test"):
        save(tmp_path / "sets" / split, table([200, 300], emotion=[1, 0]))
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "my test"]}')
    assert [each.split for each in prepare(tmp_path / "sets")] == ["train", "train", "my test", "my test"]
    assert [each.split for each in prepare(tmp_path / "sets", Settings(splits=("my test",)))] == ["my test"] * 2
    with pytest.raises(UserError, match=r"no split 'dev'; there are: my test, train"):
        list(prepare(tmp_path / "sets", Settings(splits=("dev",))))
    report = pack(prepare(tmp_path / "sets"), tmp_path / "out")
    assert (report.accepted, report.rejected) == (4, 0)


def test_a_folder_as_on_the_hub(tmp_path: Path) -> None:
    for config in ("de", "fr"):
        for split in ("train", "test"):
            write(tmp_path / config / f"{split}-00000-of-00001.parquet", table([200], emotion=[0], language=[config]))
    with pytest.raises(UserError, match=r"2 configurations \(de, fr\); name one: .* --set config=fr"):
        list(prepare(tmp_path))
    found = list(prepare(tmp_path, Settings(config="de")))
    assert [(each.split, each.language) for each in found] == [("test", "de"), ("train", "de")]
    with pytest.raises(UserError, match=r"no configuration 'it'; there are: de, fr"):
        list(prepare(tmp_path, Settings(config="it")))
    write(tmp_path / "de" / "dev-00000-of-00003.parquet", table([200]))
    with pytest.raises(UserError, match=r"1 of 3 files of de/dev are there"):
        list(prepare(tmp_path, Settings(config="de")))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("struct", [True, False])
def test_audio_beside_the_table(tmp_path: Path, suffix: str, struct: bool) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(wav(200))
    names = ["clips/a.wav", "clips/gone.wav"]
    audio = pa.array([{"bytes": None, "path": name} for name in names], AUDIO) if struct else pa.array(names)
    path = write(tmp_path / f"t.{suffix}", pa.table({"audio": audio, "text": ["x", "y"]}))
    found = list(prepare(path))
    assert [each.audio for each in found] == [f"{tmp_path}/{name}" for name in names]
    assert pack(found, tmp_path / "out").accepted == 1


def test_plain_bytes_and_several_columns_of_audio(tmp_path: Path) -> None:
    two = pa.table({"near": [wav(200)], "far": [wav(300)], "text": ["x"]})
    path = write(tmp_path / "t.parquet", two)
    with pytest.raises(UserError, match=r"columns near, far all hold audio; name one: .* --set audio=near"):
        list(prepare(path))
    found = list(prepare(path, Settings(audio="far")))
    assert pack(found, tmp_path / "out").accepted == 1
    with pytest.raises(UserError, match=r"no column 'mid'; there are: near, far, text"):
        list(prepare(path, Settings(audio="mid")))


def test_what_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", pa.table({"text": ["x"], "values": [[1.0]]}))
    with pytest.raises(UserError, match=r"no column of audio \(bytes, or a path\); there are: text, values"):
        list(prepare(path))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"bad\.parquet: not a table that can be read"):
        list(prepare(tmp_path / "bad.parquet"))
    with pytest.raises(UserError, match="no such file or folder; "):
        list(prepare(tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.parquet or \.arrow in it, and no folder of save_to_disk"):
        list(prepare(tmp_path / "empty"))
    wrong = write(tmp_path / "wrong.parquet", table([200], emotion=[7]))
    with pytest.raises(UserError, match=r"parquet, row \d \(from 0\): emotion: class number 7, and there are 2"):
        list(prepare(wrong))
    save(tmp_path / "half", table([200]))
    (tmp_path / "half" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match="which is not beside it"):
        list(prepare(tmp_path / "half"))


class Hub:
    """What huggingface_hub does, without the network."""

    def __init__(self, folder: Path, revisions: dict[str | None, list[str]], *, reached: bool = True):
        self.folder, self.revisions, self.reached = folder, revisions, reached
        self.fetched: list[tuple[str | None, list[str]]] = []

    def list_repo_files(self, name: str, *, repo_type: str, revision: str | None) -> list[str]:
        assert (name, repo_type) == ("org/set", "dataset")
        if not self.reached:
            raise ConnectionError("no route")
        return self.revisions[revision]

    def snapshot_download(self, name: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, repo_type) == ("org/set", "dataset")
        self.fetched.append((revision, allow_patterns))
        return str(self.folder)


@pytest.mark.parametrize("reached", [True, False])
def test_only_what_is_asked_for_is_fetched_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    names = [f"{config}/{split}-00000-of-00001.parquet" for config in ("de", "fr") for split in ("train", "test")]
    for name in names:
        write(tmp_path / name, table([200], emotion=[1]))
    hub = Hub(tmp_path, {None: ["README.md", *names]}, reached=reached)
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    found = list(prepare(Path("hf:org/set"), Settings(config="fr", splits=("test",))))
    assert [(each.label, each.split) for each in found] == [("glad", "test")]
    assert hub.fetched[-1] == (None, ["fr/test-00000-of-00001.parquet"])
    assert len(hub.fetched) == (1 if reached else 2)


def test_a_data_set_of_the_hub_names_no_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"bytes": None, "path": "/etc/hostname"}]
    write(tmp_path / "t.parquet", pa.table({"audio": pa.array(rows, AUDIO)}))
    hub = Hub(tmp_path, {None: ["t.parquet"]})
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    with pytest.raises(
        UserError, match="names the local file /etc/hostname; a data set of the hub may name its own only"
    ):
        list(prepare(Path("hf:org/set")))
    assert [each.audio for each in prepare(tmp_path)] == ["/etc/hostname"]


def test_the_hubs_own_copy_in_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "default" / "partial-train" / "0000.parquet", table([200], emotion=[1]))
    copy = ["default/partial-train/0000.parquet"]
    hub = Hub(tmp_path, {None: ["set.py", "data.tar.gz"], "refs/convert/parquet": copy})
    monkeypatch.setattr("huggingface_hub.list_repo_files", hub.list_repo_files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
    source = prepare(Path("hf:org/set"))
    assert [each.split for each in source] == ["train"]
    assert "holds only the first part of this data set" in source.findings.notes[0]
    with pytest.raises(UserError, match=r"write a data set of the hub as hf:organisation/name"):
        list(prepare(Path("hf:set")))


def test_what_datasets_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=["sad", "glad"]),
        }
    )
    rows = {"audio": [{"bytes": wav(pitch), "path": "a.wav"} for pitch in (200, 300, 400)], "label": [0, 1, 0]}
    plain = datasets.Dataset.from_dict(rows, features=features).cast_column("audio", datasets.Audio())
    both = datasets.DatasetDict({"train": plain, "test": plain.select([2, 1])})
    both.save_to_disk(tmp_path / "saved")
    plain.to_parquet(tmp_path / "t.parquet")
    found = list(prepare(tmp_path / "saved"))
    assert [(each.split, each.label) for each in found] == [
        ("train", "sad"),
        ("train", "glad"),
        ("train", "sad"),
        ("test", "sad"),
        ("test", "glad"),
    ]
    pack(found, tmp_path / "out")
    store = WaveformStore(tmp_path / "out")
    assert (store.read(2) == store.read(3)).all()
    assert (store.read(1) == store.read(4)).all()
    assert [each.label for each in prepare(tmp_path / "t.parquet")] == ["sad", "glad", "sad"]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("start", ["start", "onset"])
def test_stretches_of_files_are_refused(tmp_path: Path, rows: int, start: str) -> None:
    (tmp_path / "long.wav").write_bytes(wav(200))
    columns = {"audio": ["long.wav"] * rows, start: [0.0, 0.1][:rows], "end": [0.1, 0.2][:rows], "text": ["x"] * rows}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    words = rf"t.parquet, row 0 \(from 0\): names a file \(long.wav\) with times \({start}, end\).*metadata.csv"
    with pytest.raises(UserError, match=words):
        list(prepare(tmp_path / "t.parquet"))
    whole = pa.table({**columns, start: [0.0] * rows, "end": pa.array([None] * rows, pa.float64())})
    pq.write_table(whole, tmp_path / "t.parquet")
    assert [each.text for each in prepare(tmp_path / "t.parquet")] == ["x"] * rows
    inside = pa.table({**columns, "audio": [{"bytes": wav(200)}] * rows})
    pq.write_table(inside, tmp_path / "t.parquet")
    assert [each.extras["end"] for each in prepare(tmp_path / "t.parquet")] == columns["end"]


@pytest.mark.parametrize("kind", ["struct", "list"])
def test_decoded_arrays_are_refused(kind: str, tmp_path: Path) -> None:
    samples = [[0.1] * 100]
    arrays = [{"array": samples[0], "path": "a.wav", "sampling_rate": 16000}]
    pq.write_table(pa.table({"audio": arrays if kind == "struct" else samples, "text": ["x"]}), tmp_path / "t.parquet")
    for settings in (Settings(), Settings(audio="audio")):
        with pytest.raises(
            UserError, match=r"t.parquet: column 'audio' holds decoded arrays of samples, which are not"
        ):
            list(prepare(tmp_path / "t.parquet", settings))


def test_times_in_other_units_are_extras(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", table([200], start_sample=[7], duration_frames=[9], utt_start=[3]))
    [found] = prepare(path)
    assert found.extras == {"start_sample": 7, "duration_frames": 9, "utt_start": 3}


def test_numbers_of_sentences_beside_a_text(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", table([200, 300], sentence=["01", "02"], text=["kids talk", "7"]))
    source = prepare(path)
    assert [(each.text, each.extras) for each in source] == [
        ("kids talk", {"sentence": "01"}),
        ("7", {"sentence": "02"}),
    ]
    assert source.findings.unused == ["sentence"]


def test_class_numbers_that_pandas_made_floats(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table([200, 300, 400], emotion=[1.0, float("nan"), 0.0]))
    assert [each.label for each in prepare(path)] == ["glad", None, "sad"]
    write(path, table([200, 300], emotion=[1.0, 0.5]))
    with pytest.raises(UserError, match=r"a\.parquet, row 1 \(from 0\): emotion: class number 0\.5, and there are 2"):
        list(prepare(path))

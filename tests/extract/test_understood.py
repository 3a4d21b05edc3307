"""Tables and folders as people leave them, through `prepare folder` and `extract`: the right value, or a reason."""

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl import cli
from speechssl.data import repeats
from speechssl.data.corpora.folder import AudioFolder
from speechssl.data.lists import list_ids
from speechssl.data.manifest import Utterance, read_manifest, validate_manifest
from speechssl.data.names import utterance_ids
from speechssl.data.values import merged
from speechssl.data.waveforms import pack
from speechssl.extract.plan import read_plan
from tests.micro import tone

NFC, NFD = (unicodedata.normalize(form, "fröhlich") for form in ("NFC", "NFD"))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def recording(path: Path, seconds: float = 0.6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = round(16000 * seconds)
    soundfile.write(path, tone(samples, 120 + len(path.name) * 11, seed=samples), 16000)


class Both:
    """What `prepare folder` and `extract` make of one folder.

    Attributes:
        utterances: of the prepared corpus.
        rows: of the extracted table.
        said: the last lines of `prepare`.
        heard: the last lines of `extract`.
        counts: what `extract --json` says.
    """

    def __init__(self, corpus, model_folder, capfd):
        self._corpus, self._model, self._capfd = corpus, model_folder, capfd
        self.out = corpus.parent / "prepared"
        self.vectors = corpus.parent / "vectors.parquet"

    def run(self, *, source=None):
        assert self._prepare() == 0, self._capfd.readouterr().err
        self.utterances = read_manifest(self.out / "manifest.jsonl")
        self.said = self._capfd.readouterr().err
        assert self._extract("--json", source=source) == 0, self._capfd.readouterr().err
        read = self._capfd.readouterr()
        self.heard, self.counts = read.err, json.loads(read.out)
        self.rows = pq.ParquetFile(self.vectors).read().to_pylist()
        return self

    def refused(self):
        assert self._prepare() == 2
        told = self._capfd.readouterr().err
        assert self._extract() == 2
        assert self._capfd.readouterr().err == told
        assert told.count("\n") == 1
        return told

    def reasons(self):
        files = self.out / "rejects.jsonl", self.vectors.with_name("vectors.parquet.errors.jsonl")
        return [[json.loads(line)["reason"] for line in file.read_text().splitlines()] for file in files]

    def told(self, line):
        """A line that both end with."""
        assert line in self.said
        assert line in self.heard

    def _prepare(self):
        return cli.main(["prepare", "folder", "--root", str(self._corpus), "--out", str(self.out), "--workers", "1"])

    def _extract(self, *words, source=None):
        return cli.main(["extract", str(self._model), str(source or self._corpus), "-o", str(self.vectors), *words])


@pytest.fixture
def both(corpus, model_folder, capfd):
    return Both(corpus, model_folder, capfd)


def test_start_and_end(corpus, both):
    recording(corpus / "long.wav", 1.5)
    recording(corpus / "talk.wav", 1.0)
    (corpus / "metadata.csv").write_text(
        "file_name,start,end,text,speaker\nlong.wav,0,.75,one,s1\nlong.wav,0.75,1.5,two,s1\ntalk.wav,0.5,1,three,s2\n"
    )
    both.run()
    stretches = [(0.0, 0.75), (0.75, 0.75), (0.5, 0.5)]
    assert [(each.offset, each.duration) for each in both.utterances] == stretches
    assert [(each["offset"], each["duration"]) for each in both.rows] == stretches
    assert len({tuple(each["vector"]) for each in both.rows}) == 3
    both.told("label 0 of 3 · text 3 of 3 · speakers 2\n")
    assert both.counts["known"] == {"clips": 3, "label": 0, "text": 3, "speakers": 2, "splits": {}}


def test_a_time_in_an_unknown_unit_is_refused(corpus, both):
    recording(corpus / "a.wav")
    (corpus / "metadata.csv").write_text("file_name,start_sample,end_sample\na.wav,0,4000\n")
    assert "column 'start_sample' is not used, as its unit is not known; give seconds and call it 'start'" in (
        both.refused()
    )


@pytest.mark.parametrize("name", ["metadata.tsv", "Metadata.TSV", "METADATA.tsv"])
def test_a_tab_separated_table(corpus, both, name):
    for actor in ("actor1", "actor2"):
        for clip in ("0.wav", "1.wav"):
            recording(corpus / actor / clip)
    rows = [f"actor{a}/{c}.wav\t{'joy' if c else 'anger'}\tactor{a}\n" for a in (1, 2) for c in (0, 1)]
    (corpus / name).write_text("file_name\tlabel\tspeaker\n" + "".join(rows))
    both.run()
    assert [each.label for each in both.utterances] == ["anger", "joy"] * 2
    assert [(each["label"], each["speaker"]) for each in both.rows] == [
        *(("anger", "actor1"), ("joy", "actor1")),
        *(("anger", "actor2"), ("joy", "actor2")),
    ]


def test_a_table_of_another_name_is_named(corpus, both):
    recording(corpus / "0.wav")
    recording(corpus / "1.wav")
    (corpus / "list.csv").write_text("file_name,label\n0.wav,joy\n1.wav,anger\n")
    (corpus / "0.TextGrid").write_text("x")
    (corpus / "words.txt").write_text("0.wav\thello\n1.wav\tyou\n")
    (corpus / "README.txt").write_text("recorded, in May\nby us, at home\n")
    both.run()
    both.told("label 0 of 2 · text 0 of 2 · speakers 0 · tables not read: list.csv, words.txt, 0.TextGrid\n")
    both.told("no label: there are no folders of classes; name them in a metadata.csv")
    assert both.counts["findings"]["not_read"] == ["list.csv", "words.txt", "0.TextGrid"]


IN_NOTES = (
    *("phn", "wrd", "cha", "xml", "yaml", "ass", "lrc", "sbv", "exb", "trn", "par", "lbl", "ltr", "eaf", "TextGrid"),
    *("srt", "vtt", "stm", "ctm", "rttm", "trs", "json", "pkl", "npy", "db", "sqlite", "xlsm", "mat", "dat", "yml"),
)


@pytest.mark.parametrize("name", [*(f"notes/x.{each}" for each in IN_NOTES), "0.unheard-of", "0.wav.json", "0.txt"])
def test_annotations_that_are_not_read_are_named(corpus, name):
    recording(corpus / "0.wav")
    (corpus / name).parent.mkdir(exist_ok=True)
    (corpus / name).write_bytes(b"what is said")
    for other in ("Thumbs.db", "0.png", "0.wav.asd", "0.md5"):
        (corpus / other).write_bytes(b"x")
    assert AudioFolder(corpus).findings.not_read == [name]


def test_tables_are_named_before_annotations(corpus):
    for number in range(10):
        recording(corpus / f"{number}.wav")
        (corpus / f"{number}.phn").touch()
        (corpus / f"{number}.x{number}").touch()
    (corpus / "prompts").write_text("3 hello there\n4 hello again\n")
    (corpus / "wavs.data").write_text('( 3 "hello there" )\n( 4 "hello again" )\n')
    (corpus / "zz.xlsm").touch()
    (corpus / "LICENSE").write_text("3 hello there\n4 hello again\n")
    (corpus / "story").write_text("once upon\na time\n")
    not_read = AudioFolder(corpus).findings.not_read
    assert not_read[:4] == ["prompts", "wavs.data", "zz.xlsm", "0.x0"]
    assert not_read[-1] == "10 x *.phn"
    assert len(not_read) == 14


def test_sound_that_is_not_taken_is_named(corpus, both):
    """Samples without a header and rare formats; `.m4a` and the like are taken, and rejected with a reason."""
    recording(corpus / "0.wav")
    for name in ("call.raw", "b.VOX", "sub/c.pcm", *(f"{number}.dss" for number in range(4))):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_bytes(b"\x01\x02" * 100)
    both.run().told("speakers 0 · sound not read: b.VOX, call.raw, sub/c.pcm, 4 x *.dss\n")
    assert both.counts["findings"]["sounds"] == ["b.VOX", "call.raw", "sub/c.pcm", "4 x *.dss"]


def test_archives_beside_the_audio_are_named(corpus, both):
    recording(corpus / "0.wav")
    for name in ("more.tar", "old.TAR.GZ", "sub/part.zip", "train.tfrecord", "notes.docx"):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_bytes(b"")
    for number in range(4):
        (corpus / f"{number}.7z").write_bytes(b"")
    archives = ["more.tar", "old.TAR.GZ", "train.tfrecord", "sub/part.zip", "4 x *.7z"]
    both.run().told(f"speakers 0 · archives not read: {', '.join(archives)}\n")
    assert both.counts["findings"]["archives"] == archives


def test_labels_that_are_missing_everywhere_have_a_reason(corpus, both):
    recording(corpus / "0.wav")
    (corpus / "metadata.csv").write_text("file_name,emotion\n0.wav,\n")
    both.run().told("\nno label: no clip has a value in the column 'emotion'\n")


def test_many_annotations_are_counted(corpus, both):
    for number in range(5):
        recording(corpus / "x" / f"{number}.wav")
        (corpus / "x" / f"{number}.eaf").touch()
        (corpus / "x" / f"{number}.txt").write_text("what is said\n")
    both.run().told("tables not read: 5 x *.eaf, 5 x *.txt\n")
    both.told("no label: the recordings are in one folder (x), and classes are two or more")


def test_missing_values_and_numbers(corpus, both):
    for number in range(5):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.jsonl").write_text(
        '{"file_name":"0.wav","label":"joy","text":"hello"}\n'
        '{"file_name":"1.wav","label":NaN,"text":NaN,"speaker":NaN,"room":NaN,"duration":NaN,"offset":null}\n'
        '{"file_name":"2.wav","label":1,"text":"b","speaker":7}\n'
        '{"file_name":"3.wav","label":1.0,"text":null,"speaker":"7"}\n'
        '{"file_name":"4.wav","label":"1","text":"","speaker":7.0}\n'
    )
    both.run()
    assert [each.label for each in both.utterances] == ["joy", None, "1", "1", "1"]
    assert [each.text for each in both.utterances] == ["hello", None, "b", None, None]
    assert [each.speaker for each in both.utterances] == [None, None, "7", "7", "7"]
    assert [each["label"] for each in both.rows] == ["joy", None, "1", "1", "1"]
    both.told("label 4 of 5 · text 2 of 5 · speakers 1 · columns not used: room\n")


def test_words_for_a_missing_value_are_told(corpus, both):
    for number in range(3):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.csv").write_text("file_name,label,text\n0.wav,nan,<NA>\n1.wav,None,NA\n2.wav,joy,\n")
    both.run()
    assert [(each.label, each.text) for each in both.utterances] == [(None, None), ("None", "NA"), ("joy", None)]
    both.told("metadata.csv: counted as missing: '<NA>' (1 x), 'nan' (1 x)\n")
    both.told("kept as a word: label 'None' (1 x), text 'NA' (1 x); leave it empty where nothing is known\n")


def test_errors_of_a_spreadsheet_are_no_values(corpus, both):
    for number in range(3):
        recording(corpus / f"{number}.wav")
    rows = ["0.wav,#N/A,hi,#REF!", "1.wav,#NV,-nan,2", "2.wav,\\N,(null),3"]
    (corpus / "metadata.csv").write_text("\n".join(["file_name,label,text,room", *rows]), "utf-8")
    both.run()
    assert [each.label for each in both.utterances] == [each["label"] for each in both.rows] == [None, None, "\\N"]
    assert [each.text for each in both.utterances] == ["hi", None, "(null)"]
    both.told("metadata.csv: counted as missing: '#N/A' (1 x), '#NV' (1 x), '-nan' (1 x)\n")
    both.told("kept as a word: label '\\\\N' (1 x), text '(null)' (1 x); leave it empty where nothing is known\n")


@pytest.mark.parametrize("column", ["label", "text", "speaker", "language", "split", "start", "end", "file_name"])
def test_a_formula_that_failed_is_refused_with_its_cell(corpus, both, column):
    recording(corpus / "0.wav")
    rows = ["file_name,label,text,speaker,language,split,start,end", "0.wav,a,b,c,d,e,0,.2", "0.wav,a,b,c,d,e,.2,.4"]
    place = rows[0].split(",").index(column)
    rows[2] = ",".join("#VALUE!" if number == place else cell for number, cell in enumerate(rows[2].split(",")))
    (corpus / "metadata.csv").write_text("\n".join(rows))
    assert f"metadata.csv:3: {column}: given '#VALUE!', " in both.refused()


def test_unicode_forms(corpus, both):
    recording(corpus / unicodedata.normalize("NFD", "grün.wav"))
    recording(corpus / "a.wav")
    recording(corpus / "b.wav")
    (corpus / "metadata.csv").write_text(
        f"file_name,label,speaker\ngrün.wav,x,{NFC}\na.wav,{NFC},{NFD}\nb.wav,{NFD},{NFC}\n", encoding="utf-8"
    )
    both.run()
    assert {each.label for each in both.utterances} == {"x", NFC} == {each["label"] for each in both.rows}
    assert {each.speaker for each in both.utterances} == {NFC} == {each["speaker"] for each in both.rows}


def test_folders_in_two_unicode_forms_are_one_class(corpus, both):
    for name in (NFC, NFD, "traurig"):
        recording(corpus / name / f"{len(name)}.wav")
    both.run()
    assert sorted(each.label for each in both.utterances) == [NFC, NFC, "traurig"]
    assert sorted(each["label"] for each in both.rows) == [NFC, NFC, "traurig"]


def test_labels_that_differ_in_capitals_are_told(corpus, both):
    for number in range(3):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.csv").write_text("file_name,label\n0.wav,Joy\n1.wav,joy\n2.wav,anger\u200b\n", "utf-8")
    both.run()
    assert [each.label for each in both.utterances] == ["Joy", "joy", "anger"]
    both.told("labels differ only in capitals: 'Joy', 'joy'\n")


def test_lists_and_manifests_find_either_form(corpus, model_folder, capfd, tmp_path):
    recording(corpus / unicodedata.normalize("NFD", "grün.wav"))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"audio": str(corpus / "grün.wav"), "duration": 0, "label": NFD}))
    assert cli.main(["extract", str(model_folder), str(manifest), "-o", str(tmp_path / "m.parquet"), "--strict"]) == 0
    assert pq.ParquetFile(tmp_path / "m.parquet").read()["label"].to_pylist() == [NFC]
    [item] = read_plan([corpus / "grün.wav"]).items()
    assert Path(item.location).is_file()


def test_a_table_without_labels_is_named_from_the_root(corpus, both):
    for name in ("train", "test"):
        recording(corpus / name / f"{name}.wav")
    (corpus / "train" / "metadata.csv").write_text("file_name,label\ntrain.wav,joy\n")
    (corpus / "test" / "metadata.csv").write_text("file_name,speaker\ntest.wav,nan\n")
    both.run()
    both.told("\ntest/metadata.csv: no label: no column is called 'label', 'class', 'emotion' or 'category'\n")
    both.told("\ntest/metadata.csv: counted as missing: 'nan' (1 x)\n")
    assert "\nmetadata.csv" not in both.said


def test_spaces_and_capitals_in_the_header(corpus, both):
    recording(corpus / "0.wav")
    recording(corpus / "1.wav")
    (corpus / "metadata.csv").write_text(
        '\ufeffFile Name, Label, Text, speaker-ID\n0.wav, joy, "hi, you", s0\n1.wav, anger, ho, s1\n', encoding="utf-8"
    )
    both.run()
    assert [(each.label, each.text, each.speaker, each.extras) for each in both.utterances] == [
        ("joy", "hi, you", "s0", {}),
        ("anger", "ho", "s1", {}),
    ]
    both.told("label 2 of 2 · text 2 of 2 · speakers 2 (column 'speaker-ID')\n")


def test_a_recording_beside_the_classes(corpus, both):
    for name in ("joy/0.wav", "anger/0.wav", "sample.wav"):
        recording(corpus / name)
    both.run()
    assert [each.label for each in both.utterances] == [None, "anger", "joy"]
    assert [each.get("label") for each in both.rows] == [None, "anger", "joy"]
    both.told("label 2 of 3 · text 0 of 3 · speakers 0\n")
    both.told("labels are the names of 2 folders (anger, joy); 1 clip beside these has none (sample.wav)\n")


def test_a_recording_beside_splits(corpus, both):
    for name in ("train/joy/0.wav", "train/anger/0.wav", "test/joy/1.wav", "sample.wav", "train/odd.wav"):
        recording(corpus / name)
    both.run()
    found = {Path(each.audio).relative_to(corpus).as_posix(): (each.label, each.split) for each in both.utterances}
    assert found == {
        "sample.wav": (None, None),
        "test/joy/1.wav": ("joy", "test"),
        "train/odd.wav": (None, "train"),
        "train/anger/0.wav": ("anger", "train"),
        "train/joy/0.wav": ("joy", "train"),
    }
    assert [(each.get("label"), each.get("split")) for each in both.rows] == list(found.values())


def test_a_folder_that_is_too_deep_says_so(corpus, both):
    for name in ("joy/0.wav", "anger/0.wav", "anger/old/1.wav"):
        recording(corpus / name)
    both.run()
    assert [each.label for each in both.utterances] == [None] * 3
    both.told("no label: folders are classes where recordings are one level down, and anger/old/1.wav is deeper")


@pytest.mark.parametrize("suffix", ["parquet", "npz", "h5", "zarr"])
def test_empty_columns_and_rows_of_excel(corpus, both, suffix):
    recording(corpus / "0.wav")
    recording(corpus / "1.wav")
    (corpus / "metadata.csv").write_text(
        "file_name,label,speaker,,\r\n0.wav,froh,s0,,\r\n1.wav,froh,s1,,\r\n,,,,\r\n,,\r\n"
    )
    both.vectors = both.vectors.with_suffix(f".{suffix}") if suffix != "parquet" else both.vectors
    if suffix == "parquet":
        both.run()
        assert [each.extras for each in both.utterances] == [{}, {}]
        assert list(both.rows[0]) == ["path", "offset", "duration", "vector", "speaker", "label", "key"]
    else:
        assert both._extract("--strict") == 0


def test_a_semicolon_and_pandas_index(corpus, both):
    recording(corpus / "0.wav")
    recording(corpus / "1.wav")
    (corpus / "metadata.csv").write_text(";file;class\n0;0.wav;froh\n1;1.wav;traurig\n")
    both.run()
    assert [(each.label, each.extras) for each in both.utterances] == [("froh", {}), ("traurig", {})]
    both.told("columns not used: number 1 (it has no name)")


def test_backslashes(corpus, both):
    recording(corpus / "clips" / "0.wav")
    (corpus / "metadata.csv").write_text("file_name,label\nclips\\0.wav,froh\n")
    both.run()
    assert [each.audio for each in both.utterances] == [str(corpus / "clips" / "0.wav")]
    assert [each["path"] for each in both.rows] == ["clips/0.wav"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("0.wav", "clips/0.wav"),
        ("clips/0", "clips/0.wav"),
        ("clip/0.wav", "clips/0.wav"),
        ("clips/O.WAV", "clips"),
        ("clips/0.flac", "clips/0.wav"),
    ],
)
def test_files_that_are_not_there_have_a_neighbour(corpus, both, name, near):
    recording(corpus / "clips" / "0.wav")
    (corpus / "metadata.csv").write_text(f"file_name\n{name}\n")
    told = both.refused()
    assert f"none of the 1 files that it names is there; the first is looked for as {corpus / name}; " in told
    assert str(corpus / near) in told


def test_an_open_quotation_mark_is_named_where_it_opens(corpus, both):
    for number in range(4):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.csv").write_text('file_name,text\n0.wav,fine\n1.wav,"yes\n2.wav,no\n3.wav,he said "so"\n')
    assert f"{corpus / 'metadata.csv'}:3: a quotation mark opens here that does not close its cell" in both.refused()


def test_a_quotation_mark_that_swallows_rows_is_refused(corpus, both):
    for number in range(4):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.csv").write_text('file_name,text\n0.wav,fine\n1.wav,"yes\n2.wav,no\n3.wav,so"\n')
    assert "metadata.csv:3: a quotation mark opens here and closes in line 5, over other rows" in both.refused()


def test_durations_are_promises(corpus, both):
    recording(corpus / "a.wav", 1.0)
    recording(corpus / "b.wav", 1.2)
    (corpus / "metadata.csv").write_text(
        "file_name,offset,duration,text\na.wav,0,.6,short\nb.wav,0,20.0,long\nb.wav,1,.5,beyond\nb.wav,0,1.205,rounded\n"
    )
    both.run()
    assert [(each.text, each.duration) for each in both.utterances] == [("short", 0.6), ("rounded", 1.2)]
    assert [(each["text"], each["duration"]) for each in both.rows] == [("short", 0.6), ("rounded", 1.2)]
    prepared, extracted = both.reasons()
    assert prepared == extracted
    assert prepared == [
        "offset 0 s and duration 20 s reach beyond the end at 1.200 s",
        "offset 1 s and duration 0.5 s reach beyond the end at 1.200 s",
    ]
    both.told(
        "1 file has more audio than its stretches cover, 0.4 s in all: a.wav has 1 s, its last stretch ends at 0.6 s\n"
    )


def test_windows_of_several_lengths(corpus, both):
    recording(corpus / "m.wav", 1.2)
    (corpus / "metadata.csv").write_text("file_name,offset,duration,label\nm.wav,0,.5,x\nm.wav,0,1.2,x\nm.wav,0,.5,y\n")
    both.run()
    assert [each.duration for each in both.utterances] == [0.5, 1.2]
    assert [each["duration"] for each in both.rows] == [0.5, 1.2]
    prepared, extracted = both.reasons()
    assert prepared == extracted
    assert prepared == [
        "contradicts an earlier utterance of the same stretch of the same file, which is used: label 'y', there 'x'"
    ]
    assert utterance_ids(both.utterances) == ["m.wav@0+0.5", "m.wav@0+1.2"]
    assert list_ids(both.utterances) == ["m@0+0.5", "m@0+1.2"]


def test_rows_that_contradict_each_other_are_no_duplicates(corpus, both):
    recording(corpus / "a.wav", 1.2)
    (corpus / "metadata.csv").write_text(
        "file_name,duration,label,text,speaker\na.wav,1.2,x,hi,s\na.wav,1.2,x,hi,s\na.wav,1.2,x,ho,s\na.wav,1.2,,hi,t\n"
    )
    both.run()
    assert [each.text for each in both.utterances] == [each["text"] for each in both.rows] == ["hi"]
    start = "contradicts an earlier utterance of the same stretch of the same file, which is used: "
    prepared, extracted = both.reasons()
    assert prepared == extracted
    assert prepared == [
        "a duplicate: the same stretch of the same file as an earlier utterance",
        f"{start}text 'ho', there 'hi'",
        f"{start}label missing, there 'x'; speaker 't', there 's'",
    ]
    both.told("2 clips left out contradict earlier ones of their stretches; the first: text 'ho', there 'hi'\n")


def test_a_stretch_to_the_end_contradicts_one_of_that_length(corpus, tmp_path):
    recording(corpus / "a.wav", 0.6)
    audio = str(corpus / "a.wav")
    todo = [Utterance(audio=audio, duration=0.6, label="x"), Utterance(audio=audio, duration=0.0, label="y")]
    for _ in range(2):  # again, from what the first call left
        assert pack(todo, tmp_path / "out", workers=1).rejected == 1
        [line] = (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
        assert json.loads(line)["reason"].endswith("which is used: label 'y', there 'x'")
    assert validate_manifest([todo[0], todo[0].model_copy(update={"label": "y"})]) == [
        f"utterance 1 ({audio}): the same stretch of the same file as utterance 0, which it contradicts: "
        "label 'y', there 'x'"
    ]


@pytest.mark.parametrize("manifest", [False, True])
def test_a_stretch_with_and_without_its_end_is_used_once(corpus, both, manifest):
    recording(corpus / "a.wav", 1.0)
    recording(corpus / "b.wav", 1.1)
    rows = [("a", 0, 1.0, "joy"), ("a", 0, None, "sad"), ("a", 0, 1.005, "calm"), ("a", 0, 0.5, "window")]
    rows += [("b", 0.5, None, "joy"), ("b", 0.5, 0.6, "sad"), ("b", 0.5, 0.595, "other"), ("b", 0.5, 9, "beyond")]
    table = [f"{name}.wav,{start},{length or ''},{label}" for name, start, length, label in rows]
    (corpus / "metadata.csv").write_text("\n".join(["file_name,start,duration,label", *table]))
    source = None
    if manifest:
        source = corpus.parent / "m.jsonl"
        source.write_text(
            "".join(
                json.dumps({"audio": str(corpus / f"{name}.wav"), "offset": start, "duration": length, "label": label})
                + "\n"
                for name, start, length, label in rows
            )
        )
    both.run(source=source)
    used = ["joy", "window", "joy", "other"]
    assert [each.label for each in both.utterances] == [each["label"] for each in both.rows] == used
    prepared, extracted = both.reasons()
    assert prepared == extracted
    start = "contradicts an earlier utterance of the same stretch of the same file, which is used: "
    assert prepared == [
        f"{start}label 'sad', there 'joy'",
        f"{start}label 'calm', there 'joy'",
        f"{start}label 'sad', there 'joy'",
        "offset 0.5 s and duration 9 s reach beyond the end at 1.100 s",
    ]
    both.told("3 clips left out contradict earlier ones of their stretches; the first: label 'sad', there 'joy'\n")


def test_files_are_opened_where_two_stretches_may_be_one(corpus, monkeypatch):
    recording(corpus / "a.wav", 1.0)
    opened = []
    real = repeats.open_stretch
    monkeypatch.setattr(repeats, "open_stretch", lambda *words, **more: (opened.append(words), real(*words, **more))[1])
    rows = ["file_name,start,end", "a.wav,0,.5", "a.wav,0,1", "a.wav,0,1", "a.wav,.5,", "a.wav,.6,"]
    (corpus / "metadata.csv").write_text("\n".join(rows))
    assert [bool(item.fault) for item in read_plan(corpus).items()] == [False, False, True, False, False]
    assert not opened
    (corpus / "metadata.csv").write_text("\n".join([*rows, "a.wav,.5,1"]))
    assert [bool(item.fault) for item in read_plan(corpus).items()] == [False, False, True, False, False, True]
    assert len(opened) == 2


def test_names_that_may_be_meant_to_be_one_are_told(corpus, both):
    names = ["Joy", "\uff2aoy", "jo\xady", "1.5", "1.50", "anger"]
    speakers = ["Anna", "anna", "007", "7", "+7", "b"]
    splits = ["train", "Train", "TEST", "test", "", "dev"]
    rows = ["file_name,label,speaker,split"]
    for number, values in enumerate(zip(names, speakers, splits, strict=True)):
        recording(corpus / f"{number}.wav")
        rows.append(f"{number}.wav,{','.join(values)}")
    (corpus / "metadata.csv").write_text("\n".join(rows), "utf-8")
    both.run()
    assert [each.label for each in both.utterances] == names
    both.told(
        "label 6 of 6 · text 0 of 6 · speakers 6 · splits: train 1, Train 1, TEST 1, test 1, dev 1\n"
        "labels may be meant to be the same: 'Joy', '\uff2aoy', 'jo\\xady'; '1.5', '1.50'\n"
        "speakers may be meant to be the same: 'Anna', 'anna'; '007', '7', '+7'\n"
        "splits differ only in capitals: 'train', 'Train'; 'TEST', 'test'\n"
    )


def test_copies_with_other_labels_or_splits_are_told(corpus, both):
    recording(corpus / "a.wav")
    recording(corpus / "other.wav", seconds=0.7)
    shutil.copy(corpus / "a.wav", corpus / "copy.wav")
    (corpus / "link.wav").symlink_to(corpus / "a.wav")
    os.link(corpus / "other.wav", corpus / "same.wav")
    rows = ["a.wav,joy,train", "copy.wav,anger,train", "link.wav,joy,test", "other.wav,joy,train", "same.wav,joy,train"]
    (corpus / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows]))
    both.run()
    words = f"{corpus}/copy.wav is {corpus}/a.wav (label 'anger', there 'joy')"
    assert f"1 recording occurs more than once with other values: {words}\n" in both.said
    (corpus / "metadata.csv").write_text("\n".join(["file_name,label,split", *rows[2:]]))
    both.run()
    assert "occurs more than once" not in both.said
    (corpus / "metadata.csv").write_text("\n".join(["file_name,label,split", rows[0], *rows[2:]]))
    both.run()
    words = f"{corpus}/link.wav is {corpus}/a.wav (split 'test', there 'train')"
    assert f"1 recording occurs more than once with other values: {words}\n" in both.said


def test_splits_of_folders_hold_with_a_table_at_the_root(corpus, both):
    rows = ["file_name,label"]
    for name in ("train/0.wav", "Test/x/1.wav", "other/2.wav", "3.wav"):
        recording(corpus / name)
        rows.append(f"{name},joy")
    (corpus / "metadata.csv").write_text("\n".join(rows))
    both.run()
    assert [each.split for each in both.utterances] == ["train", "Test", None, None]
    assert [each["split"] for each in both.rows] == ["train", "Test", None, None]
    both.told("splits: train 1, Test 1")


def test_names_in_other_spellings_are_told(corpus, both):
    speakers = ["Anna  Lee", "anna_lee", "anna-lee", "anna lee", "s1_11", "s11_1"]
    splits = ["val", "validation", "train_set", "train", "dev", "eval"]
    rows = ["file_name,speaker,split"]
    for number, values in enumerate(zip(speakers, splits, strict=True)):
        recording(corpus / f"{number}.wav")
        rows.append(f"{number}.wav,{','.join(values)}")
    (corpus / "metadata.csv").write_text("\n".join(rows), "utf-8")
    both.run()
    assert [each.speaker for each in both.utterances] == speakers
    both.told("speakers may be meant to be the same: 'Anna  Lee', 'anna_lee', 'anna-lee', 'anna lee'\n")
    both.told("splits may be meant to be the same: 'val', 'validation'; 'train_set', 'train'\n")
    assert merged(speakers) == ["Anna  Lee"] * 4 + speakers[4:]


def test_the_one_folder_that_is_called_like_a_split_is_it(corpus, both):
    names = (
        "audio/train/0.wav",
        "audio/en/test_set/1.wav",
        "audio/2.wav",
        "audio/train/test/3.wav",
        "train/test/4.wav",
    )
    rows = ["file_name,label"]
    for name in names:
        recording(corpus / name)
        rows.append(f"{name},joy")
    (corpus / "metadata.csv").write_text("\n".join(rows))
    both.run()
    assert [each.split for each in both.utterances] == ["train", "test_set", None, None, "train"]
    assert [each["split"] for each in both.rows] == ["train", "test_set", None, None, "train"]
    both.told("splits: train 2, test_set 1")
    both.told("no split: 1 files are below folders of several splits (audio/train/test/3.wav); give them a column")


@pytest.mark.parametrize(
    ("names", "splits", "labels", "words"),
    [
        (("wavs/train/0.wav", "wavs/test/1.wav"), ["test", "train"], [None] * 2, "splits: test 1, train 1"),
        (("joy/train/0.wav", "anger/test/1.wav"), ["test", "train"], ["anger", "joy"], "splits: test 1, train 1"),
        (
            ("train/0.wav", "yes/1.wav"),
            [None] * 2,
            ["train", "yes"],
            "no split: 1 clips are in folders called like one (train), but 1 in none or several (yes/1.wav)\n",
        ),
    ],
)
def test_splits_of_folders_without_a_table(corpus, both, names, splits, labels, words):
    for name in names:
        recording(corpus / name)
    both.run()
    assert [each.split for each in both.utterances] == splits
    assert [each.get("split") for each in both.rows] == splits
    assert [each.label for each in both.utterances] == labels
    both.told(words)


@pytest.mark.parametrize("column", ["transcription", "sentence", "Transcript", "raw_transcription"])
def test_columns_that_others_call_otherwise(corpus, both, column):
    recording(corpus / "0.wav")
    (corpus / "metadata.csv").write_text(f"file_name,{column}\n./0.wav,hello\n")
    both.run()
    assert [(each.text, each.extras) for each in both.utterances] == [("hello", {})]
    assert both.rows[0]["text"] == "hello"
    both.told(f"text 1 of 1 (column '{column}')" if column != "text" else "text 1 of 1")


def test_columns_that_compete(corpus, both):
    recording(corpus / "0.wav")
    (corpus / "metadata.csv").write_text("file_name,text,sentence\n0.wav,hello,Hello!\n")
    told = both.refused()
    assert "metadata.csv:2: columns 'text' and 'sentence' both mean the text and differ ('hello', 'Hello!')" in told
    (corpus / "metadata.csv").write_text("file_name,text,sentence\n0.wav,hello,hello\n")
    assert [each.text for each in both.run().utterances] == ["hello"]


def test_a_stretch_of_no_length_is_left_out_alone(corpus, both):
    recording(corpus / "a.wav", 1.2)
    rows = ["a.wav,0,.5,x", "a.wav,.5,.5,", "a.wav,.5,1.2,y", "a.wav,1.2,1.2,z"]
    (corpus / "metadata.csv").write_text("\n".join(["file_name,start,end,text", *rows]))
    both.run()
    assert [(each.offset, each.duration, each.text) for each in both.utterances] == [(0, 0.5, "x"), (0.5, 0.7, "y")]
    assert [(each["offset"], each["text"]) for each in both.rows] == [(0, "x"), (0.5, "y")]
    both.told("metadata.csv: 2 rows left out, for their stretches have no length: the first in line 3\n")
    (corpus / "metadata.csv").write_text("file_name,start,end\na.wav,.5,.4\n")
    assert "metadata.csv:2: end 0.4 s is not after the start at 0.5 s" in both.refused()
    (corpus / "metadata.csv").write_text("file_name,start,end\na.wav,.5,.5\n")
    assert "metadata.csv: no rows in it" in both.refused()


def test_every_line_of_json_may_have_its_own_words(corpus, both):
    lines = [
        {"audio": "0.wav", "duration": 0.6, "sentence": "one", "emotion": "joy", "spk": "s"},
        {"audio": "1.wav", "duration": 0.6, "text": "two", "label": "fear", "speaker": "t"},
    ]
    for number in range(2):
        recording(corpus / f"{number}.wav")
    (corpus / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    both.run()
    known = [("one", "joy", "s"), ("two", "fear", "t")]
    assert [(each.text, each.label, each.speaker) for each in both.utterances] == known
    assert [(each["text"], each["label"], each["speaker"]) for each in both.rows] == known
    lines[0]["text"] = "another"
    (corpus / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert "metadata.jsonl:1: columns 'sentence' and 'text' both mean the text and differ" in both.refused()


def test_mixed_values_are_written_as_labels_are(corpus, both):
    values = [True, 1.0, "x", 2.5]
    for number in range(4):
        recording(corpus / f"{number}.wav")
    lines = [{"file_name": f"{number}.wav", "label": value, "mark": value} for number, value in enumerate(values)]
    (corpus / "metadata.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    both.run()
    assert [each["mark"] for each in both.rows] == [each["label"] for each in both.rows] == ["true", "1", "x", "2.5"]


def test_errors_are_json_whatever_the_manifest_holds(corpus, model_folder, tmp_path, capfd):
    recording(corpus / "a.wav")
    lines = ['{"audio": "a.wav", "duration": 0}', '{"audio": "a.wav", "offset": Infinity, "duration": Infinity}']
    (corpus / "list.jsonl").write_text("\n".join(lines))
    vectors = tmp_path / "v.parquet"
    assert cli.main(["extract", str(model_folder), str(corpus / "list.jsonl"), "-o", str(vectors)]) == 0
    [line] = vectors.with_name("v.parquet.errors.jsonl").read_text().splitlines()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["path"] == "a.wav"
    assert found["duration"] is found["offset"] is None


def test_a_table_is_a_source_of_its_own(corpus, model_folder, tmp_path, capfd):
    recording(corpus / "0.wav")
    recording(corpus / "1.wav")
    (corpus / "some.tsv").write_text("path\temotion\n1.wav\tjoy\n")
    out = tmp_path / "v.npz"
    assert cli.main(["extract", str(model_folder), str(corpus / "some.tsv"), "-o", str(out)]) == 0
    with np.load(out) as found:
        assert (found["path"].tolist(), found["label"].tolist()) == (["1.wav"], ["joy"])
    assert "label 1 of 1 (column 'emotion')" in capfd.readouterr().err


def test_what_a_manifest_may_point_to(corpus, model_folder, tmp_path, capfd):
    fsspec = pytest.importorskip("fsspec")
    recording(corpus / "0.wav")
    memory = fsspec.filesystem("memory")
    memory.pipe("/c/0.wav", (corpus / "0.wav").read_bytes())
    (corpus / "m.jsonl").write_text(json.dumps({"audio": "memory://c/0.wav", "duration": 0}))
    words = ["extract", str(model_folder), str(corpus / "m.jsonl"), "-o", str(tmp_path / "v.parquet"), "--strict"]
    assert cli.main(words) == 2
    assert "names memory://c/0.wav, an address; --allow-remote" in capfd.readouterr().err
    assert cli.main([*words, "--allow-remote"]) == 0
    # A manifest behind an address names addresses of its own scheme, or what is beside it.
    words = ["extract", str(model_folder), "memory://c/m.jsonl", "-o", str(tmp_path / "w.parquet"), "--strict"]
    for audio, refusal in (
        (str(corpus / "0.wav"), "names the local file"),
        (f"file://{corpus}/0.wav", "names the local file"),
        ("s3://bucket/0.wav", "an address of another scheme than memory"),
    ):
        memory.pipe("/c/m.jsonl", json.dumps({"audio": audio, "duration": 0}).encode())
        assert cli.main(words) == 2
        assert refusal in capfd.readouterr().err
    memory.pipe("/c/m.jsonl", b'{"audio": "0.wav", "duration": 0}\n{"audio": "memory://c/0.wav", "duration": 0.5}\n')
    assert cli.main(words) == 0
    assert len(pq.ParquetFile(tmp_path / "w.parquet").read()) == 2
    memory.rm("/c", recursive=True)


def test_prepare_refuses_addresses_in_a_table(corpus, capfd):
    recording(corpus / "0.wav")
    (corpus / "metadata.csv").write_text("file_name\nhttps://example.org/0.wav\n")
    assert cli.main(["prepare", "folder", "--root", str(corpus), "--out", str(corpus.parent / "out")]) == 2
    assert (
        "metadata.csv:2: https://example.org/0.wav is an address; prepare reads local files" in capfd.readouterr().err
    )

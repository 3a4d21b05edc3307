"""What columns mean: the words of many conventions, times in their forms, and what is refused instead of guessed."""

import json
from itertools import islice
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.data.columns import Entry, Meaning, understand
from speechssl.data.tables import open_table


def meaning_of(folder: Path, content: str, name: str = "t.csv") -> Meaning:
    (folder / name).write_text(content, encoding="utf-8")
    return understand(open_table(folder / name))


def entries(folder: Path, content: str, name: str = "t.csv") -> list[Entry]:
    meaning = meaning_of(folder, content, name)
    return [meaning.entry(row) for row in meaning.table.rows()]


TIMED = (1.5, 1.5)
WHOLE = (None, None)
CONVENTIONS = {
    "audiofolder of Hugging Face": ("file_name,transcription\na.wav,hi\n", WHOLE, {"text": "hi"}),
    "Common Voice": (
        "client_id\tpath\tsentence\tlocale\ns1\ta.wav\thi\ten\n",
        WHOLE,
        {"speaker": "s1", "text": "hi", "language": "en"},
    ),
    "audformat": (
        "file,start,end,emotion,speaker\na.wav,0 days 00:00:01.5,0 days 00:00:03,joy,s1\n",
        TIMED,
        {"label": "joy", "speaker": "s1"},
    ),
    "events": ("filename\tonset\toffset\tevent_label\na.wav\t1.5\t3.0\tjoy\n", TIMED, {"label": "joy"}),
    "ELAN": (
        "File Path\tBegin Time - hh:mm:ss.ms\tEnd Time - ss.msec\tDuration - msec\ttext\n"
        "a.wav\t00:00:01.500\t3\t1500\thi\n",
        TIMED,
        {"text": "hi"},
    ),
    "Praat": ("file\ttmin\ttext\ttmax\na.wav\t1.5\thi\t3.0\n", TIMED, {"text": "hi"}),
    "Praat's own": ("file\txmin\txmax\ttext\na.wav\t1.5\t3.0\thi\n", TIMED, {"text": "hi"}),
    "milliseconds": ("audio,start_ms,end_ms\na.wav,1500,3000\n", TIMED, {}),
    "a unit in brackets": ("audio,Start (s),Dur (s)\na.wav,1.5,1.5\n", TIMED, {}),
    "camels": ("audioFile,startTime,endTime,speakerId\na.wav,1.5,3,s1\n", TIMED, {"speaker": "s1"}),
    "words of Kaldi": ("wav,begin,end,spk\na.wav,1.5,3,s1\n", TIMED, {"speaker": "s1"}),
    "own words": (
        "file_name,Offset,Duration,language,split\na.wav,1.5,1.5,en,test\n",
        TIMED,
        {"language": "en", "split": "test"},
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions(tmp_path: Path, name: str) -> None:
    content, stretch, known = CONVENTIONS[name]
    [entry] = entries(tmp_path, content, "t.tsv" if "\t" in content else "t.csv")
    assert entry == Entry(2, "a.wav", *stretch, known, {})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("1.5", 1.5), ("1", 1.0), (".5", 0.5), ("1e1", 10.0), ("00:01:02.500", 62.5), ("1:02.5", 62.5)),
        *(("0 days 00:00:03.5", 3.5), ("1 days 00:00:01", 86401.0), ("0 days", 0.0), ("NaT", None), ("", None)),
    ],
)
def test_times(tmp_path: Path, value: str, seconds: float | None) -> None:
    assert entries(tmp_path, f"file,start\na.wav,{value}\n")[0].offset == seconds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,start\na.wav,-1\n", "t.csv:2: start: given '-1', allowed: seconds, 0 or more$"),
        ("file,start\na.wav,-1 days +23:59:59\n", "t.csv:2: start: given '-1 days .23:59:59', allowed: seconds"),
        ('file;start\na.wav;1,5\n', "t.csv:2: start: given '1,5', allowed: seconds, 0 or more with a decimal point$"),
        ("file,start\na.wav,PT3.5S\n", "start: given 'PT3.5S', allowed: seconds"),
        ("file,start\na.wav,01:75\n", "start: given '01:75', allowed: seconds"),
        ("file,start\na.wav,inf\n", "start: given 'inf', allowed: seconds"),
        (
            "file,start\na.wav,NA\n",
            "start: given 'NA', allowed: seconds, 0 or more; leave it empty where nothing is known$",
        ),
        (
            "file,duration_ms\na.wav,null\n",
            "given 'null', allowed: milliseconds, 0 or more; leave it empty where nothing is known$",
        ),
        (
            "file,start\na.wav,#N/A\n",
            "start: given '#N/A', allowed: seconds, 0 or more; leave it empty where nothing is known$",
        ),
        ("file,label\na.wav,#NAME?\n", "t.csv:2: label: given '#NAME.', an error of a spreadsheet; correct the cell"),
        ("file,label\na.wav, #BEZUG!\n", "label: given '#BEZUG!', an error of a spreadsheet"),
        ("file,text\na.wav,Err:502\n", "text: given 'Err:502', an error of a spreadsheet"),
        ("file,label\n#REF!,b\n", "file: given '#REF!', an error of a spreadsheet; write the path of the file"),
        ("file,start,end\na.wav,3,3\n", "t.csv:2: end 3 s is not after the start at 3 s$"),
        ("file,start,end\na.wav,0,0\n", "t.csv:2: end 0 s is not after the start at 0 s$"),
        ("file,duration\na.wav,0\n", "t.csv:2: duration: given 0, allowed: seconds above 0, or nothing$"),
        ("file,start,end,duration\na.wav,0,3,12\n", "columns 'end' and 'duration' differ: the stretch has 3 s, or 12"),
        ("file,start,offset\na.wav,0,3\n", "t.csv:2: columns 'start' and 'offset' both mean the start and differ"),
        ("file,start,onset,offset\na.wav,0,0,3\n", "t.csv: columns 'start' and 'onset' both mean the start; rename"),
        ("file,start,start_ms\na.wav,1,1010\n", "columns 'start' and 'start_ms' both mean .* .1.0, 1.01.; "),
        ("file,text,sentence\na.wav,a,\n", "t.csv:2: columns 'text' and 'sentence' both mean .* .'a', None.; "),
        ("file,Label,class\na.wav,a,b\n", "columns 'Label' and 'class' both mean the label and differ .'a', 'b'."),
        ("file,path\na.wav,b.wav\n", "columns 'file' and 'path' both mean the file and differ"),
        ("file,speeker\na.wav,b\n", "column 'speeker' is not used and looks like 'speaker'; rename it to"),
        (
            "file,lable,speeker,start_sample\na.wav,b,c,1\n",
            "column 'lable' .*; column 'speeker' .*; column 'start_sample' is not used, as its unit is not known",
        ),
        (
            "file,lable,speeker\na.wav,b,c\n",
            "'other_lable' if it is something else; column 'speeker' is not used and looks like 'speaker'",
        ),
        ("file,lable\na.wav,b\n", "column 'lable' is not used and looks like 'label'"),
        ("file,transcripts\na.wav,b\n", "column 'transcripts' is not used and looks like 'transcript'"),
        ("file,offset_samples\na.wav,3\n", "column 'offset_samples' is not used, as its unit is not known; give"),
        ("file,start,length\na.wav,3,2\n", "column 'length' is not used, .* call it 'duration'"),
        ("name,label\na.wav,b\n", "t.csv: no column names the file .*; there are: name, label$"),
        ("a.wav,joy\nb.wav,anger\n", "there are: a.wav, joy; the first line must name the columns$"),
        ("sep=,\nfile,label\na.wav,joy\n", "there are: sep=; the first line is for Excel alone .'sep='.: delete it$"),
        ("# my list\nfile,label\na.wav,joy\n", "there are: # my list; the first line is a comment: delete it"),
        ('{"file": "a.wav"}\n', "the first line is JSON: call a file with one JSON object per line .jsonl$"),
        ('file,start_ms\na.wav,"1,000"\n', "start_ms: given '1,000', allowed: milliseconds, 0 or more with a "),
        ("file,label\n,b\n", "t.csv:2: file: is empty, allowed: the path of a file$"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        entries(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_equal_columns_are_one(tmp_path: Path) -> None:
    content = "file,path,text,sentence,start,begin_ms,end,offset\na.wav,a.wav,e\u0301,\u00e9,1.0,1000,2,1\n"
    [entry] = entries(tmp_path, content)
    assert (entry.file, entry.known, entry.offset, entry.duration) == ("a.wav", {"text": "\u00e9"}, 1.0, 1.0)


def test_derived_texts_are_extras_beside_the_text(tmp_path: Path) -> None:
    meaning = meaning_of(tmp_path, "file,transcription,raw_transcription,room\na.wav,hi,Hi!,k\n")
    assert meaning.unused == ("raw_transcription", "room")
    assert entries(tmp_path, "file,subset,split\na.wav,clean,test\n")[0].known == {"split": "test"}
    assert entries(tmp_path, "file,target,class\na.wav,0,dog\n")[0].known == {"label": "dog"}


def test_identifiers_of_sentences_are_extras_beside_the_text(tmp_path: Path) -> None:
    content = "file,sentence,text\na.wav,01,kids talk\nb.wav,02,7\n"
    assert [entry.known["text"] for entry in entries(tmp_path, content)] == ["kids talk", "7"]
    assert meaning_of(tmp_path, content).unused == ("sentence",)
    assert entries(tmp_path, "file,sentence\na.wav,7\n")[0].known == {"text": "7"}
    with pytest.raises(UserError, match=r"columns 'text' and 'sentence' both mean the text and differ .'7', '8'.;"):
        entries(tmp_path, "file,text,sentence\na.wav,7,8\n")
    named = "file,text,sentence\na.wav,Author of the trail,arctic_a0001\nb.wav,Not at 5,arctic_a0002\n"
    assert [entry.known["text"] for entry in entries(tmp_path, named)] == ["Author of the trail", "Not at 5"]
    with pytest.raises(UserError, match="both mean the text and differ"):
        entries(tmp_path, "file,text,sentence\na.wav,yes,no\n")


def test_columns_that_may_mean_something_are_named(tmp_path: Path) -> None:
    hints = meaning_of(tmp_path, "file,actor,length\na.wav,x,3\n").hints
    assert hints == (
        "column 'length' may be meant for the duration: rename it to 'duration' then",
        "column 'actor' may be meant for the speaker: rename it to 'speaker' then",
    )
    assert meaning_of(tmp_path, "file,actor,speaker\na.wav,x,y\n").hints == ()
    hints = meaning_of(tmp_path, "file,Annotation,Usage,User ID\na.wav,hi,train,x\n").hints
    assert [hint.partition(":")[0] for hint in hints] == [
        "column 'Annotation' may be meant for the text",
        "column 'User ID' may be meant for the speaker",
        "column 'Usage' may be meant for the split",
    ]


def test_structures_and_missing_keys_of_json(tmp_path: Path) -> None:
    content = '{"file": "a.wav", "intent": {"a": 1}, "words": [1]}\n{"audio": "b.wav", "intent": "buy", "text": "t"}\n'
    one, two = entries(tmp_path, content, "t.jsonl")
    assert (one.file, one.known, one.extras) == ("a.wav", {}, {"intent": '{"a": 1}', "words": "[1]"})
    assert (two.file, two.known, two.extras) == ("b.wav", {"label": "buy", "text": "t"}, {"words": None})
    with pytest.raises(UserError, match=r"t.jsonl:1: label: given \['a'\], allowed: one text or number$"):
        entries(tmp_path, '{"file": "a.wav", "label": ["a"]}\n', "t.jsonl")


@pytest.mark.parametrize(
    ("names", "values", "stretch"),
    [
        ("begin_s,length_s", "1,2", (1.0, 2.0)),
        ("Start [s],Length [ms]", "1,2000", (1.0, 2.0)),
        ("segment_start_time,segment_end_time", "1,3", (1.0, 2.0)),
        ("time_start,time_end", "1,3", (1.0, 2.0)),
        ("starts,ends", "1,3", (1.0, 2.0)),
        ("tbeg,tdur", "1,2", (1.0, 2.0)),
        ("Begin Time (hh:mm:ss),End Time (hh:mm:ss)", "00:00:01,00:00:03", (1.0, 2.0)),
        ("start in seconds,duration in ms", "1,2000", (1.0, 2.0)),
    ],
)
def test_more_names_of_times(tmp_path: Path, names: str, values: str, stretch: tuple[float, float]) -> None:
    [entry] = entries(tmp_path, f"file,{names}\na.wav,{values}\n")
    assert (entry.offset, entry.duration) == stretch


START, BOTH, END, LENGTH = (
    "{0!r} is not used .* the start of .*rename it to 'start' .*'other_{0}'",
    "{0!r} and {1!r} are not used .* the start and the end .*'start' and 'end' .*'other_{0}' and 'other_{1}'",
    "{1!r} is not used .* the end of .*rename it to 'end' .*'other_{1}'",
    "{1!r} is not used .* the length of .*rename it to 'duration' .*'other_{1}'",
)
NOT_READ = {  # by message: the columns of tables
    START: ["time,duration", "timestamp,duration", "t,duration", "seek,end", "from,end", "t0,duration"],
    BOTH: [
        *("from,to", "t0,t1", "t1,t2", "tStart,tEnd", "audio_start,audio_end", "utt_start,utt_end", "uttstart,uttend"),
        *("Startzeit,Endzeit", "Début,Fin", "начало,конец", "开始时间,结束时间", "start_offset,end_offset", "in,out"),
        *("vad_start,vad_end", "speech_start,pause_end", "start_timestamp,end_timestamp", "begins_at,ends_at"),
    ],
    END: ["offset,offset_end", "start,until", "start,to", "start,utt_end", "start,stop_at", "duration,utt_end"],
    LENGTH: ["start,seconds", "start,total_duration", "start,Dauer", "start,frames"],
    "'utt_start' and 'utt_length' are not used .* the start and the length ": ["utt_start,utt_length"],
    "'n_samples' is not used, as its unit is not known": ["start,n_samples"],
    "'start_microseconds' is not used, as its unit is not known": ["start_microseconds,end"],
    "'start' and 'utt_start' both look like the start; rename .*'other_utt_start'": ["start,end,utt_start"],
    "'offset_end' is not used .* the end of": ["offset,offset_end,duration"],
}


@pytest.mark.parametrize(
    ("names", "message"), [(names, message) for message in NOT_READ for names in NOT_READ[message]]
)
def test_times_that_are_not_understood_are_refused(tmp_path: Path, names: str, message: str) -> None:
    columns = names.split(",")
    with pytest.raises(UserError, match=rf"t.csv: columns? {message.format(*columns)}"):
        entries(tmp_path, f"file,{names}\na.wav,{','.join('123'[: len(columns)])}\n")
    renamed = ",".join(f"other_{column}" for column in columns)
    assert entries(tmp_path, f"file,{renamed}\na.wav,{','.join('123'[: len(columns)])}\n")[0].offset is None


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("timestamp", "2024-05-01 10:00:00"),
        ("timestamp,duration", "2024-05-01T10:00:00Z,2"),
        ("timestamp,duration", "1714557600,2"),
        ("timestamp,duration", "20240501,2"),
        ("timestamp,duration", "01.05.2024,2"),
        ("timestamp,duration", ",2"),
        ("time_of_day,duration", "10:30,2"),
        ("from,to,duration", "Berlin,Paris,2"),
        ("from_corpus,age,year_from,duration", "x,31,1999,2"),
        ("start_year,start_page,end_page,duration", "1999,1,2,2"),
        ("voice_onset_time,dc_offset,duration", "0.1,0.2,2"),
        ("sample_rate,tempo,intensity,tone,duration", "16000,1,2,3,2"),
        ("weekend,trend,frontend,created_time,duration", "1,2,3,10:30,2"),
        ("F0semitoneFrom27.5Hz_sma3nz,processing_time,duration", "25,0.3,2"),
        ("length,duration", "32000,2"),
    ],
)
def test_columns_that_are_no_times_of_a_stretch(tmp_path: Path, names: str, values: str) -> None:
    [entry] = entries(tmp_path, f"file,{names}\na.wav,{values}\n")
    assert (entry.offset, entry.duration) == (None, 2.0 if "duration" in names else None)
    assert list(entry.extras) == [name for name in names.split(",") if name != "duration"]


def test_other_times_beside_a_whole_stretch_are_extras(tmp_path: Path) -> None:
    [entry] = entries(tmp_path, "file,start,end,time,word_start,start_samples\na.wav,1,3,10:30,2,16000\n")
    assert (entry.offset, entry.duration) == (1.0, 2.0)
    assert list(entry.extras) == ["time", "word_start", "start_samples"]


def test_a_time_alone_is_named(tmp_path: Path) -> None:
    for name, right in (("time", "start"), ("recording_start", "start"), ("speech_end", "end")):
        hint = f"column {name!r} may be meant for a time in the file: rename it to {right!r} then"
        assert meaning_of(tmp_path, f"file,{name}\na.wav,1.5\n").hints == (hint,)


@pytest.mark.parametrize("name", ["state", "split2", "test", "accent", "gender", "age", "segment", "id", "room"])
def test_other_words_are_no_slips(tmp_path: Path, name: str) -> None:
    assert meaning_of(tmp_path, f"file,{name}\na.wav,x\n").unused == (name,)


@pytest.mark.packs
def test_the_metadata_of_every_pack_is_understood(packs: Path) -> None:
    for path in sorted(packs.glob("*/metadata.jsonl")):
        meaning = understand(open_table(path))
        lines = path.read_text(encoding="utf-8").splitlines()
        for line, row in islice(zip(lines, meaning.table.rows(), strict=True), 200):
            given, entry = json.loads(line), meaning.entry(row)
            expected = {name: given.get(name) for name in ("speaker", "label", "language")}
            expected |= {
                "text": given.get("text", given.get("sentence")),
                "split": given.get("split", given.get("subset")),
            }
            assert entry.known == {name: value for name, value in expected.items() if value is not None}, (path, line)

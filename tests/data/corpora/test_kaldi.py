"""Kaldi data folders: every table, every kind of entry in wav.scp, and nothing left out without a word."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.config import UserError
from speechssl.data.corpora.kaldi import Settings, prepare
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import WaveformStore, pack


def tables(folder: Path, **files: str) -> Path:
    """A data folder; `wav_scp` is the file wav.scp."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return folder


def by_name(root: Path, **settings: str) -> dict[str, Utterance]:
    return {str(each.extras["utterance"]): each for each in prepare(root, Settings.model_validate(settings))}


def test_a_folder_with_everything(tmp_path: Path, write_tone: Callable) -> None:
    one = write_tone(tmp_path / "one.wav", seconds=1.0)
    two = write_tone(tmp_path / "two.flac", seconds=2.0)
    root = tables(
        tmp_path / "data",
        wav_scp=f"rec1 {one}\nrec2\t{two}\n",
        segments="a-1 rec1 0.25 0.75\na-2 rec2 0 -1\nb-1 rec2 0.5 1.9\n",
        text="a-1 cafe\u0301  au lait\na-2 two\nb-1\n",
        utt2spk="a-1 a\na-2 a\nb-1 b\n",
        spk2gender="a f\nb m\n",
        utt2lang="a-1 fr\na-2 en\nb-1 en\n",
        utt2emotion="a-1 glad\na-2 sad\nb-1 sad\n",
    )
    found = by_name(root)
    assert list(found) == ["a-1", "a-2", "b-1"]
    first = found["a-1"]
    assert (first.audio, first.offset, first.duration) == (str(one), 0.25, 0.5)
    assert (first.text, first.speaker, first.label, first.language) == ("café  au lait", "a", "glad", "fr")
    assert first.extras == {"utterance": "a-1", "gender": "f"}
    assert (found["a-2"].offset, found["a-2"].duration, found["a-2"].split) == (0.0, 2.0, None)
    assert (found["b-1"].text, found["b-1"].offset, found["b-1"].duration) == (None, 0.5, 1.4)
    report = pack(found.values(), tmp_path / "out")
    assert (report.accepted, report.rejected, report.seconds) == (3, 0, 0.5 + 2.0 + 1.4)


def test_splits_are_the_folders(tmp_path: Path, write_tone: Callable) -> None:
    for name in ("train", "test"):
        tables(
            tmp_path / "data" / name,
            wav_scp=f"{name}1 {write_tone(tmp_path / f'{name}.wav')}\n",
            spk2utt=f"s {name}1\n",
        )
    found = list(prepare(tmp_path / "data"))
    assert [(each.split, each.speaker, each.duration) for each in found] == [("test", "s", 0.25), ("train", "s", 0.25)]


def test_relative_paths_start_where_the_recipe_was_run(tmp_path: Path, write_tone: Callable) -> None:
    write_tone(tmp_path / "s5" / "wavs" / "a.wav")
    root = tables(tmp_path / "s5" / "data" / "train", wav_scp="a wavs/a.wav\n")
    assert by_name(root)["a"].audio == str(tmp_path / "s5" / "wavs" / "a.wav")
    moved = tables(tmp_path / "elsewhere" / "a" / "b" / "c", wav_scp="a wavs/a.wav\n")
    with pytest.raises(UserError, match=r"wav\.scp: wavs/a\.wav is in none of .*--set base=FOLDER"):
        by_name(moved)
    assert by_name(moved, base=str(tmp_path / "s5"))["a"].duration == 0.25


def test_commands_that_only_decode_are_replaced_and_others_are_never_run(tmp_path: Path, write_tone: Callable) -> None:
    flac, wav = write_tone(tmp_path / "a.flac"), write_tone(tmp_path / "my tone.wav")
    witness = tmp_path / "witness"
    root = tables(
        tmp_path / "data",
        wav_scp=f"a flac -c -d -s {flac} |\n"
        f"b cat '{wav}' |\n"
        f"c /opt/kaldi/tools/sph2pipe_v2.5/sph2pipe -f wav -p {wav.name!r} |\n"
        f"d flac -cds {flac}|\n"
        f"x1 sox {wav} -t wav -r 8000 - |\n"
        f"x2 sph2pipe -f wav -c 2 {flac} |\n"
        f"x3 touch {witness} |\n"
        f"x4 cat {flac}; touch {witness} |\n"
        f"x5 flac -c --stdout {flac} |\n"
        f"x6 cat $(touch {witness}) |\n"
        f"x7 cat {tmp_path}/*.flac |\n",
    )
    source = prepare(root)
    found = {str(each.extras["utterance"]): each for each in source}
    assert {name: Path(each.audio).name for name, each in found.items()} == {
        "a": "a.flac",
        "b": "my tone.wav",
        "c": "my tone.wav",
        "d": "a.flac",
    }
    assert not witness.exists()
    left = source.findings.notes
    assert any("left out: 1 utterance (x1): commands are not run: 'sox … |'" in each for each in left)
    assert any("1 utterance (x2): commands are not run: 'sph2pipe … |'" in each for each in left)
    assert any("3 utterances (x4, …): commands are not run: 'cat … |'" in each for each in left)


def test_archives_are_read_where_they_hold_wav_files(tmp_path: Path, write_tone: Callable) -> None:
    tones = [write_tone(tmp_path / f"{pitch}.wav", pitch=pitch).read_bytes() for pitch in (200, 300)]
    archive = tmp_path / "w.ark"
    archive.write_bytes(b"a " + tones[0] + b"b " + tones[1])
    root = tables(
        tmp_path / "data",
        wav_scp=f"a {archive}:2\nb {archive}:{len(tones[0]) + 4}\nc {archive}:5\nd {tmp_path}/200.wav\n",
    )
    report = pack(prepare(root), tmp_path / "out")
    assert (report.accepted, report.rejected) == (3, 1)
    store = WaveformStore(tmp_path / "out")
    assert (store.read(0) == store.read(2)).all()
    assert not (store.read(0) == store.read(1)).all()
    assert "no wav file at byte 5" in (tmp_path / "out" / "rejects.jsonl").read_text()


def test_tables_that_do_not_belong_together_are_told_with_counts(tmp_path: Path, write_tone: Callable) -> None:
    tone = write_tone(tmp_path / "a.wav")
    root = tables(
        tmp_path / "data",
        wav_scp=f"r {tone}\n",
        segments="a r 0 0.1\nb r 0.1 0.2\nc gone 0 1\nd r 0.2 0.1\n",
        text="a one\nz nobody\ny nobody\n",
        utt2dur="a 0.5\nb 0.1\nc 1\nd 1\n",
        utt2num_frames="a 10\n",
    )
    source = prepare(root)
    assert [each.extras["utterance"] for each in source] == ["a", "b"]
    said = "\n".join(source.findings.notes)
    for words in (
        "text: 2 utterances (y, …) not in segments",
        "text: nothing on 3 utterances (b, …)",
        "utt2dur: differs by more than 0.1 s from 1 utterance (a)",
        "left out: 1 utterance (c): their recording is not in wav.scp",
        "left out: 1 utterance (d): the segment ends before it starts",
    ):
        assert words in said, said
    assert source.findings.not_read == ["data/utt2num.frames"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no wav.scp in it or in its sub-folders; give a Kaldi data folder"),
        ({"feats_scp": "a x.ark:3\n"}, "feats.scp holds features"),
        ({"wav_scp": "\n"}, "wav.scp: an empty table"),
        ({"wav_scp": "a /x.wav\na /y.wav\n"}, "wav.scp line 2: 'a' is there twice"),
        ({"wav_scp": "a /x.wav\n", "text": "b x\n"}, "text: none of its 1 identifiers is an utterance here"),
        ({"wav_scp": "a /x.wav\n", "segments": "u a 1\n"}, "segments: u: given 'a 1', allowed: RECORDING START END"),
        ({"wav_scp": "a /x.wav\n", "segments": "u a 0 nan\n"}, "segments: u: given 'a 0 nan'"),
        ({"wav_scp": "a sox x |\n"}, r"no utterance can be read; 1 utterance \(a\): commands are not run"),
        ({"wav_scp": "a /x.wav\n", "segments": "u a 0 1 1\n"}, "no utterance can be read; .*one channel"),
        ({"wav_scp": "a /x\n", "utt2label": "a x\n", "utt2emo": "a x\n"}, "utt2label and utt2emo both hold labels"),
        ({"wav_scp": "a /x\n", "utt2dur": "a long\n"}, "utt2dur: durations are numbers"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        list(prepare(tables(tmp_path / "data", **files)))
    assert "\n" not in str(error.value)


def two_channels(path: Path) -> Path:
    times = np.arange(8000) / 16000
    soundfile.write(path, np.stack([np.sin(900 * times), np.sin(3000 * times)], axis=1) / 2, 16000)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_a_channel_of_a_file_with_two_is_left_out(tmp_path: Path, write_tone: Callable, named: bool) -> None:
    call, other = two_channels(tmp_path / "c.wav"), two_channels(tmp_path / "o.wav")
    mono = write_tone(tmp_path / "m.wav")
    root = tables(
        tmp_path / "data",
        wav_scp=f"c-A {call}\nc-B {call}\nm {mono}\no {other}\n",
        segments="a c-A 0 0.3\nb c-B 0.2 0.5\nm m 0 0.2\no o 0 0.5\n",
        text="a good day\nb hello\nm hm\no oh\n",
    )
    if named:
        (root / "reco2file_and_channel").write_text("c-A c A\nc-B c B\nm m A\n")
    source = prepare(root)
    assert [(each.audio, each.text) for each in source] == [(str(mono), "hm"), (str(other), "oh")]
    reason = "reco2file_and_channel names one channel" if named else "2 recordings of wav.scp are one file"
    assert source.findings.notes == [
        f"{root}: left out: 2 utterances (a, …): {reason}, and the file has 2 channels; "
        "write each channel to a file of its own"
    ]
    assert source.findings.not_read == []


def test_one_channel_alone_is_left_out_as_well(tmp_path: Path) -> None:
    call = two_channels(tmp_path / "c.wav")
    root = tables(tmp_path / "data", wav_scp=f"c-A {call}\n")
    (root / "reco2file_and_channel").write_text("c-A c A\n")
    with pytest.raises(UserError, match=r"no utterance can be read; 1 utterance \(c-A\): .* the file has 2 channels"):
        list(prepare(root))
    (root / "reco2file_and_channel").write_text("c-A c\n")
    with pytest.raises(UserError, match="reco2file_and_channel: given 'c-A c', allowed: RECORDING FILE CHANNEL"):
        list(prepare(root))


def test_two_tables_of_speakers_have_to_agree(tmp_path: Path, write_tone: Callable) -> None:
    places = "".join(f"{name} {write_tone(tmp_path / f'{name}.wav')}\n" for name in "abc")
    root = tables(tmp_path / "data", wav_scp=places, utt2spk="a s1\nb s2\n", spk2utt="s1 a\ns2 b c\n")
    assert {name: each.speaker for name, each in by_name(root).items()} == {"a": "s1", "b": "s2", "c": "s2"}
    tables(root, spk2utt="s1 b\ns2 a\n")
    with pytest.raises(UserError, match=r"utt2spk and .*spk2utt differ: utterance 'b' is of 's2' .* of 's1'"):
        by_name(root)
    tables(root, spk2utt="s1 a c\ns2 b c\n")
    with pytest.raises(UserError, match=r"spk2utt: utterance 'c' is of 's1' and of 's2'; remove it from one of them"):
        by_name(root)

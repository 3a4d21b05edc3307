"""What a clip may be, and what is said of everything else."""

import io
import os
import re

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechssl.audio import AudioError, AudioWarning
from speechssl.config import UserError
from speechssl.embed.clips import content_digest, decoded, is_single, to_waveform
from tests.micro import tone

CLIP = tone(8000)


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, CLIP, 16000, subtype="FLOAT")
    return path


def test_every_kind_of_clip_is_the_same_samples(wav):
    tensor = torch.from_numpy(CLIP.copy()).requires_grad_()
    with wav.open("rb") as file:
        for clip in (wav, str(wav), CLIP, (CLIP, 16000), (CLIP, np.int64(16000)), tensor, (tensor, 16000.0), file):
            np.testing.assert_array_equal(to_waveform(clip, name="clip"), CLIP)
    np.testing.assert_array_equal(to_waveform(io.BytesIO(wav.read_bytes()), name="clip"), CLIP)
    np.testing.assert_allclose(to_waveform(tensor.bfloat16(), name="clip"), CLIP, atol=2e-3)
    np.testing.assert_array_equal(to_waveform(CLIP[::-1].copy()[::-1], name="clip"), CLIP)  # a view


def test_what_other_libraries_give_is_the_same_samples(wav):
    """datasets, pyannote.audio, torchaudio, soundfile and torchcodec."""
    tensor = torch.from_numpy(CLIP.copy())

    class Samples:
        data, sample_rate = tensor[None], 16000

    class Decoder:
        def get_all_samples(self):
            return Samples()

    for clip in (
        {"array": CLIP, "sampling_rate": 16000},
        {"array": CLIP, "sampling_rate": 16000, "path": "a.wav"},
        {"bytes": wav.read_bytes(), "path": "elsewhere.wav"},
        {"bytes": wav.read_bytes(), "path": None},
        {"bytes": None, "path": str(wav)},
        {"waveform": tensor[None], "sample_rate": 16000, "uri": "a"},
        tensor[None],
        CLIP[:, None],
        (tensor[None], 16000),
        (torch.stack([tensor * 2, tensor * 0]), 16000),
        (np.stack([CLIP] * 8), 16000),
        soundfile.read(wav, always_2d=True, dtype="float32"),
        (np.stack([CLIP * 2, CLIP * 0], axis=1), 16000),
        Decoder(),
        Samples(),
    ):
        assert is_single(clip)
        np.testing.assert_allclose(to_waveform(clip, name="clip"), CLIP, atol=1e-7)
    stereo = (np.stack([CLIP, CLIP], axis=1) * 32767).astype(np.int16)
    np.testing.assert_allclose(to_waveform((stereo, 16000), name="clip"), CLIP, atol=1e-4)
    assert len(to_waveform({"array": CLIP, "sampling_rate": 8000}, name="clip")) == 16000
    with pytest.raises(AudioError, match=r"^elsewhere\.wav: not audio"):
        to_waveform({"bytes": b'{"a": 1}', "path": "elsewhere.wav"}, name="clip")


def test_columns_of_arrow_are_several_clips(wav):
    pa = pytest.importorskip("pyarrow")
    paths = pa.chunked_array([[str(wav)], [str(wav)]])
    records = pa.array([{"bytes": wav.read_bytes(), "path": "a.wav"}, {"bytes": None, "path": str(wav)}])
    samples = pa.array([CLIP.tolist(), CLIP.tolist()], pa.list_(pa.float32()))
    for column in (paths, records, samples):
        assert not is_single(column)
        for found in decoded(column):
            np.testing.assert_allclose(found, CLIP, atol=1e-7)
    with pytest.raises(UserError, match="clips: a Table has names, not clips, in a row"):
        list(decoded(pa.table({"path": paths})))


def test_a_file_that_can_seek_is_put_back_where_it_stood(wav):
    with wav.open("rb") as file:
        for _ in range(2):
            np.testing.assert_array_equal(to_waveform(file, name="clip"), CLIP)
    prefixed = io.BytesIO(b"1234" + wav.read_bytes())
    prefixed.seek(4)
    for _ in range(2):
        np.testing.assert_array_equal(to_waveform(prefixed, name="clip"), CLIP)
    assert prefixed.tell() == 4


def test_a_pipe_is_read(wav):
    soundfile.write(wav, CLIP[:4000], 16000, subtype="PCM_16")  # fits into the pipe's buffer
    reading, writing = os.pipe()
    os.write(writing, wav.read_bytes())
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert len(to_waveform(file, name="clip 7")) == 4000


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_a_compressed_open_file_gives_what_its_path_gives(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(40000), 22050)
    with path.open("rb") as file:
        np.testing.assert_array_equal(to_waveform(file, name="clip"), to_waveform(path, name="clip"))


def test_what_is_wrong_with_an_open_file_is_told_under_its_name(wav, tmp_path):
    with wav.open("rb") as file:
        file.seek(0, os.SEEK_END)
        with pytest.raises(AudioError, match=r"a\.wav: .*nothing left to read; it stands at byte \d+, seek\(0\)"):
            to_waveform(file, name="clip")
    with wav.open() as file, pytest.raises(AudioError, match=r"a\.wav: a file open for text; open it with 'rb'"):
        to_waveform(file, name="clip")
    cut = tmp_path / "cut.wav"
    cut.write_bytes(wav.read_bytes()[:2000])
    with pytest.raises(AudioError) as from_path:
        to_waveform(cut, name="clip")
    with cut.open("rb") as file, pytest.raises(AudioError) as from_file:
        to_waveform(file, name="clip")
    assert str(from_file.value) == str(from_path.value)
    with pytest.raises(AudioError, match=r"clip 3: an open file with nothing left to read$"):
        to_waveform(io.BytesIO(), name="clip 3")
    with pytest.raises(AudioError, match=r"clip 3: not audio \(JSON text\)$"):
        to_waveform(io.BytesIO(b'{"a": 1}'), name="clip 3")
    quiet = io.BytesIO()
    soundfile.write(quiet, np.zeros(8000), 16000, format="WAV")
    quiet.seek(0)
    with pytest.raises(AudioError, match=r"^clip 3: all silence"):
        to_waveform(quiet, name="clip 3")


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ([0.1, 0.2], "a list of numbers; make samples an array"),
        ((0.1, 0.2, 0.3), "a tuple of numbers; make samples an array"),
        (([0.1, 0.2], 16000), "a list of numbers; make samples an array"),
        (0.1, "a number; if the list is samples, make it an array"),
        (b"RIFF", "bytes; give the path, or io.BytesIO"),
        (None, "got None; a clip is a path, an array of samples"),
        ({"array": CLIP, "samplerate": 8000}, "a dict with the keys array, samplerate; a clip is {'array', 'samp"),
        ({"array": CLIP, "waveform": CLIP}, "a dict with the keys array, waveform;"),
        ({"audio": {"array": CLIP}, "label": 3}, "a dict with the keys audio, label; a clip is"),
        ({"bytes": "text", "path": "a.wav"}, "a dict with the keys bytes, path;"),
        ({"bytes": None, "path": None}, "got None; a clip is a path"),
        ({"array": CLIP, "sampling_rate": None}, "need a rate in Hz beside the samples, got None"),
        ({"array": [0.1, 0.2], "sampling_rate": 16000}, "a list of numbers; make samples an array"),
        ((np.zeros((3, 5)), 16000), "got shape (3, 5); average its channels"),
        ((np.zeros((9, 8000)), 16000), "got shape (9, 8000); average its channels"),
        ((np.zeros((8000, 2), dtype=np.int64), 16000), "need samples of a floating type or int16, got int64"),
        (np.zeros((8000, 2)), "got shape (8000, 2); average its channels"),
        ((16000, CLIP), "a rate before the samples; the pair is (samples, rate)"),
        ((CLIP, "16000"), "need a rate in Hz beside the samples, got '16000'"),
        ({"array": CLIP}, "a dict with 'array' and without a rate; add 'sampling_rate': Hz, or give the samples alone"),
        ({"waveform": CLIP, "uri": "a"}, "a dict with 'waveform' and without a rate; add 'sampling_rate'"),
        ((CLIP, 16), "need a rate of 4000 to 192000 Hz, a whole number, got 16"),
        ((CLIP, 22050.5), "a whole number, got 22050.5"),
        ((CLIP, float("nan")), "a whole number, got nan"),
        ((CLIP, float("inf")), "a whole number, got inf"),
        (np.zeros((2, 8000)), "got shape (2, 8000); average its channels, or give several clips as a list"),
        (torch.zeros(2, 2, 8000), "got shape (2, 2, 8000); one clip has one axis"),
        (np.float32(1.0), "a number; if the list"),
        (np.array(1.0), "got shape ()"),
        (CLIP.astype(complex), "need samples of a floating type or int16, got complex128"),
        (np.array([1.0] * 500, dtype=object), "need samples of a floating type or int16, got object"),
        (torch.zeros(800, dtype=torch.int64), "need samples of a floating type or int16, got int64"),
    ],
)
def test_what_is_no_clip_gets_one_line(clip, reason):
    with pytest.raises(AudioError, match=f"^clip 5: .*{re.escape(reason)}") as caught:
        to_waveform(clip, name="clip 5")
    assert "\n" not in str(caught.value)


def test_one_or_many():
    for one in ("a.wav", CLIP, (CLIP, 16000), torch.zeros(3), io.BytesIO(), b"", np.zeros((2, 3)), (16000, CLIP)):
        assert is_single(one), type(one)
    for pair in ((CLIP, "16000"), (CLIP, " 44100.0"), (CLIP, np.array(16000)), (CLIP, torch.tensor(16000))):
        assert is_single(pair), pair[1]
        with pytest.raises(AudioError, match="clip: need a rate in Hz beside the samples"):
            to_waveform(pair, name="clip")
    assert not is_single((CLIP, "16000.wav"))
    for many in (["a.wav"], (CLIP, CLIP), ("a.wav", "b.wav"), iter([]), np.array(["a.wav"]), pd.Series(["a.wav"]), []):
        assert not is_single(many), type(many)


def test_several_clips_are_named_by_their_place(wav):
    assert [len(clip) for clip in decoded(pd.Series([str(wav)], index=[7]))] == [8000]
    with pytest.raises(AudioError, match=r"^clip 0: a number; if the list is samples"):
        list(decoded([0.1, 0.2]))
    with pytest.raises(AudioError, match=r"^clip 1: a list of numbers"):
        list(decoded([CLIP, [0.1, 0.2]]))
    with pytest.raises(UserError, match="a DataFrame has names, not clips, in a row"):
        list(decoded(pd.DataFrame({"path": [str(wav)]})))
    with pytest.raises(UserError, match="a dict has names"):
        list(decoded({"a": CLIP}))
    with pytest.raises(UserError, match="got an object of type int; a clip is"):
        list(decoded(5))


def test_digests_tell_contents_apart(wav, tmp_path):
    same = tmp_path / "b.wav"
    same.write_bytes(wav.read_bytes())
    assert content_digest(wav) == content_digest(str(same))
    soundfile.write(same, CLIP, 8000, subtype="FLOAT")
    clips = [wav, same, CLIP, CLIP[:-1], (CLIP, 8000), CLIP.astype(np.float64), (CLIP * 32767).astype(np.int16)]
    digests = [content_digest(clip) for clip in clips]
    assert len(set(digests)) == len(digests)
    assert None not in digests
    assert content_digest(torch.from_numpy(CLIP)) == content_digest((CLIP, 16000)) == content_digest(CLIP)
    assert content_digest({"array": CLIP, "sampling_rate": 16000}) == content_digest(CLIP)
    stereo = np.stack([CLIP, CLIP])
    assert content_digest((stereo, 16000)) != content_digest(stereo)
    for other in (tmp_path, tmp_path / "none.wav", "a\0b", io.BytesIO(b"x"), [0.1], np.array([None]), (CLIP, None)):
        assert content_digest(other) is None


def test_a_pipe_by_path_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo.wav")
    assert content_digest(tmp_path / "fifo.wav") is None


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_that_cancel_each_other_are_those_of_a_file(axis, tmp_path):
    samples = tone(16000)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, -samples], axis=1), 16000, subtype="FLOAT")
    with pytest.warns(AudioWarning, match="the channels cancel each other, channel 1 alone is taken"):
        expected = to_waveform(str(tmp_path / "a.wav"), name="clip")
    with pytest.warns(AudioWarning, match="clip: the channels cancel each other, channel 1 alone is taken"):
        got = to_waveform((np.stack([samples, -samples], axis=axis), 16000), name="clip")
    np.testing.assert_array_equal(got, expected)

"""Several channels to one: their mean, unless it is next to nothing."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import AudioWarning, decode, open_stretch, with_channel
from speechssl.data import encoded
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import WaveformStore, pack
from tests.toys import tones

RATE = 16000
SPEECH = tones(2.0)
OTHER = tones(2.0, speaker=1, seed=1)
NOISE = np.random.default_rng(0).normal(0, 0.01, (2, len(SPEECH))).astype(np.float32)
HUM = 0.1 * np.sin(2 * np.pi * 50 / RATE * np.arange(len(SPEECH))).astype(np.float32)
PAUSES = np.repeat(np.arange(4) % 2, RATE // 2).astype(np.float32)


def write(path: Path, *channels: np.ndarray) -> Path:
    soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return path


CANCELLED = {
    "exactly": (SPEECH, -SPEECH),
    "quiet": (SPEECH * 1e-3, SPEECH * -1e-3),
    "but for noise": (SPEECH + NOISE[0], NOISE[1] - SPEECH),
    "with another level": (SPEECH, -0.7 * SPEECH),
    "beside an offset": (0.3 + SPEECH * 0.1, 0.3 - SPEECH * 0.1),
    "in pairs": (SPEECH, -SPEECH, OTHER, -OTHER),
    "in the second half": (SPEECH, np.concatenate([SPEECH[:16000], -SPEECH[16000:]])),
    "for half a second": (SPEECH, np.concatenate([SPEECH[:24000], -SPEECH[24000:]])),
    "on a balanced line with hum": (SPEECH + HUM, HUM - SPEECH),
    "on one with much hum": (SPEECH + 2 * HUM, 2 * HUM - SPEECH),
}
MEANS = {
    "the same": (SPEECH, SPEECH),
    "one is silent": (np.zeros_like(SPEECH), SPEECH),
    "two speakers": (SPEECH, OTHER),
    "unlike": (NOISE[0], NOISE[1]),
    "one of sixteen": (*[np.zeros_like(SPEECH)] * 15, SPEECH),
    "in turn": (SPEECH * PAUSES, OTHER * (1 - PAUSES)),
    "inverted noise in pauses": (SPEECH * PAUSES + 0.1 * NOISE[0], SPEECH * PAUSES - 0.1 * NOISE[0]),
    "hum against hum": (SPEECH + HUM / 2, SPEECH - HUM / 2),
    "later by a millisecond": (SPEECH, np.roll(SPEECH, 16)),
    "somewhat inverted": (SPEECH + OTHER, OTHER - 0.4 * SPEECH),
}


@pytest.mark.parametrize("kind", CANCELLED)
def test_channels_that_cancel_each_other(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", *CANCELLED[kind])
    with pytest.warns(AudioWarning, match="a.wav: the channels cancel each other, channel 1 alone is taken"):
        waveform = decode(path)
    np.testing.assert_array_equal(waveform, CANCELLED[kind][0])


@pytest.mark.parametrize("kind", MEANS)
def test_other_channels_are_averaged(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", *MEANS[kind])
    np.testing.assert_allclose(decode(path), np.mean(MEANS[kind], axis=0), atol=1e-6)


def test_a_silent_channel_is_not_the_one_that_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 1e-3 * OTHER, SPEECH, -SPEECH)
    with pytest.warns(AudioWarning, match="channel 2 alone is taken"):
        np.testing.assert_array_equal(decode(path), SPEECH)


def test_not_finite_samples_have_their_reason_beside_an_inverted_channel(tmp_path: Path) -> None:
    spoiled = SPEECH.copy()
    spoiled[100] = np.nan
    with pytest.raises(ValueError, match="1 of 32000 samples are NaN or infinite"):
        decode(write(tmp_path / "a.wav", spoiled, -SPEECH))


def test_blocks_are_those_of_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", SPEECH, -SPEECH)

    def read(channel: int | None) -> np.ndarray:
        with open_stretch(path, 0.5, channel=channel) as stretch:
            return np.concatenate(list(stretch.blocks()))

    np.testing.assert_array_equal(with_channel(read), SPEECH[8000:])


def test_each_file_is_told_once_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", SPEECH, -SPEECH)
    write(tmp_path / "b.wav", SPEECH, OTHER)
    corpus = [Utterance(audio=str(tmp_path / name), duration=0.0) for name in ("a.wav", "b.wav")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = pack(corpus, tmp_path / "out")
    assert report.notes == (f"{tmp_path / 'a.wav'}: the channels cancel each other, channel 1 alone is taken",)
    store = WaveformStore(tmp_path / "out")
    assert np.abs(store.waveform(0) - SPEECH).max() < 2e-5
    assert json.loads((tmp_path / "out" / "waveforms.json").read_text())["notes"].keys() == {"0"}
    monkeypatch.setattr(encoded, "_WHOLE", 1000)
    assert pack(corpus, tmp_path / "long").notes == report.notes
    assert WaveformStore(tmp_path / "long").content_hash() == store.content_hash()
    assert not list((tmp_path / "long").glob(".*"))

"""Decoding against soundfile itself, resampling and normalising against closed forms, the arithmetic by hypothesis."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.audio import (
    AUDIO_SUFFIXES,
    FOREIGN_SUFFIXES,
    MAX_RATE,
    MIN_RATE,
    RECEPTIVE_FIELD,
    SAMPLE_RATE,
    AudioError,
    check_waveform,
    decode,
    decode_with_info,
    decoding,
    normalize,
    open_stretch,
    probe,
    resample,
    samples_to_seconds,
    seconds_to_samples,
)
from speechssl.config import UserError
from tests.toys import tones

RNG = np.random.default_rng(0)
VOICE = (np.sin(np.arange(3 * SAMPLE_RATE) / 9) * 0.4 + RNG.uniform(-0.05, 0.05, 3 * SAMPLE_RATE)).astype(np.float32)
RATES = st.integers(MIN_RATE, MAX_RATE)


def sine(rate: int, seconds: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


# Seconds and samples


@given(samples=st.integers(-(2**40), 2**40), rate=RATES)
def test_samples_survive_seconds(samples: int, rate: int) -> None:
    assert seconds_to_samples(samples_to_seconds(samples, rate), rate) == samples


@given(seconds=st.floats(-1e6, 1e6), rate=RATES)
def test_rounding_is_to_the_nearest_sample(seconds: float, rate: int) -> None:
    assert abs(seconds_to_samples(seconds, rate) - seconds * rate) <= 0.5


@given(whole=st.integers(-1000, 1000), shift=st.integers(-1000, 1000))
def test_halves_do_not_depend_on_where_they_lie(whole: int, shift: int) -> None:
    """Rounding halves to even would make equal stretches differ by a sample; rate 1 keeps the floats exact."""
    assert seconds_to_samples(whole + 0.5 + shift, 1) == seconds_to_samples(whole + 0.5, 1) + shift


@given(first=st.floats(0, 1e5), second=st.floats(0, 1e5), rate=RATES)
def test_rounding_keeps_order(first: float, second: float, rate: int) -> None:
    low, high = sorted((first, second))
    assert seconds_to_samples(low, rate) <= seconds_to_samples(high, rate)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf])
def test_seconds_must_be_finite(seconds: float) -> None:
    with pytest.raises(ValueError, match=f"seconds must be finite, got {seconds}"):
        seconds_to_samples(seconds)


# Decoding


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 16])
def test_channels_are_averaged(channels: int, tmp_path: Path) -> None:
    mixed = RNG.uniform(-0.5, 0.5, (4000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", mixed, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "a.wav"), mixed.astype(np.float64).mean(axis=1), atol=1e-6)
    assert probe(tmp_path / "a.wav").channels == channels


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        *[("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0), ("DOUBLE", 0)],
        *[("ALAW", 0.04), ("ULAW", 0.04), ("IMA_ADPCM", 0.5), ("MS_ADPCM", 0.5), ("GSM610", 0.5)],
    ],
)
def test_sample_formats(subtype: str, step: float, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE, subtype=subtype)
    heard = decode(tmp_path / "a.wav")
    assert heard.dtype == np.float32
    np.testing.assert_allclose(heard[: len(VOICE)], VOICE, atol=step)
    assert probe(tmp_path / "a.wav").subtype == subtype


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64"])
def test_whole_file_and_stretches(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, VOICE, SAMPLE_RATE)
    expected, _ = soundfile.read(path, dtype="float32")
    whole = decode(path)
    np.testing.assert_allclose(whole, expected, atol=1e-6)  # lossy decoders round differently after a seek to 0
    np.testing.assert_array_equal(whole, decode(path))
    for offset, duration in [(0.0, 0.5), (0.25, 1.0), (1.234567, 0.1), (2.5, None), (2.999, None), (2.9, 0.1)]:
        start = seconds_to_samples(offset)
        stop = None if duration is None else start + seconds_to_samples(duration)
        np.testing.assert_allclose(decode(path, offset, duration=duration), whole[start:stop], atol=1e-6)


def test_any_start_in_a_vorbis_file(tmp_path: Path) -> None:
    """libsndfile 1.2.2 gives other samples after a seek into the last page, here the last third."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, VOICE, SAMPLE_RATE)
    whole = decode(path)
    for start in range(0, len(whole), 731):
        heard = decode(path, samples_to_seconds(start))
        np.testing.assert_allclose(heard, whole[start:], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
def test_opus_is_decoded_at_the_rate_of_its_header(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    soundfile.write(path, sine(rate, 2.0), rate, format="OGG", subtype="OPUS")
    assert probe(path).rate == rate
    heard = decode(path)
    assert len(heard) == 2 * SAMPLE_RATE
    middle = slice(8000, 24000)
    np.testing.assert_allclose(heard[middle], sine(SAMPLE_RATE, 2.0)[middle], atol=0.1)


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_rates(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(rate), rate, subtype="FLOAT")
    decoded = decode_with_info(tmp_path / "a.wav")
    assert decoded.info.rate == rate
    assert decoded.info.duration == pytest.approx(0.5, abs=1 / rate)
    assert len(decoded.waveform) == round(len(sine(rate)) * SAMPLE_RATE / rate)
    middle = slice(1000, 7000)  # away from the filter's edges
    np.testing.assert_allclose(decoded.waveform[middle], sine(SAMPLE_RATE)[middle], atol=1e-3)


def test_downsampling_does_not_fold(tmp_path: Path) -> None:
    """A tone above the new rate's half must vanish, not come back at another frequency."""
    tone = resample(sine(48000, frequency=11000.0), 48000, SAMPLE_RATE)
    assert np.abs(tone[1000:-1000]).max() < 1e-3


def test_another_rate_can_be_asked_for(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE)
    assert len(decode(tmp_path / "a.wav", rate=8000)) == len(VOICE) // 2
    assert resample(VOICE, SAMPLE_RATE, SAMPLE_RATE) is VOICE


@pytest.mark.parametrize("channels", [1, 3])
def test_blocks_join_without_a_seam(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([VOICE] * channels, 1), SAMPLE_RATE, subtype="PCM_24")
    whole = decode(tmp_path / "a.flac", 0.1)
    monkeypatch.setattr(decoding, "_BLOCK", 1000)
    np.testing.assert_array_equal(decode(tmp_path / "a.flac", 0.1), whole)


def test_format_without_seeking(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE, SAMPLE_RATE, subtype="GSM610")
    whole = decode(tmp_path / "a.wav")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav", 0.5, duration=1.0), whole[8000:24000])


def test_probe_does_not_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.stack([VOICE, VOICE], 1), SAMPLE_RATE)

    def refuse(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", refuse)
    assert probe(str(tmp_path / "a.flac")) == audio.AudioInfo(
        path=str(tmp_path / "a.flac"),
        rate=SAMPLE_RATE,
        channels=2,
        num_samples=len(VOICE),
        duration=3.0,
        format="FLAC",
        subtype="PCM_16",
    )


def test_absurd_length_allocates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FLAC promising 300 times what it holds is read block by block up to its end."""
    soundfile.write(tmp_path / "a.flac", VOICE, SAMPLE_RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[22:26] = (300 * len(VOICE)).to_bytes(4, "big")
    (tmp_path / "a.flac").write_bytes(content)
    asked: list[int] = []
    read = soundfile.SoundFile.read

    def watch(self: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        asked.append(frames)
        return read(self, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", watch)
    with pytest.raises(AudioError, match="truncated"):
        decode(tmp_path / "a.flac")
    assert sum(asked) <= len(VOICE) + 2 * (1 << 18)


def test_end_may_be_rounded_to_two_decimals(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", VOICE[:16079], SAMPLE_RATE)
    assert len(decode(tmp_path / "a.wav", duration=1.01)) == 16079
    with pytest.raises(AudioError, match="reach beyond the end"):
        decode(tmp_path / "a.wav", duration=1.02)


def samples_or_reason(path: Path) -> np.ndarray:
    try:
        return decode(path)
    except AudioError:
        return np.zeros(0, np.float32)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64", "rf64", "voc"])
def test_any_damage_gives_samples_or_a_reason(suffix: str, data: st.DataObject, tmp_path: Path) -> None:
    """Bytes changed, cut or inserted anywhere: never another exception, never a sample that is not finite."""
    path = tmp_path / f"whole.{suffix}"
    if not path.exists():
        soundfile.write(path, VOICE[:8000], SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Half of the damage in the first bytes, where the headers are.
        place = data.draw(st.integers(0, 60) | st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (tmp_path / f"damaged.{suffix}").write_bytes(content)
    heard = samples_or_reason(tmp_path / f"damaged.{suffix}")
    assert np.isfinite(heard).all()
    assert len(heard) < 60 * SAMPLE_RATE


# Checks, normalising, names


@pytest.mark.parametrize("level", [-80, -60, -20, 0])
def test_quiet_speech_is_no_silence(level: float) -> None:
    check_waveform(VOICE / np.abs(VOICE).max() * np.float32(10 ** (level / 20)), "a.wav")


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(RECEPTIVE_FIELD - 1, np.float32), "too short: 399 samples"),
        (np.zeros(0, np.float32), "too short: 0 samples"),
        (np.full(RECEPTIVE_FIELD, np.nan, np.float32), "400 of 400 samples are NaN or infinite"),
        (np.array([np.inf] + [0.1] * 400, np.float32), "1 of 401 samples are NaN or infinite"),
        (np.zeros(RECEPTIVE_FIELD, np.float32), r"all silence \(every sample is zero\)"),
        (np.full(RECEPTIVE_FIELD, -0.5, np.float32), "a constant offset of -0.5000"),
        (np.full(RECEPTIVE_FIELD, 1e-9, np.float32), "below -90 dBFS"),
        (np.sin(np.arange(RECEPTIVE_FIELD), dtype=np.float32) * np.float32(3e-5), "a peak of 3e-05"),
        (np.sin(np.arange(RECEPTIVE_FIELD), dtype=np.float32) * np.float32(3e-5) + np.float32(0.1), "offset of 0.1"),
    ],
)
def test_waveforms_that_teach_nothing(waveform: np.ndarray, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        check_waveform(waveform, "a.wav")


def test_normalize_is_that_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm([VOICE + 0.1], None)[0]
    ours = normalize(VOICE + np.float32(0.1))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_normalize_of_nothing_but_an_offset_stays_finite() -> None:
    np.testing.assert_array_equal(normalize(np.full(1000, 0.25, np.float32)), np.zeros(1000, np.float32))


@given(gain=st.floats(0.1, 100), offset=st.floats(-1, 1))
def test_normalize_forgets_gain_and_offset(gain: float, offset: float) -> None:
    clip = VOICE[:4000]
    np.testing.assert_allclose(normalize(clip * np.float32(gain) + np.float32(offset)), normalize(clip), atol=1e-3)


def test_error_is_one_line_and_travels() -> None:
    error = AudioError("a\nb\u2028c.wav", "two\nlines")
    assert str(error) == r"a\nb\u2028c.wav: two lines"
    assert isinstance(error, UserError)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.path, copy.reason, str(copy)) == (error.path, error.reason, str(error))


def test_suffixes_do_not_overlap() -> None:
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3"} <= AUDIO_SUFFIXES
    assert {".m4a", ".wma", ".aac", ".mp4", ".webm"} <= FOREIGN_SUFFIXES
    assert not AUDIO_SUFFIXES & FOREIGN_SUFFIXES


def test_an_offset_that_takes_the_digits_of_float32(tmp_path: Path) -> None:
    speech = tones(1.0).astype(np.float64)
    soundfile.write(tmp_path / "a.wav", speech * 3e-4 + 1000, 16000, subtype="DOUBLE")
    with pytest.raises(AudioError, match="too few digits for it beside a constant offset of 1000; take it off"):
        decode(tmp_path / "a.wav")
    soundfile.write(tmp_path / "a.wav", speech + 0.5, 16000, subtype="DOUBLE")
    np.testing.assert_array_equal(decode(tmp_path / "a.wav"), (speech + 0.5).astype(np.float32))


def test_a_click_that_is_most_of_its_part_has_its_value_and_place() -> None:
    speech = tones(2.0) * 1e-4
    speech[20000:20100] = 0.99
    with pytest.raises(AudioError, match=r"a click of 0\.99 at 1\.25\d s, all other samples are within"):
        check_waveform(speech, "a.wav")


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
@pytest.mark.parametrize("offset", [0.5, -0.9, 0.01])
@pytest.mark.parametrize("whole", [True, False])
def test_an_offset_is_no_click_at_the_ends(rate: int, offset: float, whole: bool, tmp_path: Path) -> None:
    """The step from what the resampler takes for zero, outside the recording, does not ring."""
    speech = np.resize(tones(2.0), 3 * rate) * 0.01 * abs(offset) + offset
    soundfile.write(tmp_path / "a.wav", speech, rate, subtype="FLOAT")
    with open_stretch(tmp_path / "a.wav") as stretch:
        waveform = stretch.read() if whole else np.concatenate(list(stretch.blocks()))
    assert len(waveform) == 48000
    assert np.abs(waveform - np.float32(offset)).max() < 0.02 * abs(offset)
    check_waveform(waveform, "a.wav")  # a warning would be an error

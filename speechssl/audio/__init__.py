"""Audio files: their headers, their samples as mono float32 at 16 kHz, and the reasons why a file cannot be used."""

from speechssl.audio.channels import to_mono, with_channel
from speechssl.audio.checks import SILENCE_PEAK, Levels, check_waveform
from speechssl.audio.decoding import (
    DecodedAudio,
    OpenStretch,
    decode,
    decode_with_info,
    open_stretch,
    probe,
)
from speechssl.audio.errors import AudioError, AudioWarning
from speechssl.audio.formats import AUDIO_SUFFIXES, FOREIGN_SUFFIXES, UNREAD_SUFFIXES
from speechssl.audio.opening import MAX_RATE, MIN_RATE, AudioInfo
from speechssl.audio.resampling import normalize, resample
from speechssl.audio.state import file_state
from speechssl.audio.units import RECEPTIVE_FIELD, SAMPLE_RATE, samples_to_seconds, seconds_to_samples

__all__ = [
    "AUDIO_SUFFIXES",
    "FOREIGN_SUFFIXES",
    "MAX_RATE",
    "MIN_RATE",
    "RECEPTIVE_FIELD",
    "SAMPLE_RATE",
    "SILENCE_PEAK",
    "UNREAD_SUFFIXES",
    "AudioError",
    "AudioInfo",
    "AudioWarning",
    "DecodedAudio",
    "Levels",
    "OpenStretch",
    "check_waveform",
    "decode",
    "decode_with_info",
    "file_state",
    "normalize",
    "open_stretch",
    "probe",
    "resample",
    "samples_to_seconds",
    "seconds_to_samples",
    "to_mono",
    "with_channel",
]

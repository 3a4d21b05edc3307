"""Audio files: their headers, their samples as mono float32 at 16 kHz, and the reasons why a file cannot be used.

A file that cannot be used raises `AudioError(path, reason)` (`errors.py`). Where reasons come from:

    opening.py    before and while libsndfile opens a file: not audio, another format, contradictory header
    lengths.py    header and content differ in length: compares by container (riff, ogg, mp3, flac, older …), with
                  `counted.py` (what was found), `behind.py` and `appended.py` (what follows the samples),
                  `likeness.py` (whether bytes are samples) and `framed.py` (frames of MP3 and FLAC)
    advice.py     the sentences for such findings, with the command that repairs the file
    decoding.py   while samples are decoded; stretches outside of a file
    checks.py     of the decoded samples: too short, silent, not finite, clicks
    channels.py   channels that cancel each other

Rejected files are collected by `data/waveforms.py` (`rejects.jsonl`) and `extract/decode.py` (`errors.jsonl`).
"""

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

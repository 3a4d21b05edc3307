"""Speakers and prosody styles of the synthetic corpus, and one draw of both.

A speaker is an accent and a voice variant of eSpeak NG plus a pitch, a rate and a vocal tract length of its own. A
style is a set of ratios to the speaker's own manner, each with jitter: wide enough that no single cue identifies the
style, narrow enough that all cues together do. The numbers were chosen by the overlap of the measured cues; they are
not a model of emotion.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

# File names of espeak-ng-data/lang/gmw: General American, New York, England, RP, Scotland, Lancashire, West Midlands,
# Caribbean.
ACCENTS = ("en-US", "en", "en-GB-scotland", "en-029", "en-GB-x-rp", "en-US-nyc", "en-GB-x-gbclan", "en-GB-x-gbcwmd")
# 13 variants and 8 accents have no common factor, so speakers 0 to 103 are all different pairs. No Klatt voices: their
# noise comes from the C library's rand(), which cannot be seeded apart.
VARIANTS = ("m1", "f1", "m3", "f2", "m7", "f3", "m4", "f4", "m2", "f5", "m6", "m8", "m5")
MAX_VOICES = len(ACCENTS) * len(VARIANTS)
_BASE_WORDS_PER_MINUTE = 165
PITCH_STEPS = 70  # of eSpeak NG's pitch per octave, measured over five voices
_SPEAKER_STREAM, _STYLE_STREAM = 0, 1  # first words of the seeds, so that the draws are independent


@dataclasses.dataclass(frozen=True)
class Style:
    """Means of the cues of one style; `JITTER` has their standard deviations.

    Attributes:
        rate: speaking rate, ratio to the speaker's own.
        pitch: mean pitch, ratio.
        pitch_range: width of the pitch movement, ratio.
        loudness: dB above the speaker's own. It changes the signal-to-noise ratio; the level is drawn separately.
        tilt: vocal effort, dB per octave above 1 kHz (and below it, the other way).
        breath: level of breath noise, dB relative to the voice.
        mark: the final mark, which shapes the melody of the end.
    """

    rate: float
    pitch: float
    pitch_range: float
    loudness: float
    tilt: float
    breath: float
    mark: str


STYLES: Mapping[str, Style] = MappingProxyType(
    {
        "neutral": Style(rate=1.0, pitch=1.0, pitch_range=1.0, loudness=0.0, tilt=0.0, breath=-34.0, mark="."),
        "excited": Style(rate=1.14, pitch=1.2, pitch_range=1.6, loudness=4.0, tilt=1.0, breath=-30.0, mark="!"),
        "sad": Style(rate=0.84, pitch=0.9, pitch_range=0.5, loudness=-4.0, tilt=-1.2, breath=-26.0, mark="."),
        "angry": Style(rate=1.08, pitch=1.06, pitch_range=1.25, loudness=7.0, tilt=2.0, breath=-34.0, mark="!"),
        "soft": Style(rate=0.92, pitch=0.98, pitch_range=0.75, loudness=-8.0, tilt=-2.0, breath=-13.0, mark="."),
        "questioning": Style(rate=1.0, pitch=1.08, pitch_range=1.2, loudness=0.0, tilt=0.2, breath=-32.0, mark="?"),
    }
)
# Standard deviations; the first three in natural logarithms of the ratio.
JITTER = Style(rate=0.07, pitch=0.07, pitch_range=0.22, loudness=3.0, tilt=0.7, breath=4.0, mark="")


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A speaker: a pure function of (seed, index).

    Attributes:
        name: "s000", "s001", ...
        voice: eSpeak NG's name, such as "en-US+f3".
        female: as the variant is labelled.
        rate: words per minute.
        pitch: ratio to the variant's own pitch.
        tract: factor on all formants (above 1: a shorter vocal tract), 0.93 to 1.07.
    """

    name: str
    voice: str
    female: bool
    rate: float
    pitch: float
    tract: float


@dataclasses.dataclass(frozen=True)
class Manner:
    """Manner of one utterance; numbers are in eSpeak NG's units where it has them.

    Attributes:
        words_per_minute: 80 to 450.
        pitch: 0 to 99.
        pitch_range: 0 to 99.
        loudness: dB.
        tilt: dB per octave.
        breath: dB relative to the voice.
        mark: final mark.
    """

    words_per_minute: int
    pitch: int
    pitch_range: int
    loudness: float
    tilt: float
    breath: float
    mark: str


def speaker(index: int, *, seed: int) -> Speaker:
    """The speaker of an index.

    Args:
        index: 0 to `MAX_VOICES` - 1.
        seed: of the corpus.

    Raises:
        ValueError: the index is out of range.

    >>> speaker(3, seed=0).voice
    'en-029+f2'
    """
    if not 0 <= index < MAX_VOICES:
        raise ValueError(f"speaker index: given {index}, allowed: 0 to {MAX_VOICES - 1}")
    rng = np.random.default_rng([_SPEAKER_STREAM, seed, index])
    variant = VARIANTS[index % len(VARIANTS)]
    return Speaker(
        name=f"s{index:03d}",
        voice=f"{ACCENTS[index % len(ACCENTS)]}+{variant}",
        female=variant.startswith("f"),
        rate=_BASE_WORDS_PER_MINUTE * float(np.exp(rng.normal(0, 0.08))),
        pitch=float(np.exp(rng.uniform(-0.15, 0.15))),
        tract=float(rng.uniform(0.93, 1.07)),
    )


def manner(index: int, style: Style, who: Speaker, *, seed: int) -> Manner:
    """Manner of utterance `index` of a speaker in a style: the style's ratios, jittered, on the speaker's own values.

    >>> who = speaker(3, seed=0)
    >>> manner(3, STYLES["angry"], who, seed=0) == manner(3, STYLES["angry"], who, seed=0)
    True
    """
    rng = np.random.default_rng([_STYLE_STREAM, seed, index])
    rate = who.rate * style.rate * math.exp(rng.normal(0, JITTER.rate))
    pitch = who.pitch * style.pitch * math.exp(rng.normal(0, JITTER.pitch))
    pitch_range = style.pitch_range * math.exp(rng.normal(0, JITTER.pitch_range))
    # The tract factor is applied by playing the speech faster or slower; its effect on rate and pitch is undone here.
    rate, pitch = rate / who.tract, pitch / who.tract
    return Manner(
        words_per_minute=round(min(max(rate, 80), 450)),
        pitch=_within_99(50 + PITCH_STEPS * math.log2(pitch)),
        pitch_range=_within_99(50 * pitch_range),
        loudness=style.loudness + rng.normal(0, JITTER.loudness),
        tilt=style.tilt + rng.normal(0, JITTER.tilt),
        breath=style.breath + rng.normal(0, JITTER.breath),
        mark=style.mark,
    )


def _within_99(value: float) -> int:
    """Clips to eSpeak NG's range of 0 to 99, which the tails of the jitter exceed."""
    return round(min(max(value, 0), 99))

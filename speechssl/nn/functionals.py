"""Functionals of frame prosody: one vector per utterance from loudness, pitch, voicing and spectral tilt.

Statistics of short-time features over an utterance are the classic utterance features of paralinguistics (Schuller,
Steidl and Batliner, "The INTERSPEECH 2009 Emotion Challenge", 2009, section 5). The frames are those of
:func:`speechssl.nn.features.prosody`, 20 ms apart. Energy is that of the waveform as recorded, before any
normalisation: an encoder whose input has unit variance cannot know it.

Five curves are summarised: energy over all frames, and over the voiced frames energy, spectral tilt, log2 of F0 in
octaves above 100 Hz, and log2 of F0 relative to the utterance's median. A frame is voiced where its voicing is at least
VOICED; where fewer than FEWEST frames are, the FEWEST frames with the highest voicing are used instead, so that every
utterance has finite numbers. The share of voiced frames is part of the vector and tells such utterances apart.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE
from speechssl.nn.features import ENCODER_FRAMES, prosody

VOICED = 0.6  # 1 minus the normalised difference; speech that is clearly voiced has 0.8 and more
FEWEST = 10  # frames (0.2 s)
_LOWEST_F0 = 100.0  # Hz, where log2 of F0 is zero
_FRAME_SECONDS = ENCODER_FRAMES.hop / SAMPLE_RATE

STATISTICS = ("mean", "deviation", "p5", "p50", "p95", "range", "slope", "movement")
"""Of each curve. Range: p95 minus p5; slope: per second, least squares; movement: mean absolute change per second."""

NAMES: tuple[str, ...] = (
    *(f"{curve} {name}" for curve in ("energy", "voiced energy", "tilt", "f0") for name in STATISTICS),
    *(f"relative f0 {name}" for name in ("mean", "p5", "p95")),
    "voicing mean",
    "voicing deviation",
    "share voiced",
)
PROSODY_DIM = len(NAMES)


def prosody_functionals(waveform: Float[np.ndarray, " samples"]) -> Float32[np.ndarray, " dim"]:
    """The functionals of one utterance, in the order of NAMES: 38 finite numbers.

    Units: dB of full scale (energy), dB per octave (tilt), octaves (F0); slopes and movements per second.

    Args:
        waveform: 16 kHz, in [-1, 1] as recorded, at least 400 samples.

    Raises:
        ValueError: a clip of fewer than 400 samples, or of more than one dimension.

    >>> tone = 0.1 * np.sin(2 * np.pi * 200 / 16000 * np.arange(16000))
    >>> found = dict(zip(NAMES, prosody_functionals(tone).tolist()))
    >>> round(found["f0 p50"], 2), round(found["energy p50"], 1), found["share voiced"]
    (1.0, -23.0, 1.0)
    """
    if waveform.ndim != 1 or len(waveform) < RECEPTIVE_FIELD:
        raise ValueError(f"need one waveform of at least {RECEPTIVE_FIELD} samples, got shape {waveform.shape}")
    samples = torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32))
    found = prosody(samples[None], torch.tensor([len(samples)]))
    energy, tilt, voicing, f0 = (
        getattr(found, name)[0].numpy().astype(np.float64) for name in ("energy", "tilt", "voicing", "f0")
    )
    times = np.arange(len(energy)) * _FRAME_SECONDS
    chosen = _voiced(voicing)
    octaves = np.log2(f0[chosen] / _LOWEST_F0)
    relative = octaves - np.median(octaves)
    return np.concatenate(
        [
            curve_statistics(energy, times),
            curve_statistics(energy[chosen], times[chosen]),
            curve_statistics(tilt[chosen], times[chosen]),
            curve_statistics(octaves, times[chosen]),
            [relative.mean(), *np.percentile(relative, [5, 95])],
            [voicing.mean(), voicing.std(), np.mean(voicing >= VOICED)],
        ]
    ).astype(np.float32)


def curve_statistics(
    values: Float[np.ndarray, " frames"], times: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, " statistics"]:
    """STATISTICS of a curve; slope and movement of a single frame are zero.

    Args:
        values: one per frame, at least one.
        times: seconds, ascending; frames may be missing between them.

    >>> curve_statistics(np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])).round(2).tolist()
    [1.0, 0.82, 0.1, 1.0, 1.9, 1.8, 2.0, 2.0]
    """
    low, middle, high = np.percentile(values, [5, 50, 95])
    slope = movement = 0.0
    if len(values) > 1:
        centred = times - times.mean()
        slope = centred @ values / np.square(centred).sum()
        movement = np.abs(np.diff(values) / np.diff(times)).mean()
    return np.array([values.mean(), values.std(), low, middle, high, high - low, slope, movement])


def _voiced(voicing: Float[np.ndarray, " frames"]) -> np.ndarray:
    """Ascending numbers of the voiced frames; see the head of this file."""
    chosen = np.flatnonzero(voicing >= VOICED)
    if len(chosen) < FEWEST:
        chosen = np.sort(np.argsort(-voicing, kind="stable")[:FEWEST])
    return chosen

"""Frame features without learning: log-mel, MFCC with deltas, and prosody (F0, voicing, energy, spectral tilt).

The numbers are librosa's (McFee et al. 2015, "librosa: Audio and Music Signal Analysis in Python"), computed by torch
on whole batches, on the device of the waveforms, in fp32 with autocast off. In fp32 they equal librosa's to: mel powers
1e-5 of the strongest band, log-mel 1e-3 dB at bands within 60 dB of it, MFCC and deltas 2e-3 dB, F0 0.01 %
(with the window of ``librosa.yin``, see :mod:`speechssl.nn.yin`).

**Frames.** Frame t is centred on sample ``hop * t + field / 2`` and there are ``(samples - field) // hop + 1`` of them.
With ``field = 400`` and ``hop = 320`` (the default) these are the frames of the encoder. With ``field = 0`` they are
those of librosa's ``center=True``. A window extends by half its length to both sides; samples outside the utterance are
zero (librosa's ``pad_mode="constant"``). Each window is centred in its transform, as in ``librosa.stft``.

Samples beyond an utterance's length, NaN and infinities included, have no effect; frames beyond its number of frames
are zero. An utterance therefore has the same features alone and in any batch. Waveforms are 16 kHz, in [-1, 1] as
recorded: energy and log-mel depend on the level, so pass them before any normalisation if the level matters.
"""

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE
from speechssl.config import Config
from speechssl.nn.pooling import zero_padding
from speechssl.nn.yin import PITCH, Pitch, PitchConfig, yin

FLOOR = 1e-10  # smallest power before the logarithm; librosa.power_to_db's ``amin``
TILT_BAND = (100.0, 4000.0)  # Hz; above hum, and below the end of telephone speech
_DB = 10 / math.log(10)  # dB per nat of power
_BLOCK, _BLOCK_CPU = 8192, 256  # frames whose pitch is computed at once: bounds memory, and fits the CPU's cache


class Framing(Config):
    """Position of the frames; see the head of this file.

    Attributes:
        hop: samples from one frame to the next.
        field: samples per frame, even. Shorter utterances have no frame.
    """

    hop: PositiveInt = 320
    field: int = Field(default=RECEPTIVE_FIELD, ge=0, multiple_of=2)

    def num_frames(self, num_samples: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """Frames for a number of samples.

        >>> Framing().num_frames(torch.tensor([399, 400, 16000]))
        tensor([ 0,  1, 49])
        """
        frames = torch.div(num_samples - self.field, self.hop, rounding_mode="floor") + 1
        return frames.clamp(min=0)


class MelConfig(Config):
    """Shape of the mel spectrum.

    Attributes:
        bands: number of filters (Slaney's scale, unit area).
        window: length of the Hann window in samples, even.
        n_fft: points of the transform, even. 512 leave some of more than 192 bands empty, which is an error.
        low: Hz, lower edge of the first filter.
        high: Hz, upper edge of the last one.
    """

    bands: PositiveInt = 80
    window: int = Field(default=400, gt=0, multiple_of=2)
    n_fft: int = Field(default=512, gt=0, multiple_of=2)
    low: float = Field(default=0.0, ge=0)
    high: float = Field(default=SAMPLE_RATE / 2, le=SAMPLE_RATE / 2)

    @pydantic.model_validator(mode="after")
    def _fits(self) -> "MelConfig":
        if self.window > self.n_fft or self.low >= self.high:
            raise ValueError("the window must not be longer than the transform, and low must be below high")
        return self


@dataclass(frozen=True)
class Prosody:
    """Prosody of each frame.

    Attributes:
        f0: Hz, as in :class:`Pitch`.
        voicing: from 0 to 1, as in :class:`Pitch`.
        energy: dB of full scale, mean square over 25 ms; -100 is the minimum.
        tilt: dB per octave, slope of the mel spectrum from 100 Hz to 4 kHz. White noise has 0; voices fall.
    """

    f0: Float[Tensor, "batch frames"]
    voicing: Float[Tensor, "batch frames"]
    energy: Float[Tensor, "batch frames"]
    tilt: Float[Tensor, "batch frames"]


ENCODER_FRAMES, MEL = Framing(), MelConfig()


def mel_power(
    waveforms: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, " batch"],
    *,
    config: MelConfig = MEL,
    framing: Framing = ENCODER_FRAMES,
) -> Float[Tensor, "batch frames bands"]:
    """Powers of mel bands; ``librosa.feature.melspectrogram``.

    Args:
        waveforms: 16 kHz; anything beyond ``num_samples`` is ignored.
        num_samples: length of each utterance.
        config: bands, window and transform.
        framing: position of the frames.

    >>> mel_power(torch.randn(2, 16000), torch.tensor([16000, 8000])).shape
    torch.Size([2, 49, 80])
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        x = _aligned(waveforms, num_samples, framing, config.n_fft)
        window = torch.hann_window(config.window, device=x.device)
        spectrum = torch.stft(
            x, config.n_fft, framing.hop, config.window, window, center=False, return_complex=True
        )  # batch bins frames
        power = spectrum.real.square() + spectrum.imag.square()
        filters = _mel_filters(config.bands, config.n_fft, config.low, config.high, x.device)
        bands = torch.einsum("mb,nbf->nfm", filters, power)
        return _inside(bands, waveforms, num_samples, framing)


def log_mel(
    waveforms: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, " batch"],
    *,
    config: MelConfig = MEL,
    framing: Framing = ENCODER_FRAMES,
) -> Float[Tensor, "batch frames bands"]:
    """Natural logarithm of :func:`mel_power`, of at least 1e-10; ``librosa.power_to_db(..., top_db=None)`` in nats.

    A minimum relative to the loudest frame (librosa's default ``top_db=80``) would make frames depend on one another.

    >>> round(log_mel(torch.zeros(1, 400), torch.tensor([400])).mean().item(), 3)  # ln 1e-10
    -23.026
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        power = mel_power(waveforms, num_samples, config=config, framing=framing)
        return _inside(power.clamp(min=FLOOR).log(), waveforms, num_samples, framing)


def mfcc(
    waveforms: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, " batch"],
    *,
    coefficients: int = 13,
    deltas: int = 2,
    config: MelConfig = MEL,
    framing: Framing = ENCODER_FRAMES,
) -> Float[Tensor, "batch frames features"]:
    """MFCC and their deltas; ``librosa.feature.mfcc`` of a mel spectrum in dB with ``top_db=None``.

    Args:
        waveforms: 16 kHz; anything beyond ``num_samples`` is ignored.
        num_samples: length of each utterance.
        coefficients: number of cosines, the constant one included; at most as many as bands.
        deltas: orders of :func:`delta` to append, each over 9 frames: 2 gives 13 + 13 + 13 features.
        config: the mel spectrum below.
        framing: where the frames are.

    Raises:
        ValueError: more coefficients than bands, or none.
    """
    if not 1 <= coefficients <= config.bands:
        raise ValueError(f"coefficients={coefficients}: from 1 to the number of bands ({config.bands}) are allowed")
    with torch.autocast(waveforms.device.type, enabled=False):
        decibels = _DB * log_mel(waveforms, num_samples, config=config, framing=framing)
        cepstra = decibels @ _cosines(config.bands, coefficients, decibels.device)
        num_frames = framing.num_frames(num_samples)
        orders = [delta(cepstra, num_frames, order=order) for order in range(1, deltas + 1)]
        return torch.cat([cepstra, *orders], dim=-1)


def delta(
    frames: Float[Tensor, "batch frames features"], num_frames: Int[Tensor, " batch"], *, width: int = 9, order: int = 1
) -> Float[Tensor, "batch frames features"]:
    """Derivative per frame by local polynomial regression; ``librosa.feature.delta(..., mode="nearest")``.

    Args:
        frames: features over time.
        num_frames: frames of each utterance; its last one is repeated beyond its end, its first one before its start.
        width: frames in the fit, odd, 3 or more.
        order: order of the derivative and of the polynomial, from 1 to ``width - 1``.

    Raises:
        ValueError: a width that is even or below 3, or an order outside its range.

    >>> delta(2 * torch.arange(12.0).view(1, 12, 1), torch.tensor([12]))[0, 5, 0].round(decimals=3)
    tensor(2.)
    """
    if width < 3 or width % 2 == 0 or not 1 <= order < width:
        raise ValueError(
            f"width={width}, order={order}: odd widths from 3 on and orders from 1 to width - 1 are allowed"
        )
    if frames.shape[1] == 0:
        return frames.float()
    half = width // 2
    powers = np.vander(np.arange(-half, half + 1.0), order + 1, increasing=True)
    weights = np.linalg.pinv(powers)[order] * math.factorial(order)
    with torch.autocast(frames.device.type, enabled=False):
        place = torch.arange(-half, frames.shape[1] + half, device=frames.device)
        last = (num_frames - 1).clamp(min=0).unsqueeze(-1)
        place = torch.minimum(place.clamp(min=0), last)  # batch frames+2*half
        repeated = frames.float().gather(1, place.unsqueeze(-1).expand(-1, -1, frames.shape[2]))
        kernel = torch.tensor(weights, dtype=torch.float32, device=frames.device)
        return zero_padding(repeated.unfold(1, width, 1) @ kernel, num_frames)


def pitch(
    waveforms: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, " batch"],
    *,
    config: PitchConfig = PITCH,
    framing: Framing = ENCODER_FRAMES,
) -> Pitch:
    """F0 and voicing by YIN (:mod:`speechssl.nn.yin`); no gradients.

    On a glide the estimate is of a time up to 8 ms before the centre of the frame: the compared window and its shifted
    copy end before the frame does, by the longest period minus the found period.

    Args:
        waveforms: 16 kHz; anything beyond ``num_samples`` is ignored.
        num_samples: length of each utterance.
        config: range and windows.
        framing: where the frames are.

    >>> tone = torch.sin(2 * torch.pi * 220 / SAMPLE_RATE * torch.arange(3200))[None]
    >>> pitch(tone, torch.tensor([3200])).f0[0, 4].round(decimals=1)
    tensor(220.)
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        x = _aligned(waveforms, num_samples, framing, config.frame)
        frames = x.unfold(1, config.frame, framing.hop)  # batch frames samples, a view
        block = _BLOCK_CPU if x.device.type == "cpu" else _BLOCK
        parts = [yin(part, config=config) for part in frames.split(max(1, block // max(1, len(x))), dim=1)]
        f0, voicing = (torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("f0", "voicing"))
        return Pitch(
            f0=_inside(f0, waveforms, num_samples, framing), voicing=_inside(voicing, waveforms, num_samples, framing)
        )


def prosody(
    waveforms: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, " batch"],
    *,
    config: PitchConfig = PITCH,
    framing: Framing = ENCODER_FRAMES,
) -> Prosody:
    """F0, voicing, energy and spectral tilt of each frame; pass the waveforms before any normalisation.

    Args:
        waveforms: 16 kHz, in [-1, 1] as recorded; anything beyond ``num_samples`` is ignored.
        num_samples: length of each utterance.
        config: settings of the pitch.
        framing: where the frames are.

    >>> prosody(torch.ones(1, 800), torch.tensor([800])).energy
    tensor([[0., 0.]])
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        found = pitch(waveforms, num_samples, config=config, framing=framing)
        frames = _aligned(waveforms, num_samples, framing, MEL.window).unfold(1, MEL.window, framing.hop)
        energy = _DB * frames.square().mean(dim=-1).clamp(min=FLOOR).log()
        decibels = _DB * log_mel(waveforms, num_samples, config=MEL, framing=framing)
        return Prosody(
            f0=found.f0,
            voicing=found.voicing,
            energy=_inside(energy, waveforms, num_samples, framing),
            tilt=decibels @ _tilt_weights(decibels.device),
        )


def _aligned(waveforms: Tensor, num_samples: Tensor, framing: Framing, length: int) -> Float[Tensor, "batch padded"]:
    """Pad each utterance with zeros such that ``length`` samples from ``hop * t`` on have the centre of frame t.

    The result has at least one frame, also where the batch has none.
    """
    frames = max(1, int(framing.num_frames(torch.tensor(waveforms.shape[1]))))
    left = (length - framing.field) // 2
    right = framing.hop * (frames - 1) + length - left - waveforms.shape[1]
    return F.pad(zero_padding(waveforms, num_samples).float(), (left, right))


def _inside(x: Tensor, waveforms: Tensor, num_samples: Tensor, framing: Framing) -> Tensor:
    """The frames of a batch of this width, zeros beyond each utterance's own."""
    frames = int(framing.num_frames(torch.tensor(waveforms.shape[1])))
    return zero_padding(x[:, :frames], framing.num_frames(num_samples))


@functools.lru_cache(maxsize=8)
def _mel_filters(bands: int, n_fft: int, low: float, high: float, device: torch.device) -> Float[Tensor, "bands bins"]:
    """Librosa's mel filters: Slaney's scale, unit area."""
    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # empty filters: an error below
        filters = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high)
    if not filters.any(axis=1).all():
        raise ValueError(f"{bands} bands from {low:g} to {high:g} Hz are too many for {n_fft} points: some are empty")
    return _constant(filters, device)


@functools.lru_cache(maxsize=8)
def _cosines(bands: int, coefficients: int, device: torch.device) -> Float[Tensor, "bands coefficients"]:
    """Orthonormal cosine transform of type II."""
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(coefficients)
    scale = np.where(np.arange(coefficients) == 0, math.sqrt(1 / bands), math.sqrt(2 / bands))
    return _constant(np.cos(angles) * scale, device)


@functools.lru_cache(maxsize=8)
def _tilt_weights(device: torch.device) -> Float[Tensor, " bands"]:
    """Weights that give the least-squares slope over octaves when multiplied with the levels of MEL's bands."""
    import librosa

    centres = librosa.mel_frequencies(MEL.bands + 2, fmin=MEL.low, fmax=MEL.high)[1:-1]
    used = (centres >= TILT_BAND[0]) & (centres <= TILT_BAND[1])
    octaves = np.log2(centres)
    octaves = np.where(used, octaves - octaves[used].mean(), 0.0)
    return _constant(octaves / np.square(octaves).sum(), device)


def _constant(array: np.ndarray, device: torch.device) -> Tensor:
    """A cached tensor that may take part in autograd, even if its first use is in inference mode."""
    with torch.inference_mode(mode=False):
        return torch.tensor(array, dtype=torch.float32, device=device)

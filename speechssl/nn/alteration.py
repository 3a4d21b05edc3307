"""Alterations of a waveform that have an effect on its log-mel frames: bands removed, magnitudes changed at random.

Liu et al. 2021, "TERA" (arXiv 2007.06028), section II-C, alters log-mel frames; where a model gets the waveform, these
functions give it one whose log-mel frames are about so altered. A row does not depend on the other rows.
"""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from speechssl.audio import SAMPLE_RATE
from speechssl.nn.features import MEL, Framing, MelConfig

_N_FFT, _HOP = 512, 160  # of changed magnitudes: the points of the log-mel frames, every 10 ms


def without_bands(
    waveforms: Float[Tensor, "rows samples"],
    first: Int[Tensor, " rows"],
    width: Int[Tensor, " rows"],
    *,
    config: MelConfig = MEL,
) -> Float[Tensor, "rows samples"]:
    """Removes all frequencies of consecutive mel bands over the whole waveform.

    The bands are removed with their slopes, so that the band on either side loses half of its own.

    Args:
        waveforms: 16 kHz.
        first: first removed band of each row.
        width: removed bands; 0 leaves the row as it is.
        config: the bands.

    >>> noise = torch.randn(1, 16000)
    >>> some = without_bands(noise, torch.tensor([0]), torch.tensor([40]))
    >>> bool(some.square().sum() < 0.9 * noise.square().sum())
    True
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        samples, edges = waveforms.shape[1], _edges(config.bands, config.low, config.high).to(waveforms.device)
        spectrum = torch.fft.rfft(waveforms.float())  # rows bins
        frequencies = torch.fft.rfftfreq(samples, 1 / SAMPLE_RATE, device=waveforms.device)
        low, high = edges[first].unsqueeze(1), edges[first + width + 1].unsqueeze(1)
        removed = (frequencies >= low) & (frequencies <= high) & (width > 0).unsqueeze(1)
        altered = torch.fft.irfft(spectrum.masked_fill(removed, 0.0), n=samples)
        return torch.where((width > 0).unsqueeze(1), altered, waveforms.float())


def with_noisy_magnitudes(
    waveforms: Float[Tensor, "rows samples"],
    *,
    deviation: float,
    generators: Sequence[torch.Generator],
    config: MelConfig = MEL,
) -> Float[Tensor, "rows samples"]:
    """Adds Gaussian noise to the logarithm of the power of each mel band and frame of 10 ms.

    Neighbouring frames overlap, so that the log-mel frames of the result deviate a little less.

    Args:
        waveforms: 16 kHz.
        deviation: of the noise, nats of power.
        generators: source of the noise of each row, on its device.
        config: the bands.
    """
    with torch.autocast(waveforms.device.type, enabled=False):
        window = torch.hann_window(_N_FFT, device=waveforms.device)
        spectrum = torch.stft(
            waveforms.float(), _N_FFT, _HOP, window=window, pad_mode="constant", return_complex=True
        )  # rows bins frames
        shape = config.bands, spectrum.shape[-1]
        noise = torch.stack([torch.randn(shape, generator=each, device=waveforms.device) for each in generators])
        band = _nearest_band(config.bands, config.low, config.high).to(waveforms.device)
        band = _nearest_band(config.bands, config.low, config.high).to(waveforms.device)
        gains = (0.5 * deviation * noise).exp()[:, band]  # rows bins frames
        return torch.istft(spectrum * gains, _N_FFT, _HOP, window=window, length=waveforms.shape[1])


def seen_samples(
    frames: Bool[Tensor, "batch frames"], samples: int, framing: Framing, *, padding: int, field: int
) -> Bool[Tensor, "batch samples"]:
    """Samples that some of the given frames of an encoder see, with the one before them (pre-emphasis).

    Args:
        frames: True at the frames.
        samples: length of the crops.
        framing: hop of the frames.
        padding: zeros before the first sample, samples.
        field: receptive field, samples.

    >>> seen_samples(torch.tensor([[False, True]]), 12, Framing(hop=4, field=4), padding=0, field=6)[0].int().tolist()
    [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    begin = torch.arange(frames.shape[1], device=frames.device) * framing.hop - padding - 1
    ends = torch.zeros(len(frames), samples + 1, device=frames.device)
    given = frames.float()
    ends.index_add_(1, begin.clamp(0, samples), given)
    ends.index_add_(1, (begin + 1 + field).clamp(0, samples), -given)
    return ends.cumsum(dim=1)[:, :samples] > 0.5


@functools.lru_cache(maxsize=4)
def _edges(bands: int, low: float, high: float) -> Float[Tensor, " edges"]:
    """Corners of the triangular filters, Hz: band ``m`` is from ``m`` to ``m + 2``."""
    import librosa

    return torch.from_numpy(librosa.mel_frequencies(bands + 2, fmin=low, fmax=high)).float()


@functools.lru_cache(maxsize=4)
def _nearest_band(bands: int, low: float, high: float) -> Int[Tensor, " bins"]:
    """Band whose centre is nearest to each bin of the transform."""
    bins = torch.fft.rfftfreq(_N_FFT, 1 / SAMPLE_RATE)
    return (bins[:, None] - _edges(bands, low, high)[1:-1]).abs().argmin(dim=1)

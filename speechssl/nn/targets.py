"""Log-mel frames as targets of pretraining: normalised within each crop, at the encoder's frames.

Without the normalisation a target is mostly the channel and the speaker: Chiu et al. 2022 (BEST-RQ, arXiv 2202.01855,
section 3.1) find it crucial, s3prl's TERA and APC have it as well.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from speechssl.nn.conv import ConvConfig
from speechssl.nn.features import MEL, Framing, MelConfig, log_mel

_EPS = 1e-5  # added to the deviation of a band, nats: a band of digital silence is zero


def encoder_framing(conv: ConvConfig) -> Framing:
    """Positions of the frames of an encoder; an odd receptive field counts as one sample shorter.

    >>> encoder_framing(ConvConfig())
    Framing(hop=320, field=400)
    """
    return Framing(hop=conv.hop, field=(conv.receptive_field - 2 * conv.padding) // 2 * 2)


def stacked_framing(framing: Framing, stack: int) -> Framing:
    """Positions of the frames that :func:`normalized_log_mel` stacks, evenly around the centre of each frame.

    Raises:
        ValueError: a frame cannot be divided into so many; names what is given and allowed.

    >>> stacked_framing(Framing(), 2)
    Framing(hop=160, field=240)
    """
    hop = framing.hop // stack
    field = framing.field - (stack - 1) * hop
    if framing.hop % stack or field < 0 or field % 2:
        raise ValueError(
            f"{stack} log-mel frames for each frame of {framing.field} samples, one every {framing.hop}: the hop must "
            "be a multiple of their number, and the frame must not be shorter than the distance from first to last"
        )
    return Framing(hop=hop, field=field)


@torch.no_grad()
def normalized_log_mel(
    waveforms: Float[Tensor, "batch samples"], framing: Framing, *, stack: int = 1, config: MelConfig = MEL
) -> Float[Tensor, "batch frames stack_bands"]:
    """Log-mel frames of whole crops with zero mean and unit deviation of each band over the crop, in fp32.

    Args:
        waveforms: 16 kHz, without padding.
        framing: positions of the encoder's frames.
        stack: log-mel frames per frame, evenly around its centre, concatenated in the order of time.
        config: the mel spectrum.

    Raises:
        ValueError: a frame that ``stack`` does not divide.

    >>> frames = normalized_log_mel(torch.randn(2, 16000), Framing(), stack=2)
    >>> frames.shape, bool(frames.unflatten(-1, (2, 80)).mean(dim=(1, 2)).abs().max() < 1e-5)
    (torch.Size([2, 49, 160]), True)
    """
    fine = stacked_framing(framing, stack)
    samples = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
    frames = int(framing.num_frames(torch.tensor(waveforms.shape[1])))
    with torch.autocast(waveforms.device.type, enabled=False):
        mel = log_mel(waveforms, samples, config=config, framing=fine)[:, : frames * stack]
        variance, mean = torch.var_mean(mel, dim=1, keepdim=True, correction=0)
        normalized = (mel - mean) / (variance.sqrt() + _EPS)
        return normalized.reshape(len(waveforms), frames, stack * mel.shape[-1])


def interpolated(
    frames: Float[Tensor, "batch frames dim"], masked: Bool[Tensor, "batch frames"]
) -> Float[Tensor, "batch frames dim"]:
    """Frames with each masked one on the line between the nearest others before and after; at ends the only such one.

    A row that is masked throughout stays as it is.

    >>> frames = torch.tensor([[[0.0], [7.0], [7.0], [3.0]]])
    >>> interpolated(frames, torch.tensor([[False, True, True, False]])).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    count = masked.shape[1]
    place = torch.arange(count, device=masked.device).expand_as(masked)
    before = place.masked_fill(masked, -1).cummax(dim=1).values
    after = place.masked_fill(masked, count).flip(1).cummin(dim=1).values.flip(1)
    before, after = torch.where(before < 0, after, before), torch.where(after == count, before, after)
    nowhere = masked.all(dim=1, keepdim=True)
    before, after = torch.where(nowhere, place, before), torch.where(nowhere, place, after)
    share = ((place - before) / (after - before).clamp(min=1)).unsqueeze(-1)
    left, right = (frames.gather(1, each.unsqueeze(-1).expand_as(frames)) for each in (before, after))
    return left + share * (right - left)

"""Frames for the HMM rivals of a recogniser: MFCC, and the hidden frames of a pretrained encoder.

Both have a frame every 10 ms, and the mean of each speaker's frames is subtracted (cepstral mean normalisation): the
mean over the utterances of the speaker on the same side of the experiment, without their transcripts; over the
utterance where the speaker is not known.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from speechssl.audio import SAMPLE_RATE
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.mixtures import Frames
from speechssl.inference.chosen import read_choice
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer, learned_mix
from speechssl.models.storage import EMBEDDING, load_encoder, read_encoder_config, read_model_config
from speechssl.nn.features import Framing, delta, mfcc

HOP = SAMPLE_RATE // 100  # samples from one frame to the next
COMPONENTS = 40  # of the encoder's frames
_MFCC = Framing(hop=HOP)


def mfcc_frames(store: WaveformStore, sides: Sequence[Sequence[int]]) -> list[list[Frames]]:
    """39 numbers per frame: 13 MFCC with deltas and their deltas.

    Args:
        store: the prepared corpus.
        sides: utterances; frames are in the same order.
    """

    def compute(index: int) -> Frames:
        waveform = torch.from_numpy(store.waveform(index))
        return mfcc(waveform[None], torch.tensor([len(waveform)]), framing=_MFCC)[0].double().numpy()

    return _centred(store, sides, compute)


def encoder_frames(store: WaveformStore, sides: Sequence[Sequence[int]], *, encoder: Path) -> list[list[Frames]]:
    """40 principal components of an encoder's frames with deltas, interpolated to one frame per 10 ms.

    The components are those of the first side.

    Args:
        store: the prepared corpus.
        sides: utterances, the labelled side first; frames are in the same order.
        encoder: its model folder; the layer is `frame_layer`.
    """
    from sklearn.decomposition import PCA

    encoding = Encoding(load_encoder(encoder), device=torch.device("cpu"), mix=learned_mix(encoder))
    layer = frame_layer(encoder)

    def hidden(index: int) -> Frames:
        return encoding.frames(store.waveform(index), layers=[layer])[0].astype(np.float64)

    fitted = np.concatenate(_centred(store, sides[:1], hidden)[0])
    components = PCA(min(COMPONENTS, *fitted.shape), svd_solver="covariance_eigh").fit(fitted).components_
    assert components is not None

    def compute(index: int) -> Frames:
        rows = torch.from_numpy(np.einsum("fd,cd->fc", hidden(index), components)).float()
        length = round(len(rows) * encoding.hop / HOP)
        rows = F.interpolate(rows.T[None], size=length, mode="linear", align_corners=False).transpose(1, 2)
        deltas = delta(rows, torch.tensor([length]))
        return torch.cat([rows, deltas], dim=-1)[0].double().numpy()

    return _centred(store, sides, compute)


def frame_layer(encoder: Path) -> Layer:
    """The layer that a model folder names for embeddings, else the middle one."""
    if EMBEDDING in read_model_config(encoder):
        return read_choice(encoder).layer
    return (read_encoder_config(encoder).transformer.layers + 1) // 2


def _centred(
    store: WaveformStore, sides: Sequence[Sequence[int]], compute: Callable[[int], Frames]
) -> list[list[Frames]]:
    """Frames of the utterances of each side, less the mean of their speaker on that side."""
    return [_centred_side(store, side, [compute(index) for index in side]) for side in sides]


def _centred_side(store: WaveformStore, side: Sequence[int], frames: Sequence[Frames]) -> list[Frames]:
    sums: dict[str, tuple[Frames, int]] = {}
    for index, rows in zip(side, frames, strict=True):
        speaker = store.speakers[index]
        if speaker is not None:
            total, count = sums.get(speaker, (np.zeros(rows.shape[1]), 0))
            sums[speaker] = total + rows.sum(axis=0), count + len(rows)
    means = {speaker: total / max(count, 1) for speaker, (total, count) in sums.items()}

    def mean(index: int, rows: Frames) -> np.ndarray:
        speaker = store.speakers[index]
        return rows.mean(axis=0) if speaker is None else means[speaker]

    return [rows - mean(index, rows) if len(rows) else rows for index, rows in zip(side, frames, strict=True)]

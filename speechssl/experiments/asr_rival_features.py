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
from jaxtyping import Int64

from speechssl.audio import SAMPLE_RATE
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.mixtures import Frames
from speechssl.inference.chosen import read_choice
from speechssl.inference.engine import Encoding
from speechssl.inference.layers import Layer, learned_mix
from speechssl.models.storage import EMBEDDING, load_encoder, read_encoder_config, read_model_config
from speechssl.nn.features import Framing, mfcc

HOP = SAMPLE_RATE // 100  # samples from one frame to the next
COMPONENTS = 40  # of the encoder's frames
_SHRINKAGE = 1e-3  # of the covariance within states
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


def encoder_frames(
    store: WaveformStore,
    sides: Sequence[Sequence[int]],
    *,
    encoder: Path,
    states: Sequence[Int64[np.ndarray, " _"]],
) -> list[list[Frames]]:
    """40 linear discriminants of an encoder's frames, interpolated to one frame per 10 ms.

    They are fitted on the first side (Haeb-Umbach and Ney 1992, "Linear discriminant analysis for improved large
    vocabulary continuous speech recognition"): what varies most in a pretrained encoder is not what separates phones.

    Args:
        store: the prepared corpus.
        sides: utterances, the labelled side first; frames are in the same order.
        encoder: its model folder; the layer is `frame_layer`.
        states: HMM state of each frame of the first side, of frames as `mfcc_frames` has them.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    encoding = Encoding(load_encoder(encoder), device=torch.device("cpu"), mix=learned_mix(encoder))
    layer = frame_layer(encoder)

    def hidden(index: int) -> Frames:
        waveform = store.waveform(index)
        rows = torch.from_numpy(encoding.frames(waveform, layers=[layer])[0])
        length = int(_MFCC.num_frames(torch.tensor(len(waveform))))
        return F.interpolate(rows.T[None], size=length, mode="linear")[0].T.double().numpy()

    found = _centred(store, sides, hidden)
    targets = np.concatenate(states)
    number = min(COMPONENTS, len(np.unique(targets)) - 1, found[0][0].shape[1])
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=_SHRINKAGE, n_components=number)
    lda.fit(np.concatenate(found[0]), targets)
    return [[lda.transform(rows) if len(rows) else np.zeros((0, number)) for rows in side] for side in found]


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

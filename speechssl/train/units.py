"""Units: clusters of the frames of prepared corpora, as targets of masked prediction.

Hsu et al. 2021 (HuBERT, arXiv 2106.07447), section II-A: k-means on MFCC with their first and second differences at
first, then on a hidden layer of the model that was trained on those. Frames are normalised within each utterance, so
that clusters are sounds and not speakers or channels.

Units are made once and kept in the folder of each corpus. Their name has a digest of the settings, the corpora and the
model, so that other ones have another name.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from speechssl.audio import RECEPTIVE_FIELD, normalize
from speechssl.config import Config, UserError, digest
from speechssl.data.batch import FrameGrid
from speechssl.data.units import Units, UnitsConfig, read_units, units_path, write_units
from speechssl.data.waveforms import WaveformStore
from speechssl.distributed import Process
from speechssl.models.bundled import model_path
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import load_encoder, model_hash
from speechssl.nn.features import ENCODER_FRAMES, mfcc
from speechssl.terminal import say_once

_BATCH_SECONDS = 60  # padded audio whose frames are computed at once
_SAMPLE, _PREDICT = 4096, 65_536  # frames of a step of k-means, and of an assignment
_POLL = 0.2  # seconds
_UNITS = 41  # part of the seed, so that this random stream differs from others

Frames = Callable[[Sequence[Float32[np.ndarray, " _"]]], list[Float32[np.ndarray, "_ dim"]]]


def labels_of(stores: Sequence[WaveformStore], wanted: str | Config, *, seed: int, process: Process) -> list[Units]:
    """Labels of the frames of each corpus; clusters are made where there are none.

    Args:
        stores: prepared corpora, clustered together.
        wanted: name of labels that the corpora have, or settings of clusters.
        seed: seed of the sampled frames and of k-means.
        process: the main one makes clusters, the others wait.

    Raises:
        UserError: labels that are missing or cannot be read, or too few frames for the clusters.
    """
    if isinstance(wanted, str):
        return [read_units(store, wanted) for store in stores]
    assert isinstance(wanted, UnitsConfig)
    name = units_name(stores, wanted, seed=seed)
    files = [units_path(store, name) for store in stores]
    if process.is_main and not all(path.exists() for path in files):
        _cluster(stores, wanted, name, seed=seed)
    while not all(path.exists() for path in files):  # a barrier would end after minutes; torchrun ends all if one fails
        time.sleep(_POLL)
    return [read_units(store, name) for store in stores]


def units_name(stores: Sequence[WaveformStore], config: UnitsConfig, *, seed: int) -> str:
    """Name of the clusters of these corpora, with a digest of all they depend on."""
    model = None if config.source == "mfcc" else model_hash(model_path(Path(config.source)))
    known = config.model_dump() | {"source": model or config.source}
    key = digest([known, seed, [store.content_hash() for store in stores]])
    source = config.source if model is None else Path(config.source).name
    return f"{source}-{config.classes}-{key[:8]}"


def _cluster(stores: Sequence[WaveformStore], config: UnitsConfig, name: str, *, seed: int) -> None:
    """Fit k-means on frames of all corpora, and write the cluster of every frame of each."""
    from sklearn.cluster import MiniBatchKMeans

    frames, grid = _source(config)
    say_once(f"units: {config.classes} clusters of {config.source}, once for these corpora")
    sample = _sampled(stores, frames, config.frames, seed=seed)
    if len(sample) < config.classes:
        raise UserError(f"{len(sample)} frames are too few for {config.classes} units; lower objective.units.classes")
    settings: dict[str, Any] = {"n_clusters": config.classes, "batch_size": _SAMPLE, "n_init": 3, "max_iter": 50}
    kmeans: Any = MiniBatchKMeans(random_state=seed, **settings)
    kmeans.fit(sample)
    for store in stores:
        labels: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(store)
        for indices, found in _in_batches(store, np.arange(len(store)), frames):
            assigned = _assigned(kmeans.predict, np.concatenate(found))
            ends = np.cumsum([len(each) for each in found])[:-1]
            for index, each in zip(indices, np.split(assigned, ends), strict=True):
                labels[index] = each
        write_units(store, name, labels, grid)


def _sampled(
    stores: Sequence[WaveformStore], frames: Frames, count: int, *, seed: int
) -> Float32[np.ndarray, "frames dim"]:
    """Frames of utterances that are drawn from all corpora, about as many as asked for, or all."""
    rng = np.random.default_rng((seed, _UNITS))
    places = [(place, index) for place, store in enumerate(stores) for index in range(len(store))]
    order = rng.permutation(len(places))
    lengths = np.array([stores[place].lengths[index] for place, index in places])[order]
    enough = int(np.searchsorted(np.cumsum(lengths // ENCODER_FRAMES.hop), count)) + 1
    chosen = sorted(order[:enough].tolist())
    found: list[np.ndarray] = []
    for place, store in enumerate(stores):
        indices = np.array([places[each][1] for each in chosen if places[each][0] == place], dtype=np.int64)
        found += [each for _, batch in _in_batches(store, indices, frames) for each in batch]
    return np.concatenate(found)


def _in_batches(
    store: WaveformStore, indices: Int64[np.ndarray, " utterances"], frames: Frames
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Frames of utterances, a minute of audio at a time, in the order of their lengths."""
    batch: list[int] = []
    for index in indices[np.argsort(store.lengths[indices], kind="stable")].tolist():
        if batch and (len(batch) + 1) * int(store.lengths[index]) > _BATCH_SECONDS * 16_000:
            yield batch, frames([store.waveform(each) for each in batch])
            batch = []
        batch.append(index)
    if batch:
        yield batch, frames([store.waveform(each) for each in batch])


def _assigned(
    predict: Callable[[Float32[np.ndarray, "frames dim"]], np.ndarray], frames: Float32[np.ndarray, "frames dim"]
) -> Int64[np.ndarray, " frames"]:
    parts = [predict(frames[start : start + _PREDICT]) for start in range(0, len(frames), _PREDICT)]
    return np.concatenate(parts).astype(np.int64)


def _source(config: UnitsConfig) -> tuple[Frames, FrameGrid]:
    """The function that gives the frames of utterances, and their positions."""
    if config.source == "mfcc":
        return _mfcc, FrameGrid(ENCODER_FRAMES.hop, ENCODER_FRAMES.field)
    encoder = load_encoder(model_path(Path(config.source)))
    layers = encoder.config.transformer.layers
    layer = layers // 2 if config.layer is None else config.layer
    if not -layers - 1 <= layer <= layers:
        raise UserError(f"objective.units.layer={layer}: {config.source} has hidden states from 0 to {layers}")
    conv = encoder.config.conv
    return _hidden(encoder, layer), FrameGrid(conv.hop, conv.receptive_field, conv.padding)


def _mfcc(waveforms: Sequence[Float32[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ dim"]]:
    batch, num_samples = _padded(waveforms, RECEPTIVE_FIELD)
    found = mfcc(batch, num_samples)
    return [_normalized(each[:count]) for each, count in _cut(found, ENCODER_FRAMES.num_frames(num_samples))]


def _hidden(encoder: SpeechEncoder, layer: int) -> Frames:
    def frames(waveforms: Sequence[Float32[np.ndarray, " _"]]) -> list[Float32[np.ndarray, "_ dim"]]:
        given = [normalize(each) if encoder.config.normalize else each for each in waveforms]
        batch, num_samples = _padded(given, encoder.config.conv.receptive_field)
        with torch.inference_mode():
            output = encoder(batch, num_samples, all_layers=True)
        assert output.hidden_states is not None
        return [
            _normalized(each[:count])
            for each, count in _cut(output.hidden_states[layer], encoder.num_frames(num_samples))
        ]

    return frames


def _cut(frames: torch.Tensor, counts: torch.Tensor) -> Iterator[tuple[np.ndarray, int]]:
    return zip(frames.numpy(), counts.tolist(), strict=True)


def _padded(waveforms: Sequence[Float32[np.ndarray, " _"]], shortest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch with zeros behind each utterance; utterances shorter than a frame count as one frame long."""
    lengths = [max(len(each), shortest) for each in waveforms]
    batch = np.zeros((len(waveforms), max(lengths)), dtype=np.float32)
    for row, each in zip(batch, waveforms, strict=True):
        row[: len(each)] = each
    return torch.from_numpy(batch), torch.tensor(lengths)


def _normalized(frames: Float32[np.ndarray, "frames dim"]) -> Float32[np.ndarray, "frames dim"]:
    """Zero mean and unit variance of each dimension over the frames of an utterance."""
    return (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-5)

"""Features of the contenders that train no network: the encoder's, prosody and MFCC, computed on first use."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.experiments.contenders import Source
from speechssl.experiments.evaluate import chunks_by_length, random_encoder
from speechssl.experiments.evaluation_console import EvaluationConsole
from speechssl.inference.layers import ALL_LAYERS, Layer
from speechssl.metrics.baselines import MFCC_DIM, mfcc_statistics
from speechssl.nn.functionals import PROSODY_DIM, prosody_functionals

Features = Float32[np.ndarray, "utterances dim"]


@dataclass
class FeatureBank:
    """Features of the frozen contenders, computed on first use.

    Args:
        store: the corpus.
        encoder: the model folder.
        used: utterances that need features.
        every_layer: compute `model` and `layers` in one pass of the encoder.
        by_speaker: take out each speaker's mean and deviation over `used`; see `standardise_speakers`.
        device: of the encoder.
    """

    store: WaveformStore
    encoder: Path
    used: Int[np.ndarray, " used"]
    every_layer: bool = False
    by_speaker: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        self._known: dict[Source, list[Features]] = {}

    def get(self, source: Source) -> list[Features]:
        """Blocks of features, one but for `layers`; one row per utterance, zero where it is not used."""
        if source not in self._known:
            with EvaluationConsole() as console:
                found = self._compute(source, console)
            for name, blocks in found.items():
                self._known[name] = [self._standardised(block) for block in blocks]
        return self._known[source]

    def blocks(self, sources: Sequence[Source]) -> list[Features]:
        """The blocks of several sources."""
        return [block for source in sources for block in self.get(source)]

    def _standardised(self, block: Features) -> Features:
        return standardise_speakers(block, self.store.speakers, used=self.used) if self.by_speaker else block

    def _compute(self, source: Source, console: EvaluationConsole) -> dict[Source, list[Features]]:
        if source == "random encoder":
            return {source: self._encoded([ALL_LAYERS], console, trained=False)}
        if source == "layers" or (source == "model" and self.every_layer):
            blocks = self._encoded(None, console)
            return {"model": blocks[-1:], "layers": blocks[:-1]}
        if source == "model":
            return {source: self._encoded([ALL_LAYERS], console)}
        if source == "prosody":
            row = _prosody_row(self.store)
            block = utterance_features(row, self.store, self.used, dim=PROSODY_DIM, words=source, console=console)
        else:
            block = mfcc_features(self.store, self.used, remove_level=source != "MFCC", console=console)
        return {source: [block]}

    def _encoded(
        self, layers: Sequence[Layer] | None, console: EvaluationConsole, *, trained: bool = True
    ) -> list[Features]:
        """Mean and deviation over frames of each layer; None: every one, then the mean of layers."""
        model: EmbeddingModel = load(self.encoder, device=self.device)
        model = model if trained else random_encoder(model)
        layers = [*range(model.layers + 1), ALL_LAYERS] if layers is None else layers
        words = "encoder" if trained else "random encoder"
        return layer_features(self.store, model, self.used, layers=layers, words=words, console=console)


def layer_features(
    store: WaveformStore,
    model: EmbeddingModel,
    used: Int[np.ndarray, " used"],
    *,
    layers: Sequence[Layer],
    words: str,
    console: EvaluationConsole,
) -> list[Features]:
    """Mean and standard deviation over frames of several layers, in one pass of the encoder.

    Args:
        store: the corpus.
        model: the encoder.
        used: the utterances that need features; the rows of the others stay zero.
        layers: of the encoder.
        words: of the progress bar.
        console: shows it.
    """
    blocks = [np.zeros((len(store), 2 * model.dim), dtype=np.float32) for _ in layers]
    with console.progress(f"features: {words}", total=len(used)) as advance:
        for chunk in chunks_by_length(store, used):
            waveforms = [store.waveform(index) for index in chunk]
            vectors = model.embed_layers(waveforms, pooling="mean+std", layers=layers)
            for block, found in zip(blocks, vectors, strict=True):
                block[chunk] = found
            advance(len(chunk))
    return blocks


def standardise_speakers(
    features: Features, speakers: Sequence[str | None], *, used: Int[np.ndarray, " used"]
) -> Features:
    """Features without each speaker's mean and deviation, both over that speaker's rows in `used`.

    No label is read, but the rows of test speakers are: this is transductive, and assumes that a speaker's unlabelled
    recordings are at hand. Where they all have one class, the class is removed with the speaker.

    Args:
        features: one row per utterance of the corpus.
        speakers: speaker of every utterance; rows without one stay as they are.
        used: the rows that have features.

    >>> block = np.array([[1.0], [3.0], [10.0], [14.0]], dtype=np.float32)
    >>> standardise_speakers(block, ["a", "a", "b", "b"], used=np.arange(4)).ravel().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    found = features.copy()
    rows: dict[str, list[int]] = {}
    for index in used.tolist():
        if (speaker := speakers[index]) is not None:
            rows.setdefault(speaker, []).append(index)
    for mine in rows.values():
        block = features[mine].astype(np.float64)
        centre, spread = block.mean(axis=0), block.std(axis=0)
        spread = np.where(spread > 1e-6 * (1 + np.abs(centre)), spread, 1.0)  # constant up to rounding: centre only
        found[mine] = (block - centre) / spread
    return found


def mfcc_features(
    store: WaveformStore, used: Int[np.ndarray, " used"], *, remove_level: bool, console: EvaluationConsole
) -> Features:
    """MFCC statistics of the utterances that are used.

    Args:
        store: the corpus.
        used: the utterances that need features.
        remove_level: scale every utterance to unit variance first.
        console: shows a progress bar.
    """

    def row(index: int) -> Float32[np.ndarray, " dim"]:
        waveform = store.waveform(index)
        spread = float(waveform.std())
        return mfcc_statistics(waveform / spread if remove_level and spread > 0 else waveform)

    words = "MFCC without level" if remove_level else "MFCC"
    return utterance_features(row, store, used, dim=MFCC_DIM, words=words, console=console)


def utterance_features(
    row: Callable[[int], Float32[np.ndarray, " dim"]],
    store: WaveformStore,
    used: Int[np.ndarray, " used"],
    *,
    dim: int,
    words: str,
    console: EvaluationConsole,
) -> Features:
    """Features that are computed utterance by utterance, in parallel threads.

    Args:
        row: features of an utterance by its number.
        store: the corpus.
        used: the utterances that need features; the rows of the others stay zero.
        dim: of a row.
        words: of the progress bar.
        console: shows it.
    """
    from threadpoolctl import threadpool_limits

    features = np.zeros((len(store), dim), dtype=np.float32)
    row(int(used[0]))  # librosa compiles before the threads start
    with (
        console.progress(f"features: {words}", total=len(used)) as advance,
        threadpool_limits(limits=1),  # clips are computed in parallel
        ThreadPoolExecutor() as pool,
    ):
        for index, values in zip(used.tolist(), pool.map(row, used.tolist()), strict=True):
            features[index] = values
            advance(1)
    return features


def _prosody_row(store: WaveformStore) -> Callable[[int], Float32[np.ndarray, " dim"]]:
    return lambda index: prosody_functionals(store.waveform(index))

"""ABX error of each layer of a frozen encoder, and of MFCC, on a prepared corpus with a phone alignment."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float32, Float64

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.data.store import WaveformStore
from speechssl.data.values import composed
from speechssl.embed.embedder import EmbeddingModel
from speechssl.metrics.abx import AbxCell, AbxScore, abx_cells, score_cells, used_tokens
from speechssl.metrics.alignments import Token
from speechssl.metrics.baselines import COEFFICIENTS, HOP, mfcc_frames
from speechssl.metrics.unit_quality import effective_rank

RANK_FRAMES = 2000  # of the effective rank; the decomposition takes a tenth of a second in 192 dimensions
_PASS_BYTES = 1_000_000_000  # of frames in memory; more layers are computed in further passes over the audio


@dataclass(frozen=True)
class PlacedTokens:
    """Tokens of an alignment in the utterances of a corpus.

    Attributes:
        tokens: with the speakers of the corpus where the alignment has none, and times from the utterance's start.
        utterances: the utterance of each token.
        missing: tokens of the alignment that are in no utterance of the corpus.
    """

    tokens: list[Token]
    utterances: list[int]
    missing: int


def place_tokens(store: WaveformStore, tokens: Sequence[Token]) -> PlacedTokens:
    """Find the utterance of each token.

    The name of a token's file is that of an audio file without its ending, if only one file of the corpus and of the
    alignment has it; else the audio file's path must end with the whole name, folders included.

    Args:
        store: a prepared corpus.
        tokens: of `read_tokens`.

    Raises:
        UserError: a name that is that of several audio files, or no token in any utterance.
    """
    by_stem: dict[str, dict[str, list[int]]] = {}
    for index, item in enumerate(store.utterances):
        path = PurePosixPath(composed(item.audio)).with_suffix("")
        by_stem.setdefault(path.name, {}).setdefault(str(path), []).append(index)
    names = {token.file: PurePosixPath(composed(token.file)) for token in tokens}
    stems: dict[str, int] = {}
    for name in names.values():
        stems[name.name] = stems.get(name.name, 0) + 1
    found: dict[str, list[int]] = {}
    for file, name in names.items():
        files = by_stem.get(name.name, {})
        if len(files) > 1 or stems[name.name] > 1:
            files = {each: where for each, where in files.items() if f"/{each}".endswith(f"/{name}")}
        if len(files) > 1:
            raise UserError(f"{store.folder}: alignment {file} fits {len(files)} audio files, such as {min(files)}")
        found[file] = [index for where in files.values() for index in where]
    placed: list[Token] = []
    utterances: list[int] = []
    for token in tokens:
        for index in found[token.file]:
            offset = store.utterances[index].offset
            if offset <= token.onset and token.offset <= offset + int(store.lengths[index]) / SAMPLE_RATE:
                speaker = token.speaker if token.speaker is not None else store.speakers[index]
                moved = {"onset": token.onset - offset, "offset": token.offset - offset, "speaker": speaker}
                placed.append(replace(token, **moved))
                utterances.append(index)
                break
    if not placed:
        raise UserError(
            f"{store.folder}: no token of the alignment is in an utterance; the first is of {next(iter(names), None)!r}"
        )
    return PlacedTokens(placed, utterances, missing=len(tokens) - len(placed))


@dataclass(frozen=True)
class FrameSource:
    """Frames of the utterances of a corpus.

    Attributes:
        frames: frames of an utterance, by its place, in some layers.
        times: centres of the frames of so many samples, in seconds from the start of the utterance.
        layers: number of layers.
        dim: numbers per frame.
    """

    frames: Callable[[int, Sequence[int]], Float32[np.ndarray, "layers _ dim"]]
    times: Callable[[int], Float64[np.ndarray, " frames"]]
    layers: int
    dim: int


@dataclass(frozen=True)
class LayerScores:
    """Scores of one layer.

    Attributes:
        errors: ABX error by mode.
        rank: effective rank (RankMe) of the frames of the tokens, at most RANK_FRAMES of them.
        frames: number of frames that the rank is of.
    """

    errors: dict[str, AbxScore]
    rank: float
    frames: int


def encoder_frames(model: EmbeddingModel, store: WaveformStore) -> FrameSource:
    """The hidden states of a frozen encoder: the input to the first block, then each block's output."""

    def frames(index: int, layers: Sequence[int]) -> Float32[np.ndarray, "layers _ dim"]:
        return model.encoding.frames(store.waveform(index), layers=layers)

    def times(samples: int) -> Float64[np.ndarray, " frames"]:
        return model.frame_times(int(model.encoder.num_frames(torch.tensor(samples))))

    return FrameSource(frames, times, model.layers + 1, model.dim)


def mfcc_source(store: WaveformStore) -> FrameSource:
    """MFCC and their deltas every 10 ms, with zero mean and unit variance over the frames of an utterance."""

    def frames(index: int, layers: Sequence[int]) -> Float32[np.ndarray, "layers _ dim"]:
        assert list(layers) == [0]
        found = mfcc_frames(store.waveform(index))
        return ((found - found.mean(axis=0)) / (found.std(axis=0) + 1e-5)).astype(np.float32)[None]

    def times(samples: int) -> Float64[np.ndarray, " frames"]:
        return np.arange(samples // HOP + 1) * HOP / SAMPLE_RATE

    return FrameSource(frames, times, layers=1, dim=2 * COEFFICIENTS)


def with_frames(placed: PlacedTokens, store: WaveformStore, sources: Iterable[FrameSource]) -> PlacedTokens:
    """Only the tokens that have a frame in every source."""
    kept = range(len(placed.tokens))
    for source in sources:
        spans = _spans(source, placed, store, kept)
        kept = [place for place, (first, last) in spans.items() if first < last]
    return replace(
        placed, tokens=[placed.tokens[place] for place in kept], utterances=[placed.utterances[place] for place in kept]
    )


def score_layers(
    source: FrameSource,
    store: WaveformStore,
    placed: PlacedTokens,
    tests: Mapping[str, Sequence[AbxCell]],
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> list[LayerScores]:
    """Scores of every layer.

    Args:
        source: the frames.
        store: the corpus.
        placed: tokens that all have a frame (see `with_frames`).
        tests: cells of these tokens by mode.
        progress: called with the number of layers done since the last call.

    Raises:
        ValueError: no cells, or frames that are not finite or all zero.
    """
    used = used_tokens(cell for cells in tests.values() for cell in cells)
    spans = _spans(source, placed, store, used)
    size = 4 * source.dim * sum(last - first for first, last in spans.values())
    step = max(1, _PASS_BYTES // max(1, size))
    scores: list[LayerScores] = []
    for start in range(0, source.layers, step):
        layers = range(start, min(start + step, source.layers))
        frames = _frames(source, placed, spans, layers=layers)
        for layer in range(len(layers)):
            mine = {place: each[layer] for place, each in frames.items()}
            errors = {mode: score_cells(cells, mine) for mode, cells in tests.items()}
            sample = _sample(list(mine.values()))
            scores.append(LayerScores(errors, effective_rank(sample), len(sample)))
            progress(1)
    return scores


def layer_errors(
    model: EmbeddingModel, store: WaveformStore, placed: PlacedTokens, *, mode: str = "within", seed: int = 0
) -> list[AbxScore]:
    """ABX error of every layer: the input to the first block, then each block's output.

    A token has the frames whose centres are between its onset and its offset; tokens without one are left out.

    Args:
        model: a frozen encoder.
        store: the corpus.
        placed: of `place_tokens`.
        mode: `within` or `across` speakers.
        seed: of the draws of tokens.

    Raises:
        UserError: an unknown mode, no triple, or speakers that are not known.
    """
    source = encoder_frames(model, store)
    placed = with_frames(placed, store, [source])
    try:
        cells = abx_cells(placed.tokens, mode=mode, seed=seed)
        return [each.errors[mode] for each in score_layers(source, store, placed, {mode: cells})]
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None


def frame_span(times: Float64[np.ndarray, " frames"], token: Token) -> tuple[int, int]:
    """First frame of a token among frames with these centres, and the one behind its last."""
    first, last = np.searchsorted(times, [token.onset, token.offset], side="left").tolist()
    return first, last


def _spans(
    source: FrameSource, placed: PlacedTokens, store: WaveformStore, places: Iterable[int]
) -> dict[int, tuple[int, int]]:
    """Frame span of each of some tokens."""
    times: dict[int, Float64[np.ndarray, " frames"]] = {}
    found: dict[int, tuple[int, int]] = {}
    for place in places:
        index = placed.utterances[place]
        if index not in times:
            times[index] = source.times(int(store.lengths[index]))
        found[place] = frame_span(times[index], placed.tokens[place])
    return found


def _frames(
    source: FrameSource, placed: PlacedTokens, spans: Mapping[int, tuple[int, int]], *, layers: Sequence[int]
) -> dict[int, Float32[np.ndarray, "layers _ dim"]]:
    """The frames of each token, one utterance after another."""
    by_utterance: dict[int, list[int]] = {}
    for place in spans:
        by_utterance.setdefault(placed.utterances[place], []).append(place)
    found: dict[int, Float32[np.ndarray, "layers _ dim"]] = {}
    for index, places in by_utterance.items():
        states = source.frames(index, layers)
        for place in places:
            found[place] = states[:, slice(*spans[place])].copy()
    return found


def _sample(frames: Sequence[Float32[np.ndarray, "_ dim"]]) -> Float32[np.ndarray, "sample dim"]:
    """At most RANK_FRAMES frames, evenly distributed over all of them."""
    together = np.concatenate(frames)
    return together[:: -(-len(together) // RANK_FRAMES)]

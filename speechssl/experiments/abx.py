"""ABX error of each layer of a frozen encoder, on a prepared corpus with a phone alignment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.data.store import WaveformStore
from speechssl.data.values import composed
from speechssl.embed.embedder import EmbeddingModel
from speechssl.metrics.abx import AbxCell, AbxScore, abx_cells, score_cells, used_tokens
from speechssl.metrics.alignments import Token

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
    samples = [int(store.lengths[index]) for index in placed.utterances]
    spans = [frame_span(model, token, samples=each) for token, each in zip(placed.tokens, samples, strict=True)]
    kept = [place for place, (first, last) in enumerate(spans) if first < last]
    try:
        cells = abx_cells([placed.tokens[place] for place in kept], mode=mode, seed=seed)
        used = [kept[place] for place in used_tokens(cells)]
        numbers = {place: number for number, place in enumerate(kept)}
        size = 4 * model.dim * sum(spans[place][1] - spans[place][0] for place in used)
        step = max(1, _PASS_BYTES // max(1, size))
        scores: list[AbxScore] = []
        for start in range(0, model.layers + 1, step):
            layers = range(start, min(start + step, model.layers + 1))
            frames = _frames(model, store, placed, used=used, spans=spans, layers=layers)
            scores += _scores(cells, frames, used=[numbers[place] for place in used], layers=len(layers))
    except ValueError as error:
        raise UserError(f"{store.folder}: {error}") from None
    return scores


def _scores(
    cells: Sequence[AbxCell],
    frames: Sequence[Float32[np.ndarray, "layers _ dim"]],
    *,
    used: Sequence[int],
    layers: int,
) -> list[AbxScore]:
    return [
        score_cells(cells, {number: each[layer] for number, each in zip(used, frames, strict=True)})
        for layer in range(layers)
    ]


def _frames(
    model: EmbeddingModel,
    store: WaveformStore,
    placed: PlacedTokens,
    *,
    used: Sequence[int],
    spans: Sequence[tuple[int, int]],
    layers: Sequence[int],
) -> list[Float32[np.ndarray, "layers _ dim"]]:
    """The frames of each used token, one utterance after another."""
    found: dict[int, Float32[np.ndarray, "layers _ dim"]] = {}
    by_utterance: dict[int, list[int]] = {}
    for place in used:
        by_utterance.setdefault(placed.utterances[place], []).append(place)
    for index, places in by_utterance.items():
        states = model.encoding.frames(store.waveform(index), layers=layers)
        for place in places:
            found[place] = states[:, slice(*spans[place])].copy()
    return [found[place] for place in used]


def frame_span(model: EmbeddingModel, token: Token, *, samples: int) -> tuple[int, int]:
    """First frame of a token in an utterance of so many samples, and the one behind its last."""
    times = model.frame_times(int(model.encoder.num_frames(torch.tensor(samples))))
    first, last = np.searchsorted(times, [token.onset, token.offset], side="left").tolist()
    return first, last

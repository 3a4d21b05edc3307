"""ABX errors of a frozen model on a prepared corpus, beside the random encoder, MFCC and chance.

Every contender has the same triples: tokens without a frame in one of them are left out. Nothing is trained, and no
layer is chosen. The errors have no interval: phones, contexts and speakers are crossed, and a bootstrap over one of
them would be too narrow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.alike_names import some
from speechssl.data.names import utterance_ids
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import EmbeddingModel
from speechssl.experiments.abx import (
    FrameSource,
    LayerScores,
    PlacedTokens,
    encoder_frames,
    mfcc_source,
    place_tokens,
    score_layers,
    with_frames,
)
from speechssl.metrics.abx import MODES, AbxCell, limited_cells
from speechssl.metrics.alignments import read_tokens
from speechssl.metrics.results import ABX, ABX_ERROR, CHANCE, EFFECTIVE_RANK, MFCC, ResultRow

TRIPLES = 10_000  # per mode
SPLIT = "phones between the same neighbours"


@dataclass(frozen=True)
class AbxTest:
    """What is compared.

    Attributes:
        sources: frames of the contenders; a contender with several layers has a row for each.
        placed: the tokens.
        cells: triples by mode, `within` or `across` speakers; a mode without a triple is missing.
        notes: sentences for the user about what was left out.
    """

    sources: Mapping[str, FrameSource]
    placed: PlacedTokens
    cells: Mapping[str, Sequence[AbxCell]]
    notes: Sequence[str]

    @property
    def layers(self) -> int:
        """Layers of all contenders together."""
        return sum(source.layers for source in self.sources.values())

    @property
    def utterances(self) -> list[int]:
        """Places of the utterances that have a token."""
        return sorted(set(self.placed.utterances))


def abx_test(
    store: WaveformStore,
    alignments: Path,
    encoders: Mapping[str, EmbeddingModel],
    *,
    baselines: bool,
    triples: int = TRIPLES,
    seed: int = 0,
) -> AbxTest:
    """Read an alignment, find its audio, and draw the triples.

    Args:
        store: a prepared corpus.
        alignments: a folder of `.lab` or `.phn` files, or an `.item` file.
        encoders: frozen encoders by family.
        baselines: whether MFCC are compared too.
        triples: at most, per mode.
        seed: of the draws.

    Raises:
        UserError: an alignment that cannot be read, or of other audio, or without a triple; names the file.
    """
    sources = {family: encoder_frames(encoder, store) for family, encoder in encoders.items()}
    if baselines:
        sources[MFCC] = mfcc_source(store)
    tokens = read_tokens(alignments)
    try:
        found = place_tokens(store, tokens)
    except UserError as error:
        raise UserError(f"{alignments}: {error}") from None
    placed = with_frames(found, store, sources.values())
    cells: dict[str, Sequence[AbxCell]] = {}
    reasons: dict[str, str] = {}
    for mode in MODES:
        try:
            drawn = limited_cells(placed.tokens, mode=mode, triples=triples, seed=seed)
        except ValueError as error:
            reasons[mode] = str(error)
            continue
        if drawn:
            cells[mode] = drawn
        else:
            reasons[mode] = f"no triple of phones between the same neighbours {mode} speakers"
    if not cells:
        raise UserError(f"{alignments}: {'; '.join(dict.fromkeys(reasons.values()))}")
    absent = [f"abx {mode} speakers left out: {reason}" for mode, reason in reasons.items()]
    return AbxTest(sources, placed, cells, [*_left_out(store, found, placed), *absent])


def abx_rows(test: AbxTest, store: WaveformStore, *, progress: Callable[[int], None]) -> list[ResultRow]:
    """Errors and effective ranks of every layer of every contender, and chance.

    Args:
        test: of `abx_test`.
        store: its corpus.
        progress: called with the number of layers done since the last call.

    Raises:
        UserError: frames that are not finite or all zero.
    """
    rows: list[ResultRow] = []
    phones = len({token.phone for token in test.placed.tokens})
    for family, source in test.sources.items():
        try:
            scores = score_layers(source, store, test.placed, test.cells, progress=progress)
        except ValueError as error:
            raise UserError(f"{store.folder}: {family}: {error}") from None
        for layer, score in enumerate(scores):
            rows += _rows(family if len(scores) == 1 else f"{family} (layer {layer})", score, phones=phones)
    for mode, cells in test.cells.items():
        triples = sum(cell.triples for cell in cells)
        rows.append(_row(CHANCE, mode, ABX_ERROR, 0.5, n=triples, phones=phones))
    return rows


def _rows(contender: str, score: LayerScores, *, phones: int) -> list[ResultRow]:
    errors = [
        _row(contender, mode, ABX_ERROR, found.error, n=found.triples, phones=phones)
        for mode, found in score.errors.items()
    ]
    return [*errors, _row(contender, "frames", EFFECTIVE_RANK, score.rank, n=score.frames, phones=phones)]


def _row(contender: str, probe: str, metric: str, value: float, *, n: int, phones: int) -> ResultRow:
    return ResultRow(
        task=ABX,
        contender=contender,
        probe=probe,
        labels=0,
        metric=metric,
        value=value,
        low=value,
        high=value,
        n=n,
        seeds=1,
        split=SPLIT,
        classes=phones,
        unit="",
    )


def _left_out(store: WaveformStore, found: PlacedTokens, placed: PlacedTokens) -> list[str]:
    """Sentences about tokens and utterances that take no part."""
    notes: list[str] = []
    if found.missing:
        notes.append(f"abx: {found.missing} tokens of the alignment are in no utterance of the corpus")
    if short := len(found.tokens) - len(placed.tokens):
        notes.append(f"abx: {short} tokens left out: shorter than a frame")
    names = utterance_ids(store.utterances)
    bare = sorted(set(range(len(store))).difference(placed.utterances))
    if bare:
        notes.append(
            f"abx: {len(bare)} of {len(store)} utterances have no token of the alignment: "
            f"{some([names[index] for index in bare])}"
        )
    return notes

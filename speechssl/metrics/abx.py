"""ABX phone discrimination error: how often a stretch of another phone is closer than one of the same phone.

Schatz et al., "Evaluating speech features with the minimal-pair ABX task", 2013, with the choices of ZeroSpeech 2021
(Nguyen et al., arXiv 2011.11588) and Libri-Light (Kahn et al., arXiv 1912.07875):

- A and X are of one phone, B of another, all three between the same two neighbours. Within speaker: all of one speaker.
  Across: A and B of one speaker, X of another.
- The distance is the angle between frames, over pi, summed along the path of dynamic time warping with the lowest sum
  and divided by the path's length (see `dtw`). An error counts 1 if d(A, X) > d(B, X), 1/2 if both are equal.
- The mean is taken over the triples of a cell (one context, pair of phones, and speakers), then over contexts and
  speakers of X, then over speakers of A, then over ordered pairs of phones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from speechssl.metrics.alignments import Token
from speechssl.metrics.dtw import dtw_distances

MODES = ("within", "across")  # speaker
MAX_PER_CELL, MAX_SPEAKERS_X = 10, 5  # `max_size_group` and `max_x_across` of ZeroSpeech 2021


@dataclass(frozen=True)
class AbxCell:
    """The triples of one context, one ordered pair of phones and one choice of speakers.

    Attributes:
        phone: of A and X.
        other: the phone of B.
        context: the phones before and behind.
        speaker: of A and B.
        speaker_x: of X.
        a: places of the tokens A.
        b: places of the tokens B.
        x: places of the tokens X; within speaker the same as `a`, and a token is not compared with itself.
    """

    phone: str
    other: str
    context: tuple[str, str]
    speaker: str | None
    speaker_x: str | None
    a: tuple[int, ...]
    b: tuple[int, ...]
    x: tuple[int, ...]

    @property
    def triples(self) -> int:
        """Number of triples."""
        pairs = len(self.a) * (len(self.a) - 1) if self.a == self.x else len(self.a) * len(self.x)
        return pairs * len(self.b)


@dataclass(frozen=True)
class AbxScore:
    """An ABX error.

    Attributes:
        error: in [0, 1]; chance is 0.5.
        pairs: the error per ordered pair of phones: of A and X, and of B.
        triples: number of triples.
        cells: number of cells.
    """

    error: float
    pairs: dict[tuple[str, str], float]
    triples: int
    cells: int


def abx(
    tokens: Sequence[Token],
    frames: Sequence[Float[np.ndarray, "_ dim"]],
    *,
    mode: str = "within",
    max_per_cell: int | None = MAX_PER_CELL,
    max_speakers_x: int | None = MAX_SPEAKERS_X,
    seed: int = 0,
) -> AbxScore:
    """ABX error of the frames of tokens; as `abx_cells`, then `score_cells`.

    Args:
        tokens: phones in their contexts.
        frames: the frames of each token, at least one.
        mode: `within` or `across` speakers.
        max_per_cell: as in `abx_cells`.
        max_speakers_x: as in `abx_cells`.
        seed: as in `abx_cells`.

    Raises:
        ValueError: another number of frames than of tokens, no triple, a token without frames, or numbers that are not
            finite.

    >>> places = [Token("a", 0.0, 1.0, phone, "b", "d") for phone in "eeii"]
    >>> abx(places, [np.array([[1.0, 0.1 * n]]) for n in (0, 1, 8, 9)]).error
    0.0
    """
    if len(tokens) != len(frames):
        raise ValueError(f"need one array of frames per token, got {len(frames)} for {len(tokens)}")
    cells = abx_cells(tokens, mode=mode, max_per_cell=max_per_cell, max_speakers_x=max_speakers_x, seed=seed)
    return score_cells(cells, dict(enumerate(frames)))


def abx_cells(
    tokens: Sequence[Token],
    *,
    mode: str = "within",
    max_per_cell: int | None = MAX_PER_CELL,
    max_speakers_x: int | None = MAX_SPEAKERS_X,
    seed: int = 0,
) -> list[AbxCell]:
    """The cells of the test. Where a cell is limited, a random part of it is drawn.

    Args:
        tokens: phones in their contexts. Their order does not matter.
        mode: `within` or `across` speakers.
        max_per_cell: tokens per context, phone and speaker; None for all.
        max_speakers_x: across: speakers of X per context, phone and speaker of A; None for all.
        seed: of the draws.

    Raises:
        ValueError: an unknown mode, or tokens whose speaker is not known: any of them across speakers; some of them
            within speaker, where tokens without speakers are those of one speaker.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "across" and any(token.speaker is None for token in tokens):
        raise ValueError("ABX across speakers needs the speaker of every token")
    if len({token.speaker is None for token in tokens}) > 1:
        raise ValueError("ABX needs the speaker of every token or of none; some are not known")
    rng = np.random.default_rng(seed)
    cells: list[AbxCell] = []
    for context, speakers in _groups(tokens, limit=max_per_cell, rng=rng).items():
        for speaker, phones in speakers.items():
            for phone, a in phones.items():
                others = [other for other in phones if other != phone]
                if mode == "within":
                    listeners = [(speaker, a)] if len(a) > 1 else []
                else:
                    listeners = [
                        (name, each[phone]) for name, each in speakers.items() if name != speaker and phone in each
                    ]
                    if max_speakers_x is not None and len(listeners) > max_speakers_x and others:
                        drawn = np.sort(rng.choice(len(listeners), max_speakers_x, replace=False))
                        listeners = [listeners[place] for place in drawn.tolist()]
                cells += [
                    AbxCell(phone, other, context, speaker or None, name or None, a, phones[other], x)
                    for name, x in listeners
                    for other in others
                ]
    return cells


def limited_cells(tokens: Sequence[Token], *, mode: str = "within", triples: int, seed: int = 0) -> list[AbxCell]:
    """The cells of the test with at most so many triples in all, from as many contexts and phones as possible.

    Where there are more, the number of tokens per context, phone and speaker is lowered to 2; of cells that are still
    too many, a random part is drawn.

    Args:
        tokens: as in `abx_cells`.
        mode: as in `abx_cells`.
        triples: at most; at least 2, those of the smallest cell within speaker.
        seed: of the draws.

    Raises:
        ValueError: as in `abx_cells`.

    >>> tokens = [Token("a", float(n), n + 1.0, "ei"[n % 2], "b", "d") for n in range(20)]
    >>> sum(cell.triples for cell in limited_cells(tokens, triples=200))
    200
    """
    cells: list[AbxCell] = []
    for limit in range(MAX_PER_CELL, 1, -1):
        cells = abx_cells(tokens, mode=mode, max_per_cell=limit, seed=seed)
        if sum(cell.triples for cell in cells) <= triples:
            return cells
    order = np.random.default_rng(seed).permutation(len(cells))
    kept = np.cumsum([cells[place].triples for place in order.tolist()]) <= triples
    return [cells[place] for place in np.sort(order[kept]).tolist()]


def score_cells(cells: Sequence[AbxCell], frames: Mapping[int, Float[np.ndarray, "_ dim"]]) -> AbxScore:
    """The ABX error of cells.

    Args:
        cells: of `abx_cells`.
        frames: the frames of each token, by its place; only those of `used_tokens(cells)` are needed.

    Raises:
        ValueError: no cells, a token without frames, or numbers that are not finite.
    """
    if not cells:
        raise ValueError("no triple: no two phones between the same neighbours with enough tokens of the same speaker")
    pairs = np.unique(np.concatenate([_unordered(*each) for cell in cells for each in _blocks(cell)]), axis=0)
    distances = dtw_distances(frames, pairs)
    size = int(pairs.max()) + 1
    keys = pairs[:, 0] * size + pairs[:, 1]

    def block(rows: Sequence[int], columns: Sequence[int]) -> Float64[np.ndarray, "rows columns"]:
        wanted = _unordered(rows, columns)
        places = np.searchsorted(keys, wanted[:, 0] * size + wanted[:, 1])
        return distances[places].reshape(len(rows), len(columns))

    errors = [_cell_error(block(cell.a, cell.x), block(cell.b, cell.x), same=cell.a == cell.x) for cell in cells]
    by_speaker: dict[tuple[str, str], dict[str | None, list[float]]] = {}
    for cell, error in zip(cells, errors, strict=True):
        by_speaker.setdefault((cell.phone, cell.other), {}).setdefault(cell.speaker, []).append(error)
    means = {pair: _mean(_mean(each) for each in speakers.values()) for pair, speakers in by_speaker.items()}
    return AbxScore(_mean(means.values()), means, sum(cell.triples for cell in cells), len(cells))


def used_tokens(cells: Iterable[AbxCell]) -> list[int]:
    """Places of the tokens in some cell, ascending."""
    return sorted({place for cell in cells for side in (cell.a, cell.b, cell.x) for place in side})


def _groups(
    tokens: Sequence[Token], *, limit: int | None, rng: np.random.Generator
) -> dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]]:
    """Places of the tokens by context, speaker and phone, sorted, and at most `limit` of each."""
    found: dict[tuple[tuple[str, str], str, str], list[int]] = {}
    for place in sorted(range(len(tokens)), key=lambda place: (tokens[place].file, tokens[place].onset, place)):
        token = tokens[place]
        found.setdefault(((token.previous, token.following), token.speaker or "", token.phone), []).append(place)
    groups: dict[tuple[str, str], dict[str, dict[str, tuple[int, ...]]]] = {}
    for (context, speaker, phone), places in sorted(found.items()):
        if limit is not None and len(places) > limit:
            places = [places[each] for each in np.sort(rng.choice(len(places), limit, replace=False)).tolist()]
        groups.setdefault(context, {}).setdefault(speaker, {})[phone] = tuple(places)
    return groups


def _blocks(cell: AbxCell) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(cell.a, cell.x), (cell.b, cell.x)]


def _unordered(rows: Sequence[int], columns: Sequence[int]) -> Int[np.ndarray, "pairs 2"]:
    """All pairs of a row and a column, the smaller number first."""
    pairs = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.sort(pairs, axis=1)


def _cell_error(
    same_phone: Float64[np.ndarray, "a x"], other_phone: Float64[np.ndarray, "b x"], *, same: bool
) -> float:
    ax, bx = same_phone[:, None], other_phone[None]
    errors = (ax > bx) + 0.5 * (ax == bx)  # (a, b, x)
    if not same:
        return float(errors.mean())
    others = ~np.eye(len(same_phone), dtype=bool)  # A is not X
    return float(errors.transpose(0, 2, 1)[others].mean())


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))

"""ABX: equal to the definition by loops, 0 for separable phones, 1/2 for equal ones; draws do not depend on order."""

import itertools

import numpy as np
import pytest

from speechssl.metrics.abx import abx, abx_cells, used_tokens
from speechssl.metrics.alignments import Token
from speechssl.metrics.dtw import dtw_distances


def angle(u, v):
    norms = np.linalg.norm(u) * np.linalg.norm(v)
    return np.arccos(np.clip(u @ v / norms, -1, 1)) / np.pi if norms > 0 else 0.5


def distance(left, right):
    """Mean angle along the cheapest of all paths, one by one; of equally cheap ones that of the shortest path."""

    def paths(i, j):
        if (i, j) == (0, 0):
            yield [(0, 0)]
        for before in ((i - 1, j - 1), (i - 1, j), (i, j - 1)):
            if min(before) >= 0:
                yield from ([*path, (i, j)] for path in paths(*before))

    sums = [
        (round(sum(angle(left[i], right[j]) for i, j in path), 9), len(path))
        for path in paths(len(left) - 1, len(right) - 1)
    ]
    total, length = min(sums)
    return total / length


def by_definition(tokens, frames, mode):
    """The error by loops over all triples."""
    scores = {}
    for a, b, x in itertools.permutations(range(len(tokens)), 3):
        ta, tb, tx = tokens[a], tokens[b], tokens[x]
        context = (ta.previous, ta.following)
        if any((each.previous, each.following) != context for each in (tb, tx)) or ta.speaker != tb.speaker:
            continue
        if ta.phone != tx.phone or ta.phone == tb.phone or (ta.speaker == tx.speaker) != (mode == "within"):
            continue
        ax, bx = (distance(frames[each], frames[x]) for each in (a, b))
        value = 0.5 if abs(ax - bx) < 1e-9 else float(ax > bx)
        pair = scores.setdefault((ta.phone, tb.phone), {})
        pair.setdefault(ta.speaker, {}).setdefault((context, tx.speaker), []).append(value)
    return {
        pair: np.mean([np.mean([np.mean(cell) for cell in cells.values()]) for cells in speakers.values()])
        for pair, speakers in scores.items()
    }


def some(seed, count=26):
    """Tokens of three phones, two contexts and three speakers, and frames that tell the phones apart in part."""
    rng = np.random.default_rng(seed)
    tokens, frames = [], []
    for number in range(count):
        phone, speaker, context = rng.integers(3), rng.integers(3), rng.integers(2)
        tokens.append(Token("f", float(number), number + 1.0, "aei"[phone], "bd"[context], "t", f"s{speaker}"))
        frames.append(rng.normal(size=(rng.integers(1, 5), 4)) + np.eye(4)[phone])
    return tokens, frames


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_the_definition(mode, seed):
    tokens, frames = some(seed)
    found = abx(tokens, frames, mode=mode, max_per_cell=None, max_speakers_x=None)
    expected = by_definition(tokens, frames, mode)
    assert found.pairs == pytest.approx(expected)
    assert found.error == pytest.approx(np.mean(list(expected.values())))
    assert 0.1 < found.error < 0.5  # neither trivial nor chance


def test_distances_equal_those_of_all_paths():
    rng = np.random.default_rng(2)
    frames = {n: rng.normal(size=(length, 3)) for n, length in enumerate((1, 2, 3, 5, 4, 1))}
    frames[6] = np.array([[1.0, 0, 0], [0, 1.0, 0]] * 2)  # ties between paths
    frames[7] = np.array([[0, 1.0, 0], [0, 1.0, 0], [1.0, 0, 0]])
    frames[8] = np.zeros((2, 3))
    pairs = np.array(list(itertools.product(frames, frames)))
    found = dtw_distances(frames, pairs)
    known = [(a, b) for a, b in pairs.tolist() if a < 6 and b < 6]  # where no two paths are equally cheap
    for (a, b), value in zip(pairs.tolist(), found, strict=True):
        if (a, b) in known:
            assert value == pytest.approx(distance(frames[a], frames[b]), abs=1e-6)
        if 8 in (a, b):
            assert value == pytest.approx(0.5)
    assert np.array_equal(found, dtw_distances(frames, pairs[:, ::-1]))  # symmetric, to the last bit


def test_of_equally_cheap_steps_the_diagonal_one_is_taken():
    """Equal frames: the path is as short as it can be, as in ZeroSpeech."""
    frames = {0: np.array([[1.0, 0.0]] * 3), 1: np.array([[0.0, 1.0]] * 5)}
    assert dtw_distances(frames, np.array([[0, 1]]))[0] == 0.5
    frames[2] = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    frames[3] = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    # The diagonal costs 0, 0.5, 0.5, and so does the longer path (0,0) (0,1) (1,2) (2,2).
    assert dtw_distances(frames, np.array([[2, 3]]))[0] == pytest.approx(1.0 / 3)


@pytest.mark.parametrize("mode", ["within", "across"])
def test_separable_phones_have_no_error_and_equal_ones_half(mode):
    rng = np.random.default_rng(3)
    tokens = [Token("f", float(n), n + 1.0, "ae"[n % 2], "b", "t", f"s{n // 2 % 3}") for n in range(24)]
    apart = [np.eye(2)[n % 2] + 0.05 * rng.random((int(rng.integers(2, 9)), 2)) for n in range(24)]
    assert abx(tokens, apart, mode=mode).error == 0
    same = [rng.normal(size=(7, 50)).astype(np.float32)] * 24
    assert abx(tokens, same, mode=mode).error == 0.5
    swapped = [token if n % 4 < 2 else Token(**{**vars(token), "phone": "ea"[n % 2]}) for n, token in enumerate(tokens)]
    assert abx(swapped, apart, mode=mode).error > 0.2  # wrong labels are errors


def test_only_phones_of_one_context_are_compared():
    frames = [np.eye(2)[n % 2][None] for n in range(4)]
    with pytest.raises(ValueError, match="no triple"):
        abx([Token("f", float(n), n + 1.0, "ae"[n % 2], "bd"[n % 2], "t", "s") for n in range(4)], frames)


def test_draws_limit_the_cells_and_do_not_depend_on_the_order():
    tokens = [Token("f", float(n), n + 1.0, "ae"[n % 2], "b", "t", f"s{n % 9}") for n in range(360)]
    frames = list(np.random.default_rng(4).normal(size=(360, 2, 3)))
    cells = abx_cells(tokens, mode="across", max_per_cell=3, max_speakers_x=2)
    assert {len(side) for cell in cells for side in (cell.a, cell.b, cell.x)} == {3}
    assert len(cells) == 9 * 2 * 2
    assert all(cell.speaker != cell.speaker_x for cell in cells)
    assert len(used_tokens(cells)) <= 9 * 2 * 3
    settings = {"mode": "across", "max_per_cell": 3, "max_speakers_x": 2}
    first = abx(tokens, frames, **settings)
    assert first == abx(tokens[::-1], frames[::-1], **settings)
    assert first != abx(tokens, frames, seed=1, **settings)
    assert first.triples == 9 * 2 * 2 * 27


def test_the_number_of_triples_leaves_out_a_token_with_itself():
    tokens = [Token("f", float(n), n + 1.0, phone, "b", "t", "s") for n, phone in enumerate("aaae")]
    found = abx(tokens, [np.eye(2)[n // 3][None] for n in range(4)])
    assert (found.triples, found.cells, found.error) == (6, 1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "both"}, "mode must be one of within, across, got 'both'"),
        ({"frames": []}, "one array of frames per token, got 0 for 26"),
        ({"frames": [np.zeros((0, 4))] * 26}, "has no frames"),
        ({"frames": [np.full((1, 4), np.nan)] * 26}, "not finite"),
        ({"speaker": None, "mode": "across"}, "needs the speaker of every token"),
        ({"speaker": None}, "the speaker of every token or of none"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    tokens, frames = some(0)
    change = dict(change)
    if "speaker" in change:
        tokens[0] = Token(**{**vars(tokens[0]), "speaker": change.pop("speaker")})
    with pytest.raises(ValueError, match=message):
        abx(tokens, change.pop("frames", frames), **change)

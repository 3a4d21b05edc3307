"""The likeliest path: against a table of all states, against torchaudio, in stretches, and what it takes of memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from speechssl.decoding import trellis
from speechssl.decoding.trellis import SearchTooLargeError, likeliest_path


def random_emissions(rng, frames, symbols, scale=1.5):
    logits = rng.normal(scale=scale, size=(frames, symbols))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def speech(rng, frames, symbols=30, *, every=4):
    """Emissions that peak every few frames, and a text that agrees with nine in ten of the peaks."""
    logits = rng.normal(size=(frames, symbols))
    logits[:, 0] += 3
    peaks = np.arange(0, frames, every)
    logits[peaks, rng.integers(1, symbols, len(peaks))] += 8
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    best = log_probs.argmax(axis=1)
    heard = [int(n) for at, n in enumerate(best) if n and (at == 0 or n != best[at - 1])]
    kept = [n for n in heard if rng.random() > 0.05]
    return log_probs, [int(rng.integers(1, symbols)) if rng.random() < 0.05 else n for n in kept]


def whole_table(log_probs, symbols):
    """The path of a search over every state of every frame, in float64."""
    labels = [0]
    for symbol in symbols:
        labels += [symbol, 0]
    scores = np.full((len(log_probs), len(labels)), -np.inf)
    came_from = np.zeros(scores.shape, dtype=int)
    scores[0, :2] = log_probs[0, labels[:2]]
    for frame in range(1, len(log_probs)):
        for state, label in enumerate(labels):
            before = [state]
            if state >= 1:
                before.append(state - 1)
            if state >= 2 and label != 0 and label != labels[state - 2]:
                before.append(state - 2)
            best = max(before, key=lambda each, frame=frame: scores[frame - 1, each])
            scores[frame, state] = scores[frame - 1, best] + float(log_probs[frame, label])
            came_from[frame, state] = best
    state = max(len(labels) - 2, len(labels) - 1, key=lambda each: scores[-1, each])
    path = [state]
    for frame in range(len(log_probs) - 1, 0, -1):
        state = int(came_from[frame, state])
        path.append(state)
    return path[::-1]


def torchaudio_path(log_probs, symbols):
    import torchaudio

    emissions = torch.from_numpy(log_probs)[None]
    return torchaudio.functional.forced_align(emissions, torch.tensor([symbols]), blank=0)[0][0].numpy()


def labels_of(states, symbols):
    labels = np.zeros(2 * len(symbols) + 1, dtype=int)
    labels[1::2] = symbols
    return labels[states]


@pytest.fixture
def small_stretches(monkeypatch):
    """Stretches of a few frames, and stretches of stretches."""
    for name, value in (("_BLOCK_CELLS", 8), ("_BLOCK_FRAMES", 5), ("_SPLITS", 2)):
        monkeypatch.setattr(trellis, name, value)


@pytest.mark.parametrize("seed", range(25))
def test_the_path_is_that_of_a_search_over_all_states(seed):
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(1, 40))
    symbols = rng.integers(1, 4, size=int(rng.integers(1, frames // 2 + 2))).tolist()
    log_probs = random_emissions(rng, frames, 4, scale=float(rng.choice([0.3, 1.5, 6.0])))
    needed = len(symbols) + sum(one == two for one, two in itertools.pairwise(symbols))
    if needed > frames:
        log_probs = random_emissions(rng, needed, 4)  # no frame to spare
    assert likeliest_path(log_probs, symbols).tolist() == whole_table(log_probs, symbols)


@pytest.mark.usefixtures("small_stretches")
@pytest.mark.parametrize("seed", range(10))
def test_stretches_give_the_whole_path(seed):
    rng = np.random.default_rng(seed)
    log_probs, symbols = speech(rng, 90, 6, every=3)
    assert likeliest_path(log_probs, symbols).tolist() == whole_table(log_probs, symbols)


@pytest.mark.parametrize("beam", [1000.0, 60.0])
def test_torchaudio_finds_the_same(monkeypatch, beam):
    monkeypatch.setattr(trellis, "BEAM", beam)
    for seed in range(3):
        log_probs, symbols = speech(np.random.default_rng(seed), 300)
        found = labels_of(likeliest_path(log_probs, symbols), symbols)
        np.testing.assert_array_equal(found, torchaudio_path(log_probs, symbols))


def test_symbols_of_probability_zero_are_taken_where_nothing_else_fits():
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.array([[1, 0, 0], [0.5, 0, 0.5], [1, 0, 0]], dtype=np.float32))
    assert likeliest_path(log_probs, [1, 2, 1]).tolist() == [1, 3, 5]
    assert likeliest_path(log_probs, [2]).tolist() == [0, 1, 2]


@pytest.mark.slow
def test_memory_does_not_grow_with_frames_times_symbols(monkeypatch):
    monkeypatch.setattr(trellis, "_BLOCK_CELLS", 1 << 15)
    log_probs, symbols = speech(np.random.default_rng(0), 1200)
    tracemalloc.start()
    found = likeliest_path(log_probs, symbols)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    table = len(log_probs) * (2 * len(symbols) + 1)  # bytes, one a state and frame: what torchaudio takes
    assert table > 1_000_000
    assert peak < table / 2
    np.testing.assert_array_equal(labels_of(found, symbols), torchaudio_path(log_probs, symbols))


def test_a_search_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(trellis, "MAX_CELLS", 1000)
    with pytest.raises(SearchTooLargeError, match="more than 1000 frames x states"):
        likeliest_path(random_emissions(np.random.default_rng(0), 100, 4), [1, 2, 3] * 10)

"""Batches for one pass: every clip once, windows apart, halves where memory does not suffice."""

import numpy as np
import pytest
import torch

from speechssl.audio import AudioError, normalize
from speechssl.inference.batches import Batching, by_duration, pad, passes
from speechssl.inference.engine import Encoding
from speechssl.inference.heads import classify
from speechssl.inference.windows import Window, scan
from speechssl.models.classifier import Classifier, ClassifierConfig
from tests.micro import micro_encoder, tone

CPU = torch.device("cpu")
CLIPS = [tone(9000), tone(40_000, 300), tone(16_000, 150), tone(20_000, 100), tone(9000, 90)]


def halves_of(clip):
    blocks = [clip.blocks(), clip.blocks()]
    return (Window(np.concatenate(list(each))[: clip.num_samples // 2], 1, 3) for each in blocks)


def test_whole_clips_come_by_length_and_windows_apart():
    batching = Batching(seconds=2.0, window_seconds=2.0, normalize=True)
    streamed = scan(lambda: [CLIPS[2]], "a.wav")
    found = list(batching.batches([*CLIPS, streamed], halves_of))
    assert [list(batch.clips) for batch in found] == [[0, 4], [2], [3], [1], [1], [5, 5]]
    assert [batch.long is None for batch in found] == [True] * 3 + [False] * 3
    for batch in found[:3]:
        for place, row in zip(batch.clips, batch.rows, strict=True):
            np.testing.assert_array_equal(row.samples, normalize(CLIPS[place]))
    assert [(row.first, row.last) for row in found[-1].rows] == [(1, 3), (1, 3)]


def test_a_clip_of_the_length_of_a_window_is_whole():
    batching = Batching(seconds=20.0, window_seconds=1.0, normalize=False)
    (batch,) = batching.batches([CLIPS[2]], halves_of)
    assert batch.long is None
    (window,) = batching.batches([np.append(CLIPS[2], CLIPS[2][:1])], lambda clip: map(Window, clip.blocks()))
    assert window.long is not None


def test_equal_lengths_share_a_batch_where_padding_matters():
    lengths = [9000, 400, 9000, 500, 400]
    assert list(by_duration(lengths, equal=True)) == [[1, 4], [3], [0, 2]]
    assert list(by_duration(lengths)) == [[1, 4, 3, 0, 2]]
    assert list(by_duration([])) == []


def test_padding():
    padded, num_samples = pad([CLIPS[0], CLIPS[2]], rows=3, width=16_384)
    assert padded.shape == (3, 16_384)
    assert num_samples.tolist() == [9000, 16_000, 9000]
    np.testing.assert_array_equal(padded[0, :9000], CLIPS[0])
    assert not padded[0, 9000:].any()
    assert not padded[2].any()


def full_above(model, rows, monkeypatch):
    """The model has memory for so many rows."""
    forward, seen = model.forward, []

    def limited(first, *arguments, **settings):
        if len(first) > rows:
            raise torch.OutOfMemoryError("full")
        seen.append(len(first))
        return forward(first, *arguments, **settings)

    monkeypatch.setattr(model, "forward", limited)
    return seen


def test_without_memory_for_a_batch_its_halves_are_run(monkeypatch):
    encoding = Encoding(micro_encoder(), device=CPU)
    expected, frames = encoding.embed_layers(CLIPS), encoding.frames_layers(CLIPS)
    seen = full_above(encoding.encoder.transformer, 2, monkeypatch)
    np.testing.assert_allclose(encoding.embed_layers(CLIPS), expected, atol=1e-5)
    assert seen == [2, 1, 2]
    for one, other in zip(encoding.frames_layers(CLIPS), frames, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    encoding.window_seconds = 8.0
    long = np.concatenate(CLIPS * 5)
    encoding.batch_seconds = 80.0
    together, in_order = encoding.embed_layers([long]), encoding.frames(long)
    monkeypatch.undo()
    np.testing.assert_allclose(together, encoding.embed_layers([long]), atol=1e-5)
    np.testing.assert_allclose(in_order, encoding.frames(long), atol=1e-5)


def test_heads_too_run_halves(monkeypatch):
    model = Classifier(micro_encoder(), ("sad", "glad"), ClassifierConfig()).eval()
    expected = classify(model, CLIPS)
    seen = full_above(model, 1, monkeypatch)
    np.testing.assert_allclose(classify(model, CLIPS), expected, atol=1e-5)
    assert seen == [1] * 5
    full_above(model, 0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        classify(model, CLIPS)


def test_batches_that_cannot_be_read_end_with_their_reason():
    def broken():
        yield CLIPS[0]
        if count.pop():
            raise AudioError("a.wav", "damaged")

    count = [True, False]
    long = scan(broken, "a.wav")
    batching = Batching(seconds=20.0, window_seconds=1.0, normalize=False)
    found = passes(batching.batches([CLIPS[0], long], lambda clip: map(Window, clip.blocks())), lambda batch: 0)
    assert list(next(found)[0].clips) == [0]
    with pytest.raises(AudioError, match="damaged"):
        list(found)

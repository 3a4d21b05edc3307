"""A clip in tiles gives the frames of one pass, wherever the borders of tiles fall."""

import numpy as np
import pytest
import torch

from speechssl.embed.encoding import Encoding
from speechssl.embed.packing import packed
from speechssl.embed.tiles import TILE_FRAMES, projected
from speechssl.models.encoder import SpeechEncoder

from .conftest import MICRO, tone
from .test_packing import KINDS

CPU = torch.device("cpu")


def samples_of(frames):
    return torch.from_numpy(tone(frames * 320 + 80))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2, TILE_FRAMES - 1, TILE_FRAMES, TILE_FRAMES + 1, 2 * TILE_FRAMES + 9])
def test_tiles_equal_one_pass(kind, frames):
    encoder = SpeechEncoder(KINDS[kind]).eval()
    samples = samples_of(frames)
    with torch.inference_mode():
        whole = encoder.project(encoder.latents(samples[None]))[0]
    for each in (encoder, packed(encoder)):
        torch.testing.assert_close(projected(each, samples, None), whole, atol=2e-5, rtol=2e-5)
    assert len(whole) == frames


def test_clips_of_any_length_share_a_few_shapes():
    encoding = Encoding(SpeechEncoder(MICRO), device=CPU)
    seen: set[int] = set()
    encoding.encoder.features.layers[1].register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[1]))
    for frames in range(20, 160, 3):
        encoding.embed_layers([np.asarray(samples_of(frames))])
    assert len(seen) == 8


def test_batches_share_a_few_shapes():
    """oneDNN compiles a kernel for each."""
    encoding = Encoding(SpeechEncoder(MICRO), device=CPU)
    lengths = np.random.default_rng(0).integers(16000, 64000, size=4000).tolist()
    shapes: set[tuple[int, int]] = set()
    for batch in encoding.batches(lengths):
        shapes.add((len(batch), encoding._padded(max(lengths[index] for index in batch))))
    full = {shape for shape in shapes if (shape[0] + 1) * shape[1] > encoding.batch_seconds * 16000}
    assert len({width for _, width in full}) <= 34  # two octaves
    assert len(full) <= 2 * len({width for _, width in full})

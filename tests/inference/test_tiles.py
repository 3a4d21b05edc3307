"""A clip in tiles gives the frames of one pass, wherever the borders of tiles fall."""

import numpy as np
import pytest
import torch

from speechssl.inference.engine import Encoding
from speechssl.inference.packing import packed
from speechssl.inference.tiles import TILE_FRAMES, projected
from speechssl.models.encoder import SpeechEncoder
from tests.micro import MICRO, MICRO_GROUP, tone

from .test_packing import KINDS

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

CPU = torch.device("cpu")
WIDE = MICRO_GROUP.conv.model_copy(update={"layers": ((8, 165, 5), *MICRO_GROUP.conv.layers[1:])})
ALL = KINDS | {"group norm over padding": MICRO_GROUP.model_copy(update={"conv": WIDE})}


def samples_of(frames, more=0):
    """Of so many frames, and some behind the last."""
    return torch.from_numpy(tone(frames * 320 + 80 + more))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("frames", "more"),
    [(1, 0), (2, 319), (TILE_FRAMES - 1, 200), (TILE_FRAMES, 319), (TILE_FRAMES + 1, 0), (2 * TILE_FRAMES + 9, 1)],
)
def test_tiles_equal_one_pass(kind, frames, more):
    encoder = SpeechEncoder(ALL[kind]).eval()
    samples = samples_of(frames, more)
    with torch.inference_mode():
        whole = encoder.project(encoder.latents(samples[None]))[0]
    for each in (encoder, packed(encoder)):
        torch.testing.assert_close(projected(each, samples, None), whole, atol=2e-5, rtol=2e-5)
    assert len(whole) == int(encoder.num_frames(torch.tensor(len(samples))))


def test_clips_of_any_length_share_a_few_shapes():
    encoding = Encoding(SpeechEncoder(MICRO), device=CPU)
    seen: set[int] = set()
    encoding.encoder.features.layers[1].register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[1]))
    for frames in range(20, 160, 3):
        encoding.embed_layers([np.asarray(samples_of(frames))])
    assert len(seen) == 8

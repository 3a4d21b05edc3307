"""A packed encoder gives what the plain one gives, whatever its kind, and leaves it alone."""

import numpy as np
import pytest
import torch

from speechssl.inference import packing
from speechssl.inference.engine import Encoding
from speechssl.inference.packing import float_type, packed
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.nn.cpu.packed import DynamicLinear, PackedPositions, can_pack
from tests.micro import MICRO, MICRO_GROUP, micro_encoder, tone

pytestmark = [
    pytest.mark.skipif(not can_pack(torch.float32), reason="no packed layers on this processor"),
    pytest.mark.usefixtures("two_threads_throughout"),
]
CPU = torch.device("cpu")
CLIPS = [tone(9000), tone(16000, 300), tone(12345, 150)]
WAVLM = {"relative_buckets": 8, "relative_distance": 20}


def changed(config, **settings):
    return config.model_copy(update={"transformer": config.transformer.model_copy(update=settings)})


KINDS = {
    "layer norm": MICRO,
    "group norm": MICRO_GROUP,
    "post-norm": changed(MICRO, pre_norm=False),
    "WavLM": changed(MICRO_GROUP, **WAVLM),
    "data2vec": changed(MICRO, position_stack=2, pre_norm=False),
    "no feature norm": MICRO.model_copy(update={"feature_norm": False}),
    "gabor": PRESETS["tiny"],
    "squeezed": MICRO.model_copy(update={"squeeze_factor": 2}),
}


def states(encoder, waveform):
    with torch.inference_mode():
        return encoder(torch.from_numpy(waveform)[None], all_layers=True).hidden_states


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_that_of_the_plain_encoder(kind):
    encoder = SpeechEncoder(KINDS[kind]).eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    own = packed(encoder)
    for mine, plain in zip(states(own, CLIPS[1]), states(encoder, CLIPS[1]), strict=True):
        torch.testing.assert_close(mine, plain, atol=2e-5, rtol=2e-5)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert isinstance(encoder.projection, torch.nn.Linear)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lesser_precision_is_near(kind, dtype):
    encoder = SpeechEncoder(KINDS[kind]).eval()
    exact, lesser = (Encoding(encoder, device=CPU, dtype=each).embed_layers(CLIPS)[0] for each in ("float32", dtype))
    cosine = (exact * lesser).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(lesser, axis=1)
    assert 0.99 < cosine.min() < 0.9999999


@pytest.mark.parametrize("native", [True, False])
def test_beside_int8_the_processor_does_what_it_is_fastest_in(native, monkeypatch):
    monkeypatch.setattr(packing, "has_bfloat16", lambda _: native)
    encoder = packed(micro_encoder(), dtype="int8")
    kinds = [each.dtype for each in encoder.modules() if isinstance(each, DynamicLinear)]
    kinds += [each._convolve.dtype for each in encoder.modules() if isinstance(each, PackedPositions)]
    assert set(kinds) == {torch.bfloat16 if native else torch.float32}
    assert float_type("float32", CPU) == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_is_a_batch_of_many(kind):
    encoding = Encoding(SpeechEncoder(KINDS[kind]), device=CPU)
    together = encoding.embed_layers(CLIPS, layers=[0, 1, -1])
    for place, clip in enumerate(CLIPS):
        np.testing.assert_allclose(
            encoding.embed_layers([clip], layers=[0, 1, -1])[:, 0], together[:, place], atol=1e-5
        )


def test_the_plain_encoder_does_it_where_nothing_can_be_packed(monkeypatch):
    exact = Encoding(micro_encoder(MICRO_GROUP), device=CPU).embed_layers(CLIPS)
    monkeypatch.setattr(packing, "can_pack", lambda _: False)
    encoding = Encoding(micro_encoder(MICRO_GROUP), device=CPU)
    assert isinstance(encoding.encoder.projection, torch.nn.Linear)
    np.testing.assert_allclose(encoding.embed_layers(CLIPS), exact, atol=1e-5)

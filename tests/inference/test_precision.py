"""bfloat16 only where the processor has it and the vectors stay; int8 when asked for."""

import numpy as np
import pytest
import torch

from speechssl.config import UserError
from speechssl.inference import precision
from speechssl.inference.engine import Encoding
from speechssl.inference.packing import packed
from speechssl.inference.precision import Choice, choose
from tests.micro import micro_encoder, tone

CPU = torch.device("cpu")
CLIPS = [tone(9000), tone(16000, 300)]


def test_auto_takes_bfloat16_where_it_is_native_and_harmless(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    choice = choose(micro_encoder(), CLIPS, device=CPU, dtype="auto")
    assert choice.dtype == "bfloat16"
    assert 0.999 < choice.cosine < 1.0001


def test_auto_stays_with_float32_elsewhere(monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: False)
    assert choose(micro_encoder(), CLIPS, device=CPU, dtype="auto") == Choice("float32", None)
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    assert choose(micro_encoder(), [], device=CPU, dtype="auto") == Choice("float32", None)


@pytest.mark.parametrize("cosine", [0.998, float("nan")])
def test_auto_stays_with_float32_where_the_vectors_do_not(monkeypatch, cosine):
    monkeypatch.setattr(precision, "has_bfloat16", lambda _: True)
    monkeypatch.setattr(precision, "min_cosine", lambda *_: cosine)
    choice = choose(micro_encoder(), CLIPS, device=CPU, dtype="auto")
    assert choice.dtype == "float32"
    np.testing.assert_equal(choice.cosine, cosine)
    assert choose(micro_encoder(), CLIPS, device=CPU, dtype="bfloat16").dtype == "bfloat16"  # asked for by name


def test_int8_is_near_float32_and_leaves_the_encoder_alone():
    encoder = micro_encoder().eval()
    small = packed(encoder, dtype="int8")
    assert isinstance(encoder.projection, torch.nn.Linear)
    deep, small_deep = encoder.transformer.layers[0].expand, small.transformer.layers[0].expand
    for linear, own in ((encoder.projection, small.projection), (deep, small_deep)):
        x = torch.randn(5, linear.in_features)
        with torch.inference_mode():
            exact = linear(x)
            assert (own(x) - exact).abs().max() < 0.05 * exact.abs().max()
    choice = choose(encoder, CLIPS, device=CPU, dtype="int8")
    assert choice.dtype == "int8"
    assert 0.99 < choice.cosine < 1.0
    vectors = Encoding(encoder, device=CPU, dtype="int8").embed_layers(CLIPS)
    assert vectors.dtype == np.float32


def test_what_does_not_exist_is_refused():
    with pytest.raises(UserError, match="dtype must be one of float32, bfloat16, int8, auto, got 'float16'"):
        precision.check_precision("float16", CPU)
    with pytest.raises(UserError, match="int8 runs on CPUs only"):
        precision.check_precision("int8", torch.device("cuda"))

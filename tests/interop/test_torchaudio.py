"""Names and settings of torchaudio; that both models then give the same is shown beside the layers."""

import inspect
import warnings

import pytest
import torch

from speechssl.interop import torchaudio as interop
from speechssl.interop.exportable import encoder_reason
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.nn.transformer import TransformerConfig


def test_every_argument_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio 2.11 announces its own retirement on import
        from torchaudio.models import wav2vec2_model
    assert list(interop.export_config(PRESETS["large"])) == list(inspect.signature(wav2vec2_model).parameters)


def test_weights_there_and_back() -> None:
    small = {"dim": 24, "layers": 2, "heads": 3, "feedforward": 40, "position_kernel": 7, "position_groups": 6}
    config = PRESETS["large"].model_copy(update={"transformer": TransformerConfig(**small)})
    weights = {f"encoder.{name}": torch.randn_like(value) for name, value in SpeechEncoder(config).state_dict().items()}
    back = interop.import_weights(interop.export_weights(weights))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], value) for name, value in weights.items())


def test_what_it_cannot_express() -> None:
    large = PRESETS["large"]
    padded = large.conv.model_copy(update={"layers": ((512, 401, 5), *large.conv.layers[1:])})
    stack = large.transformer.model_copy(update={"position_stack": 5, "relative_buckets": 320})
    for config, reason in (
        (PRESETS["tiny"], "front='gabor' cannot be expressed in torchaudio's wav2vec2_model"),
        (large.model_copy(update={"conv": padded}), "zeros on both sides here and none in torchaudio"),
        (large.model_copy(update={"transformer": stack}), "a stack of positional convolutions"),
    ):
        with pytest.raises(ValueError, match=reason) as caught:
            interop.export_config(config)
        assert "transformers" not in str(caught.value)
        assert "transformers" not in str(encoder_reason("torchaudio", config))
    odd = PRESETS["large"].model_copy(update={"transformer": TransformerConfig(norm_eps=1e-6)})
    with pytest.raises(ValueError, match="epsilon of 1e-5, not 1e-06"):
        interop.export_config(odd)
    with pytest.raises(ValueError, match=r"not weights of an encoder: quantizer\.codebooks"):
        interop.export_weights({"quantizer.codebooks": torch.zeros(1)})

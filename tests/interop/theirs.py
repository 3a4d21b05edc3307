"""Small random models of transformers of every kind that is read, none of whose weights is at its default."""

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from speechssl.models.encoder import SpeechEncoder

SAMPLES = 3000
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 4, 4),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
    "num_codevectors_per_group": 6,
    "codevector_dim": 8,
    "proj_codevector_dim": 12,
    "classifier_proj_size": 8,
    "layer_norm_eps": 1e-4,
}
GROUP = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LAYER = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
RELATIVE = {"num_buckets": 16, "max_bucket_distance": 20}  # fewer than there are frames: every bucket is used
MODELS = {  # name: prefix of their classes, settings
    "wav2vec2 group": ("Wav2Vec2", GROUP),
    "wav2vec2 layer": ("Wav2Vec2", LAYER | {"num_conv_pos_embeddings": 7}),
    "hubert group": ("Hubert", GROUP),
    "hubert layer": ("Hubert", LAYER),
    "hubert without a norm": ("Hubert", GROUP | {"feat_proj_layer_norm": False}),
    "wavlm group": ("WavLM", GROUP | RELATIVE),
    "wavlm layer": ("WavLM", LAYER | RELATIVE),
    "data2vec": ("Data2VecAudio", {"conv_bias": True, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "data2vec even": ("Data2VecAudio", {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 4}),
}
PADDABLE = [name for name, (_, settings) in MODELS.items() if settings.get("feat_extract_norm") != "group"]


def make(name: str, head: str = "Model", **settings: object) -> transformers.PreTrainedModel:
    """A model by its name in the table, with a head of theirs (``ForCTC`` …) or without."""
    torch.manual_seed(0)
    kind, own = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**(SHAPE | own | settings))
    model = getattr(transformers, kind + head)(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "rel_attn_embed" in key:
                parameter.normal_()
            elif parameter.ndim == 1 or "gru_rel_pos" in key:  # ones and zeros would hide mistakes
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save(model: transformers.PreTrainedModel, folder: Path, *, do_normalize: bool = True, **how: object) -> Path:
    """As their users save a model: settings, weights, and the feature extractor's settings."""
    model.save_pretrained(folder, **how)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(folder)
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, *things: type | Callable[..., object]) -> Callable[[], None]:
    """Make the modules importable that classes and functions say they are from, until the returned function is called.

    Pickles of objects of packages that are not installed can then be written, and read without them.
    """
    made: list[str] = []
    for thing in things:
        parts = thing.__module__.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
                made.append(name)
        setattr(sys.modules[thing.__module__], thing.__qualname__, thing)

    def remove() -> None:
        for name in made:
            monkeypatch.delitem(sys.modules, name)

    return remove


def foreign(module: str, name: str) -> type:
    """An empty class that says it is from another package."""
    return type(name, (), {"__module__": module, "__qualname__": name})


def assert_equal(ours: SpeechEncoder, theirs: transformers.PreTrainedModel, waveforms: Tensor) -> None:
    """Every hidden state and the output, to 1e-5."""
    with torch.no_grad():
        expected = theirs(waveforms, output_hidden_states=True)
        output = ours(waveforms, all_layers=True)
    assert output.hidden_states is not None
    # Their last hidden state is before the final norm where the norms come first; ours is after it.
    states = [*expected.hidden_states[:-1], expected.last_hidden_state]
    assert len(output.hidden_states) == len(states) == 3
    for state, want in zip([*output.hidden_states, output.frames], [*states, states[-1]], strict=True):
        assert want.std() > 0.1
        torch.testing.assert_close(state, want, atol=1e-5, rtol=0)

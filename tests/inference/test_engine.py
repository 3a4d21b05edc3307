"""The encoder at work: windows, streams, layers, shapes; against one plain pass over the whole clip."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from speechssl.audio import AudioError, normalize
from speechssl.config import UserError
from speechssl.inference.engine import BUCKETS, Encoding
from speechssl.inference.layers import learned_mix
from speechssl.inference.windows import norm_of_the_whole, scan
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.heads import save_head
from tests.micro import MICRO, MICRO_GROUP, micro_encoder, tone

pytestmark = pytest.mark.usefixtures("two_threads_throughout")

CPU = torch.device("cpu")


def encoding(config=MICRO, **settings):
    return Encoding(micro_encoder(config), device=CPU, **settings)


def streamed(clip, size=5000):
    return scan(lambda: (clip[at : at + size] for at in range(0, len(clip), size)), "a.wav")


LONG = np.concatenate([tone(16000 * 3, 100 + 40 * part, seed=part) for part in range(6)])[: 16000 * 17 - 77] + 0.01


def test_a_stream_has_the_mean_and_deviation_of_the_whole():
    clip = streamed(LONG)
    together = np.concatenate(list(clip.normalized(normalize=True)))
    np.testing.assert_allclose(together, normalize(LONG), atol=2e-6)
    assert clip.num_samples == len(LONG)
    np.testing.assert_array_equal(np.concatenate(list(clip.normalized(normalize=False))), LONG)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [(tone(300), "too short: 300 samples"), (np.full(9000, 0.25, np.float32), "all silence"), (LONG[:0], "too short")],
)
def test_a_stream_that_cannot_be_used_is_named(clip, reason):
    with pytest.raises(AudioError, match=rf"a\.wav: {reason}"):
        streamed(clip)


@pytest.mark.parametrize("config", [MICRO, MICRO_GROUP])
def test_windows_equal_the_whole_clip_where_attention_plays_no_part(config):
    """At the input to the first block; deeper layers attend as far as their window."""
    encoder = encoding(config)
    whole, pooled = encoder.frames(LONG, layers=[0]), encoder.embed_layers([LONG], pooling="mean+std", layers=[0])
    encoder.window_seconds = 8.0
    np.testing.assert_allclose(encoder.frames(LONG, layers=[0]), whole, atol=2e-4)
    pieces = [frames for _, frames in encoder.frames_in_parts([streamed(LONG)], layers=[0])]
    assert len(pieces) == 5
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=2e-4)
    vectors = encoder.embed_layers([streamed(LONG)], pooling="mean+std", layers=[0])[:, 0]
    np.testing.assert_allclose(vectors, pooled[:, 0], atol=2e-4)


@pytest.mark.parametrize("seconds", [8.0, 8.02])
def test_windows_have_the_pairs_of_the_whole_clip(seconds):
    encoder = encoding(MICRO.model_copy(update={"squeeze_factor": 2}))
    whole = encoder.frames(LONG, layers=[0])
    assert whole.shape[1] % 2 == 1
    np.testing.assert_array_equal(whole[:, 0:-1:2], whole[:, 1::2])
    encoder.window_seconds = seconds
    np.testing.assert_allclose(encoder.frames(LONG, layers=[0]), whole, atol=2e-4)


def test_a_window_of_a_group_norm_encoder_is_normalised_over_the_clip():
    """Without that, a quiet stretch of a clip would be brought to the level of the loud ones."""
    encoder = encoding(MICRO_GROUP)
    clip = np.concatenate([tone(16000 * 9), 0.1 * tone(16000 * 9, 300)])
    whole = encoder.frames(clip, layers=[0])
    encoder.window_seconds = 8.0
    np.testing.assert_allclose(encoder.frames(clip, layers=[0]), whole, atol=2e-4)
    whole, part = (norm_of_the_whole(encoder.encoder, streamed(each)) for each in (clip, clip[16000 * 10 :]))
    assert (part.scale / whole.scale).min() > 2  # a quiet clip of its own would be made louder
    assert norm_of_the_whole(encoding(MICRO).encoder, streamed(clip)) is None


def test_threads_do_not_hear_one_another():
    """Each clip of a group-norm encoder has a norm of its own."""
    encoder = encoding(MICRO_GROUP)
    encoder.window_seconds = 8.0
    clips = [tone(16000), 0.1 * tone(16000 * 17, 300), 5 * tone(8000, 150) + 0.3]
    alone = [encoder.embed_layers([clip]) for clip in clips]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda number: encoder.embed_layers([clips[number % 3]]), range(60)))
    for number, vectors in enumerate(together):
        np.testing.assert_allclose(vectors, alone[number % 3], atol=1e-5)


def test_a_stream_equals_the_same_clip_in_memory_at_every_layer():
    encoder = encoding()
    encoder.window_seconds = 8.0
    layers = [0, 1, -1, "mean"]
    np.testing.assert_allclose(
        encoder.embed_layers([streamed(LONG)], layers=layers)[:, 0],
        encoder.embed_layers([LONG], layers=layers)[:, 0],
        atol=1e-5,
    )


def test_deep_frames_of_windows_are_near_those_of_the_whole_clip():
    encoder = encoding()
    whole = encoder.frames(LONG)[0]
    encoder.window_seconds = 8.0
    cut = encoder.frames(LONG)[0]
    cosine = (whole * cut).sum(-1) / np.linalg.norm(whole, axis=-1) / np.linalg.norm(cut, axis=-1)
    assert cut.shape == whole.shape
    assert cosine.min() > 0.99


def test_frames_of_many_are_those_of_each():
    encoder = encoding()
    clips = [tone(16000), tone(400, 300), tone(9000, 110)]
    for together, clip in zip(encoder.frames_layers(clips, layers=[0, -1]), clips, strict=True):
        np.testing.assert_allclose(together, encoder.frames(clip, layers=[0, -1]), atol=1e-5)


def test_a_mix_is_the_weighted_sum_of_all_layers(tmp_path):
    head = Classifier(micro_encoder(), ("calm", "glad"), ClassifierConfig())
    with torch.no_grad():
        head.mix.weights.copy_(torch.tensor([0.0, 1.0, 2.0]))
    save_head(tmp_path, head, extra={})
    mix = learned_mix(tmp_path)
    np.testing.assert_allclose(mix, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=1e-6)
    vectors = encoding(mix=mix).embed_layers([tone(16000)], layers=[0, 1, 2, "mix", "mean"])[:, 0]
    np.testing.assert_allclose(vectors[3], np.asarray(mix) @ vectors[:3], atol=1e-5)
    np.testing.assert_allclose(vectors[4], vectors[:3].mean(0), atol=1e-5)


def test_a_mix_that_was_not_learnt_is_refused(model_folder):
    assert learned_mix(model_folder) is None
    with pytest.raises(UserError, match="layer 'mix' is the mix of a fine-tuned head"):
        encoding().embed_layers([tone(16000)], layers=["mix"])


def test_a_compiled_encoder_sees_few_shapes_and_gives_the_same(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    compiled, plain = encoding(compiled=True), encoding()
    shapes = set()
    forward = compiled.encoder.forward
    monkeypatch.setattr(
        compiled.encoder, "forward", lambda x, *a, **k: shapes.add(tuple(x.shape)) or forward(x, *a, **k)
    )
    clips = [tone(length, 100 + length % 300) for length in (400, 9000, 15000, 16001, 23000, 40000, 41000)]
    np.testing.assert_allclose(compiled.embed_layers(clips), plain.embed_layers(clips), atol=1e-5)
    assert shapes == {(6, 48000)}
    compiled.batch_seconds = 3.0
    np.testing.assert_allclose(compiled.embed_layers(clips), plain.embed_layers(clips), atol=1e-5)
    assert shapes == {(6, 48000), (3, 16000), (2, 24000), (1, 48000)}
    assert all(width / 16000 in BUCKETS for _, width in shapes)
    with pytest.raises(UserError, match="int8 and compile do not go together"):
        encoding(dtype="int8", compiled=True)
    with pytest.raises(UserError, match="group-norm encoder cannot be compiled"):
        encoding(MICRO_GROUP, compiled=True)

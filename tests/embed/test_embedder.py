"""The Python API: what a clip gives does not depend on its company, its window or how it was handed in."""

import copy
import shutil

import numpy as np
import pytest
import soundfile
import torch

import speechssl
from speechssl.audio import AudioError, normalize
from speechssl.config import UserError
from speechssl.embed import embedder
from speechssl.embed.clips import to_waveform
from speechssl.embed.embedder import EmbeddingModel, frame_centres, load
from speechssl.inference import precision, windows
from speechssl.inference.pooling import POOLINGS
from speechssl.models.storage import model_hash, save_model
from speechssl.nn.conv import ConvFeatureEncoder
from tests.micro import MICRO, MICRO_GROUP, micro_encoder, tone

pytestmark = pytest.mark.usefixtures("two_threads_throughout")


@pytest.fixture(scope="module")
def model():
    return EmbeddingModel(micro_encoder(), device="cpu")


CLIPS = [tone(length, pitch) for length, pitch in ((16000, 220), (400, 300), (7777, 110), (48000, 440), (16001, 180))]


def test_vectors_are_those_of_the_plain_forward_pass(model):
    """Slow reference: one clip, no padding, the encoder called by hand."""
    for layer in range(3):
        for clip in CLIPS:
            with torch.no_grad():
                output = model.encoder(torch.from_numpy(normalize(clip))[None], all_layers=True)
            frames = output.hidden_states[layer][0].numpy()
            np.testing.assert_allclose(model.frames(clip, layer=layer), frames, atol=1e-5)
            np.testing.assert_allclose(model.embed(clip, layer=layer), frames.mean(0), atol=1e-5)
            both = np.concatenate([frames.mean(0), frames.std(0)])
            np.testing.assert_allclose(model.embed(clip, pooling="mean+std", layer=layer), both, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("layer", [0, 1, -1, "mean"])
def test_a_batch_of_one_equals_a_batch_of_many(model, pooling, layer):
    together = model.embed(CLIPS, pooling=pooling, layer=layer)
    alone = np.stack([model.embed(clip, pooling=pooling, layer=layer) for clip in CLIPS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    backwards = model.embed(CLIPS[::-1], pooling=pooling, layer=layer)
    np.testing.assert_allclose(backwards[::-1], alone, atol=1e-5)


def test_a_group_norm_encoder_is_not_changed_by_padding():
    model = EmbeddingModel(micro_encoder(MICRO_GROUP), device="cpu")
    clips = [*CLIPS, tone(16000, 333), tone(7777, 99)]
    together = model.embed(clips)
    np.testing.assert_allclose(together, np.stack([model.embed(clip) for clip in clips]), atol=1e-5)
    # They share batches: only their convolutions run alone.
    assert max(len(batch) for batch in model.encoding.batching.by_duration([len(clip) for clip in clips])) > 1


def test_batches_are_bounded_in_seconds_and_hold_every_clip_once(model):
    lengths = np.random.default_rng(0).integers(400, 4 * 16000, size=200).tolist()
    batches = list(model.encoding.batching.by_duration(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert max(lengths[index] for index in batch) * len(batch) <= model.encoding.batch_seconds * 16000
    assert len(batches) < 30  # 400 s in all, padded
    assert [len(batch) for batch in model.encoding.batching.by_duration([90 * 16000] * 3)] == [1, 1, 1]


def test_long_clips_go_through_windows_and_keep_every_frame(model, monkeypatch):
    """With all of its attention near by, a window gives what the whole clip does away from its cut edges."""
    clip = np.concatenate([tone(16000 * 5, 100 + 40 * part, seed=part) for part in range(6)])[: 16000 * 30 - 77]
    whole = model.frames(clip, layer=0)  # the input to the first block sees one positional convolution only
    vector = model.embed(clip, pooling="mean+std", layer=0)
    monkeypatch.setattr(model.encoding, "window_seconds", 8.0)
    windows = []
    encode = model.encoding.encode
    monkeypatch.setattr(
        model.encoding,
        "encode",
        lambda waves, layers, **kw: windows.extend(map(len, waves)) or encode(waves, layers, **kw),
    )
    np.testing.assert_allclose(model.frames(clip, layer=0), whole, atol=1e-4)
    assert len(windows) == 8  # 30 s in steps of 4 s
    assert max(windows) <= 8 * 16000 + 400
    np.testing.assert_allclose(model.embed(clip, pooling="mean+std", layer=0), vector, atol=1e-4)
    # Deeper layers attend as far as their window only: close, not equal, and as many frames.
    assert model.frames(clip).shape == (int(model.encoder.num_frames(torch.tensor(len(clip)))), 24)


def test_a_long_clip_does_not_change_its_neighbours(model, monkeypatch):
    monkeypatch.setattr(model.encoding, "window_seconds", 2.5)
    monkeypatch.setattr(windows, "CONTEXT_SECONDS", 0.5)
    clips = [CLIPS[0], tone(16000 * 4), CLIPS[2]]
    np.testing.assert_allclose(model.embed(clips), np.stack([model.embed(clip) for clip in clips]), atol=1e-5)


def test_many_clips_are_decoded_a_part_at_a_time(model, monkeypatch):
    monkeypatch.setattr(embedder, "DECODED_SECONDS", 1.5)
    np.testing.assert_allclose(model.embed(CLIPS), np.stack([model.embed(clip) for clip in CLIPS]), atol=1e-5)


def test_a_file_an_array_and_int16_are_the_same_clip(model, tmp_path):
    clip = (tone(16000) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", clip, 16000, subtype="PCM_16")
    as_float = clip.astype(np.float64) / 32768
    np.testing.assert_allclose(to_waveform(clip, name="clip"), as_float, atol=1e-7)  # models normalise the scale away
    vectors = model.embed([tmp_path / "a.wav", str(tmp_path / "a.wav"), clip, as_float, (clip, 16000)])
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], 5, axis=0), atol=1e-6)
    assert vectors.dtype == np.float32


def test_another_rate_is_resampled(model):
    half = tone(16000, 220)[::2]
    low = to_waveform((half, 8000), name="clip")
    assert len(low) == 16000
    assert model.embed((half, 8000)).shape == model.embed((half, 8000.0)).shape == (24,)
    two = model.embed(((half, 8000), tone(16000)))  # a tuple of two clips is no clip with its rate
    assert two.shape == (2, 24)


def test_shapes_of_one_and_many(model):
    assert model.embed(CLIPS[0]).shape == (24,)
    assert model.embed([CLIPS[0]]).shape == (1, 24)
    assert model.embed(CLIPS, pooling="mean+std").shape == (5, 48)
    assert model.embed([]).shape == (0, 24)
    assert model.frames(np.ones(400, dtype=np.float32) * tone(400)).shape == (1, 24)


def test_one_frame_has_deviation_zero(model):
    assert np.abs(model.embed(tone(400), pooling="mean+std")[24:]).max() == 0


def test_the_level_of_a_recording_does_not_matter(model):
    np.testing.assert_allclose(model.embed(CLIPS[0] * 0.1 + 0.05), model.embed(CLIPS[0]), atol=1e-3)


def test_dropout_is_off_and_nothing_is_trained(model):
    np.testing.assert_array_equal(model.embed(CLIPS[0]), model.embed(CLIPS[0]))
    assert not model.encoder.training
    assert not any(weight.requires_grad for weight in model.encoder.parameters())


def test_auto_is_settled_by_the_first_clips(monkeypatch):
    tried = []

    def choose(encoder, waveforms, **settings):
        tried.append(len(waveforms))
        return precision.Choice("bfloat16", 0.9999)

    monkeypatch.setattr(embedder, "choose", choose)
    model = EmbeddingModel(micro_encoder(), device="cpu", dtype="auto")
    model.encoding.batch_seconds = 30.0
    assert model.embed([]).shape == (0, 24)
    assert model.dtype == "auto"
    vectors = model.embed(CLIPS)
    assert (model.dtype, model.encoding.dtype, model.encoding.batch_seconds) == ("bfloat16", "bfloat16", 30.0)
    model.frames(CLIPS[0])
    assert tried == [5]
    half = EmbeddingModel(micro_encoder(), device="cpu", dtype="bfloat16")
    half.encoding.batch_seconds = 30.0
    np.testing.assert_array_equal(half.embed(CLIPS), vectors)
    monkeypatch.setattr(embedder, "choose", lambda *_, **__: precision.Choice("float32", 0.9))
    refused = EmbeddingModel(micro_encoder(), device="cpu", dtype="auto")
    refused.hidden_states(CLIPS[0])
    assert (refused.dtype, refused.encoding.dtype) == ("float32", "float32")


def test_int8_is_near():
    full = EmbeddingModel(micro_encoder(), device="cpu").embed(CLIPS)
    rough = EmbeddingModel(micro_encoder(), device="cpu", dtype="int8").embed(CLIPS)
    assert np.abs(rough - full).max() > 0
    assert precision.min_cosine(full, rough) > 0.99
    with pytest.raises((UserError, TypeError), match="dtype"):
        EmbeddingModel(micro_encoder(), device="cpu", dtype="float8")


def test_bfloat16_is_close():
    half = EmbeddingModel(micro_encoder(), device="cpu", dtype="bfloat16").embed(CLIPS[0])
    full = EmbeddingModel(micro_encoder(), device="cpu").embed(CLIPS[0])
    assert 0 < np.abs(half - full).max() < 0.1


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (np.zeros((2, 16000), dtype=np.float32), r"clip 1: need mono .* got shape \(2, 16000\)"),
        (np.zeros(16000, dtype=np.int32), "clip 1: need samples of a floating type or int16, got int32"),
        (np.zeros(16000, dtype=np.float32), "clip 1: all silence"),
        (tone(399), "clip 1: too short: 399 samples"),
        (np.append(tone(800), np.nan), "clip 1: 1 samples are NaN or infinite"),
        ((np.append(tone(800), np.inf), 8000), "clip 1: 1 samples are NaN or infinite"),
        ("nowhere/b.wav", r"nowhere/b\.wav: "),
        ((tone(8000), 0), "clip 1: need a rate of 4000 to 192000 Hz, a whole number, got 0"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(model, clip, reason):
    with pytest.raises(AudioError, match=reason):
        model.embed([CLIPS[0], clip])


@pytest.mark.parametrize("layer", [3, -4, "last"])
def test_an_unknown_layer_is_refused(model, layer):
    with pytest.raises((UserError, TypeError), match=r"layer"):
        model.embed(CLIPS[0], layer=layer)


def test_settings_that_do_not_exist_are_refused(model, model_folder, tmp_path):
    with pytest.raises(UserError, match="unknown device 'abacus'"):
        load(model_folder, device="abacus")
    with pytest.raises(UserError, match="no model in it"):
        load(tmp_path)


def test_the_public_name_loads_a_folder(model_folder, model):
    loaded = speechssl.load(model_folder, device="cpu")
    np.testing.assert_allclose(loaded.embed(CLIPS[0]), model.embed(CLIPS[0]), atol=1e-6)


def test_hidden_states_are_the_encoders(model):
    with torch.no_grad():
        output = model.encoder(torch.from_numpy(normalize(CLIPS[0]))[None], all_layers=True)
    states = model.hidden_states(CLIPS[0])
    assert len(states) == 3
    for state, expected in zip(states, output.hidden_states, strict=True):
        np.testing.assert_allclose(state, expected[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(states[-1], model.frames(CLIPS[0]))
    np.testing.assert_allclose(states[-1], output.frames[0].numpy(), atol=1e-5)


def test_frame_times_are_centres(model):
    """The samples that have a part in a latent frame lie around its time, with padding and without."""
    for config in (MICRO, MICRO_GROUP):
        conv = config.conv.model_copy(update={"norm": "layer", "bias": True})
        torch.manual_seed(0)
        features = ConvFeatureEncoder(conv).eval()
        waves = torch.randn(1, 3200, requires_grad=True)
        frame = 4
        features(waves)[0, frame].square().sum().backward()
        seen = waves.grad[0].nonzero()[:, 0]
        centre = (int(seen.min()) + int(seen.max()) + 1) / 2 / 16000
        assert abs(frame_centres(conv, 9)[frame] - centre) <= 0.5 / 16000 * (1 + (config is MICRO))
    assert len(model.frame_times(CLIPS[3])) == len(model.frames(CLIPS[3]))
    np.testing.assert_array_equal(model.frame_times(CLIPS[3]), model.frame_times(len(model.frames(CLIPS[3]))))
    assert model.frame_times(0).shape == (0,)
    with pytest.raises(UserError, match="at least 0, got -1"):
        model.frame_times(-1)


def test_tensors_files_and_generators_are_clips(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", CLIPS[0], 16000, subtype="FLOAT")
    expected = model.embed(CLIPS[0])
    tensor = torch.from_numpy(CLIPS[0])
    with (tmp_path / "a.wav").open("rb") as file:
        for clip in (tensor, (tensor, 16000), file):
            np.testing.assert_allclose(model.embed(clip), expected, atol=1e-6)
        vectors = model.embed(clip for clip in (tensor, file, tmp_path / "a.wav"))
        np.testing.assert_allclose(vectors, np.stack([expected] * 3), atol=1e-5)
        np.testing.assert_allclose(model.frames(file), model.frames(CLIPS[0]), atol=1e-5)
    names = np.array([str(tmp_path / "a.wav")] * 2)
    np.testing.assert_allclose(model.embed(names), np.stack([expected] * 2), atol=1e-5)


def test_a_generator_is_taken_a_portion_at_a_time(model, monkeypatch):
    monkeypatch.setattr(embedder, "DECODED_SECONDS", 2.5)
    events = []

    def clips():
        for number in range(6):
            events.append(number)
            yield CLIPS[0]

    whole = model.encoding.embed_layers
    monkeypatch.setattr(
        model.encoding, "embed_layers", lambda waves, **kw: events.append(f"of {len(waves)}") or whole(waves, **kw)
    )
    assert model.embed(clips()).shape == (6, 24)
    assert events == ["of 0", 0, 1, 2, "of 3", 3, 4, 5, "of 3"]


def test_settings_are_checked_before_anything_is_decoded(model):
    with pytest.raises(UserError, match="layer must be"):
        model.embed("nowhere.wav", layer=9)


def test_an_encoder_without_a_folder_has_no_hash(model, model_folder):
    assert load(str(model_folder), device="cpu").digest == model_hash(model_folder)
    with pytest.raises(UserError, match="no hash"):
        assert model.digest


def test_a_run_folder_is_loaded_too(model_folder, model, tmp_path):
    shutil.copytree(model_folder, tmp_path / "run" / "pretrain")
    np.testing.assert_allclose(load(tmp_path / "run", device="cpu").embed(CLIPS[0]), model.embed(CLIPS[0]), atol=1e-6)


def test_the_learned_mix_of_a_fine_tuned_model(model, tmp_path):
    weights = torch.tensor([0.5, -1.0, 2.0])
    save_model(tmp_path, micro_encoder(), tensors={"head.mix.weights": weights}, extra={"head": {}})
    states = load(tmp_path, device="cpu").hidden_states(CLIPS[0])
    expected = sum(weight * state for weight, state in zip(weights.softmax(0).tolist(), states, strict=True))
    mixed = load(tmp_path, device="cpu").frames(CLIPS[0], layer="mix")
    np.testing.assert_allclose(mixed, expected, atol=1e-5)
    with pytest.raises(UserError, match="'mix' is the mix of a fine-tuned head"):
        model.embed(CLIPS[0], layer="mix")


def test_a_model_can_be_copied(model):
    other = copy.deepcopy(model)
    assert other.encoder is not model.encoder
    np.testing.assert_array_equal(other.embed(CLIPS), model.embed(CLIPS))

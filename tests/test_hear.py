"""The HEAR API, by the rules of its official validator and of its text."""

import numpy as np
import pytest
import torch

from speechssl import hear, load
from speechssl.config import UserError
from speechssl.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings, load_model
from speechssl.models.encoder import EncoderConfig, SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.nn.conv import ConvConfig

from .toys import MICRO_ENCODER, changed, normalized_tones

GROUP = changed(
    MICRO_ENCODER, conv=ConvConfig(layers=((24, 160, 40), (32, 4, 4), (32, 2, 2)), norm="group"), normalize=False
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_model(path, SpeechEncoder(MICRO_ENCODER))
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder))


@pytest.fixture(scope="module")
def audio():
    """What the validator feeds: noise over the whole range; and what a benchmark may: tones, silence, one click."""
    sounds = torch.rand(6, 2 * 16000, generator=torch.Generator().manual_seed(1)) * 2 - 1
    sounds[1] = torch.from_numpy(normalized_tones(1, 2.0)[0]) / 8
    sounds[2] = 0
    sounds[3] = 0
    sounds[3, 777] = 1
    sounds[4] = sounds[0]
    return sounds


def test_the_model_says_what_the_benchmark_asks(model):
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate == 16000
    for size in (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size):
        assert type(size) is int
    for function in ("load_model", "get_scene_embeddings", "get_timestamp_embeddings"):
        assert callable(getattr(hear, function))


def test_scene_embeddings(model, audio):
    vectors = get_scene_embeddings(audio, model)
    assert isinstance(vectors, torch.Tensor)
    assert vectors.shape == (6, model.scene_embedding_size)
    assert vectors.dtype == torch.float32
    assert vectors.isfinite().all()


def test_timestamp_embeddings(model, audio):
    frames, times = get_timestamp_embeddings(audio, model)
    assert frames.shape == (6, 99, model.timestamp_embedding_size)
    assert (frames.dtype, times.dtype) == (torch.float32, torch.float32)
    assert frames.isfinite().all()
    assert times.shape == frames.shape[:2]
    assert (times == times[0]).all()
    steps = times[0].diff()
    assert (steps > 0).all()
    np.testing.assert_allclose(steps, 20.0, atol=1e-3)  # regular, and below the 50 ms that event detection asks for
    assert times.min() >= 0
    assert times.max() <= 2000
    assert times[0, 0] == 12.5


@pytest.mark.parametrize("config", [MICRO_ENCODER, GROUP])
def test_equal_sounds_are_equal_whatever_the_batch(audio, config):
    torch.manual_seed(0)
    model = HearModel(SpeechEncoder(EncoderConfig.model_validate(config)))
    vectors, (frames, _) = get_scene_embeddings(audio, model), get_timestamp_embeddings(audio, model)
    torch.testing.assert_close(vectors[4], vectors[0], atol=1e-5, rtol=0)
    assert (vectors[1] - vectors[0]).abs().max() > 1e-3
    for row in range(len(audio)):
        alone = audio[row : row + 1]
        torch.testing.assert_close(get_scene_embeddings(alone, model)[0], vectors[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(get_timestamp_embeddings(alone, model)[0][0], frames[row], atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.mean(dim=1), vectors, atol=1e-5, rtol=0)


def test_it_is_the_python_api(model, folder, audio):
    expected = load(folder, device="cpu")
    torch.testing.assert_close(
        get_scene_embeddings(audio[:2], model), torch.from_numpy(expected.embed(list(audio[:2]))), atol=1e-5, rtol=0
    )
    frames, times = get_timestamp_embeddings(audio[:1], model)
    np.testing.assert_allclose(frames[0], expected.frames(audio[0]), atol=1e-5)
    np.testing.assert_allclose(times[0] / 1000, expected.frame_times(audio[0]), atol=1e-6)


def test_layer_and_pooling(folder, audio):
    model = load_model(str(folder), layer=0, pooling="mean+std")
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (64, 32)
    assert get_scene_embeddings(audio, model).shape == (6, 64)
    frames, _ = get_timestamp_embeddings(audio, model)
    assert frames.shape == (6, 99, 32)
    torch.testing.assert_close(get_scene_embeddings(audio, model)[:, :32], frames.mean(dim=1), atol=1e-5, rtol=0)
    for wrong in ({"layer": 9}, {"layer": "mean", "pooling": "max"}):
        with pytest.raises((UserError, TypeError), match=r"layer|pooling"):
            load_model(str(folder), **wrong)


def test_long_sounds_and_none(model):
    frames, times = get_timestamp_embeddings(torch.rand(1, 65 * 16000) - 0.5, model)
    assert frames.shape[1] == times.shape[1] == 65 * 50 - 1
    frames, times = get_timestamp_embeddings(torch.zeros(0, 16000), model)
    assert (frames.shape, times.shape) == ((0, 0, 32), (0, 0))
    assert get_scene_embeddings(torch.zeros(0, 16000), model).shape == (0, 32)


def test_types_that_are_taken(model, audio):
    expected = get_scene_embeddings(audio[:1], model)
    torch.testing.assert_close(get_scene_embeddings(audio[:1].double().requires_grad_(), model), expected)
    assert get_scene_embeddings(audio[:1].half(), model).dtype == torch.float32


@pytest.mark.parametrize(
    ("sounds", "reason"),
    [
        (torch.zeros(16000), r"shape \(sounds, samples\), got torch.float32 of \(16000,\)"),
        (torch.zeros(1, 16000, dtype=torch.int16), "need floating point samples"),
        (torch.zeros(1, 399), "399 samples at 16 kHz, one frame of the model needs 400"),
        (torch.full((1, 800), float("nan")), "800 samples are NaN"),
    ],
)
def test_what_has_no_frame_is_refused(model, sounds, reason):
    for function in (get_scene_embeddings, get_timestamp_embeddings):
        with pytest.raises(UserError, match=reason):
            function(sounds, model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(folder, audio):
    model = load_model(str(folder))
    expected = get_scene_embeddings(audio, model)
    vectors = get_scene_embeddings(audio.cuda(), model.to("cuda"))
    assert vectors.is_cuda
    torch.testing.assert_close(vectors.cpu(), expected, atol=1e-4, rtol=0)
    assert all(found.is_cuda for found in get_timestamp_embeddings(audio.cuda(), model))

"""Wrappers for X-ARES and MTEB: what the suites ask, results that do not depend on padding, a synthetic task.

Neither suite is installed for the tests (they need datasets, transformers and more): `asked_by_xares` and the calls of
`encode` repeat the signatures of xares 0.1.3 and mteb 2.26.24. Where a suite is installed, its own check runs, too.
"""

import inspect

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from speechssl import load
from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.mteb import MtebModel
from speechssl.xares import XaresModel

from .toys import MICRO_ENCODER

TASK = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("suites") / "mine"
    torch.manual_seed(0)
    save_model(path, SpeechEncoder(MICRO_ENCODER))
    return str(path)


@pytest.fixture(scope="module")
def sounds():
    """Tones of two pitches under noise, of different lengths, with their pitch."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(40):
        length = int(rng.integers(3000, 12000))
        tone = np.sin(2 * np.pi * (150, 900)[number % 2] * np.arange(length) / 16000 + rng.uniform(0, 6))
        made.append((0.1 * tone + 0.02 * rng.normal(size=length)).astype(np.float32))
    return made, np.arange(40) % 2


def padded(waveforms, extra=0):
    """A batch as X-ARES makes it: zeros after each sound, no lengths."""
    batch = torch.zeros(len(waveforms), max(map(len, waveforms)) + extra)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return batch


@pytest.fixture(scope="module")
def made(folder):
    class MineEncoder(XaresModel):
        def __init__(self):
            super().__init__(folder)

    return MineEncoder()


def asked_by_xares(encoder):
    """The conditions of `xares.audio_encoder_checker.check_audio_encoder`."""
    assert type(encoder).__name__.endswith("Encoder")
    assert isinstance(encoder, torch.nn.Module)
    assert all(hasattr(encoder, name) for name in ("output_dim", "sampling_rate", "hop_size_in_ms"))
    encoded = encoder(torch.randn(2, 50000, generator=torch.Generator().manual_seed(0)))
    assert isinstance(encoded, torch.Tensor)
    assert encoded.ndim == 3
    assert (encoded.size(0), encoded.size(2)) == (2, encoder.output_dim)


def test_x_ares_accepts_it(made):
    asked_by_xares(made)
    assert (made.sampling_rate, made.output_dim, made.hop_size_in_ms) == (16000, 32, 20.0)
    assert made(torch.zeros(16000)).shape == (1, 49, 32)
    assert made(torch.randn(1, 65 * 16000)).shape == (1, 65 * 50 - 1, 32)


def test_x_ares_own_check(made):
    checker = pytest.importorskip("xares.audio_encoder_checker")
    assert checker.check_audio_encoder(made)


def test_the_file_of_the_runner_has_one_name_that_ends_in_encoder():
    """`xares.utils.attr_from_py_path` refuses a module with two; what a user imports must not be one."""
    assert not XaresModel.__name__.endswith("Encoder")


def test_padding_changes_neither_frames_nor_their_mean(made, folder, sounds):
    waveforms, _ = sounds
    batch, model = made(padded(waveforms[:6], extra=4000)), load(folder, device="cpu")
    assert batch.shape[1] > len(model.frames(waveforms[0])) + 10
    for row, waveform in zip(batch, waveforms, strict=False):
        alone = model.frames(waveform)
        np.testing.assert_allclose(row[: len(alone)], alone, atol=1e-5)
        np.testing.assert_allclose(row.mean(dim=0), alone.mean(axis=0), atol=1e-5)
        torch.testing.assert_close(made(torch.from_numpy(waveform))[0], torch.from_numpy(alone), atol=1e-5, rtol=0)
    silent = made(torch.zeros(2, 4000))
    assert silent.isfinite().all()


def test_a_synthetic_task_by_x_ares(made, sounds):
    """Mean over frames of padded batches into a linear classifier, as its linear evaluation."""
    waveforms, pitch = sounds
    vectors = torch.cat([made(padded(waveforms[i : i + 8])).mean(dim=1) for i in range(0, 40, 8)]).numpy()
    assert LogisticRegression(max_iter=1000).fit(vectors[:20], pitch[:20]).score(vectors[20:], pitch[20:]) == 1.0


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (torch.zeros(2, 399), "399 samples at 16 kHz"),
        (torch.zeros(0, 16000), "no sound in it"),
        (torch.zeros(1, 2, 16000), r"shape \(sounds, samples\)"),
        (torch.full((1, 800), float("nan")), "800 samples are NaN"),
    ],
)
def test_what_x_ares_cannot_ask(made, audio, said):
    with pytest.raises(UserError, match=said):
        made(audio)


def batches(waveforms, size, rate=16000):
    """What a DataLoader of MTEB gives: dictionaries of lists."""
    items = [{"array": waveform, "sampling_rate": rate} for waveform in waveforms]
    return [{"audio": items[i : i + size]} for i in range(0, len(items), size)]


def test_mteb_vectors_are_those_of_the_api_whatever_the_batch(folder, sounds):
    waveforms, _ = sounds
    model = MtebModel(folder, device="cpu")
    expected = load(folder, device="cpu").embed(waveforms)
    for size in (1, 7, 40):
        np.testing.assert_allclose(model.encode(batches(waveforms, size), **TASK), expected, atol=1e-5)
    assert model.encode([], **TASK).shape == (0, model.dim)


def test_a_synthetic_task_by_mteb(folder, sounds):
    waveforms, pitch = sounds
    vectors = MtebModel(folder, device="cpu", pooling="mean+std").encode(batches(waveforms, 8), **TASK)
    assert vectors.shape == (40, 64)
    assert LogisticRegression(max_iter=1000).fit(vectors[:20], pitch[:20]).score(vectors[20:], pitch[20:]) == 1.0


def test_mteb_similarities(folder):
    model = MtebModel(folder, device="cpu")
    one, other = np.array([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, 2.0]])
    torch.testing.assert_close(model.similarity(one, other), torch.tensor([[1.0, 0.8], [0.6, 0.0]]))
    torch.testing.assert_close(model.similarity_pairwise(one, other), torch.tensor([1.0, 0.0]))


def test_mteb_sounds_of_other_forms(folder, sounds):
    model, waveform = MtebModel(folder, device="cpu"), sounds[0][0]
    both = model.encode(batches([waveform, np.stack([waveform, waveform])], 2), **TASK)
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    assert np.isfinite(model.encode(batches([np.zeros(10), waveform[::2]], 2, rate=8000), **TASK)).all()
    for wrong, said in (
        ([{"text": ["a"]}], "needs audio, the batch has text"),
        (batches([waveform], 1, rate=0), "a sampling rate of 0 Hz"),
        (batches([np.full(800, np.nan)], 1), "800 samples are NaN"),
    ):
        with pytest.raises(UserError, match=said):
            model.encode(wrong, **TASK)
    with pytest.raises(UserError, match="layer"):
        MtebModel(folder, device="cpu", layer=9)


def test_the_signature_of_mteb(folder):
    """Copied from `mteb.models.models_protocols.EncoderProtocol`."""
    assert list(inspect.signature(MtebModel.encode).parameters)[:6] == [
        "self", "inputs", "task_metadata", "hf_split", "hf_subset", "prompt_type"]  # fmt: skip
    try:
        import mteb.models  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        with pytest.raises(UserError, match=r'mteb is not installed; pip install "mteb\[audio\]"'):
            _ = MtebModel(folder, device="cpu").mteb_model_meta
        return
    model = MtebModel(folder, device="cpu")
    assert isinstance(model, mteb.models.EncoderProtocol)
    assert (model.mteb_model_meta.name, model.mteb_model_meta.embed_dim) == ("speechssl/mine", 32)

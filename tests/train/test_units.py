"""Units: clusters of the frames of corpora, made once, the same for the same data."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from speechssl.config import UserError
from speechssl.data.batch import FrameGrid
from speechssl.data.units import UnitsConfig
from speechssl.data.waveforms import WaveformStore
from speechssl.distributed import Process
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.train import units
from speechssl.train.pretrain import pretrain
from speechssl.train.units import labels_of, units_name
from tests.toys import MICRO_ENCODER, RATE, changed, micro_run, toy_corpus

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))
FEW = UnitsConfig(classes=6, frames=400)


@pytest.fixture
def stores(tmp_path: Path) -> list[WaveformStore]:
    folders = [toy_corpus(tmp_path / name, utterances=count) for name, count in (("a", 6), ("b", 5))]
    return [WaveformStore(folder) for folder in folders]


def test_every_frame_has_the_nearest_cluster_of_all_corpora(
    stores: list[WaveformStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K-means is fitted once, and assignments are those of its centres."""
    fitted: list[np.ndarray] = []
    assigned = units._assigned

    def watched(predict, frames):
        fitted.append(predict.__self__.cluster_centers_)
        return assigned(predict, frames)

    monkeypatch.setattr(units, "_assigned", watched)
    found = labels_of(stores, FEW, seed=0, process=ALONE)
    centres = fitted[0]
    assert all(each is centres for each in fitted)
    used: set[int] = set()
    for store, labels in zip(stores, found, strict=True):
        assert labels.grid == FrameGrid(320, 400)
        for index in range(len(store)):
            waveform = store.waveform(index)
            frames = mfcc_by_librosa(waveform)
            distances = ((frames[:, None] - centres[None]) ** 2).sum(-1)
            near = np.take_along_axis(distances, labels.of(index)[:, None].astype(int), axis=1)[:, 0]
            assert len(labels.of(index)) == labels.grid.count(len(waveform))
            np.testing.assert_array_less(near, distances.min(axis=1) + 0.05)  # up to rounding of the features
            used |= set(labels.of(index).tolist())
    assert len(used) > 3


def mfcc_by_librosa(waveform: np.ndarray) -> np.ndarray:
    """13 MFCC with two orders of differences at the frames of the encoder, normalised within the utterance."""
    frames = (len(waveform) - 400) // 320 + 1
    padded = np.pad(waveform, (56, 512))
    mel = librosa.feature.melspectrogram(
        y=padded, sr=RATE, n_fft=512, hop_length=320, win_length=400, n_mels=80, center=False
    )[:, :frames]
    static = librosa.feature.mfcc(S=librosa.power_to_db(mel, top_db=None), n_mfcc=13)
    orders = [librosa.feature.delta(static, order=order, mode="nearest") for order in (1, 2)]
    stacked = np.concatenate([static, *orders]).T
    return (stacked - stacked.mean(axis=0)) / (stacked.std(axis=0) + 1e-5)


def test_units_are_made_once(stores: list[WaveformStore], capsys: pytest.CaptureFixture[str]) -> None:
    first = labels_of(stores, FEW, seed=0, process=ALONE)
    files = sorted(path for store in stores for path in (store.folder / "units").iterdir())
    times = [path.stat().st_mtime_ns for path in files]
    again = labels_of(stores, FEW, seed=0, process=ALONE)
    assert [path.stat().st_mtime_ns for path in files] == times
    assert all(np.array_equal(a.of(0), b.of(0)) for a, b in zip(first, again, strict=True))
    assert capsys.readouterr().err.count("6 clusters of mfcc") <= 1
    for path in files:
        path.unlink()
    anew = labels_of(stores, FEW, seed=0, process=ALONE)  # the same data, the same clusters
    assert all(np.array_equal(a.of(i), b.of(i)) for a, b in zip(first, anew, strict=True) for i in range(5))


def test_names_tell_data_settings_and_models_apart(stores: list[WaveformStore], tmp_path: Path) -> None:
    model, other = tmp_path / "one" / "model", tmp_path / "two" / "model"
    for seed, folder in enumerate((model, other)):
        folder.mkdir(parents=True)
        torch.manual_seed(seed)
        save_model(folder, SpeechEncoder(MICRO_ENCODER))
    configs = [FEW, UnitsConfig(classes=7), UnitsConfig(source=str(model)), UnitsConfig(source=str(other))]
    names = [units_name(stores, config, seed=0) for config in configs]
    names += [units_name(stores[:1], FEW, seed=0), units_name(stores, FEW, seed=1)]
    assert len(set(names)) == len(names)
    assert [name.rpartition("-")[0] for name in names[:4]] == ["mfcc-6", "mfcc-7", "model-100", "model-100"]


def test_units_of_a_hidden_layer(stores: list[WaveformStore], tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", SpeechEncoder(MICRO_ENCODER))
    config = UnitsConfig(source=str(tmp_path / "model"), layer=1, classes=5, frames=300)
    (found, _) = labels_of(stores, config, seed=0, process=ALONE)
    conv = MICRO_ENCODER.conv
    assert found.grid == FrameGrid(conv.hop, conv.receptive_field, conv.padding)
    assert len(found.of(0)) == found.grid.count(int(stores[0].lengths[0]))
    with pytest.raises(UserError, match=r"objective\.units\.layer=3: .*model has hidden states from 0 to 2"):
        labels_of(stores, config.model_copy(update={"layer": 3}), seed=0, process=ALONE)


def test_a_run_with_other_labels_is_not_resumed(stores: list[WaveformStore], tmp_path: Path) -> None:
    """Clusters that were made anew have other numbers."""
    config = changed(micro_run("hubert"), loop__steps=4, loop__checkpoint_every=2, objective__units=FEW)
    folder = stores[0].folder
    pretrain([folder], tmp_path / "run", config=config)
    (labels,) = (folder / "units").glob("*.npy")
    old = labels.read_bytes()
    np.save(labels, np.roll(np.load(labels), 1))
    with pytest.raises(UserError, match=r"labels\.json: the labels of frames \(units\) are others"):
        pretrain([folder], tmp_path / "run", config=config)
    labels.write_bytes(old)
    assert pretrain([folder], tmp_path / "run", config=config).finished


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="mfcc has no layers"):
        UnitsConfig(layer=2)
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        UnitsConfig(classes=1)


def test_too_few_frames(stores: list[WaveformStore]) -> None:
    with pytest.raises(UserError, match=r"frames are too few for 5000 units; lower objective\.units\.classes"):
        labels_of(stores, UnitsConfig(classes=5000), seed=0, process=ALONE)


def test_an_utterance_shorter_than_a_frame_has_one_frame() -> None:
    short, long = np.ones(100, dtype=np.float32), np.ones(16000, dtype=np.float32)
    assert [frames.shape for frames in units._mfcc([short, long])] == [(1, 39), (49, 39)]

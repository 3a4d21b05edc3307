"""`Embedder(features=...)`: prosody and MFCC beside the encoder's vectors, cached, named, and refused where unclear."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from speechssl.audio import AudioError
from speechssl.config import UserError
from speechssl.embed import fixed
from speechssl.embed.estimator import ClipWarning, Embedder
from speechssl.metrics.baselines import MFCC_DIM, mfcc_statistics
from speechssl.nn.functionals import PROSODY_DIM, prosody_functionals

from ..toys import tones


def clips(count=4):
    return [tones(0.5, speaker=n % 2, seed=n) for n in range(count)]


@pytest.fixture(autouse=True)
def empty_memory():
    from speechssl.embed.cached import memory_cache

    memory_cache.cache_clear()


@pytest.mark.slow
def test_parts_stand_side_by_side_in_the_order_asked_for(model_folder):
    alone = Embedder(model_folder, device="cpu").fit_transform(clips())
    both = Embedder(model_folder, features="mfcc+encoder+prosody", device="cpu")
    found = both.fit_transform(clips())
    names = both.get_feature_names_out()
    assert found.shape == (4, MFCC_DIM + alone.shape[1] + PROSODY_DIM) == (4, len(names))
    assert (found[:, MFCC_DIM:-PROSODY_DIM] == alone).all()
    for row, clip in zip(found, clips(), strict=True):
        assert (row[:MFCC_DIM] == mfcc_statistics(clip)).all()
        assert (row[-PROSODY_DIM:] == prosody_functionals(clip)).all()
    assert (names[0], names[MFCC_DIM], names[-1]) == ("mfcc c0 mean", "mean0", "prosody share voiced")


def test_prosody_needs_no_model_and_hears_the_level():
    embedder = Embedder(features="prosody").fit(clips())
    assert (embedder.model_hash_, embedder.dim_) == ("", 0)
    quiet, loud = embedder.transform([0.1 * clips(1)[0], clips(1)[0]])
    energy = list(embedder.get_feature_names_out()).index("prosody energy p50")
    assert loud[energy] - quiet[energy] == pytest.approx(20, abs=0.05)


def test_one_line_with_lda_learns_the_voice(model_folder):
    speakers = [n % 2 for n in range(12)]
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    pipeline = make_pipeline(Embedder(model_folder, features="encoder+prosody", device="cpu"), StandardScaler(), lda)
    assert clone(pipeline).fit(clips(12), speakers).score(clips(20)[12:], speakers[:8]) == 1


def test_features_are_computed_once_and_kept_on_disk(tmp_path, monkeypatch):
    first = Embedder(features="prosody", cache=tmp_path).fit_transform(clips())
    monkeypatch.setitem(fixed._COMPUTE, "prosody", None)  # would fail if called
    again = Embedder(features="prosody").fit_transform(clips())
    empty_disk = Embedder(features="prosody", cache=tmp_path, memory_bytes=0)
    assert (again == first).all()
    assert (empty_disk.fit_transform(clips()) == first).all()


def test_prosody_and_mfcc_of_one_clip_are_two_entries():
    clip = clips(1)
    assert Embedder(features="prosody").fit_transform(clip).shape == (1, PROSODY_DIM)
    assert Embedder(features="mfcc").fit_transform(clip).shape == (1, MFCC_DIM)
    assert Embedder(features="prosody").fit_transform(clip).shape == (1, PROSODY_DIM)


def test_a_clip_that_cannot_be_used_is_one_row_of_nan(model_folder, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"nothing")
    embedder = Embedder(model_folder, features="encoder+prosody", on_error="nan", device="cpu").fit(clips())
    with pytest.warns(ClipWarning, match=r"1 of 3 clips cannot be used"):
        found = embedder.transform([clips()[0], str(bad), clips()[1]])
    assert np.isnan(found).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(found[[0, 2]]).all()
    with pytest.raises(AudioError, match=r"bad\.wav"):
        Embedder(features="prosody").fit(clips()).transform([str(bad)])


@pytest.mark.parametrize("features", ["pitch", "", "encoder+encoder", "prosody,mfcc"])
def test_unknown_features_are_refused(features):
    with pytest.raises(UserError, match="features must be of encoder, prosody, mfcc, each at most once"):
        Embedder(features=features).fit(clips())


@pytest.mark.parametrize("setting", [{"layer": 2}, {"pooling": "mean+std"}, {"model": "somewhere"}])
def test_a_setting_without_effect_is_refused(setting):
    with pytest.raises(UserError, match=f"features='prosody' use no encoder, but {next(iter(setting))}="):
        Embedder(**setting, features="prosody").fit(clips())

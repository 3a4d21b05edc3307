"""The scikit-learn transformer: its estimator checks, its place in pipelines and searches, and what it keeps."""

import contextlib
import io
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import soundfile
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import speechssl
from speechssl.audio import AudioError
from speechssl.config import UserError
from speechssl.embed import cached
from speechssl.embed import estimator as module
from speechssl.embed.embedder import load
from speechssl.embed.estimator import ClipWarning, Embedder
from speechssl.embed.rows import rows_of
from speechssl.inference.engine import Encoding
from speechssl.inference.precision import Choice
from speechssl.models.storage import save_model
from tests.micro import micro_encoder, tone


@contextlib.contextmanager
def untyped():
    """As for users, whose argument types nobody checks."""
    jaxtyping.config.update("jaxtyping_disable", "true")
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", "false")


class Sounding(Embedder):
    """Rows of a few numbers as sounds, a partial each: what scikit-learn's own data are not."""

    def _rows(self, clips):
        rows = super()._rows(clips)
        time = np.arange(480) / 16000
        if not all(isinstance(row, np.ndarray) and np.isfinite(row).all() for row in rows):
            return rows
        return [tone(480) + sum(0.01 * x * np.sin(700 * (n + 1) * time) for n, x in enumerate(row)) for row in rows]


@pytest.fixture(autouse=True)
def _nothing_kept():
    cached.memory_cache().clear()
    module._opened.cache_clear()


# parametrize_with_checks wants an estimator when the file is read, and a model only exists later: it has a fixed name.
class _Here(Sounding):
    folder = ""

    def _open(self):
        return module._opened(self.folder, self.device, self.dtype, self.batch_seconds, ())


@pytest.fixture(scope="module", autouse=True)
def _model_for_checks(model_folder):
    _Here.folder = str(model_folder)


ANY_LENGTH = "rows are waveforms, which may be longer or shorter than those that fit saw: no number of features"
EXPECTED = {
    "check_n_features_in": ANY_LENGTH,
    "check_n_features_in_after_fitting": ANY_LENGTH,
    "check_transformer_general": ANY_LENGTH,  # the last of what it asks; the rest is asked below
}


@parametrize_with_checks([_Here("toy", device="cpu")], expected_failed_checks=lambda _: EXPECTED, xfail_strict=True)
def test_scikit_learns_checks_on_rows_made_sound(estimator, check):
    """Everything that scikit-learn asks of a transformer, with each of its rows of numbers turned into a sound."""
    with untyped():  # some checks hand in settings of a wrong type
        check(estimator)


@pytest.fixture
def embedder(model_folder):
    return Embedder(model_folder, device="cpu")


CLIPS = [tone(length, pitch) for length, pitch in ((8000, 220), (400, 300), (7777, 110), (12000, 440))]


@pytest.fixture
def paths(tmp_path):
    for number, clip in enumerate(CLIPS):
        soundfile.write(tmp_path / f"{number}.wav", clip, 16000, subtype="FLOAT")
    return [str(tmp_path / f"{number}.wav") for number in range(len(CLIPS))]


@pytest.fixture
def encoded(monkeypatch):
    """How many clips went through the encoder."""
    counts = []
    whole = Encoding.embed_layers

    def embed_layers(self, waveforms, **settings):
        counts.append(len(waveforms))
        return whole(self, waveforms, **settings)

    monkeypatch.setattr(Encoding, "embed_layers", embed_layers)
    return lambda: sum(counts)


@pytest.mark.parametrize("layer", [0, -1, "mean"])
@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
@pytest.mark.parametrize("memory_bytes", [0, 10**6])
def test_it_gives_what_the_python_api_gives(model_folder, layer, pooling, memory_bytes):
    found = Embedder(model_folder, layer=layer, pooling=pooling, device="cpu", memory_bytes=memory_bytes)
    expected = load(model_folder, device="cpu").embed(CLIPS, pooling=pooling, layer=layer)
    for _ in range(2):
        np.testing.assert_allclose(found.fit_transform(CLIPS), expected, atol=1e-5)
    assert found.transform(CLIPS).dtype == np.float32
    assert len(found.get_feature_names_out()) == expected.shape[1]


def test_every_form_of_x_is_the_same_clips(embedder, paths):
    expected = embedder.fit_transform(CLIPS)
    table = pd.DataFrame({"path": paths})
    forms = [paths, tuple(paths), np.array(paths), np.array(paths, dtype=object)[:, None], table, table["path"]]
    forms += [[(clip, 16000) for clip in CLIPS], [torch.from_numpy(clip) for clip in CLIPS], iter(CLIPS)]
    forms += [pd.Series(CLIPS), [io.BytesIO(Path(path).read_bytes()) for path in paths]]
    for form in forms:
        np.testing.assert_allclose(embedder.transform(form), expected, atol=1e-5)


def test_rows_of_numbers_are_waveforms(embedder):
    matrix = np.stack([tone(4000, 200), tone(4000, 300)])
    expected = embedder.fit_transform(list(matrix))
    for form in (matrix, torch.from_numpy(matrix), pd.DataFrame(matrix), matrix.astype(np.float64), matrix.tolist()):
        np.testing.assert_allclose(embedder.transform(form), expected, atol=1e-5)
    for lists in ([[0.1, 0.2], [0.1]], [[CLIPS[0], 16000]]):
        with pytest.raises(
            AudioError, match=r"clip 0: (a list of numbers; make|got an object of type list; a clip is)"
        ):
            embedder.transform(lists)
    with pytest.raises(AudioError, match="clip 0: too short: 3 samples"):
        embedder.transform(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("a.wav", "X: one clip; give a list of clips"),
        ((CLIPS[0], 16000), "X: one clip; give a list of clips"),
        (CLIPS[0], r"X: numbers of shape \(8000,\); need one waveform per row"),
        (np.zeros((2, 2, 2)), r"X: numbers of shape \(2, 2, 2\)"),
        (np.zeros((2, 2), dtype=complex), "Complex data not supported"),
        (pd.DataFrame({"path": ["a.wav"], "label": ["x"]}), "X: 2 columns that are no samples; choose the one"),
        (scipy.sparse.eye(3).tocsr(), "X: a sparse matrix"),
        ([], r"X holds no clip \(0 samples\)"),
        (5, "clips: got an object of type int"),
    ],
)
def test_what_holds_no_clips_is_refused_by_fit(embedder, rows, reason):
    with pytest.raises(UserError, match=reason):
        embedder.fit(rows)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"layer": 9}, "layer must be"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"on_error": "skip"}, "on_error must be 'raise' or 'nan', got 'skip'"),
        ({"batch_seconds": 0.0}, "batch_seconds must be above 0"),
        ({"memory_bytes": -1}, "memory_bytes must be at least 0"),
        ({"cache": "x", "cache_bytes": 0}, "must be above 0 bytes"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_settings_are_looked_at_by_fit(embedder, settings, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedder.set_params(**settings)
    with untyped(), pytest.raises(UserError, match=reason):
        embedder.fit(CLIPS)


def test_without_fit_nothing_is_known(embedder):
    with pytest.raises(NotFittedError):
        embedder.transform(CLIPS)


def test_a_clip_that_cannot_be_used_is_an_error_or_a_row_of_nan(embedder, paths, tmp_path):
    bad = [paths[0], str(tmp_path / "none.wav"), np.zeros(8000, dtype=np.float32), CLIPS[1]]
    embedder.fit(bad)
    with pytest.raises(AudioError, match=r"none\.wav: no such file"):
        embedder.transform(bad)
    embedder.set_params(on_error="nan")
    with pytest.warns(
        ClipWarning, match=r"^2 of 4 clips cannot be used, their rows are NaN; the first: .*none\.wav: no"
    ):
        vectors = embedder.transform(bad)
    np.testing.assert_array_equal(np.isnan(vectors).all(axis=1), [False, True, True, False])
    assert np.isfinite(vectors[[0, 3]]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embedder.transform(CLIPS)


def test_pandas_output_keeps_the_index(embedder, paths):
    series = pd.Series(paths, index=[3, 1, 4, 2])
    table = embedder.set_params(pooling="mean+std").set_output(transform="pandas").fit_transform(series)
    assert list(table.index) == [3, 1, 4, 2]
    assert list(table.columns[[0, 23, 24, 47]]) == ["mean0", "mean23", "std0", "std23"]


def test_in_a_column_transformer(embedder, paths):
    table = pd.DataFrame({"path": paths, "age": [1, 2, 3, 4]})
    both = ColumnTransformer([("voice", embedder, "path"), ("rest", "passthrough", ["age"])])
    assert both.fit_transform(table).shape == (4, 25)
    one = ColumnTransformer([("voice", embedder, ["path"])])
    np.testing.assert_array_equal(one.fit_transform(table), both.transform(table)[:, :24])
    assert one.get_feature_names_out()[0] == "voice__mean0"


def test_tables_of_arrow_and_datasets(embedder, paths):
    pa = pytest.importorskip("pyarrow")
    expected = embedder.fit_transform(paths)
    table = pa.table({"path": paths, "age": [1, 2, 3, 4]})
    column = table["path"]
    records = pa.table({"audio": [{"bytes": None, "path": path} for path in paths]})
    for given in (table.select(["path"]), column, column.combine_chunks(), records, records["audio"]):
        np.testing.assert_array_equal(embedder.fit_transform(given), expected)
    np.testing.assert_array_equal(embedder.fit_transform(table.select(["path"]).to_batches()[0]), expected)
    samples = pa.table({"samples": [clip.tolist() for clip in CLIPS]})
    np.testing.assert_allclose(embedder.fit_transform(samples), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"^X: a Table of 2 columns \(path, age\); give the one of clips$"):
        embedder.fit(table)

    class Dataset:
        column_names = ("audio", "label")

        def __getitem__(self, key):
            return [{"array": clip, "sampling_rate": 16000} for clip in CLIPS]

    np.testing.assert_allclose(embedder.fit_transform(Dataset()["audio"]), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"^X: a Dataset of 2 columns \(audio, label\); give the one of clips$"):
        embedder.fit(Dataset())


def test_a_search_over_layers_encodes_every_clip_once(model_folder, encoded):
    clips = [tone(2000, 150 if number % 2 else 400, seed=number) for number in range(12)]
    labels = ["low" if number % 2 else "high" for number in range(12)]
    pipeline = make_pipeline(Embedder(model_folder, device="cpu"), LogisticRegression())
    search = GridSearchCV(pipeline, {"embedder__layer": [0, 1, -1, "mean"]}, cv=3).fit(clips, labels)
    assert encoded() == 12
    assert search.best_score_ > 0.9
    search.predict(clips)
    assert encoded() == 12


def test_memory_that_is_full_costs_time_only(model_folder, encoded):
    expected = load(model_folder, device="cpu").embed(CLIPS)
    small = Embedder(model_folder, device="cpu", memory_bytes=300)  # an entry has 384 bytes
    before = encoded()
    for _ in range(2):
        np.testing.assert_allclose(small.fit_transform(CLIPS), expected, atol=1e-5)
    assert encoded() - before == 8


def test_equal_clips_are_encoded_once(embedder, encoded):
    vectors = embedder.fit_transform([CLIPS[0], CLIPS[1], CLIPS[0], (CLIPS[0], 16000)])
    assert encoded() == 2
    np.testing.assert_array_equal(vectors[[2, 3]], vectors[[0, 0]])


def test_portions_bound_what_is_decoded(embedder, monkeypatch):
    expected = embedder.fit_transform(CLIPS)
    cached.memory_cache().clear()
    monkeypatch.setattr(module, "DECODED_SECONDS", 0.6)
    np.testing.assert_allclose(embedder.transform(CLIPS), expected, atol=1e-5)


def test_the_folder_outlives_the_process(model_folder, paths, encoded, tmp_path, monkeypatch):
    settings = {"device": "cpu", "cache": tmp_path / "cache"}
    first = Embedder(model_folder, **settings).fit_transform(paths)
    cached.memory_cache().clear()
    monkeypatch.setattr("speechssl.embed.cached.to_waveform", None)  # a hit decodes nothing
    np.testing.assert_array_equal(Embedder(model_folder, **settings).fit_transform(paths), first)
    Embedder(model_folder, layer="mean", **settings).fit_transform(paths)  # nor does another layer
    Embedder(model_folder, memory_bytes=0, **settings).fit_transform(paths)
    monkeypatch.undo()


def test_the_folder_knows_models_poolings_and_contents_apart(model_folder, paths, tmp_path):
    settings = {"device": "cpu", "cache": tmp_path / "cache", "memory_bytes": 0}
    first = Embedder(model_folder, **settings).fit_transform(paths)
    other = tmp_path / "other"
    encoder = micro_encoder()
    with torch.no_grad():
        encoder.projection.weight.mul_(1.5)
    save_model(other, encoder)
    assert np.abs(Embedder(other, **settings).fit_transform(paths) - first).max() > 1e-3
    assert Embedder(model_folder, pooling="mean+std", **settings).fit_transform(paths).shape == (4, 48)
    soundfile.write(paths[0], CLIPS[1], 16000, subtype="FLOAT")  # another recording under the name
    np.testing.assert_allclose(Embedder(model_folder, **settings).fit_transform(paths)[0], first[1], atol=1e-5)


@pytest.mark.slow
def test_a_pickle_carries_no_weights(embedder, model_folder):
    expected = embedder.fit_transform(CLIPS)
    content = pickle.dumps(embedder)
    assert len(content) < 2000
    code = (
        "import json, pickle, sys, numpy as np; e = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "t = np.sin(np.arange(4000) / 9); sys.stdout.write(json.dumps(e.transform([t]).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code, content.hex()], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), embedder.transform([np.sin(np.arange(4000) / 9)]), atol=1e-5)
    np.testing.assert_array_equal(pickle.loads(content).transform(CLIPS), expected)


def test_a_model_that_has_changed_is_loud(tmp_path):
    save_model(tmp_path / "m", micro_encoder())
    fitted = Embedder(tmp_path / "m", device="cpu").fit(CLIPS)
    content, before = pickle.dumps(fitted), fitted.transform(CLIPS)
    encoder = micro_encoder()
    with torch.no_grad():
        encoder.projection.weight.mul_(1.5)
    save_model(tmp_path / "m", encoder)
    with pytest.raises(UserError, match=r"m: the model has changed .* \(its hash was [0-9a-f]{16}, now .*; fit again"):
        pickle.loads(content).transform(CLIPS)
    np.testing.assert_array_equal(fitted.transform(CLIPS), before)  # this one still holds the old weights
    assert np.abs(clone(fitted).fit_transform(CLIPS) - before).max() > 1e-3  # a new fit reads the new ones


@pytest.mark.slow
def test_two_processes(model_folder, paths, tmp_path):
    """A search with n_jobs=2, whose workers share a folder."""
    pipeline = make_pipeline(Embedder(model_folder, device="cpu", cache=tmp_path / "cache"), LogisticRegression())
    search = GridSearchCV(pipeline, {"embedder__layer": [0, -1]}, cv=2, n_jobs=2)
    search.fit(paths * 2, ["a", "a", "b", "b"] * 2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(list((tmp_path / "cache").rglob("*.vectors"))) == 4


def test_batches_may_be_bounded(model_folder):
    fitted = Embedder(model_folder, device="cpu", batch_seconds=1.0).fit(CLIPS)
    assert fitted._model.encoding.batch_seconds == 1.0


def test_fit_transform_is_fit_then_transform(model_folder):
    apart = Embedder(model_folder, device="cpu").fit(CLIPS, [0, 1, 0, 1])
    together = Embedder(model_folder, device="cpu").fit_transform(CLIPS, y=[0, 1, 0, 1])
    np.testing.assert_array_equal(apart.transform(CLIPS), together)


def test_auto_is_settled_before_anything_is_looked_up(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("speechssl.embed.embedder.choose", lambda *_, **__: Choice("bfloat16", 0.9999))
    settings = {"device": "cpu", "cache": tmp_path / "cache", "memory_bytes": 0}
    exact = Embedder(model_folder, **settings).fit_transform(CLIPS)
    rough = Embedder(model_folder, dtype="auto", **settings).fit_transform(CLIPS)
    assert 0 < np.abs(rough - exact).max() < 0.1
    named = Embedder(model_folder, dtype="bfloat16", **settings).fit_transform(CLIPS)
    np.testing.assert_array_equal(named, rough)
    assert len(list((tmp_path / "cache").rglob("*.vectors"))) == 8


def test_parameters_are_stored_as_they_are(model_folder):
    given = Embedder(model_folder, layer=2, cache="~/x", device="cpu")
    assert given.get_params()["cache"] == "~/x"
    assert clone(given).get_params() == given.get_params()
    assert given.get_params()["model"] is given.model


def test_the_public_name():
    assert speechssl.Embedder is Embedder
    assert rows_of(["a.wav"]) == ["a.wav"]

"""`Embedder`: the Python API as a scikit-learn transformer, clips in, vectors out.

    pipeline = make_pipeline(Embedder(), StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipeline, {"embedder__layer": [0, 2, 4, "mean"]}).fit(table["path"], table["label"])

`fit` learns nothing: it opens the model and stores its hash. One pass of the encoder gives all layers, and all are
cached in memory (up to a stated limit), so that folds and a search over layers encode a clip once per process. A pickle
holds no weights: the model is opened again by its name, and a model that has changed since is an error.
"""

import functools
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float32
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from speechssl.audio import SAMPLE_RATE, AudioError, file_state
from speechssl.config import UserError
from speechssl.embed.cache import DiskCache
from speechssl.embed.cached import CachedVectors
from speechssl.embed.embedder import DECODED_SECONDS, EmbeddingModel, load
from speechssl.embed.fixed import ENCODER, FixedVectors, feature_parts
from speechssl.embed.rows import rows_of
from speechssl.inference.chosen import DEFAULT, Choice
from speechssl.inference.layers import Layer
from speechssl.inference.pooling import Pooling
from speechssl.inference.precision import Precision
from speechssl.inference.windows import Waveform
from speechssl.models.bundled import bundled_folder, model_path

MEMORY_BYTES = 256_000_000  # of vectors kept in a process: 6,400 clips of a BASE model, 80,000 of `tiny`
_WEIGHTS = {".json", ".safetensors", ".bin", ".pt", ".pth"}  # files that make a model


_Errors = dict[int, AudioError]  # by row


class ClipWarning(UserWarning):
    """Clips that could not be used, where `on_error` is `nan`."""


class Embedder(TransformerMixin, BaseEstimator):
    """One vector per clip, as a scikit-learn transformer.

    `X` is a list, an array, a Series, a column of pyarrow or datasets, or a one-column table of clips (see
    `clips.Clip`), or a two-dimensional array or tensor of numbers whose rows are waveforms at 16 kHz. Parameters are
    stored unchanged and checked by `fit`.

    Args:
        model: as in `speechssl.load`; None: the bundled model.
        layer: a hidden state: 0 is the input to the first block, -1 the final output; `"mean"` averages all, `"mix"` is
            the average that a fine-tuned head has learnt. None: what the model's config names when `fit` opens it, else
            -1.
        pooling: `mean` over frames, or `mean+std`: the mean, then the standard deviation. None: as `layer`, else
            `mean`.
        features: `encoder`; `prosody` (functionals of energy, F0, voicing and tilt, `nn.functionals`); `mfcc`
            (`metrics.baselines`); or several of them side by side, `encoder+prosody`. Without `encoder` no model is
            opened, and `model`, `layer` and `pooling` must be None; with several, open files must be seekable.
        device: as in `speechssl.load`.
        dtype: as in `speechssl.load`.
        cache: a folder for vectors (see `cache.DiskCache`); several processes may share it.
        cache_bytes: limit of the folder; None: no limit.
        memory_bytes: limit of the vectors of all layers in memory, over all embedders of the process. With 0 and no
            `cache` only the requested layer is pooled, and nothing is cached.
        batch_seconds: padded audio in one pass of the encoder, s; None: the device's default.
        on_error: `raise` the error of a clip that cannot be used, or `nan`: give it a row of NaN, and one warning that
            counts them.

    Attributes:
        model_hash_: of the model that `fit` opened; empty without one.
        model_name_: its name; of the bundled model, such as `tiny-1`.
        choice_: the layer and pooling that its config names, for those that are None.
        dim_: of its vectors before pooling; 0 without a model.

    >>> import tempfile
    >>> from speechssl.models.encoder import PRESETS, SpeechEncoder
    >>> from speechssl.models.storage import save_model
    >>> clips = [np.sin(np.arange(8000) / pitch) for pitch in (5, 10)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
    ...     embedder = Embedder(folder, layer=2, device="cpu")
    ...     embedder.fit_transform(clips).shape
    (2, 192)
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        layer: Layer | None = None,
        pooling: Pooling | None = None,
        features: str = "encoder",
        device: str = "auto",
        dtype: Precision = "float32",
        cache: str | PathLike[str] | None = None,
        cache_bytes: int | None = None,
        memory_bytes: int = MEMORY_BYTES,
        batch_seconds: float | None = None,
        on_error: Literal["raise", "nan"] = "raise",
    ):
        self.model: str | PathLike[str] | None = model
        self.layer: Layer | None = layer
        self.pooling: Pooling | None = pooling
        self.features = features
        self.device = device
        self.dtype: Precision = dtype
        self.cache = cache
        self.cache_bytes = cache_bytes
        self.memory_bytes = memory_bytes
        self.batch_seconds = batch_seconds
        self.on_error: Literal["raise", "nan"] = on_error

    def fit(self, X: Any, y: object = None) -> "Embedder":  # noqa: ARG002, N803 -- the signature is scikit-learn's
        """Open the model and check the settings; no clip is decoded.

        Args:
            X: the clips; only their form is checked, and whether numbers are finite.
            y: ignored.

        Raises:
            UserError: no such model (None: none is bundled), layer, pooling or features, a setting out of range or
                without effect, or `X` holds no clips.
        """
        rows = self._rows(X)
        if not len(rows):
            raise UserError("X holds no clip (0 samples); at least one is needed")
        if self.on_error not in ("raise", "nan"):
            raise UserError(f"on_error must be 'raise' or 'nan', got {self.on_error!r}")
        if self.batch_seconds is not None and not self.batch_seconds > 0:
            raise UserError(f"batch_seconds must be above 0, got {self.batch_seconds!r}")
        if self.on_error == "raise":
            _check_finite(rows)
        vars(self).pop("model_hash_", None)  # of an earlier fit: another model is no error here
        if ENCODER not in feature_parts(self.features):
            self._without_model()
            return self
        self._model = self._open()
        self.choice_ = self._model.choice
        self._cached()
        self.model_hash_, self.model_name_, self.dim_ = self._model.digest, self._model.name, self._model.dim
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "clips dim"]:  # noqa: N803 -- the same
        """One row per clip, in the order given.

        Args:
            X: the clips.

        Raises:
            AudioError: a clip that cannot be used, unless `on_error` is `nan`; names the file, or the place in `X`.
            UserError: the model has changed since `fit`.
        """
        check_is_fitted(self, "model_hash_")
        rows = self._rows(X)
        vectors = np.full((len(rows), self._width), np.nan, dtype=np.float32)
        places = self._places()
        errors = self._fill_encoded(rows, vectors[:, places[ENCODER]]) if ENCODER in places else {}
        for name, place in places.items():
            if name != ENCODER:
                errors |= self._fill_fixed(name, rows, vectors[:, place])
        if errors:
            vectors[list(errors)] = np.nan  # a clip that one part could use
            first = errors[min(errors)]
            words = f"{len(errors)} of {len(rows)} clips cannot be used, their rows are NaN; the first: {first}"
            warnings.warn(words, ClipWarning, stacklevel=3)  # scikit-learn wraps this method
        return vectors

    def _fill_fixed(self, name: str, rows: Sequence[object], into: Float32[np.ndarray, "clips dim"]) -> _Errors:
        """Fills in features without a model; returns the errors by row."""
        fixed = FixedVectors(name, memory_bytes=self.memory_bytes, disk=self._disk())
        errors: _Errors = {}
        for row, clip in enumerate(rows):
            try:
                into[row] = fixed.vector(clip, name=f"clip {row}")
            except AudioError as error:
                if self.on_error == "raise":
                    raise
                errors[row] = error
        return errors

    def _fill_encoded(self, rows: Sequence[object], vectors: Float32[np.ndarray, "clips dim"]) -> _Errors:
        """Fills in the encoder's vectors; returns the errors by row."""
        cached = self._cached()
        waiting: dict[str, tuple[Waveform, list[int]]] = {}  # waveforms by key, with the rows that they are for
        samples, errors = 0, _Errors()
        for row, clip in enumerate(rows):
            try:
                key, waveform = cached.look_up(clip, vectors[row], name=f"clip {row}")
            except AudioError as error:
                if self.on_error == "raise":
                    raise
                errors[row] = error
                continue
            if waveform is None:
                continue
            waiting.setdefault(key or f"row {row}", (waveform, []))[1].append(row)
            samples += len(waveform)
            if samples > DECODED_SECONDS * SAMPLE_RATE:
                cached.compute(waiting, vectors)
                waiting, samples = {}, 0
        cached.compute(waiting, vectors)
        return errors

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002 -- scikit-learn's
        """Names of the columns: `mean0` …, then `std0` … where deviations are pooled; `prosody …` and `mfcc …`.

        Args:
            input_features: ignored.
        """
        check_is_fitted(self, "model_hash_")
        names: list[str] = []
        for part in feature_parts(self.features):
            if part == ENCODER:
                names += [f"{stat}{n}" for stat in self._chosen().pooling.split("+") for n in range(self.dim_)]
            else:
                names += FixedVectors.names(part)
        return np.array(names, dtype=object)

    @property
    def _width(self) -> int:
        return max(place.stop for place in self._places().values())

    def _places(self) -> dict[str, slice]:
        """Columns of each part of the features."""
        places: dict[str, slice] = {}
        start = 0
        for part in feature_parts(self.features):
            encoded = self.dim_ * len(self._chosen().pooling.split("+"))
            dim = encoded if part == ENCODER else len(FixedVectors.names(part))
            places[part] = slice(start, start + dim)
            start += dim
        return places

    def _without_model(self) -> None:
        """What `fit` learns where no encoder is asked for.

        Raises:
            UserError: a setting of the encoder is given.
        """
        for name in ("model", "layer", "pooling"):
            if (given := getattr(self, name)) is not None:
                raise UserError(
                    f"features={self.features!r} use no encoder, but {name}={given!r} is given; leave it out"
                )
        self.choice_, self.model_hash_, self.model_name_, self.dim_ = DEFAULT, "", "", 0

    def _disk(self) -> DiskCache | None:
        cache = None if self.cache is None else Path(self.cache).expanduser()
        return None if cache is None else DiskCache(cache, max_bytes=self.cache_bytes)

    def _chosen(self) -> Choice:
        """Layer and pooling: the parameters, and for those that are None what the model named at `fit`."""
        return getattr(self, "choice_", DEFAULT).or_given(layer=self.layer, pooling=self.pooling)

    def _rows(self, clips: object) -> Sequence[object]:
        return rows_of(clips)

    def _open(self) -> EmbeddingModel:
        name = None if self.model is None else str(self.model)
        return _opened(name, self.device, self.dtype, self.batch_seconds, _state(name))

    def _cached(self) -> CachedVectors:
        if not hasattr(self, "_model"):  # this estimator was unpickled
            self._model = self._open()
        wanted = getattr(self, "model_hash_", self._model.digest)
        if self._model.digest != wanted:
            raise UserError(
                f"{self._model.name}: the model has changed since this Embedder was fitted "
                f"(its hash was {wanted}, now it is {self._model.digest}); fit again"
            )
        chosen = self._chosen()
        return CachedVectors(
            self._model, layer=chosen.layer, pooling=chosen.pooling, memory_bytes=self.memory_bytes, disk=self._disk()
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(cast("dict[str, Any]", super().__getstate__()))
        state.pop("_model", None)  # hundreds of megabytes, opened again by the model's name
        return state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]  # float32 for every input
        return tags


def _check_finite(rows: Sequence[object]) -> None:
    """Checks in `fit` what is cheap to check, rather than after an hour of `transform`."""
    for number, row in enumerate(rows):
        if isinstance(row, np.ndarray) and row.dtype.kind == "f" and not np.isfinite(row).all():
            raise AudioError(f"clip {number}", f"{int((~np.isfinite(row)).sum())} samples are NaN or infinite")


@functools.lru_cache(maxsize=1)
def _opened(
    name: str | None,
    device: str,
    dtype: Precision,
    batch_seconds: float | None,
    state: tuple[object, ...],  # noqa: ARG001 -- key
) -> EmbeddingModel:
    """The last model, shared by the clones of a search."""
    model = load(name, device=device, dtype=dtype)
    if batch_seconds is not None:
        model.encoding.batch_seconds = float(batch_seconds)
    return model


def _state(model: str | None) -> tuple[tuple[str, str], ...]:
    """States of a model's files: a model that is trained further between two fits is opened again."""
    path = bundled_folder() if model is None else model_path(Path(model).expanduser())
    files = sorted(file for file in path.rglob("*") if file.suffix in _WEIGHTS) if path.is_dir() else [path]
    found = [(str(file), file.stat()) for file in files if file.is_file()]
    return tuple((name, file_state(status)) for name, status in found)

"""Labels of frames on disk: a class for about every 20 ms of a prepared corpus, for example from clustering.

:func:`speechssl.train.units.labels_of` makes labels by k-means.

    units/NAME.npy     labels of all utterances one after another, in the order of the manifest
    units/NAME.json    positions of the labelled frames, number of labels of each utterance, and the corpus

The corpus may be moved; labels of another corpus, or of one that was prepared again with other audio, are refused.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer
from pydantic import Field, PositiveInt, model_validator

from speechssl.config import Config, UserError
from speechssl.data.batch import FrameGrid
from speechssl.data.waveforms import WaveformStore
from speechssl.files import replacing, write_atomic


class UnitsConfig(Config):
    """Clusters of frames as labels.

    Attributes:
        source: what is clustered: "mfcc", or a model folder.
        layer: of the model: a hidden state, 0 the input of the first block, -1 the final output; None: the middle one.
        classes: number of clusters.
        frames: number of frames, drawn from all corpora, that the clusters are fitted on.
    """

    source: str = "mfcc"
    layer: int | None = None
    classes: int = Field(default=100, ge=2)
    frames: PositiveInt = 300_000

    @model_validator(mode="after")
    def _layer_of_a_model(self) -> "UnitsConfig":
        if self.source == "mfcc" and self.layer is not None:
            raise ValueError("layer: mfcc has no layers; give a model folder as source")
        return self


class Units:
    """Labels of the frames of a prepared corpus.

    Args:
        grid: positions of the labelled frames.
        labels: of all utterances, one after another.
        counts: labels of each utterance.
    """

    def __init__(self, grid: FrameGrid, labels: Integer[np.ndarray, " all"], counts: Int64[np.ndarray, " utterances"]):
        self.grid, self._labels = grid, labels
        self._ends = np.concatenate([[0], np.cumsum(counts)])

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all labels."""
        counts = np.ascontiguousarray(np.diff(self._ends))
        return hashlib.sha256(counts.tobytes() + np.ascontiguousarray(self._labels).tobytes()).hexdigest()[:16]

    def of(self, index: int) -> Integer[np.ndarray, " frames"]:
        """Labels of an utterance, by its place in the manifest."""
        return self._labels[self._ends[index] : self._ends[index + 1]]


def units_path(store: WaveformStore, name: str) -> Path:
    """The file that describes the labels; those are beside it.

    Raises:
        UserError: the corpus is behind an address, where no labels are written or mapped.
    """
    if not isinstance(store.folder, Path):
        raise UserError(f"{store.folder}: labels of frames need a corpus on a disk; copy the corpus to one")
    return store.folder / "units" / f"{name}.json"


def write_units(store: WaveformStore, name: str, labels: Sequence[Integer[np.ndarray, " _"]], grid: FrameGrid) -> None:
    """Write the labels of a corpus into its folder.

    Args:
        store: the corpus.
        name: of the labels.
        labels: of each utterance, in the order of the manifest; 0 or more, at least one per utterance.
        grid: positions of the labelled frames.

    Raises:
        ValueError: not one array for each utterance, an empty one, or a label below 0.
        OSError: a file cannot be written; carries its name.
    """
    if len(labels) != len(store) or any(len(each) == 0 or int(each.min()) < 0 for each in labels):
        raise ValueError(f"{len(labels)} arrays of labels for {len(store)} utterances; one each, of labels from 0 on")
    path = units_path(store, name).with_suffix(".npy")
    path.parent.mkdir(exist_ok=True)
    together = np.concatenate(labels)
    with replacing(path) as file:
        np.save(file, together.astype(np.min_scalar_type(int(together.max()))), allow_pickle=False)
    about = {
        "hop": grid.hop,
        "receptive_field": grid.receptive_field,
        "padding": grid.padding,
        "corpus": store.content_hash(),
        "counts": [len(each) for each in labels],
    }
    write_atomic(path.with_suffix(".json"), json.dumps(about).encode())


def read_units(store: WaveformStore, name: str) -> Units:
    """The labels of a corpus, memory-mapped.

    Args:
        store: the corpus.
        name: of the labels.

    Raises:
        UserError: no such labels, or they are of another corpus or damaged; names the file.
    """
    path = units_path(store, name)
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        labels = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        grid = FrameGrid(*(int(about[key]) for key in ("hop", "receptive_field", "padding")))
        counts, corpus = np.asarray(about["counts"], dtype=np.int64), about["corpus"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such labels of frames; this corpus needs them first") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise UserError(f"{path}: labels of frames that cannot be read ({' '.join(str(error).split())})") from None
    if corpus != store.content_hash():
        raise UserError(f"{path}: labels of another corpus, or of an earlier state of this one; make them again")
    if len(counts) != len(store) or labels.ndim != 1 or counts.sum() != len(labels):
        raise UserError(f"{path}: damaged: {len(counts)} utterances with {counts.sum()} labels, found {len(labels)}")
    return Units(grid, labels, counts)

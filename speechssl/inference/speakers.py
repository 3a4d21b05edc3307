"""Calibration of a classifier on speakers: mean and deviation of each one's unlabelled recordings, kept by name.

`speakers.json` in a model folder holds them, with the hash of the weights that they were computed with. A model that
was trained with each speaker's mean and deviation taken out (`models.classifier`, `by_speaker`) answers for these
speakers.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from speechssl.config import UserError
from speechssl.data.values import alike
from speechssl.files import write_atomic
from speechssl.models.classifier import Classifier
from speechssl.models.files import read_json
from speechssl.models.storage import model_hash

SPEAKERS = "speakers.json"
MIN_RECORDINGS = 3  # a deviation over fewer says nothing
FEW_RECORDINGS = 10
_COLLAPSE_FROM, _COLLAPSE_SHARE = 10, 0.9  # predictions of a speaker, and the share of one class that is named

Vector = Float[np.ndarray, " features"]


@dataclass(frozen=True)
class Speaker:
    """Mean and deviation of a speaker's pooled vectors over `recordings` recordings."""

    name: str
    recordings: int
    mean: Vector
    deviation: Vector


def speaker_of(name: str, vectors: Float[np.ndarray, "recordings features"]) -> Speaker:
    """Statistics of a speaker's vectors; where one is constant up to rounding, its deviation is 1.

    Raises:
        UserError: fewer than three recordings.

    >>> speaker_of("anna", np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])).mean.tolist()
    [2.0, 5.0]
    """
    if len(vectors) < MIN_RECORDINGS:
        raise UserError(
            f"speaker {name!r}: {len(vectors)} usable recordings; need {MIN_RECORDINGS} at least, better tens, in "
            "which the model's classes vary as usual"
        )
    block = np.asarray(vectors, dtype=np.float64)
    mean, deviation = block.mean(axis=0), block.std(axis=0)
    return Speaker(name, len(block), mean, np.where(deviation > 1e-6 * (1 + np.abs(mean)), deviation, 1.0))


def write_speaker(folder: Path, speaker: Speaker) -> None:
    """Keep a speaker in the model folder; one of the same name is replaced, those of other weights are dropped."""
    found = _read(folder)
    kept = {} if found.get("model_hash") != model_hash(folder) else dict(found["speakers"])
    kept = {name: values for name, values in kept.items() if alike(name) != alike(speaker.name)}
    kept[speaker.name] = {
        "recordings": speaker.recordings,
        "mean": [float(value) for value in speaker.mean],
        "deviation": [float(value) for value in speaker.deviation],
    }
    content = {"model_hash": model_hash(folder), "speakers": dict(sorted(kept.items()))}
    write_atomic(folder / SPEAKERS, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def read_speaker(folder: Path, name: str) -> Speaker:
    """A speaker that the model folder knows.

    Raises:
        UserError: no such speaker (names those that there are), or a file of other weights or content.
    """
    found = _read(folder)
    if found and found["model_hash"] != model_hash(folder):
        raise UserError(f"{folder / SPEAKERS}: of other weights than the model's; give --speaker-folder again")
    speakers = found.get("speakers", {})
    stored = next((each for each in speakers if alike(each) == alike(name)), None)
    if stored is None:
        known = f"known are {', '.join(sorted(speakers))}" if speakers else "it knows none"
        raise UserError(f"{folder}: no speaker {name!r}; {known}; give --speaker-folder FOLDER of their recordings")
    values = speakers[stored]
    try:
        mean, deviation = (np.array(values[key], dtype=np.float64) for key in ("mean", "deviation"))
        if mean.shape != deviation.shape or not (np.isfinite(mean).all() and (deviation > 0).all()):
            raise ValueError(f"mean or deviation of {stored}")
        return Speaker(stored, int(values["recordings"]), mean, deviation)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / SPEAKERS}: not statistics of speakers ({error}); remove it") from None


def calibrate(model: Classifier, speaker: Speaker, *, folder: Path) -> None:
    """Set the speaker whose recordings the model classifies next.

    Raises:
        UserError: statistics of another size than the model's vectors.
    """
    if len(speaker.mean) != len(model.centre):
        raise UserError(
            f"{folder / SPEAKERS}: {len(speaker.mean)} numbers, the model's vectors have {len(model.centre)}"
        )
    model.calibrate(*(torch.as_tensor(each, dtype=torch.float32) for each in (speaker.mean, speaker.deviation)))


def collapse_note(labels: Counter[str], speaker: str) -> str:
    """One line where nearly all predictions for a speaker are one class; empty where not, or with fewer than ten.

    >>> collapse_note(Counter(sad=19, glad=1), "anna")[:62]
    "WARNING: 19 of 20 predictions for 'anna' are 'sad'. Where the "
    >>> collapse_note(Counter(sad=12, glad=8), "anna")
    ''
    """
    total = labels.total()
    if total < _COLLAPSE_FROM:
        return ""
    label, count = labels.most_common(1)[0]
    if count < _COLLAPSE_SHARE * total:
        return ""
    return (
        f"WARNING: {count} of {total} predictions for {speaker!r} are {label!r}. Where the recordings that calibrate "
        "hold one class, the class is taken out with the speaker; calibrate on recordings in which the classes vary"
    )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SPEAKERS
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found.get("speakers"), dict) or "model_hash" not in found:
        raise UserError(f"{path}: not statistics of speakers; remove it")
    return found

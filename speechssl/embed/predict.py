"""What a fine-tuned model says about recordings: a class with its probabilities, or a transcript with word times.

    model = speechssl.load("runs/emotion/model")
    model.predict("call.wav").label

A transcript is greedy, or found by beam search with the n-gram that lies in the model's folder (``lm.arpa`` and
``decoder.json``, as `speechssl asr` leaves them) or that the caller names.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE, AudioError, check_waveform, decode
from speechssl.config import UserError
from speechssl.data.corpora import folder as audio_folder
from speechssl.embed.encoding import Waveform, device_of
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import classify, emissions, load_head
from speechssl.scoring.alignment import WordTime, word_times
from speechssl.scoring.decode import (
    EXTRA,
    BeamDecoder,
    DecoderConfig,
    beam_search_installed,
    character_probability,
    greedy,
)

LM, DECODER = "lm.arpa", "decoder.json"
CHUNK_SECONDS = 240.0  # of audio decoded together
Format = Literal["table", "jsonl", "csv"]


@dataclass(frozen=True)
class ClassPrediction:
    """The likeliest class, its probability, and the probabilities of all."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Transcript:
    """What was said, when (seconds), and the mean probability of the characters that were heard, in [0, 1]."""

    text: str
    confidence: float
    words: tuple[WordTime, ...]


Prediction = ClassPrediction | Transcript


class Predictor:
    """A fine-tuned model in use.

    Args:
        folder: a model folder with a head.
        device: as in :func:`speechssl.load`.
        lm: an n-gram for transcripts (ARPA); None takes the folder's own where there is one. ``False`` uses none.

    Raises:
        UserError: no such model, a model without a head, or an n-gram for a model that does not write.
    """

    def __init__(self, folder: Path, *, device: str = "auto", lm: Path | Literal[False] | None = None):
        self.model = load_head(folder).to(device_of(device))
        self.decoder: BeamDecoder | None = None
        if not isinstance(self.model, CTCModel):
            if lm:
                raise UserError(f"{folder}: tells classes apart; an n-gram is for models that write")
            return
        own = folder / LM
        arpa = own if lm is None and own.is_file() else lm or None
        if arpa is not None and not beam_search_installed():
            raise UserError(f"{arpa}: {EXTRA}; or do without, with --greedy or Predictor(folder, lm=False)")
        if arpa is not None:
            self.decoder = BeamDecoder(self.model.vocabulary, config=decoder_config(folder), lm=arpa)

    def predict(self, waveforms: Sequence[Waveform]) -> list[Prediction]:
        """One prediction a waveform.

        Args:
            waveforms: mono at 16 kHz in [-1, 1], checked.
        """
        if not isinstance(self.model, CTCModel):
            rows = classify(self.model, waveforms)
            return [_class_prediction(self.model.classes, row) for row in rows]
        return [self._transcript(self.model, log_probs) for log_probs in emissions(self.model, waveforms)]

    def _transcript(self, model: CTCModel, log_probs: Float32[np.ndarray, "frames symbols"]) -> Transcript:
        text = greedy(log_probs, model.vocabulary) if self.decoder is None else self.decoder.decode(log_probs).text
        seconds = model.trunk.encoder.config.conv.hop / SAMPLE_RATE
        try:
            words = tuple(word_times(log_probs, text, model.vocabulary, frame_seconds=seconds))
        except UserError:  # a beam may find a text that has more symbols than the audio has frames
            words = ()
        return Transcript(text=text, confidence=character_probability(log_probs), words=words)


def _class_prediction(classes: Sequence[str], row: Float32[np.ndarray, " classes"]) -> ClassPrediction:
    best = int(row.argmax())
    probabilities = {name: round(float(value), 6) for name, value in zip(classes, row, strict=True)}
    return ClassPrediction(label=classes[best], probability=probabilities[classes[best]], probabilities=probabilities)


def decoder_config(folder: Path) -> DecoderConfig:
    """The weights that a recipe tuned and left in the model's folder, or the defaults.

    Raises:
        UserError: the file is no such thing.
    """
    path = folder / DECODER
    if not path.is_file():
        return DecoderConfig()
    try:
        return DecoderConfig.model_validate(json.loads(path.read_text(encoding="utf-8"))["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the settings of a decoder: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class Spoken:
    """A file with what the model says of it, or why it cannot say anything."""

    path: str
    prediction: Prediction | None
    reason: str = ""


def predict_files(predictor: Predictor, paths: Sequence[str]) -> Iterator[Spoken]:
    """Predictions in the order of the paths; a file that cannot be used has a reason instead, and stops nothing."""
    chunk: list[tuple[str, Waveform | str]] = []
    seconds = 0.0
    for path in paths:
        try:
            waveform = decode(path)
            check_waveform(waveform, path)
        except AudioError as error:
            chunk.append((path, error.reason))
            continue
        chunk.append((path, waveform))
        seconds += len(waveform) / SAMPLE_RATE
        if seconds > CHUNK_SECONDS:
            yield from _predict_chunk(predictor, chunk)
            chunk, seconds = [], 0.0
    yield from _predict_chunk(predictor, chunk)


def _predict_chunk(predictor: Predictor, chunk: Sequence[tuple[str, Waveform | str]]) -> Iterator[Spoken]:
    good = [found for _, found in chunk if not isinstance(found, str)]
    predictions = iter(predictor.predict(good) if good else [])
    for path, found in chunk:
        yield Spoken(path, None, found) if isinstance(found, str) else Spoken(path, next(predictions))


def audio_files(sources: Sequence[str]) -> list[str]:
    """Files as given, and folders as the sound files below them, whatever metadata says about those.

    Raises:
        UserError: a folder without any.
    """
    paths: list[str] = []
    for source in sources:
        if not Path(source).is_dir():
            paths.append(source)
            continue
        found = audio_folder.sound_files(Path(source))
        if not found:
            raise UserError(f"{source}: no sound file in it")
        paths += map(str, found)
    return paths


def write_predictions(spoken: Iterator[Spoken], file: IO[str], *, layout: Format) -> int:
    """Write predictions as they come; returns how many files had none.

    ``jsonl`` is one object a line, with ``path`` and either the prediction or ``error``; ``csv`` has a column a class,
    or ``text``; ``table`` is for eyes.
    """
    failed = 0
    rows = csv.writer(file, lineterminator="\n")
    header: list[str] = []
    for each in spoken:
        found = each.prediction
        failed += found is None
        if layout == "jsonl":
            content = {"error": each.reason} if found is None else asdict(found)
            file.write(json.dumps({"path": each.path, **content}, ensure_ascii=False) + "\n")
        elif found is not None and layout == "csv":
            values = _columns(found)
            if not header:
                header = ["path", *values]
                rows.writerow(header)
            rows.writerow([each.path, *values.values()])
        elif found is not None:
            file.write(f"{each.path}\t{_words(found)}\n")
        file.flush()
    return failed


def _columns(found: Prediction) -> dict[str, str]:
    if isinstance(found, Transcript):
        return {"text": found.text, "confidence": f"{found.confidence:.4f}"}
    names = {f"p_{name}": f"{value:.4f}" for name, value in found.probabilities.items()}
    return {"label": found.label, "probability": f"{found.probability:.4f}", **names}


def _words(found: Prediction) -> str:
    if isinstance(found, ClassPrediction):
        return f"{found.label}\t{found.probability:.2f}"
    times = " ".join(f"{word.word}@{word.start:.2f}-{word.end:.2f}" for word in found.words)
    return f"{found.text}\t{times}"

"""Predictions of a fine-tuned model: a class with its probabilities, or a transcript with word times.

    model = speechssl.load("runs/emotion/model")
    model.predict("call.wav").label

A transcript is greedy, or found by beam search with the n-gram in the model's folder (``lm.arpa`` and
``decoder.json``, written by `speechssl asr`) or another one.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from speechssl.audio import SAMPLE_RATE, AudioError
from speechssl.config import UserError
from speechssl.decoding.alignment import WordTime, word_times
from speechssl.decoding.decode import (
    EXTRA,
    BeamDecoder,
    DecoderConfig,
    beam_search_installed,
    character_probability,
    greedy,
)
from speechssl.device import device_of
from speechssl.inference.heads import classify, emissions, too_long
from speechssl.inference.speakers import Speaker, calibrate, collapse_note, read_speaker
from speechssl.inference.windows import LongClip, Waveform
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.models.files import read_json
from speechssl.models.heads import load_head
from speechssl.models.storage import model_hash

LM, DECODER = "lm.arpa", "decoder.json"
NOT_FINITE = "the model gives numbers that are not finite"


@dataclass(frozen=True)
class ClassPrediction:
    """The likeliest class, its probability, and the probabilities of all."""

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Transcript:
    """A transcript.

    Attributes:
        text: the words.
        confidence: mean probability of the recognised characters, in [0, 1].
        words: times of each word, seconds; empty where there is no word, or a `words_error`.
        words_error: the reason why the text has no word times; empty where it has.
    """

    text: str
    confidence: float
    words: tuple[WordTime, ...]
    words_error: str = ""


Prediction = ClassPrediction | Transcript


class Predictor:
    """A fine-tuned model with its decoder.

    Args:
        folder: a model folder with a head.
        device: as in :func:`speechssl.load`.
        lm: an n-gram for transcripts (ARPA); None takes the folder's own where there is one. ``False`` uses none.
        speaker: name of a speaker on whom the model is calibrated (`inference.speakers`).

    Raises:
        UserError: no such model, a model without a head, an n-gram for a classifier, or a speaker for a model that has
            none, or does not know this one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        lm: Path | Literal[False] | None = None,
        speaker: str | None = None,
    ):
        self.model = load_head(folder).to(device_of(device))
        self.folder = folder
        self.decoder: BeamDecoder | None = None
        self.labels: Counter[str] = Counter()  # of the predictions so far
        self.speaker: Speaker | None = None
        if speaker is not None:
            if not isinstance(self.model, Classifier) or not self.model.by_speaker:
                raise UserError(f"{folder}: was not trained with speakers' mean and deviation taken out; no --speaker")
            self.speaker = read_speaker(folder, speaker)
            calibrate(self.model, self.speaker, folder=folder)
        if not isinstance(self.model, CTCModel):
            if lm:
                raise UserError(f"{folder}: a classifier; an n-gram is for speech recognition")
            return
        own = folder / LM
        arpa = own if lm is None and own.is_file() else lm or None
        if arpa is not None and not beam_search_installed():
            raise UserError(f"{arpa}: {EXTRA}; or do without, with --greedy or Predictor(folder, lm=False)")
        if arpa is None and not self.model.vocabulary.writes_words:
            raise UserError(f"{folder}: recognises phones; words need an n-gram of words ({LM} in its folder, or --lm)")
        if arpa is not None:
            self.decoder = BeamDecoder(self.model.vocabulary, config=decoder_config(folder), lm=arpa)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The classes of a classifier; None for a speech recogniser."""
        return None if isinstance(self.model, CTCModel) else self.model.classes

    def settings(self) -> dict[str, str]:
        """Settings that predictions depend on: a hash of the model, and the decoder."""
        decoder = "" if isinstance(self.model, CTCModel) else "none"
        if self.decoder is not None and self.decoder.lm is not None:
            with self.decoder.lm.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
            decoder = f"n-gram {digest} {self.decoder.config.model_dump_json()}"
        found = {"model_hash": model_hash(self.folder), "decoder": decoder or "greedy"}
        if self.speaker is not None:
            vectors = np.stack([self.speaker.mean, self.speaker.deviation])
            found["speaker"] = hashlib.sha256(vectors.tobytes()).hexdigest()[:16]
        return found

    @property
    def note(self) -> str:
        """One line where nearly all predictions for the speaker are one class; empty where not."""
        return "" if self.speaker is None else collapse_note(self.labels, self.speaker.name)

    def predict(self, waveforms: Sequence[Waveform]) -> list[Prediction]:
        """One prediction per waveform.

        Args:
            waveforms: mono at 16 kHz in [-1, 1], checked.

        Raises:
            AudioError: the model gives NaN for one of them.
        """
        found: list[Prediction] = []
        for number, outcome in enumerate(self.outcomes(waveforms)):
            if isinstance(outcome, str):
                raise AudioError(f"clip {number}", outcome)
            found.append(outcome)
        return found

    def outcomes(self, clips: Sequence[Waveform | LongClip]) -> list[Prediction | str]:
        """As `predict`, also for clips that are read in blocks; the reason where there is no prediction.

        Raises:
            AudioError: a clip that is read in blocks cannot be read.
        """
        if not clips:
            return []
        if not isinstance(self.model, CTCModel):
            found = [_class_prediction(self.model.classes, row) for row in classify(self.model, clips)]
            self.labels.update(each.label for each in found if not isinstance(each, str))
            return list(found)
        model = self.model
        reasons = [too_long(model, clip) for clip in clips]
        symbols = iter(emissions(model, [clip for clip, reason in zip(clips, reasons, strict=True) if not reason]))
        return [reason or self._transcript(model, next(symbols)) for reason in reasons]

    def _transcript(self, model: CTCModel, log_probs: Float32[np.ndarray, "frames symbols"]) -> Transcript | str:
        if np.isnan(log_probs).any():
            return NOT_FINITE
        text = greedy(log_probs, model.vocabulary) if self.decoder is None else self.decoder.decode(log_probs).text
        seconds = model.trunk.encoder.config.conv.hop / SAMPLE_RATE
        words: tuple[WordTime, ...] = ()
        reason = ""
        try:
            words = tuple(word_times(log_probs, text, model.vocabulary, frame_seconds=seconds))
        except UserError as error:  # the text of a beam may have more symbols than the audio has frames
            reason = str(error)
        return Transcript(text, character_probability(log_probs), words, reason)


def _class_prediction(classes: Sequence[str], row: Float32[np.ndarray, " classes"]) -> ClassPrediction | str:
    if not np.isfinite(row).all():
        return NOT_FINITE
    best = int(row.argmax())
    probabilities = {name: round(float(value), 6) for name, value in zip(classes, row, strict=True)}
    return ClassPrediction(label=classes[best], probability=probabilities[classes[best]], probabilities=probabilities)


def decoder_config(folder: Path) -> DecoderConfig:
    """The weights that a recipe tuned, from the model's folder; else the defaults.

    Raises:
        UserError: the file has other content.
    """
    path = folder / DECODER
    if not path.is_file():
        return DecoderConfig()
    try:
        return DecoderConfig.model_validate(read_json(path)["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the settings of a decoder: {' '.join(str(error).split())}") from None

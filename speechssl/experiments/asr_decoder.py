"""Choice of the n-gram and of the decoder's weights of a recogniser, on the development side alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, greedy, symbol_prior
from speechssl.experiments.asr_ngram import Ngrams
from speechssl.experiments.asr_text import Source
from speechssl.experiments.tuning import Tuning, rates, tune
from speechssl.inference.heads import emissions
from speechssl.inference.predictor import DECODER
from speechssl.models.ctc import CTCModel
from speechssl.text import Vocabulary

# Of decoder.json, part of its key: one with other content is made again.
CONTENT = "weights, trials on few and all, greedy, n-grams, prior"

Emissions = list[Float32[np.ndarray, "frames symbols"]]


_CHUNK = 64  # utterances whose waveforms are in memory at once


def emissions_of(model: CTCModel, store: WaveformStore, examples: Sequence[Example]) -> Emissions:
    """Outputs of a recogniser for utterances, in order."""
    found: Emissions = []
    for start in range(0, len(examples), _CHUNK):
        found += emissions(model, [store.waveform(each.index) for each in examples[start : start + _CHUNK]])
    return found


@dataclass(frozen=True)
class ChosenNgram:
    """The n-gram of the lowest WER on the development side, then of the lowest CER, then the first.

    Attributes:
        source: which n-gram.
        tunings: weights of every n-gram, with all trials.
    """

    source: Source
    tunings: Mapping[Source, Tuning]

    @property
    def tuning(self) -> Tuning:
        """That of the chosen one."""
        return self.tunings[self.source]

    def __str__(self) -> str:
        found = ", ".join(f"{source} {tuning.chosen.wer:.3f}" for source, tuning in self.tunings.items())
        return f"n-gram '{self.source}' (dev WER: {found})"


def choose_ngram(
    outputs: Emissions, references: Sequence[str], *, vocabulary: Vocabulary, ngrams: Ngrams, beam_size: int
) -> ChosenNgram:
    """Tune the decoder's weights with each n-gram, and choose one."""
    tunings: dict[Source, Tuning] = {}
    for source in ngrams.options:
        config = DecoderConfig(beam_size=beam_size, lexicon=source != "wordfreq", prior=symbol_prior(outputs))
        decoder = BeamDecoder(vocabulary, config=config, lm=ngrams.whole(source))
        tunings[source] = tune(outputs, references, decoder=decoder, limit=None)
    best = min(tunings, key=lambda each: (tunings[each].chosen.wer, tunings[each].chosen.cer))
    return ChosenNgram(best, tunings)


def decoder_content(
    chosen: ChosenNgram,
    *,
    key: str,
    ngrams: Ngrams,
    outputs: Emissions,
    references: Sequence[str],
    vocabulary: Vocabulary,
) -> bytes:
    """The content of ``decoder.json``: the weights, and what they were chosen from."""
    content = {
        "config": chosen.tuning.config.model_dump(mode="json"),
        "key": key,
        "utterances": len(references),
        "lm": chosen.source,
        "text": ngrams.text(chosen.source),
        "lm_text": ngrams.row(chosen.source),
        "weight_of_sentences": ngrams.weight(chosen.source),
        "chosen": vars(chosen.tuning.chosen),
        "greedy": rates(
            [vocabulary.written(each) for each in references], [greedy(rows, vocabulary) for rows in outputs]
        ),
        "trials": [vars(trial) for trial in chosen.tuning.trials],
        "ngrams": {source: vars(tuning.chosen) for source, tuning in chosen.tunings.items()},
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode()


def chosen_source(folder: Path) -> Source:
    """Which n-gram a model folder's decoder is tuned for."""
    return json.loads((folder / DECODER).read_text(encoding="utf-8"))["lm"]


def ngram_text(folder: Path) -> str:
    """The text of a model folder's n-gram, in words; empty where the folder does not say."""
    path = folder / DECODER
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(content.get("text", ""))

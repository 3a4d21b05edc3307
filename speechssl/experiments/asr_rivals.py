"""Rivals of a fine-tuned recogniser: classical monophone HMMs on the same labels, and PocketSphinx as installed.

- `hmm-mfcc`: MFCC and a monophone HMM with Gaussian mixtures, as before neural networks;
- `hmm-encoder`: the same HMM on frames of the pretrained encoder, which is not changed;
- `pocketsphinx`: a finished recogniser of English, trained on far more speech (`speechssl.experiments.asr_sphinx`).

The HMMs learn from the labelled side and are decoded with the n-grams of the other recognisers, those of words; their
units are phones where the language is English and CMU's dictionary is installed, else letters. The n-gram and its
weights are chosen on the development side. Files are in `rivals/` of the run folder; a finished rival is read from
there.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from speechssl.config import UserError, digest
from speechssl.data.labelled import Example
from speechssl.data.training_audio import NO_COPY
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.decode import EXTRA, DecoderConfig
from speechssl.decoding.general import dictionary_file, is_english
from speechssl.decoding.hmm import MonophoneHmm, Spellings, align, make_graph, train_hmm
from speechssl.decoding.hmm_search import BEAM_SIZE, BEAM_THRESHOLD, HmmDecoder
from speechssl.decoding.mixtures import Frames
from speechssl.decoding.pronunciation import has_pronunciation, pronunciations
from speechssl.experiments.asr_ngram import Ngrams
from speechssl.experiments.asr_rival_features import encoder_frames, mfcc_frames
from speechssl.experiments.asr_scores import NGRAM, Scores, score
from speechssl.experiments.asr_sides import RecognitionSides
from speechssl.experiments.asr_sphinx import (
    TRAINED_ON,
    sphinx_missing,
    sphinx_text,
    sphinx_transcripts,
    sphinx_version,
)
from speechssl.experiments.asr_text import Source
from speechssl.experiments.tuning import tune
from speechssl.files import write_atomic
from speechssl.metrics.wer import error_rate
from speechssl.models.storage import model_hash

RivalName = Literal["hmm-mfcc", "hmm-encoder", "pocketsphinx"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)
CONTENDERS: dict[RivalName, str] = {
    "hmm-mfcc": "MFCC + monophone HMM",
    "hmm-encoder": "encoder + monophone HMM",
    "pocketsphinx": "PocketSphinx (trained on far more speech)",
}
FOLDER = "rivals"
_VERSION = 2  # higher when the same inputs give another rival
_TUNED_ON = 50  # utterances of the development side: a trial takes about half a second per utterance
_LM_WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0)  # beside an acoustic scale of 0.1
_WORD_SCORES = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Rival:
    """Scores of a rival with what its row says of its data.

    Attributes:
        scores: of the test side.
        lm_text: text of its n-gram.
        training_audio: as in `ResultRow`.
        pretrained: whether it has the frames of the pretrained encoder.
    """

    scores: Scores
    lm_text: str
    training_audio: str
    pretrained: bool


def rival_names(text: str) -> tuple[RivalName, ...]:
    """The rivals that an option names: `all`, `none`, or names separated by commas.

    Raises:
        UserError: an unknown name.

    >>> rival_names("none"), rival_names("pocketsphinx,hmm-mfcc")
    ((), ('hmm-mfcc', 'pocketsphinx'))
    """
    if text in ("all", "none"):
        return RIVALS if text == "all" else ()
    named = [each.strip() for each in text.split(",")]
    unknown = sorted(set(named) - set(RIVALS))
    if unknown:
        raise UserError(f"rivals: {unknown[0]!r} is unknown; allowed: all, none, or some of {', '.join(RIVALS)}")
    return tuple(each for each in RIVALS if each in named)


class Rivals:
    """The rivals of one run.

    Args:
        store: the prepared corpus.
        encoder: model folder of the pretrained encoder.
        out: the run folder.
        sides: those of the experiment.
        ngrams: those of the other recognisers; None: no beam search, or no text.
        language: language of the corpus.
        say: called with each message.
    """

    def __init__(
        self,
        store: WaveformStore,
        encoder: Path,
        out: Path,
        *,
        sides: RecognitionSides,
        ngrams: Ngrams | None,
        language: str | None,
        say: Callable[[str], None],
    ):
        self.store, self.encoder, self.folder, self.sides = store, encoder, out / FOLDER, sides
        self.language, self.say = language, say
        self.phones = is_english(language) and dictionary_file() is not None
        self.ngrams = None if ngrams is None else ngrams.written_by(lambda word: bool(self.spellings(word)))
        self.sources: list[Source] = [] if ngrams is None else [each for each in ngrams.options if each != "wordfreq"]
        order = np.random.default_rng(0).permutation(len(sides.dev))[:_TUNED_ON]
        self.dev = [sides.dev[place] for place in sorted(order.tolist())]

    def found(self, names: Sequence[RivalName]) -> list[Rival]:
        """Each rival that fits the corpus and the installation, trained and scored; prints why others do not."""
        return [rival for name in names if (rival := self._one(name)) is not None]

    def spellings(self, word: str) -> Spellings:
        """Pronunciations of a word in phones or letters; empty where there is none."""
        if not self.phones:
            return [list(word)]
        return pronunciations([word])[word] if has_pronunciation(word) else []

    def _one(self, name: RivalName) -> Rival | None:
        contender = CONTENDERS[name]
        reason = sphinx_missing(self.language) if name == "pocketsphinx" else self._hmm_missing()
        if reason:
            self.say(f"{contender}: left out: {reason}")
            return None
        key = self._key(name)
        path = self.folder / f"{name}.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if content.get("key") != key:
            try:
                content = self._sphinx() if name == "pocketsphinx" else self._hmm(name)
            except UserError as error:
                self.say(f"{contender}: left out: {error}")
                return None
            content = {"key": key, **content}
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1).encode())
        pretrained = name == "hmm-encoder"
        own = model_hash(self.encoder) if pretrained else ""
        scores = score(contender, NGRAM, content["written"], sides=self.sides, model_hash=own)
        rate = error_rate(scores.words)
        self.say(f"{contender}, {NGRAM}: WER {rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})")
        trained_on = TRAINED_ON if name == "pocketsphinx" else NO_COPY
        return Rival(scores, content["lm_text"], trained_on, pretrained)

    def _hmm_missing(self) -> str:
        if self.ngrams is None:
            return f"{EXTRA}; and a text for the n-gram"
        return "" if self.sources else "its words need an n-gram of words; use --lm auto or --lm transcripts"

    def _key(self, name: RivalName) -> str:
        sides = (self.sides.labelled, self.dev, self.sides.test)
        told = [[[each.index, each.target] for each in side] for side in sides]
        if name == "pocketsphinx":
            return digest([_VERSION, name, sphinx_version(), [each.index for each in self.sides.test]])
        assert self.ngrams is not None
        ngrams = [self.ngrams.key_of(source) for source in self.sources]
        own = model_hash(self.encoder) if name == "hmm-encoder" else None
        return digest([_VERSION, name, told, ngrams, self.sources, self.phones, own])

    def _sphinx(self) -> dict[str, Any]:
        test = self.sides.test
        written = sphinx_transcripts(self.store, [each.index for each in test])
        return {"written": written, "lm_text": sphinx_text([each.target for each in test])}

    def _hmm(self, name: RivalName) -> dict[str, Any]:
        """Train, choose the n-gram and its weights on the development side, and decode the test side."""
        assert self.ngrams is not None
        labelled = [each for each in self.sides.labelled if all(map(self.spellings, each.target.split()))]
        if len(labelled) < len(self.sides.labelled):
            self.say(
                f"{CONTENDERS[name]}: {len(self.sides.labelled) - len(labelled)} utterances with words that have "
                "no pronunciation; left out"
            )
        if not labelled:
            raise UserError("no labelled utterance has pronunciations for all its words")
        hmm, (dev, test) = self._encoder_hmm(labelled) if name == "hmm-encoder" else self._mfcc_hmm(labelled)
        self.folder.mkdir(parents=True, exist_ok=True)
        hmm.save(self.folder / f"{name}.npz")
        decoder, content = self._tuned(hmm, dev)
        written = [decoder.text(hmm.mixtures.log_probs(rows)) for rows in test]
        return {"written": written, **content}

    def _mfcc_hmm(self, labelled: Sequence[Example]) -> tuple[MonophoneHmm, list[list[Frames]]]:
        """The model of MFCC, and the frames of the development and test sides."""
        train, *rest = mfcc_frames(self.store, self._indices(labelled))
        return train_hmm(train, [each.target for each in labelled], spellings=self.spellings), rest

    def _encoder_hmm(self, labelled: Sequence[Example]) -> tuple[MonophoneHmm, list[list[Frames]]]:
        """The model of an encoder's frames, which begins with the alignments of that of MFCC."""
        texts = [each.target for each in labelled]
        heard = mfcc_frames(self.store, self._indices(labelled)[:1])[0]
        first = train_hmm(heard, texts, spellings=self.spellings)
        graphs = [make_graph([self.spellings(word) for word in text.split()], first.units) for text in texts]
        long = [len(rows) >= len(graph.usual) for rows, graph in zip(heard, graphs, strict=True)]
        used = [each for each, fits in zip(labelled, long, strict=True) if fits]
        pairs = [pair for pair, fits in zip(zip(heard, graphs, strict=True), long, strict=True) if fits]
        paths = [align(first, rows, graph) for rows, graph in pairs]
        states = [graph.states[path] for (_, graph), path in zip(pairs, paths, strict=True)]
        train, *rest = encoder_frames(self.store, self._indices(used), encoder=self.encoder, states=states)
        texts = [each.target for each in used]
        return train_hmm(train, texts, spellings=self.spellings, paths=paths), rest

    def _indices(self, labelled: Sequence[Example]) -> list[list[int]]:
        return [[each.index for each in side] for side in (labelled, self.dev, self.sides.test)]

    def _tuned(self, hmm: MonophoneHmm, dev: Sequence[Frames]) -> tuple[HmmDecoder, dict[str, Any]]:
        """The decoder with the n-gram of the lowest WER on the development side, and what is stored of it."""
        assert self.ngrams is not None
        outputs, references = [hmm.mixtures.log_probs(rows) for rows in dev], [each.target for each in self.dev]
        start = DecoderConfig(lm_weight=2.0, beam_size=BEAM_SIZE, beam_threshold=BEAM_THRESHOLD)
        best: tuple[tuple[float, float], HmmDecoder, dict[str, Any]] | None = None
        for source in self.sources:
            lm = self.ngrams.whole(source)
            decoder = HmmDecoder(hmm, config=start, lm=lm, spellings=self.spellings)
            tuning = tune(
                outputs,
                references,
                decoder=decoder,
                lm_weights=_LM_WEIGHTS,
                word_scores=_WORD_SCORES,
                limit=None,
            )
            rank = tuning.chosen.wer, tuning.chosen.cer
            if best is None or rank < best[0]:
                content: dict[str, Any] = {
                    "lm": source,
                    "lm_text": self.ngrams.row(source),
                    "units": "phones" if self.phones else "letters",
                    "words": len(decoder.words),
                    "config": tuning.config.model_dump(mode="json"),
                    "dev_utterances": len(references),
                    "trials": [vars(trial) for trial in tuning.trials],
                    "chosen": vars(tuning.chosen),
                }
                best = rank, decoder.with_config(tuning.config), content
        assert best is not None
        return best[1], best[2]

"""Decoding of CTC probabilities to text: greedy, and beam search with a language model.

Greedy decoding takes the likeliest symbol of every frame and collapses (Graves et al. 2006, section 3.2). Beam search
is flashlight's (Kahn et al. 2022, arXiv 2201.12465): it finds the text that maximises

    ln P_CTC(text | audio)  +  lm_weight * log10 P_LM(text)  +  word_score * words(text)

with a KenLM n-gram. With a prior, prior_weight times the logarithm of each symbol's mean probability is subtracted in
every frame, as hybrid recognisers divide by the priors of their states (Bourlard and Morgan 1994): CTC models of few
labels give too much to frequent symbols, the blank above all. The acoustic model's logarithms are natural, KenLM's are
decimal. Two kinds:

- with a lexicon (`DecoderConfig.lexicon`): only words of a given list; the n-gram is one of words;
- without: any characters; the n-gram is one of characters (`speechssl.decoding.ngram.as_characters`), and there is no
  word score.

wav2vec 2.0 (Baevski et al. 2020, arXiv 2006.11477, appendix B) decodes with a lexicon, a 4-gram and a beam of 1500;
lm_weight and word_score are 3.23 and -0.26 for 10 minutes of labels, 2.90 and -1.62 for 1 hour, 2.46 and -0.59 for 10,
2.15 and -0.52 for 100. The fewer the labels, the larger the weight of the language model. Tune both on the development
set: `speechssl.experiments.tuning.tune`.
"""

import copy
import importlib
import importlib.util
import math
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
from jaxtyping import Float
from pydantic import Field, FiniteFloat, PositiveFloat

from speechssl.config import Config, UserError
from speechssl.decoding.arpa import UNKNOWN, arpa_words
from speechssl.decoding.pieces import pieces
from speechssl.text import BLANK, WORD_BOUNDARY, Vocabulary

EXTRA = "beam search needs the extra 'lm': pip install 'speechssl[lm]' (kenlm is built from source: a C++ compiler)"
_KENLM_BINARY = b"mmap lm http://kheafield.com"
MAX_STATES = 1 << 22  # frames x beam of one search: flashlight keeps about 100 bytes each, 400 MB in all
_FORBIDDEN = -1e6  # nats; far below what any whole utterance adds up to


MOST_HYPOTHESES = 100_000  # of a beam: each takes memory in every frame


class DecoderConfig(Config):
    """Weights and pruning of a beam search.

    Attributes:
        lexicon: whether only words of a list can be found; otherwise the language model is one of characters.
        lm_weight: factor on log10 of the language model's probability.
        word_score: added for every word, nats; below zero it makes texts shorter. Needs a lexicon.
        prior_weight: factor on the logarithms in `prior`, which are subtracted from those of every frame.
        prior: natural logarithm of each symbol's mean probability, in the order of the vocabulary; empty: none.
        beam_size: hypotheses that are kept after each frame.
        beam_threshold: hypotheses this much below the best are dropped, nats.
        log_add: whether the probabilities of a text's alignments are summed, as CTC defines it; otherwise the best one
            counts.
        nbest: texts whose probabilities are compared for the confidence.
    """

    lexicon: bool = True
    lm_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    word_score: FiniteFloat = 0.0
    prior_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    prior: tuple[FiniteFloat, ...] = ()
    beam_size: Annotated[int, Field(ge=1, le=MOST_HYPOTHESES)] = 100
    beam_threshold: PositiveFloat = 50.0
    log_add: bool = True
    nbest: Annotated[int, Field(ge=1, le=MOST_HYPOTHESES)] = 20

    @pydantic.model_validator(mode="after")
    def _word_score_needs_words(self) -> "DecoderConfig":
        if not self.lexicon and self.word_score != 0:
            raise ValueError(f"word_score is {self.word_score}, but a search without a lexicon has no words; set 0")
        if self.prior_weight and not self.prior:
            raise ValueError(f"prior_weight is {self.prior_weight}, and there is no prior to weigh")
        return self


@dataclass(frozen=True)
class Candidate:
    """A text found by the search; `score` as in the head of this file, `posterior` among the candidates."""

    text: str
    score: float
    posterior: float


@dataclass(frozen=True)
class Hypothesis:
    """A recognised text with its confidence.

    Attributes:
        text: the best text; may be empty.
        score: its score, nats; scores of different utterances cannot be compared.
        confidence: its probability among the n-best, in [0, 1]: how much more probable it is than the other candidates
            of the same utterance. Falls with length, and depends on the language model.
        character_probability: mean probability of the greedy characters, in [0, 1], of the acoustic model alone.
            Comparable between utterances of any length: pseudo-labels are filtered by it. Zero where all frames are
            blanks.
        candidates: the n-best, best first; the first is `text`.
    """

    text: str
    score: float
    confidence: float
    character_probability: float
    candidates: tuple[Candidate, ...]


def greedy(log_probs: Float[np.ndarray, "frames symbols"], vocabulary: Vocabulary) -> str:
    """Greedy decoding: the likeliest symbol of each frame, collapsed.

    Args:
        log_probs: natural logarithms, from a CTC model.
        vocabulary: the symbols, in that order.

    Raises:
        ValueError: another number of symbols than the vocabulary has, or values that are not a number.

    >>> vocabulary = Vocabulary.from_texts(["ab"])
    >>> greedy(np.log(np.eye(4, dtype=np.float32)[[2, 2, 0, 2, 1, 3]] + 0.01), vocabulary)
    'aa b'
    """
    check_emissions(log_probs, vocabulary)
    return vocabulary.decode(log_probs.argmax(axis=1).tolist() if len(log_probs) else [], collapse=True)


def character_probability(log_probs: Float[np.ndarray, "frames symbols"]) -> float:
    """Mean over the greedy characters (word boundaries too) of each one's highest probability; 0 when there are none.

    >>> round(character_probability(np.log(np.array([[0.1, 0.2, 0.7], [0.0001, 0.0999, 0.9], [0.5, 0.25, 0.25]]))), 3)
    0.9
    """
    highest: list[float] = []
    previous = 0  # the blank
    for frame in log_probs:
        symbol = int(frame.argmax())
        prob = float(np.exp(frame[symbol]))
        if symbol != 0 and symbol == previous:
            highest[-1] = max(highest[-1], prob)
        elif symbol != 0:
            highest.append(prob)
        previous = symbol
    return float(np.mean(highest)) if highest else 0.0


@dataclass(frozen=True)
class _Tables:
    """Flashlight's objects that decoders of other weights share; `spellings` is None without a lexicon."""

    lm: Any
    spellings: Any
    words: Any
    tokens: Any


class BeamDecoder:
    """Beam search over one utterance at a time. Not thread-safe: the language model has a state.

    Args:
        vocabulary: the symbols of the CTC model.
        config: weights and beam.
        lm: an n-gram file (ARPA, or KenLM's binary form), of words with a lexicon and of characters without; None: no
            language model.
        words: the lexicon; None: all words of an ARPA `lm`, with the vocabulary's spellings. Words missing from `lm`
            are scored as its `<unk>`.

    Attributes:
        words: the lexicon, sorted; empty without one.
        left_out: words that the vocabulary cannot write, which therefore cannot be recognised.

    Raises:
        UserError: the extra `lm` is not installed; the file is missing, unreadable or of the wrong kind; no words.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        config: DecoderConfig | None = None,
        lm: Path | None = None,
        words: Sequence[str] | None = None,
    ):
        self.vocabulary = vocabulary
        self.config = config or DecoderConfig()
        self.lm = lm
        if self.config.prior and len(self.config.prior) != len(vocabulary):
            raise UserError(f"a prior of {len(self.config.prior)} symbols, and the vocabulary has {len(vocabulary)}")
        self.words: tuple[str, ...] = ()
        self.left_out: tuple[str, ...] = ()
        known = None if lm is None else _lm_words(lm)
        if self.config.lexicon:
            self._take_words(known if words is None else words)
        elif words is not None:
            raise ValueError("words were given, but the config has lexicon = false")
        else:
            self._refuse_words(known)
        self._tables = self._load()
        self._decoder = self._build()

    def with_config(self, config: DecoderConfig) -> "BeamDecoder":
        """Decoder with other weights that shares the language model and the lexicon, which are not read again.

        Raises:
            ValueError: a config with a lexicon for a decoder without, or the reverse.
        """
        if config.lexicon != self.config.lexicon:
            raise ValueError(f"this decoder has lexicon = {self.config.lexicon}, the config {config.lexicon}")
        other = copy.copy(self)
        other.config = config
        other._decoder = other._build()
        return other

    def decode(self, log_probs: Float[np.ndarray, "frames symbols"]) -> Hypothesis:
        """Recognise an utterance.

        Where frames x beam exceed `MAX_STATES` (14 minutes of audio with a beam of 100), the utterance is cut at pauses
        between words (see `pieces`) and each piece is searched alone, without the words before it; the hypothesis then
        has one candidate, the product of the pieces' best.

        Args:
            log_probs: natural logarithms, from a CTC model.

        Raises:
            ValueError: another number of symbols than the vocabulary has, or values that are not a number.
        """
        check_emissions(log_probs, self.vocabulary)
        cut = pieces(log_probs, self.vocabulary, most=max(2, MAX_STATES // self.config.beam_size))
        if len(cut) == 1:
            return self._decode(log_probs)
        found = [self._decode(log_probs[piece.first : piece.stop]) for piece in cut]
        joints = [" " if piece.ends_word or self.config.lexicon else "" for piece in cut]
        text = " ".join("".join(each.text + joint for each, joint in zip(found, joints, strict=True)).split())
        score, confidence = sum(each.score for each in found), float(np.prod([each.confidence for each in found]))
        candidates = (Candidate(text, score, confidence),)
        return Hypothesis(text, score, confidence, character_probability(log_probs), candidates)

    def text(self, log_probs: Float[np.ndarray, "frames symbols"]) -> str:
        """The text of `decode`."""
        return self.decode(log_probs).text

    def _decode(self, log_probs: Float[np.ndarray, "frames symbols"]) -> Hypothesis:
        """Search without cutting."""
        heard = log_probs.astype(np.float32)
        if self.config.prior_weight:
            heard = heard - np.float32(self.config.prior_weight) * np.array(self.config.prior, dtype=np.float32)
        if self.config.lexicon:
            # Spellings end with the boundary, transcripts do not: one frame is added that can only be a boundary.
            boundary = np.full((1, len(self.vocabulary)), _FORBIDDEN, dtype=np.float32)
            boundary[0, self.vocabulary.symbols.index(WORD_BOUNDARY)] = 0
            heard = np.concatenate([heard, boundary])
        if len(heard) == 0:
            return Hypothesis("", 0.0, 1.0, 0.0, (Candidate("", 0.0, 1.0),))
        heard = np.ascontiguousarray(heard)  # flashlight reads it by its address
        found = self._decoder.decode(heard.ctypes.data, *heard.shape)[: self.config.nbest]
        texts = [(self._text(each), float(each.score)) for each in found]
        candidates = _candidates(texts, log_add=self.config.log_add)
        best = candidates[0]
        return Hypothesis(best.text, best.score, best.posterior, character_probability(log_probs), candidates)

    def _text(self, found: Any) -> str:
        if self.config.lexicon:
            return " ".join(self.words[place] for place in found.words if place >= 0)
        return self.vocabulary.decode(found.tokens, collapse=True)

    def _take_words(self, words: Sequence[str] | None) -> None:
        if words is None:
            raise UserError("beam search with a lexicon needs a language model or a list of words")
        self.words = tuple(sorted({word for word in words if word and self.vocabulary.can_write(word)}))
        self.left_out = tuple(sorted(set(words) - set(self.words)))
        if not self.words:
            raise UserError(f"no word of the lexicon ({len(set(words))}) is made of the vocabulary's characters alone")
        if WORD_BOUNDARY in self.left_out and max(map(len, self.words)) == 1:
            raise UserError(f"{self.lm}: a language model of characters; use it with lexicon = false")

    def _refuse_words(self, words: Sequence[str] | None) -> None:
        if not self.vocabulary.writes_words:
            raise UserError(
                f"{self.lm or 'no language model'}: a model of phones needs a language model of words; "
                "use lexicon = true"
            )
        characters = set(self.vocabulary.symbols[1:])
        if words is not None and len(characters.intersection(words)) < len(characters) / 2:
            raise UserError(f"{self.lm}: not a language model of the characters that a search without a lexicon needs")

    def _load(self) -> _Tables:
        """The language model and the tree of spellings, which do not depend on the weights."""
        decoding, dictionary, kenlm = map(_flashlight, ("decoder", "dictionary", "decoder.kenlm"))
        tokens = dictionary.Dictionary(list(self.vocabulary.symbols))
        boundary = tokens.get_index(WORD_BOUNDARY)
        # The numbers of the words are their places: without a lexicon those of the symbols.
        entries = [*(self.words if self.config.lexicon else self.vocabulary.symbols), UNKNOWN]
        words = dictionary.Dictionary(entries)
        try:
            with quiet_errors():
                lm = decoding.ZeroLM() if self.lm is None else kenlm.KenLM(str(self.lm), words)
                spellings = self._spellings(lm, decoding, boundary) if self.config.lexicon else None
        except RuntimeError as error:
            raise UserError(f"{self.lm}: KenLM cannot read it: {' '.join(str(error).split())}") from None
        return _Tables(lm, spellings, words=words, tokens=tokens)

    def _spellings(self, lm: Any, decoding: Any, boundary: int) -> Any:
        """The tree of the words' spellings; a leaf holds six words, so the likeliest words come first."""
        number = {symbol: place for place, symbol in enumerate(self.vocabulary.symbols)}
        tree = decoding.Trie(len(self.vocabulary), boundary)
        start = lm.start(False)  # noqa: FBT003 -- flashlight's function has no keywords
        scores = [lm.score(start, place)[1] for place in range(len(self.words))]
        for place in sorted(range(len(scores)), key=lambda each: -scores[each]):
            for spelling in self.vocabulary.spellings(self.words[place]):
                tree.insert([*map(number.__getitem__, spelling), boundary], place, scores[place])
        tree.smear(decoding.SmearingMode.MAX)
        return tree

    def _build(self) -> Any:
        """Flashlight's search with this decoder's weights; it shares the tables."""
        config, tables, decoding = self.config, self._tables, _flashlight("decoder")
        options = {
            "beam_size": config.beam_size,
            "beam_size_token": len(self.vocabulary),
            "beam_threshold": config.beam_threshold,
            "lm_weight": config.lm_weight,
            "sil_score": 0.0,
            "log_add": config.log_add,
            "criterion_type": decoding.CriterionType.CTC,
        }
        boundary, blank = (tables.tokens.get_index(symbol) for symbol in (WORD_BOUNDARY, BLANK))
        if tables.spellings is None:
            free = decoding.LexiconFreeDecoderOptions(**options)
            return decoding.LexiconFreeDecoder(free, tables.lm, boundary, blank, [])
        chosen = decoding.LexiconDecoderOptions(**options, word_score=config.word_score, unk_score=-math.inf)
        unknown, of_tokens = tables.words.get_index(UNKNOWN), False
        return decoding.LexiconDecoder(chosen, tables.spellings, tables.lm, boundary, blank, unknown, [], of_tokens)


def symbol_prior(emissions: Sequence[Float[np.ndarray, "_ symbols"]]) -> tuple[float, ...]:
    """Natural logarithm of the mean probability of each symbol over all frames, for `DecoderConfig.prior`.

    >>> symbol_prior([np.log(np.array([[0.9, 0.1], [0.5, 0.5]]))])
    (-0.35667, -1.20397)
    """
    total = np.sum([np.exp(rows.astype(np.float64)).sum(axis=0) for rows in emissions], axis=0)
    shares = total / sum(map(len, emissions))
    return tuple(round(float(np.log(max(share, 1e-8))), 5) for share in shares)


def beam_search_installed() -> bool:
    """Whether the extra `lm` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("flashlight", "kenlm"))


def check_emissions(log_probs: Float[np.ndarray, "frames symbols"], vocabulary: Vocabulary) -> None:
    """Refuse probabilities that do not fit the vocabulary.

    Raises:
        ValueError: another number of symbols, or values that are not a number.
    """
    if log_probs.shape[1] != len(vocabulary):
        raise ValueError(f"the emissions have {log_probs.shape[1]} symbols, the vocabulary has {len(vocabulary)}")
    if np.isnan(log_probs).any():
        raise ValueError("the emissions hold values that are not a number")


def _flashlight(part: str) -> Any:
    """A module of flashlight's.

    Raises:
        UserError: the extra `lm` is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(f"flashlight.lib.text.{part}")
    except ImportError:
        raise UserError(EXTRA) from None
    except OSError as error:
        raise UserError(f"flashlight-text (the extra 'lm') cannot be loaded: {' '.join(str(error).split())}") from None


def _candidates(found: Sequence[tuple[str, float]], *, log_add: bool) -> tuple[Candidate, ...]:
    """Texts and scores, best first; texts that differ only in boundaries at the ends are merged."""
    scores: dict[str, float] = {}
    for text, score in found:
        whole = score - _FORBIDDEN if score < _FORBIDDEN / 2 else score  # no word was complete at the end
        other = scores.get(text, -np.inf)
        scores[text] = float(np.logaddexp(other, whole)) if log_add else max(other, whole)
    values = np.array(list(scores.values()))
    posteriors = np.exp(values - values.max())
    posteriors /= posteriors.sum()
    candidates = [Candidate(text, scores[text], float(p)) for text, p in zip(scores, posteriors, strict=True)]
    return tuple(sorted(candidates, key=lambda each: (-each.score, each.text)))


def _lm_words(lm: Path) -> list[str] | None:
    """The words of an ARPA file; None for KenLM's binary format, which stores only their hashes."""
    try:
        with lm.open("rb") as file:
            if file.read(len(_KENLM_BINARY)) == _KENLM_BINARY:
                return None
    except OSError as error:
        raise UserError(f"{lm}: language model cannot be read: {error.strerror}") from None
    return arpa_words(lm)


@contextmanager
def quiet_errors() -> Generator[None]:
    """Silence standard error: KenLM's progress bar, flashlight's full leaves; no option does. Errors are raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)

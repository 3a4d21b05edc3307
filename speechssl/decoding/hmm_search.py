"""Beam search over the words of an HMM with an n-gram: flashlight's lexicon decoder, made an exact HMM.

flashlight (Kahn et al. 2022, arXiv 2201.12465) searches a tree of spellings. Its criterion ASG (Collobert et al. 2016,
arXiv 1609.03193) has no blank: a token may be repeated, and a matrix scores each pair of tokens that follow each other.
With HMM states as tokens and transition probabilities in the matrix this is the Viterbi search of an HMM:

    acoustic_scale * ln p(frames, states)  +  lm_weight * log10 P_LM(words)  +  word_score * words

A word ends in the decoder with the first frame of its last token. So every spelling is there twice, with its last state
once (one frame there) and twice (two or more). Between words the silence state may be repeated. Of the words with one
pronunciation the decoder keeps six, here the most probable ones.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from speechssl.config import UserError
from speechssl.decoding.arpa import UNKNOWN, arpa_words
from speechssl.decoding.decode import EXTRA, DecoderConfig, beam_search_installed, quiet_errors
from speechssl.decoding.hmm import SILENCE, MonophoneHmm, Spellings

ACOUSTIC_SCALE = 0.1  # neighbouring frames are not independent; Kaldi's value is 0.1 in training and near it in tests
BEAM_SIZE = 400  # hypotheses: an HMM has thrice as many tokens as letters, and frames of 10 ms
BEAM_THRESHOLD = 10.0  # nats after scaling


class HmmDecoder:
    """Search for words. Not thread-safe: the language model has a state.

    Args:
        hmm: the model.
        config: weights and beam, with a lexicon and without a prior.
        lm: an ARPA file of words.
        spellings: pronunciations of a word, in the units of ``hmm``; of words that have one.

    Attributes:
        words: the lexicon, sorted.

    Raises:
        UserError: the extra `lm` is not installed, or no word of the n-gram can be spelled with the units.
    """

    def __init__(self, hmm: MonophoneHmm, *, config: DecoderConfig, lm: Path, spellings: Callable[[str], Spellings]):
        if not beam_search_installed():
            raise UserError(EXTRA)
        from flashlight.lib.text.decoder import SmearingMode, Trie
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        self.hmm, self.config, self.lm = hmm, config, lm
        units = set(hmm.units)
        known = {
            word: usable
            for word in arpa_words(lm)
            if (usable := [each for each in spellings(word) if each and units.issuperset(each)])
        }
        if not known:
            raise UserError(f"{lm}: no word in it is made of the {len(units)} units of the labelled side alone")
        self.words = tuple(sorted(known))
        self._names = Dictionary([*self.words, UNKNOWN])
        with quiet_errors():
            self._model = KenLM(str(lm), self._names)
        self._trie: Any = Trie(len(hmm.loops), SILENCE)
        start = self._model.start(0)
        scores = [self._model.score(start, number)[1] for number in range(len(self.words))]
        with quiet_errors():  # it prints a line for each word beyond six of one sound, and leaves that word out
            for number in sorted(range(len(scores)), key=lambda each: -scores[each]):
                for each in known[self.words[number]]:
                    states = hmm.states_of(each)
                    self._trie.insert(states, number, scores[number])
                    self._trie.insert([*states, states[-1]], number, scores[number])
        self._trie.smear(SmearingMode.MAX)
        self._decoder = self._build()

    def with_config(self, config: DecoderConfig) -> "HmmDecoder":
        """Decoder with other weights that shares the language model and the lexicon."""
        other = copy.copy(self)
        other.config = config
        other._decoder = other._build()
        return other

    def text(self, log_probs: Float[np.ndarray, "frames states"]) -> str:
        """The best text; empty where there is no frame.

        Args:
            log_probs: `hmm.mixtures.log_probs` of the frames.
        """
        if len(log_probs) == 0:
            return ""
        heard: Float32[np.ndarray, "frames states"] = np.ascontiguousarray(ACOUSTIC_SCALE * log_probs, dtype=np.float32)
        found = self._decoder.decode(heard.ctypes.data, *heard.shape)
        if not found:
            return ""
        return " ".join(self._names.get_entry(number) for number in found[0].words if number >= 0)

    def _build(self) -> Any:
        from flashlight.lib.text.decoder import CriterionType, LexiconDecoder, LexiconDecoderOptions

        config = self.config
        options = LexiconDecoderOptions(
            beam_size=config.beam_size,
            beam_size_token=len(self.hmm.loops),
            beam_threshold=config.beam_threshold,
            lm_weight=config.lm_weight,
            word_score=config.word_score,
            unk_score=-np.inf,
            sil_score=0.0,
            log_add=False,
            criterion_type=CriterionType.ASG,
        )
        unknown = self._names.get_index(UNKNOWN)
        transitions = _transitions(self.hmm).astype(np.float32).ravel().tolist()
        return LexiconDecoder(options, self._trie, self._model, SILENCE, -1, unknown, transitions, 0)


def _transitions(hmm: MonophoneHmm) -> Float[np.ndarray, "to from"]:
    """Scaled logarithm of the probability of each state after each other one."""
    scores = np.tile(np.log1p(-hmm.loops), (len(hmm.loops), 1))
    np.fill_diagonal(scores, np.log(hmm.loops))
    return ACOUSTIC_SCALE * scores

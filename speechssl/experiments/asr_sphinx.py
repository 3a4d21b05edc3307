"""PocketSphinx as installed: a finished English recogniser, the rival that a user has without any label.

The package `pocketsphinx` (BSD licence) brings CMU Sphinx's acoustic model en-us, CMU's dictionary and a word trigram.
Nothing is trained or tuned here, and all settings are the package's. Its acoustic model has learnt from far more speech
than a few labelled minutes, of which no list is published.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.general import english_trigram, is_english
from speechssl.text import normalize_transcript

TRAINED_ON = "unknown: trained on far more speech, on none of these labels"


def sphinx_missing(language: str | None) -> str:
    """Why PocketSphinx cannot be compared on a corpus, in words; empty where it can."""
    if importlib.util.find_spec("pocketsphinx") is None:
        return "the package pocketsphinx is not installed: pip install 'speechssl[lm]'"
    if language is None:
        return "it recognises English, and the manifest gives no language, or several"
    return "" if is_english(language) else f"it recognises English, and the corpus is in {language!r}"


def sphinx_transcripts(store: WaveformStore, indices: Sequence[int]) -> list[str]:
    """Normalised transcripts of utterances.

    Its estimate of the cepstral mean carries over from one utterance to the next, as in its own programs.

    Args:
        store: the prepared corpus.
        indices: the utterances, decoded in this order.
    """
    import pocketsphinx

    decoder: Any = pocketsphinx.Decoder(loglevel="FATAL")
    found: list[str] = []
    for index in indices:
        samples = np.round(np.clip(store.waveform(index), -1, 1) * 32767).astype("<i2")
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        best = decoder.hyp()
        found.append("" if best is None else normalize_transcript(best.hypstr, "en"))
    return found


def sphinx_text(transcripts: Sequence[str]) -> str:
    """Text of its n-gram and number of words of the test side that it lacks, in words."""
    words = [word for each in transcripts for word in each.split()]
    known = set(english_trigram().words)
    missing = sum(word not in known for word in words)
    return (
        f"trigram of pocketsphinx {sphinx_version()} alone: it lacks {missing} of {len(words)} words of the test side; "
        "test transcripts in its text: unknown"
    )


def sphinx_version() -> str:
    """Version of the package."""
    return importlib.metadata.version("pocketsphinx")

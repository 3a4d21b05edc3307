"""Self-training: a model with a language model labels unlabelled utterances, and a new model is trained on both.

Xu et al. 2020, "Self-training and Pre-training are Complementary for Speech Recognition" (arXiv 2010.11430): the
teacher is the fine-tuned model decoding with an n-gram, the student starts from the same pretrained encoder again.
Filtering by confidence and iterating follow Park et al. 2020, "Improved Noisy Student Training for Automatic Speech
Recognition" (arXiv 2005.09629). Both matter most where the teacher is weak.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio import SAMPLE_RATE
from speechssl.data.labelled import Example
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.decode import BeamDecoder, character_probability, greedy
from speechssl.inference.heads import emissions
from speechssl.models.ctc import CTCModel
from speechssl.text import Vocabulary
from speechssl.train.finetune import FinetuneResult, finetune
from speechssl.train.finetune_config import FinetuneConfig

LABELLED_SHARE = 0.25  # fraction of the audio of an epoch, approximated by repeating the labelled utterances
_CHUNK = 64  # utterances whose emissions are in memory at once


@dataclass(frozen=True)
class PseudoLabels:
    """A teacher's transcripts by falling confidence, the number of utterances, and the lowest kept confidence."""

    examples: list[Example]
    considered: int
    threshold: float


def pseudo_label(
    model: CTCModel,
    store: WaveformStore,
    indices: Sequence[int],
    *,
    decoder: BeamDecoder | None,
    keep: float,
) -> PseudoLabels:
    """Transcripts of unlabelled utterances, without the least confident ones.

    Args:
        model: the teacher, in evaluation mode.
        store: the prepared corpus.
        indices: indices of the unlabelled utterances.
        decoder: its beam search; None decodes greedily, which needs a teacher of characters.
        keep: fraction to keep, in (0, 1], of the utterances with a transcript, by the mean probability of the greedy
            characters, which is comparable between utterances of any length.

    Raises:
        ValueError: a fraction outside (0, 1], or a teacher of phones without a decoder.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be in (0, 1], got {keep:g}")
    if decoder is None and not model.vocabulary.writes_words:
        raise ValueError("a teacher that recognises phones needs a decoder: greedily it writes phones, not words")
    found: list[tuple[float, Example]] = []
    for start in range(0, len(indices), _CHUNK):
        chunk = indices[start : start + _CHUNK]
        waveforms = [store.waveform(index) for index in chunk]
        for index, rows in zip(chunk, emissions(model, waveforms), strict=True):
            text = greedy(rows, model.vocabulary) if decoder is None else decoder.decode(rows).text
            if text:
                found.append((character_probability(rows), Example(index, text)))
    found.sort(key=lambda pair: (-pair[0], pair[1].index))
    kept = found[: round(keep * len(found))]
    return PseudoLabels([example for _, example in kept], len(indices), kept[-1][0] if kept else 1.0)


def mix(store: WaveformStore, labelled: Sequence[Example], pseudo: Sequence[Example]) -> list[Example]:
    """Pseudo-labelled utterances, and the labelled ones repeated to have their share of the audio."""
    samples = [sum(int(store.lengths[example.index]) for example in part) for part in (labelled, pseudo)]
    own, other = (count / SAMPLE_RATE for count in samples)
    times = max(1, round(LABELLED_SHARE / (1 - LABELLED_SHARE) * other / own))
    return [*labelled] * times + [*pseudo]


def student(
    store: WaveformStore,
    out: Path,
    *,
    config: FinetuneConfig,
    start: Path | None,
    labelled: Sequence[Example],
    pseudo: Sequence[Example],
    vocabulary: Vocabulary,
    command: str = "",
    show: bool = True,
) -> FinetuneResult:
    """Train the next model from the pretrained encoder on labels and pseudo-labels.

    The arguments are those of :func:`speechssl.train.finetune.finetune`.
    """
    return finetune(
        store,
        out,
        config=config,
        start=start,
        train=mix(store, labelled, pseudo),
        vocabulary=vocabulary,
        command=command,
        show=show,
    )

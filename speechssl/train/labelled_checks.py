"""Labelled utterances that fine-tuning cannot use: on both sides, too long, or not writable in the units."""

from collections.abc import Sequence

import torch

from speechssl.audio import seconds_to_samples
from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.data.training_audio import AudioRecord
from speechssl.data.waveforms import WaveformStore
from speechssl.decoding.general import is_english
from speechssl.decoding.phones import PhoneVocabulary
from speechssl.models.ctc import frames_needed
from speechssl.models.encoder import SpeechEncoder
from speechssl.terminal import say_once
from speechssl.text import Vocabulary
from speechssl.train.finetune_config import FinetuneConfig


def refuse_shared(store: WaveformStore, train: Sequence[Example], valid: Sequence[Example]) -> None:
    """Raise `UserError` where an utterance, its audio, or a known speaker, is both trained on and held out."""
    both = {example.index for example in train} & {example.index for example in valid}
    if both:
        raise UserError(f"{store.utterances[min(both)].audio}: is both trained on and held out")
    copied = AudioRecord.of(store, (each.index for each in valid)).find(store, (each.index for each in train))
    if copied:
        raise UserError(
            f"{store.utterances[copied[0]].audio}: its audio is both trained on and held out, under another name or in "
            "another stretch" + (f", with {len(copied) - 1} others" if len(copied) > 1 else "")
        )
    trained, held = ({store.speakers[example.index] for example in part} for part in (train, valid))
    shared = sorted(speaker for speaker in trained & held if speaker is not None)
    if shared:
        raise UserError(
            f"{store.folder}: speaker {shared[0]!r} is both trained on and held out"
            + (f", with {len(shared) - 1} others" if len(shared) > 1 else "")
        )


def usable_examples(
    store: WaveformStore,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    config: FinetuneConfig,
    encoder: SpeechEncoder,
    vocabulary: Vocabulary | None,
) -> tuple[list[Example], list[Example], int]:
    """Examples without those whose transcripts cannot be aligned or would be cropped, and the number of those."""
    if config.kind != "ctc" or vocabulary is None:
        return list(train), list(valid), 0
    longest = seconds_to_samples(config.batches.max_seconds)

    def fits(example: Example) -> bool:
        samples = int(store.lengths[example.index])
        frames = int(encoder.num_frames(torch.tensor(samples)))
        symbols = [ord(symbol) for symbol in vocabulary.written(example.target)]
        return samples <= longest and 0 < frames_needed(symbols) <= frames

    kept = [[example for example in part if fits(example)] for part in (train, valid)]
    return kept[0], kept[1], len(train) + len(valid) - len(kept[0]) - len(kept[1])


def refuse_unwritable(store: WaveformStore, examples: Sequence[Example], vocabulary: Vocabulary) -> None:
    """Raise `UserError` where phones are learnt, and a transcript is not English or has a word without phones."""
    if not isinstance(vocabulary, PhoneVocabulary):
        return
    nameless = sum(store.utterances[example.index].language is None for example in examples)
    if nameless:
        say_once(f"{store.folder}: {nameless} transcripts name no language; ctc.units=phones read them as English")
    for example in examples:
        item = store.utterances[example.index]
        if item.language is not None and not is_english(item.language):
            raise UserError(
                f"{item.audio}: language {item.language!r}, and ctc.units=phones are those of English; use "
                "ctc.units=characters"
            )
        wrong = next((word for word in example.target.split() if not vocabulary.can_write(word)), None)
        if wrong is not None:
            raise UserError(
                f"{item.audio}: ctc.units=phones need words of the letters a to z, got {wrong!r}; write numbers as "
                "words, or use ctc.units=characters"
            )

"""The embedded corpus: synthetic English by eSpeak NG, made locally without a network. It is NOT real speech.

Story: many synthetic voices (accents times variants, each with its own pitch, rate and vocal tract) speak sentences of
a seeded grammar in six prosody styles, in random rooms and noise. The style is the label, the sentence the text. It is
for trying and testing all commands within minutes; no result on it applies to real speech.
Licence: the audio is Apache-2.0, as the package; the synthesiser is GPL-3.0-or-later and is used as a library.
Citation: eSpeak NG, https://github.com/espeak-ng/espeak-ng

Utterance i is a pure function of (seed, voices, styles, i): it depends neither on the utterances before it nor on the
number of workers, so several processes make them in parallel and an interrupted run resumes. A longer corpus begins
with the shorter one.
"""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
import soundfile
from jaxtyping import Float

from speechssl.audio import SAMPLE_RATE, resample
from speechssl.config import Config
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.espeak_engine import synthesize
from speechssl.data.corpora.espeak_grammar import sentence
from speechssl.data.corpora.espeak_room import record
from speechssl.data.corpora.espeak_styles import MAX_VOICES, STYLES, Manner, Speaker, manner, speaker
from speechssl.data.manifest import Utterance
from speechssl.files import replacing

_VERSION = 2  # of the audio; a change that alters it raises the version, and the corpus is made again
_TEXT_STREAM = 3
_MEAN_SECONDS = 4.08  # of an utterance, measured over the default corpus
_SECONDS_PER_LETTER = 0.055  # at 165 words per minute; only determines the length of the sentences
_TARGET_SECONDS = (2.2, 5.2)

INFO = CorpusInfo(
    name="espeak",
    story="Synthetic: eSpeak NG voices speak sentences of a seeded grammar in six prosody styles. Made locally.",
    licence="Apache-2.0 (made by this package; the synthesiser itself is GPL-3.0-or-later)",
    citation="eSpeak NG, https://github.com/espeak-ng/espeak-ng",
    source="the espeakng-loader wheel",
    hours=2.0,
    utterances=1765,
    speakers=48,
    synthetic=True,
)


class Settings(Config):
    """Options of the synthetic corpus.

    Attributes:
        hours: approximate hours of audio; the number of utterances follows from it and from their mean duration.
        voices: number of speakers, 1 to 104.
        styles: styles, in this order; equally frequent for every speaker.
        seed: of all draws.
        workers: processes that synthesise; 0: one per core; 1: in this process.
    """

    hours: Annotated[float, pydantic.Field(gt=0)] = 2.0
    voices: Annotated[int, pydantic.Field(ge=1, le=MAX_VOICES)] = 48
    styles: Annotated[tuple[str, ...], pydantic.Field(min_length=1)] = tuple(STYLES)
    seed: Annotated[int, pydantic.Field(ge=0)] = 0
    workers: Annotated[int, pydantic.Field(ge=0)] = 0

    @pydantic.field_validator("styles")
    @classmethod
    def _known(cls, styles: tuple[str, ...]) -> tuple[str, ...]:
        if not set(styles) <= set(STYLES) or len(set(styles)) != len(styles):
            raise ValueError(f"different ones of {', '.join(STYLES)}")
        return styles


class UtteranceSpec(Config):
    """Content of one utterance without its sound: sentence, speaker, style and manner."""

    index: int
    style: str
    sentence: str
    speaker: Speaker
    manner: Manner


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: B008 -- settings are frozen
    """Synthesises missing utterances and yields all in order.

    Args:
        root: a sub-folder of it, named for the settings that shape the audio, holds one FLAC file per utterance.
        settings: see `Settings`.

    Yields:
        Utterances with text (no final mark), label (the style), speaker, language "en"; extras `synthetic`, `voice`
        and `sex`.

    Raises:
        UserError: the synthesiser cannot be loaded.
    """
    folder = Path(root).resolve() / _folder_name(settings)
    count = max(1, round(settings.hours * 3600 / _MEAN_SECONDS))
    specs = (utterance_spec(index, settings) for index in range(count))
    missing = [index for index in range(count) if not (folder / _file_name(index, settings)).exists()]
    with contextlib.closing(_make_all(missing, settings, folder)) as made:
        pending = set(missing)
        for each in specs:
            path = folder / _file_name(each.index, settings)
            duration = next(made) if each.index in pending else duration_of(path)
            yield Utterance(
                audio=str(path),
                duration=duration,
                speaker=each.speaker.name,
                text=each.sentence,
                label=each.style,
                language="en",
                extras={
                    "synthetic": True,
                    "voice": each.speaker.voice,
                    "sex": "female" if each.speaker.female else "male",
                },
            )


def utterance_spec(index: int, settings: Settings) -> UtteranceSpec:
    """Sentence, speaker and manner of utterance `index`.

    Speakers take turns; each has every style once in as many rounds as there are styles.

    >>> utterance_spec(17, Settings()).style, utterance_spec(17, Settings()).speaker.voice
    ('questioning', 'en+m7')
    """
    turn, place = divmod(index, settings.voices)
    style = settings.styles[(place + turn) % len(settings.styles)]
    who = speaker(place, seed=settings.seed)
    how = manner(index, STYLES[style], who, seed=settings.seed)
    rng = np.random.default_rng([_TEXT_STREAM, settings.seed, index])
    letters = rng.uniform(*_TARGET_SECONDS) / _SECONDS_PER_LETTER * (how.words_per_minute * who.tract / 165)
    words = min((sentence(rng) for _ in range(8)), key=lambda each: abs(len(each) - letters))
    return UtteranceSpec(index=index, style=style, sentence=words, speaker=who, manner=how)


def render(index: int, settings: Settings) -> Float[np.ndarray, " samples"]:
    """The sound of utterance `index`: float32, 16 kHz. A pure function of its arguments.

    >>> sound = render(17, Settings())
    >>> 1.5 < sound.size / 16000 < 7
    True
    """
    each = utterance_spec(index, settings)
    speech = synthesize(
        each.sentence + each.manner.mark,
        each.speaker.voice,
        words_per_minute=each.manner.words_per_minute,
        pitch=each.manner.pitch,
        pitch_range=each.manner.pitch_range,
    )
    samples = speech.samples.astype(np.float32) / 32768
    samples = resample(samples, round(speech.rate * each.speaker.tract), SAMPLE_RATE)
    return record(samples, each.manner, seed=settings.seed, index=index)


def _make_all(indices: list[int], settings: Settings, folder: Path) -> Generator[float, None, None]:
    """Make the utterances, in parallel; yields their durations in order."""
    workers = min(settings.workers or _cores(), math.ceil(len(indices) / 8))
    tasks = ((index, settings, folder) for index in indices)
    if workers <= 1:
        yield from map(_make, tasks)
        return
    # spawn: the C library starts fresh in each worker, and nothing of a parent with threads is inherited.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C signals the workers too; the parent stops them, without a traceback from each.
    pool = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(_make, tasks, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)


def _make(task: tuple[int, Settings, Path]) -> float:
    """Write one utterance; returns its duration, s."""
    index, settings, folder = task
    path = folder / _file_name(index, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = render(index, settings)
    with replacing(path) as file:
        soundfile.write(file, samples, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
    return samples.size / SAMPLE_RATE


def _folder_name(settings: Settings) -> str:
    """Name from all settings that change the audio, so that other settings have another folder."""
    shape = {"version": _VERSION, **settings.model_dump(mode="json", include={"voices", "styles", "seed"})}
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:8]
    return f"espeak-seed{settings.seed}-voices{settings.voices}-{digest}"


def _file_name(index: int, settings: Settings) -> Path:
    return Path(f"s{index % settings.voices:03d}") / f"{index:06d}.flac"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""A corpus of spoken tones that a micro model learns in a second: every letter is a pitch of its own."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from speechssl.audio import SAMPLE_RATE
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import pack
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model

from ..toys import MICRO_ENCODER

# fmt: off
SENTENCES = (
    "ab ba", "ba ab", "abba", "aa bb", "bab", "ab", "ba", "bb aa", "aba", "bb", "aab b", "a ba",
    "b ab", "baa", "abb", "ba ba", "ab ab", "aa b", "b aa", "bba", "a bb", "bb a", "abab", "baba",
)
# fmt: on
PITCH = {"a": 200.0, "b": 900.0, " ": 0.0}


def spoken(text: str, *, speaker: int = 0) -> np.ndarray:
    """80 ms a letter, float32."""
    time = np.arange(round(0.08 * SAMPLE_RATE)) / SAMPLE_RATE
    parts = [0.3 * np.sin(2 * np.pi * PITCH[letter] * (1 + 0.03 * speaker) * time) for letter in f" {text} "]
    wave = np.concatenate(parts)
    rng = np.random.default_rng([speaker, *text.encode()])
    return (wave + 0.003 * rng.standard_normal(len(wave))).astype(np.float32)


def spoken_utterances(folder: Path, *, speakers: int = 6, sentences: tuple[str, ...] = SENTENCES) -> list[Utterance]:
    """Every speaker says other sentences than the next, some of them the same; the last two are the test split."""
    found: list[Utterance] = []
    for speaker in range(speakers):
        for number in range(8):
            text = sentences[(number + 3 * speaker) % len(sentences)]
            path = folder / f"s{speaker}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = spoken(text, speaker=speaker)
            soundfile.write(path, wave, SAMPLE_RATE)
            found.append(
                Utterance(
                    audio=str(path),
                    duration=len(wave) / SAMPLE_RATE,
                    speaker=f"s{speaker}",
                    text=text,
                    label="high" if "b" in text[:1] else "low",
                    split="test" if speaker >= speakers - 2 else "train",
                )
            )
    return found


def spoken_corpus(folder: Path, **options: object) -> Path:
    """The same, prepared."""
    pack(spoken_utterances(folder / "audio", **options), folder / "prepared", workers=1)
    return folder / "prepared"


def micro_model(folder: Path) -> Path:
    """A model folder with an encoder that was never trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(folder, SpeechEncoder(MICRO_ENCODER))
    return folder

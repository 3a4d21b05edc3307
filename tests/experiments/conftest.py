"""A small prepared corpus of labelled tones, a random encoder, and a trainer that takes no time."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
import torch

from speechssl.audio import SAMPLE_RATE
from speechssl.data.manifest import Utterance
from speechssl.data.waveforms import pack
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from tests.micro import model_folder

from ..toys import MICRO_ENCODER

__all__ = ["make_corpus", "model_folder"]

PITCHES = {"high": 480.0, "low": 120.0, "middle": 240.0}


def make_corpus(folder, *, speakers=6, takes=4, loud=False):
    """A pitch is a label. With `loud` the pitch says nothing, and only the level does."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for speaker in range(speakers):
        for number, (label, pitch) in enumerate(PITCHES.items()):
            for take in range(takes):
                samples = 5000 + 400 * take
                time = np.arange(samples) / SAMPLE_RATE
                height = 200.0 if loud else pitch
                rng = np.random.default_rng([speaker, take, 0 if loud else number])
                wave = sum(np.sin(2 * np.pi * height * (1 + 0.02 * speaker) * k * time) / k for k in (1, 2, 3))
                wave = (wave + 0.3 * rng.normal(size=samples)) * (0.004 * 6**number if loud else 0.1)
                path = folder / f"s{speaker}" / f"{label}-{take}.wav"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, wave.astype(np.float32), SAMPLE_RATE, subtype="FLOAT")
                items.append(
                    Utterance(audio=str(path), duration=samples / SAMPLE_RATE, speaker=f"s{speaker}", label=label,
                              split="test" if speaker < 2 else "train", extras={"synthetic": True})
                )  # fmt: skip
    pack(items, folder / "prepared", workers=1)
    return folder / "prepared"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(folder, SpeechEncoder(MICRO_ENCODER))
    return folder


@dataclass
class QuickTrainer:
    """Knows the truth `skill` of the time; remembers its jobs, and can be stopped."""

    truth: list
    skill: float = 0.9
    jobs: list = field(default_factory=list)
    stop_after: int = 10**9
    words: str = "quick"

    def settings(self, job):
        return f"{self.words} {job.network} {job.start is None} {job.shots} {job.seed} {list(job.sets)}"

    def answers(self, job):
        if len(self.jobs) >= self.stop_after:
            raise KeyboardInterrupt
        self.jobs.append(job)
        job.folder.mkdir(parents=True)
        rng = np.random.default_rng(job.seed)
        classes = sorted(set(job.targets))
        skill = self.skill if job.start is not None else 0.4
        return [
            self.truth[i] if rng.random() < skill else classes[int(rng.integers(len(classes)))]
            for i in job.test.tolist()
        ]


@pytest.fixture
def trainer(corpus):
    lines = (corpus / "manifest.jsonl").read_text().splitlines()
    return QuickTrainer([json.loads(line)["label"] for line in lines])

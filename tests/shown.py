"""Commands and code that the README and the pages of docs/ show, and how tests run them at toy size."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import transformers

TOY = {
    "pretrain": "--set loop.steps=2 --set crops.batch_seconds=4 --set crops.seconds=1 --set crops.min_seconds=1",
    "evaluate": "--shots 1 --seeds 1 --no-baselines",
    "choose": "--shots 1 --seeds 1",
    "finetune": "--shots 1 --set loop.steps=1",
    "emotion": "--shots 1 --draws 1 --test-limit 12 --contenders frozen-probe,fine-tuned --set loop.steps=1",
    "judge": "--shots 1 --seeds 1 --test-limit 12",
    "asr": "--minutes 0.5 --beam 5 --rounds 0 --no-scratch --rivals none --set loop.steps=1 "
    "--set batches.batch_seconds=8",
    "correct": "--set loop.steps=1 --set batches.batch_seconds=8",
}
SMALL = {"small": "tiny", "base": "tiny", "20min": "1s", "3h": "2s"}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of the shell blocks."""
    return [line for block in blocks(text, "sh") for line in block.splitlines()]


def at_toy_size(words: Sequence[str]) -> list[str]:
    """The words of a `speechssl` command with ~ expanded and settings that make it take seconds."""
    small = [SMALL.get(word) or str(Path(word).expanduser()) for word in words]
    toy = TOY.get(words[0], "")
    if "--standardise" in words:  # of vectors, so that no network is trained
        toy = toy.replace("frozen-probe,fine-tuned", "frozen-probe")
    if "--probe-on" in words:  # the toy corpus has few utterances per class
        toy += " --set probe.shots=1"
    return small + shlex.split(toy)


def public_model(folder: Path) -> Path:
    """A small model as a hub would send it."""
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    conv = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape, **conv)).save_pretrained(folder)
    return folder

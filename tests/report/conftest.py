"""A run folder as pretraining and evaluation leave it, with made-up numbers."""

import json
import math

import numpy as np
import pytest

from speechssl.metrics.results import ResultRow, write_results
from speechssl.objectives.wav2vec2 import CURVES, PRESETS
from speechssl.train.metrics_file import write_curves

CONTENDERS = {
    "model (last layer)": 0.62,
    "model (mean of layers)": 0.64,
    "random encoder (last layer)": 0.5,
    "random encoder (mean of layers)": 0.52,
    "MFCC": 0.48,
    "log-mel": 0.45,
}


def log_rows(steps=1200):
    rows = []
    for step in [1, *range(10, steps + 1, 10)]:
        done = step / steps
        row = {
            "step": step,
            "loss": 4.7,
            "chance_loss": math.log(101),
            "contrastive_loss": 4.62 - 1.5 * done**1.5 + 0.05 * math.sin(step),
            "accuracy": 0.03 + 0.3 * done**1.5 + 0.01 * math.sin(step / 7),
            "code_perplexity": [95 - 40 * done + math.sin(step), 90 - 50 * done],
            "prob_perplexity": [100.0, 100.0],
            "determinism": 0.6 + 0.2 * done,
            "mutual_information": 3.4,
            "constant_share": 0.64 - 0.3 * done,
            "grad_norm": 0.5,
            "lr": 1e-3,
            "seconds_per_second": 140.0,
            "seconds_seen": 32.0 * step,
        }
        rows.append(row)
        if step % 200 == 0:
            rows.append({**row, "valid": True, "shift_stability": 0.45 + 0.2 * done})
    return rows


def result_rows(*, synthetic=True, gains=True):
    rows = []
    for task, classes in (("label", 6), ("speaker", 24)):
        for contender, base in {**CONTENDERS, "chance": 0.0}.items():
            for probe in ("none",) if contender == "chance" else ("k-NN", "logistic"):
                for number, shots in enumerate((5, 10, 25)):
                    for metric in ("UAR", "WA"):
                        value = (
                            1 / classes if contender == "chance" else base + 0.06 * number + (probe != "k-NN") * 0.04
                        )
                        half = 0.0 if contender == "chance" else 0.05
                        row = ResultRow(
                            task, contender, probe, shots, metric, value, value - half, value + half, 4000, 5,
                            split="speakers disjoint" if task == "label" else "texts disjoint", classes=classes,
                            command="speechssl evaluate runs/demo/pretrain runs/demo/corpus", corpus="runs/demo/corpus",
                            synthetic=synthetic, gains=_gains(contender, task) if gains else {},
                        )  # fmt: skip
                        rows.append(row)
    return rows


def _gains(contender, task):
    if not contender.startswith("model"):
        return {}
    twin = contender.replace("model", "random encoder")
    if task == "speaker":
        return {twin: [0.02, -0.02, 0.06], "MFCC": [-0.1, -0.15, -0.05]}
    return {twin: [0.12, 0.08, 0.16], "MFCC": [0.14, 0.08, 0.2]}


def config(*, synthetic=True):
    return {
        "format": 1,
        "encoder": {
            "conv": {"layers": [[64, 160, 10]] * 6, "norm": "layer", "front": "gabor", "init": "tap-average"},
            "transformer": {"dim": 192, "layers": 4},
        },
        "objective": {"name": "wav2vec2"},
        "provenance": {
            "speechssl": "0.1.0",
            "torch": "2.14.1",
            "command": "speechssl pretrain runs/demo/corpus --out runs/demo/pretrain",
            "corpora": ["runs/demo/corpus"],
            "hours": 1.25,
            "synthetic": synthetic,
        },
    }


RECIPE = """
seed = 0
[crops]
seconds = 2.0
batch_seconds = 32.0
[optim]
max_lr = 0.001
"""


def write_map(path, *, clips=600, labels=6, speakers=24):
    rng = np.random.default_rng(0)
    label, speaker = rng.integers(labels, size=clips), rng.integers(speakers, size=clips)
    centres = rng.normal(size=(labels, 2)) * 20
    np.savez(
        path,
        points=(centres[label] + 5 * rng.normal(size=(clips, 2))).astype(np.float32),
        label=np.array([f"style {number}" for number in label]),
        speaker=np.array([f"voice {number:02d}" for number in speaker]),
        method=np.array("t-SNE"),
    )


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log_rows()))
    write_curves(folder, CURVES, PRESETS["tiny"])
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "recipe.toml").write_text(RECIPE)
    write_results(result_rows(), folder / "results.json")
    write_map(folder / "map.npz")
    return folder

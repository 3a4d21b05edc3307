"""It learns: one batch by heart, and on tones it has never heard, within seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.data.batch import CropBatch
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives.wav2vec2 import Wav2Vec2
from speechssl.train.pretrain import pretrain
from tests.toys import MICRO_ENCODER, MICRO_OBJECTIVE, MICRO_RUN, NO_DROPOUT, changed, normalized_tones, toy_corpus

WIDE = {"transformer__dim": 64, "transformer__feedforward": 128, **NO_DROPOUT}
FREE = {"feature_gradient": 1.0, "feature_penalty": 0.0}


def learn_by_heart(updates: int) -> float:
    """Contrastive loss on one batch, mean of the last ten updates; masks, distractors and noise change all the time."""
    objective = Wav2Vec2(SpeechEncoder(changed(MICRO_ENCODER, **WIDE)), changed(MICRO_OBJECTIVE, **FREE), seed=0)
    crops = CropBatch(torch.from_numpy(normalized_tones(8, 1.0)), np.arange(8), 8)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3, betas=(0.9, 0.98))
    losses = []
    for step in range(updates):
        loss = objective(crops, step=step, progress=step / updates)
        optimizer.zero_grad()
        (loss.total / loss.stats["count"]).backward()
        optimizer.step()
        losses.append(objective.metrics(loss.terms, loss.stats)["contrastive_loss"])
    return float(np.mean(losses[-10:]))


@pytest.mark.slow
def test_one_batch_is_learned_by_heart() -> None:
    """Chance is 3.0. Without gradients through the targets it would still be above 2 by then."""
    assert learn_by_heart(150) < 1.8


@pytest.mark.slow
def test_the_loop_learns_to_predict_unheard_tones_in_bf16(tmp_path: Path) -> None:
    config = changed(
        MICRO_RUN,
        crops__batch_seconds=8.0,
        loop__steps=150,
        loop__precision="bf16",
        loop__validate_every=150,
        optim__reference_lr=4e-3,
        optim__max_lr=4e-3,
        optim__reference_seconds=8.0,
        **{f"encoder__{name}": value for name, value in WIDE.items()},
        **{f"objective__{name}": value for name, value in FREE.items()},
    )
    pretrain([toy_corpus(tmp_path, utterances=40)], tmp_path / "run", config=config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first, [valid] = rows[0], [row for row in rows if "valid" in row]
    assert first["contrastive_loss"] > first["chance_loss"]
    assert valid["contrastive_loss"] < valid["chance_loss"] - 0.3
    assert valid["accuracy"] > 0.2
    assert valid["shift_stability"] > 0.5
    assert min(valid["code_perplexity"]) > 5

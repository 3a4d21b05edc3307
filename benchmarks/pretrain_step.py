"""One pretraining step (forward, backward, update) of ours and of transformers, alternating in one process.

    python benchmarks/pretrain_step.py --preset base --shape 2x5 --steps 10 --json

Both sides get the same waveforms, masks and distractors, the same precision (autocast for both), the same threads, the
same AdamW settings, dropout as the preset has it, and no layer drop (a skipped layer would blur the median). Freed
memory is kept for the next step, as pretraining does it; in one process that serves both. Where transformers can
express the preset, both start from the same weights and their losses are compared before anything is timed.

What each side does by itself stays in: ours draws masks, distractors and noise inside the step and computes the
feature penalty and what is logged; transformers gets masks and distractors ready-made, as from its data collator. AdamW
is each side's usual one: fused in our loop, torch's default in transformers' pretraining script (``--optimizer fused``
gives both the fused one).

The presets `tiny` and `small` have a Gabor front and narrow convolutions, which transformers cannot express: they are
timed against the same Transformer on the paper's convolutions.

The ratio is the median of theirs over the median of ours: above one, ours is faster. Beside wall time stands the
processor time of all threads, which other work on the machine disturbs less.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import speechssl
from speechssl.audio import samples_to_seconds, seconds_to_samples
from speechssl.data.batch import CropBatch
from speechssl.interop import huggingface
from speechssl.models.encoder import PRESETS as ENCODERS
from speechssl.models.encoder import SpeechEncoder
from speechssl.nn.conv import ConvConfig
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives.wav2vec2 import PRESETS as OBJECTIVES
from speechssl.objectives.wav2vec2 import Draws, Wav2Vec2
from speechssl.train.trainer import use_bf16

LEARNING_RATE = 1e-5  # small: the models stay where they were, steps stay alike


@dataclass
class Side:
    """One contender: its step in three parts, the seconds each part took, and the processor seconds of the step."""

    name: str
    prepare: Callable[[int], None]  # not timed
    forward: Callable[[int], Tensor]
    update: Callable[[], None]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"forward": [], "backward": [], "update": []})
    processor: list[float] = field(default_factory=list)

    def step(self, number: int) -> None:
        """Run and time one step."""
        self.prepare(number)
        begin_processor, marks = time.process_time(), [time.perf_counter()]
        loss = self.forward(number)
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        self.update()
        marks.append(time.perf_counter())
        for part, begin, end in zip(self.seconds, marks[:-1], marks[1:], strict=True):
            self.seconds[part].append(end - begin)
        self.processor.append(time.process_time() - begin_processor)

    def forget(self) -> None:
        """Drop what was timed so far."""
        for values in [*self.seconds.values(), self.processor]:
            values.clear()

    @property
    def totals(self) -> list[float]:
        """Seconds of each step."""
        return [sum(parts) for parts in zip(*self.seconds.values(), strict=True)]

    def medians(self) -> dict[str, float]:
        """Median seconds of the step and of its parts."""
        parts = {part: statistics.median(values) for part, values in self.seconds.items()}
        return {"step": statistics.median(self.totals)} | parts | {"processor": statistics.median(self.processor)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(ENCODERS), default="base")
    parser.add_argument("--shape", type=shape, default="2x10", metavar="BATCHxSECONDS", help="default: 2x10")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side, after two untimed ones")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto", help="of both sides")
    parser.add_argument(
        "--optimizer", choices=["own", "fused"], default="own", help="AdamW: each side's usual, or fused"
    )
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    return parser.parse_args(argv)


def shape(text: str) -> tuple[int, int]:
    """Crops and their samples from ``BATCHxSECONDS``.

    >>> shape("2x0.5")
    (2, 8000)
    """
    batch, seconds = text.split("x")
    return int(batch), seconds_to_samples(float(seconds))


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    bf16 = use_bf16(options.precision, torch.device("cpu"))
    ours, theirs, same_weights = build(options.preset)
    batch, samples = options.shape
    crops = CropBatch(torch.randn(batch, samples), np.arange(batch), batch)
    if same_weights:
        check_equal(ours, theirs, crops)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    sides = [
        our_side(ours, crops, autocast),
        their_side(ours, theirs, crops, autocast, fused=options.optimizer == "fused"),
    ]
    for number in range(options.steps + 2):
        for side in sides if number % 2 else sides[::-1]:
            side.step(number)
        print(f"step {number}: " + ", ".join(f"{side.name} {side.totals[-1]:.3f} s" for side in sides), file=sys.stderr)
        if number == 1:
            for side in sides:
                side.forget()
    report(options, sides, bf16=bf16, same_weights=same_weights)
    return 0


def build(preset: str) -> tuple[Wav2Vec2, transformers.Wav2Vec2ForPreTraining, bool]:
    """Both models, with the same weights where that is possible."""
    torch.manual_seed(0)
    encoder, objective = ENCODERS[preset], OBJECTIVES[preset]
    encoder = encoder.model_copy(update={"transformer": encoder.transformer.model_copy(update={"layer_drop": 0.0})})
    ours = Wav2Vec2(SpeechEncoder(encoder), objective, seed=0)
    same = encoder.conv.front == "conv"
    if not same:
        encoder = encoder.model_copy(update={"conv": ConvConfig()})
        objective = objective.model_copy(
            update={"quantizer": objective.quantizer.model_copy(update={"normalize_input": False})}
        )
        print(f"{preset}: transformers runs the same Transformer on the paper's convolutions", file=sys.stderr)
    theirs = transformers.Wav2Vec2ForPreTraining(
        transformers.Wav2Vec2Config(**huggingface.export_config(encoder, objective))
    )
    if same:
        theirs.load_state_dict(huggingface.export_weights(ours.state_dict()))
    return ours, theirs, same


def flat_negatives(draws: Draws) -> Tensor:
    """Distractors as transformers wants them: positions in the flattened batch."""
    batch, frames = draws.mask.shape
    flat = torch.zeros(batch, frames, draws.negatives.shape[-1], dtype=torch.long)
    for row in range(batch):
        positions = draws.mask[row].nonzero().squeeze(1)
        flat[row, positions] = positions[draws.negatives[row]] + row * frames
    return flat


@torch.no_grad()
def check_equal(ours: Wav2Vec2, theirs: transformers.Wav2Vec2ForPreTraining, crops: CropBatch) -> None:
    """Both must give the same contrastive loss in evaluation mode and fp32."""
    draws = ours.draw(crops, step=0)
    own = ours.eval().loss(crops.waveforms, draws, temperature=1.0).terms["contrastive"].item()
    peer = theirs.eval()(
        crops.waveforms, mask_time_indices=draws.mask, sampled_negative_indices=flat_negatives(draws)
    ).contrastive_loss.item()
    print(f"contrastive loss in fp32: ours {own:.3f}, transformers {peer:.3f}", file=sys.stderr)
    if abs(own - peer) > 1e-4 * peer:
        raise SystemExit("the two losses differ: the comparison would say nothing")


def our_side(model: Wav2Vec2, crops: CropBatch, autocast: torch.autocast) -> Side:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def forward(number: int) -> Tensor:
        with autocast:
            loss = model(crops, step=number, progress=0.0)
        return loss.total / loss.stats["count"]

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Side("ours", lambda _: None, forward, update)


def their_side(
    ours: Wav2Vec2,
    model: transformers.Wav2Vec2ForPreTraining,
    crops: CropBatch,
    autocast: torch.autocast,
    *,
    fused: bool,
) -> Side:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=fused or None)
    collated: dict[str, Tensor] = {}

    def collate(number: int) -> None:
        draws = ours.draw(crops, step=number)
        collated.update(mask_time_indices=draws.mask, sampled_negative_indices=flat_negatives(draws))

    def forward(_: int) -> Tensor:
        with autocast:
            return model(crops.waveforms, **collated).loss / collated["mask_time_indices"].sum()

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Side("transformers", collate, forward, update)


def report(options: argparse.Namespace, sides: list[Side], *, bf16: bool, same_weights: bool) -> None:
    """Print the result, for people and on request for machines."""
    ours, theirs = (side.medians() for side in sides)
    pairs = [their / our for our, their in zip(sides[0].totals, sides[1].totals, strict=True)]
    result: dict[str, Any] = {
        "ratio": theirs["step"] / ours["step"],
        "processor_ratio": theirs["processor"] / ours["processor"],
        "ratio_quartiles": [float(value) for value in np.quantile(pairs, [0.25, 0.75])],
        "seconds": {"ours": ours, "transformers": theirs},
        "preset": options.preset,
        "batch": options.shape[0],
        "seconds_of_audio": samples_to_seconds(options.shape[1]),
        "steps": options.steps,
        "precision": "bf16" if bf16 else "fp32",
        "optimizer": options.optimizer,
        "same_weights": same_weights,
        "threads": torch.get_num_threads(),
        "versions": {
            "speechssl": speechssl.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    for name, medians in result["seconds"].items():
        print(f"{name:>12}: " + ", ".join(f"{part} {value:.3f} s" for part, value in medians.items()))
    where = f"{options.preset}, {result['batch']} x {result['seconds_of_audio']:g} s, {result['precision']}"
    print(f"{'ratio':>12}: {result['ratio']:.2f}, of processor time {result['processor_ratio']:.2f} ({where})")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    raise SystemExit(main())

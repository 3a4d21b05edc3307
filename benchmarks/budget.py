"""Where the time of a pretraining step goes: work of each part, the floor that this machine sets, and our time.

    python benchmarks/budget.py --preset tiny --precision bf16
    python benchmarks/budget.py --preset base --shape 2x10 --precision fp32 --json

Of each part (feature encoder, projection and positions, blocks, quantizer and loss, optimiser) forward and backward are
run alone, on inputs of the step's shapes. Columns:

* `GFLOP`: operations of its matrix products and convolutions, counted by `torch.utils.flop_counter`.
* `GB`: bytes that its other operations read and write, counted at the dispatcher. A fused kernel would move fewer.
* `floor`: GFLOP at the machine's measured rate of products, plus GB at its measured rate of copies.
* `ours`: median time. On CPUs it is processor time divided by the number of threads, which other work disturbs less.
* `products`: what part of `ours` the products alone would take at the measured rate.

The sum of the parts is compared with a whole step.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import speechssl
from speechssl.audio import seconds_to_samples
from speechssl.data.batch import CropBatch
from speechssl.models.encoder import PRESETS as ENCODERS
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.masked import masked_context
from speechssl.nn.memory import keep_freed_memory
from speechssl.objectives.wav2vec2 import PRESETS as OBJECTIVES
from speechssl.objectives.wav2vec2 import Wav2Vec2, contrastive_term
from speechssl.train.trainer import use_bf16

SHAPES = {"tiny": "16x2", "small": "16x4", "base": "2x10", "large": "1x10"}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "scaled_dot_product")
VIEWS = (
    "view",
    "reshape",
    "transpose",
    "permute",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
)
VIEWS += ("as_strided", "unfold", "split", "t.default", "empty", "_unsafe_view", "unbind", "diagonal.", "lift_fresh")


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    name: str
    gflop: float
    gigabytes: float
    floor: float
    seconds: float

    def product_share(self, product_rate: float) -> float:
        """Share of the time that products take at the measured rate."""
        return self.gflop / product_rate / self.seconds


class Traffic(TorchDispatchMode):
    """Counts bytes that operations other than products and views read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).removeprefix("aten.")
        if not name.startswith((*PRODUCTS, *VIEWS)):
            tensors = [each for each in tree_flatten((args, kwargs, result))[0] if isinstance(each, Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        return result


class Clock:
    """Median seconds of a function on a device."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self.repeats = device, repeats

    def __call__(self, run: Callable[[], object]) -> float:
        """Seconds of a call, after one that is not timed."""
        run()
        return statistics.median(self._once(run) for _ in range(self.repeats))

    def _once(self, run: Callable[[], object]) -> float:
        if self.device.type == "cpu":
            begin = time.process_time()
            run()
            return (time.process_time() - begin) / torch.get_num_threads()
        torch.cuda.synchronize(self.device)
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - begin


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = torch.bfloat16 if use_bf16(options.precision, device) else torch.float32
    clock = Clock(device, options.steps)
    product_rate, copy_rate = rates(clock, dtype)
    step = Step(options.preset, options.shape or SHAPES[options.preset], device, dtype)
    rows = [measured(name, run, clock, product_rate, copy_rate) for name, run in step.parts().items()]
    whole = measured("whole step", step.whole, clock, product_rate, copy_rate)
    print(table([*rows, whole], product_rate, copy_rate, step.seconds))
    if options.json:
        result = {
            "preset": options.preset,
            "precision": str(dtype).removeprefix("torch."),
            "gflop_per_second": product_rate,
            "gigabytes_per_second": copy_rate,
            "audio_seconds_per_second": step.seconds / whole.seconds,
            "parts": [asdict(row) for row in [*rows, whole]],
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
            "versions": {"speechssl": speechssl.__version__, "torch": torch.__version__},
        }
        print(json.dumps(result))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(ENCODERS), default="tiny")
    parser.add_argument("--shape", metavar="BATCHxSECONDS", help=f"default: {SHAPES}")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=9, help="timed repetitions of each part")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    return parser.parse_args(argv)


def rates(clock: Clock, dtype: torch.dtype, size: int = 1536) -> tuple[float, float]:
    """GFLOP/s of a large matrix product, and GB/s read and written by a copy beyond the caches."""
    a, b = (torch.randn(size, size, device=clock.device, dtype=dtype) for _ in range(2))
    large = torch.randn(16_000_000, device=clock.device)
    other = torch.empty_like(large)
    products = 2 * size**3 / 1e9 / clock(lambda: a @ b)
    return products, 2 * large.numel() * 4 / 1e9 / clock(lambda: other.copy_(large))


def convolution_backward_flops(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *others: Any, **_: Any
) -> int:
    """Operations of both gradients of a convolution; torch's count is too large for grouped ones."""
    *_settings, mask = others[:8]
    return conv_flop_count(x, weight, gradient, transposed=False) * (int(mask[0]) + int(mask[1]))


def measured(name: str, run: Callable[[], object], clock: Clock, product_rate: float, copy_rate: float) -> Part:
    run()
    backward = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=backward) as counter:
        run()
    with Traffic() as traffic:
        run()
    gflop, gigabytes = counter.get_total_flops() / 1e9, traffic.bytes / 1e9
    return Part(name, gflop, gigabytes, gflop / product_rate + gigabytes / copy_rate, clock(run))


class Step:
    """A pretraining step and its parts."""

    def __init__(self, preset: str, shape: str, device: torch.device, dtype: torch.dtype):
        torch.manual_seed(0)
        batch, seconds = shape.split("x")
        self.model = Wav2Vec2(SpeechEncoder(ENCODERS[preset]), OBJECTIVES[preset], seed=0).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        waveforms = torch.randn(int(batch), seconds_to_samples(float(seconds)), device=device)
        self.crops = CropBatch(waveforms, np.arange(int(batch)), int(batch))
        self.seconds = int(batch) * float(seconds)
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
        self.draws = self.model.draw(self.crops, step=0)
        with torch.no_grad(), self.autocast:
            self.latents = self.model.encoder.latents(waveforms)
            self.projected = self.model.encoder.project(self.latents)
            self.context = masked_context(
                self.model.encoder, self.latents, self.model.mask_embedding, self.draws.mask
            ).frames

    def whole(self) -> None:
        """Forward, backward, update."""
        with self.autocast:
            loss = self.model(self.crops, step=0, progress=0.0)
        (loss.total / loss.stats["count"]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def parts(self) -> dict[str, Callable[[], None]]:
        """Forward and backward of each part alone, by name."""
        model, encoder = self.model, self.model.encoder
        transformer = encoder.transformer

        def positions(x: Tensor) -> Tensor:
            x = encoder.project(x)
            return x + transformer.positions(x)

        def blocks(x: Tensor) -> Tensor:
            for layer in transformer.layers:
                x = layer(x, None)
            return x

        def update() -> None:
            for each in model.parameters():
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
            self.optimizer.step()

        def loss() -> None:
            latents, context = (each.detach().requires_grad_() for each in (self.latents, self.context))
            with self.autocast:
                noise = model._noise(self.crops, self.draws.negatives.shape[1], step=0)
                targets = model._targets(latents, self.draws.mask)
                quantized = model.quantizer(targets, temperature=2.0, noise=noise)
                shape = self.draws.negatives.shape[:2]
                term = contrastive_term(
                    model.project_context(context[self.draws.mask]).unflatten(0, shape),
                    model.project_target(quantized.vectors).unflatten(0, shape),
                    quantized.codes.unflatten(0, shape),
                    self.draws.negatives,
                    temperature=0.1,
                )
            term.total.backward()

        return {
            "feature encoder": self._alone(encoder.features, self.crops.waveforms, needs_input=False),
            "projection, positions": self._alone(positions, self.latents),
            "blocks": self._alone(blocks, self.projected),
            "quantizer, loss": loss,
            "optimiser": update,
        }

    def _alone(
        self, part: Callable[[Tensor], Tensor], given: Tensor, *, needs_input: bool = True
    ) -> Callable[[], None]:
        def run() -> None:
            x = given.detach().requires_grad_(needs_input)
            with self.autocast:
                y = part(x)
            y.backward(torch.ones_like(y))

        return run


def table(rows: list[Part], product_rate: float, copy_rate: float, seconds: float) -> str:
    """The table for people."""
    lines = [f"products {product_rate:.0f} GFLOP/s, copies {copy_rate:.1f} GB/s"]
    lines += [f"{'part':<22} {'GFLOP':>8} {'GB':>7} {'floor':>9} {'ours':>9} {'ours/floor':>10} {'products':>8}"]
    for row in rows:
        gap, share = row.seconds / max(row.floor, 1e-12), row.product_share(product_rate)
        lines.append(
            f"{row.name:<22} {row.gflop:8.2f} {row.gigabytes:7.2f} {1000 * row.floor:6.1f} ms "
            f"{1000 * row.seconds:6.1f} ms {gap:10.2f} {share:7.0%}"
        )
    parts = sum(row.seconds for row in rows[:-1])
    lines.append(f"sum of the parts {1000 * parts:.1f} ms; {seconds / rows[-1].seconds:.0f} audio seconds per second")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Embedding a folder of real clips: ours, transformers one by one, transformers in padded batches, torchaudio.

    python benchmarks/extract.py FOLDER --hours 1 --json
    python benchmarks/extract.py FOLDER --hours 0.1 --precision fp32 --what model

All sides have the same weights (a BASE encoder, randomly initialised), the same clips of 1 to 20 s, the same threads,
and give one mean vector a clip. Before anything is timed their vectors are compared with transformers' in fp32.

`model`: the waveforms lie in memory, and the sides take turns on blocks of about a minute of audio in one process, so
that whatever else the machine does hits all of them. The share of the peak is that of a matrix product of the
Transformer's own shape, measured between the blocks.

`whole`: each side is a process of its own that reads the files, embeds them and writes the vectors: `speechssl
extract`, and for the others the loop that people write. Start-up, decoding and writing are in it, and the peak memory
of the process. The sides take turns by `--rounds`.

In bf16 ours is what `--dtype bfloat16` does; the peers' weights are converted, which is what `dtype=torch.bfloat16`
does, and no slower for them than autocast. What transformers gives one by one in fp32 stands beside it, because that is
what most scripts do, and what ours gives with `--dtype int8`. Padded batches of a group-norm encoder give other numbers
than one by one: the column `cosine` tells.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import speechssl
from speechssl.audio import SAMPLE_RATE, AudioError, decode, normalize, probe
from speechssl.embed.embedder import EmbeddingModel
from speechssl.inference.precision import Precision
from speechssl.interop import huggingface
from speechssl.interop import torchaudio as torchaudio_names
from speechssl.models.encoder import PRESETS, EncoderConfig, SpeechEncoder
from speechssl.models.storage import load_encoder, save_model
from speechssl.nn.cpu.packed import PackedLinear, can_pack

OURS, INT8, ONE, EIGHT, TORCHAUDIO, FP32 = (
    "ours", "ours, int8", "transformers, one by one", "transformers, padded batches of 8", "torchaudio, one by one",
    "transformers, one by one, fp32",
)  # fmt: skip
BATCH = 8
SHORTEST, LONGEST = 1.0, 20.0  # s
BLOCK_SECONDS = 60.0  # of audio between two turns
Waveforms = Sequence[np.ndarray]


@dataclass
class Side:
    """One contender of the model-only comparison."""

    name: str
    embed: Callable[[Waveforms], np.ndarray]
    seconds: list[float] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)

    def take(self, block: Waveforms) -> None:
        """Embed and time one block."""
        begin = time.perf_counter()
        vectors = self.embed(block)
        self.seconds.append(time.perf_counter() - begin)
        self.vectors.append(vectors)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real recordings; clips of 1 to 20 s are drawn from all below it")
    parser.add_argument("--hours", type=float, default=1.0, help="of audio (default: 1)")
    parser.add_argument("--preset", choices=["base", "large"], default="base")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="of all sides")
    parser.add_argument("--what", choices=["model", "whole", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side in the whole-process comparison")
    parser.add_argument("--threads", type=int, default=None, help="default: torch's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--alone", nargs=3, metavar=("SIDE", "WORK", "PRECISION"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.alone:
        side, work, precision = options.alone
        return alone(side, Path(work), precision, device=torch.device(options.device))
    result: dict[str, Any] = {
        "preset": options.preset,
        "precision": options.precision,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "versions": {
            "speechssl": speechssl.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        paths = choose(options.folder, options.hours)
        torch.manual_seed(0)
        save_model(work / "model", SpeechEncoder(PRESETS[options.preset]))
        (work / "clips.json").write_text(json.dumps([str(path) for path in paths]))
        if options.what in ("model", "both"):
            result["model"] = model_only(options, work, paths)
        if options.what in ("whole", "both"):
            result["whole"] = whole(options, work, paths)
    if options.json:
        print(json.dumps(result))
    return 0


def choose(folder: Path, hours: float) -> list[Path]:
    """Clips in a seeded order until there are so many hours."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    random.Random(0).shuffle(paths)
    chosen: list[Path] = []
    seconds = 0.0
    for path in paths:
        try:
            duration = probe(str(path)).duration
        except AudioError:
            continue
        if SHORTEST <= duration <= LONGEST:
            chosen.append(path)
            seconds += duration
            if seconds >= hours * 3600:
                break
    if not chosen:
        raise SystemExit(f"{folder}: no recording of {SHORTEST:g} to {LONGEST:g} s")
    print(f"{len(chosen)} clips, {seconds / 3600:.2f} h", file=sys.stderr)
    return chosen


def model_only(options: argparse.Namespace, work: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Sides in turn on waveforms in memory."""
    device = torch.device(options.device)
    sides = [Side(name, side_of(name, work, options.precision, device=device)) for name in contenders(options)]
    waveforms = [decode(str(path)) for path in paths]
    reference = side_of(ONE, work, "fp32", device=device)
    for side in sides:
        side.embed(waveforms[:BATCH])  # kernels are chosen and memory is fetched
    peaks: list[float] = []
    truth = np.zeros((0, 0))
    for number, block in enumerate(blocks(waveforms)):
        for side in sides if number % 2 else sides[::-1]:
            side.take(block)
        peaks.append(matmul_flops(PRESETS[options.preset], options.precision, device))
        if not number:
            truth = reference(block)
            check_equal(sides, truth, names=(OURS, ONE, TORCHAUDIO))
        print(f"block {number}: " + ", ".join(f"{s.name} {s.seconds[-1]:.2f} s" for s in sides), file=sys.stderr)
    audio = sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE
    work_flops = sum(forward_flops(PRESETS[options.preset], len(waveform)) for waveform in waveforms)
    ours = next(side for side in sides if side.name == OURS)
    rows = {
        side.name: {
            "times_real_time": audio / sum(side.seconds),
            "ours_is_faster": sum(side.seconds) / sum(ours.seconds),
            "quartiles": quartiles(side.seconds, ours.seconds),
            "share_of_matmul_peak": work_flops / sum(side.seconds) / statistics.median(peaks),
            "cosine": float(cosines(side.vectors[0], truth).min()),
        }
        for side in sides
    }
    show("model only", rows, options)
    return {"hours": audio / 3600, "clips": len(paths), "matmul_gflops": statistics.median(peaks) / 1e9, "sides": rows}


def contenders(options: argparse.Namespace) -> list[str]:
    """The sides of a comparison; in bf16 also what most scripts do, and on a CPU our int8."""
    more = [FP32] if options.precision == "bf16" else []
    more += [INT8] if more and options.device == "cpu" else []
    return [OURS, ONE, EIGHT, TORCHAUDIO, *more]


def side_of(name: str, work: Path, precision: str, *, device: torch.device) -> Callable[[Waveforms], np.ndarray]:
    """How a side embeds waveforms."""
    encoder = load_encoder(work / "model")
    if name in (OURS, INT8):
        model = EmbeddingModel(encoder, device=str(device), dtype=our_dtype(name, precision))
        return lambda waveforms: model.embed(list(waveforms))
    dtype = torch.bfloat16 if precision == "bf16" and name != FP32 else torch.float32
    embed = _torchaudio(encoder) if name == TORCHAUDIO else _transformers(encoder)
    embed = embed.to(device=device, dtype=dtype).eval()
    groups = BATCH if name == EIGHT else 1
    scale = encoder.config.normalize

    @torch.inference_mode()
    def run(waveforms: Waveforms) -> np.ndarray:
        vectors: list[np.ndarray] = []
        for first in range(0, len(waveforms), groups):
            batch = [normalize(each) if scale else each for each in waveforms[first : first + groups]]
            padded = np.zeros((len(batch), max(map(len, batch))), dtype=np.float32)
            for row, waveform in zip(padded, batch, strict=True):
                row[: len(waveform)] = waveform
            frames = embed(torch.from_numpy(padded).to(device=device, dtype=dtype))
            for row, waveform in zip(frames, batch, strict=True):
                count = int(encoder.num_frames(torch.tensor(len(waveform))))
                vectors.append(row[:count].float().mean(dim=0).cpu().numpy())
        return np.stack(vectors)

    return run


def our_dtype(name: str, precision: str) -> Precision:
    """As `--dtype` calls it."""
    return "int8" if name == INT8 else "bfloat16" if precision == "bf16" else "float32"


class _Transformers(torch.nn.Module):
    def __init__(self, model: transformers.Wav2Vec2Model):
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.model(waveforms).last_hidden_state


class _Torchaudio(torch.nn.Module):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.model(waveforms)[0]


def _transformers(encoder: SpeechEncoder) -> torch.nn.Module:
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**huggingface.export_config(encoder.config)))
    model.load_state_dict(huggingface.export_weights(prefixed(encoder)), strict=False)
    return _Transformers(model)


def _torchaudio(encoder: SpeechEncoder) -> torch.nn.Module:
    import torchaudio

    model = torchaudio.models.wav2vec2_model(**torchaudio_names.export_config(encoder.config))
    model.load_state_dict(torchaudio_names.export_weights(prefixed(encoder)))
    return _Torchaudio(model)


def prefixed(encoder: SpeechEncoder) -> dict[str, Tensor]:
    """Weights by the names of a model folder."""
    return {f"encoder.{name}": value for name, value in encoder.state_dict().items()}


def check_equal(sides: Sequence[Side], truth: np.ndarray, *, names: Sequence[str]) -> None:
    """Sides that are nobody's approximation must give transformers' fp32 vectors."""
    for side in sides:
        worst = float(cosines(side.vectors[0], truth).min())
        if side.name in names and worst < 0.999:
            raise SystemExit(f"{side.name}: cosine {worst:.4f} to transformers in fp32: the comparison says nothing")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row with its partner."""
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def blocks(waveforms: Waveforms) -> list[Waveforms]:
    """Stretches of the list with about BLOCK_SECONDS of audio each."""
    found: list[list[np.ndarray]] = [[]]
    for waveform in waveforms:
        if sum(map(len, found[-1])) > BLOCK_SECONDS * SAMPLE_RATE:
            found.append([])
        found[-1].append(waveform)
    return list(found)


def quartiles(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Of theirs over ours, block by block."""
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return [float(value) for value in np.quantile(ratios, [0.25, 0.75])]


def forward_flops(config: EncoderConfig, samples: int) -> float:
    """Floating-point operations of the matrix products and convolutions of one clip.

    >>> round(forward_flops(PRESETS["base"], 160_000) / 1e9)
    148
    """
    length, inputs, total = samples, 1, 0.0
    for channels, kernel, stride in config.conv.layers:
        length = (length - kernel) // stride + 1
        total += 2.0 * length * channels * inputs * kernel
        inputs = channels
    shape = config.transformer
    total += 2.0 * length * inputs * shape.dim
    total += 2.0 * length * shape.dim * (shape.dim // shape.position_groups) * shape.position_kernel
    linear = 4 * shape.dim**2 + 2 * shape.dim * shape.feedforward
    return total + shape.layers * (2.0 * length * linear + 4.0 * length * length * shape.dim)


def matmul_flops(config: EncoderConfig, precision: str, device: torch.device) -> float:
    """Floating-point operations a second of the feed-forward product on ten seconds of frames; the best of ten.

    torch's own product and, on a CPU, oneDNN's with weights laid out before: whichever is faster.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    shape = config.transformer
    a = torch.randn(500, shape.dim, dtype=dtype, device=device)
    b = torch.randn(shape.dim, shape.feedforward, dtype=dtype, device=device)
    products: list[Callable[[], Tensor]] = [lambda: a @ b]
    if device.type == "cpu" and can_pack(dtype):
        linear = torch.nn.Linear(shape.dim, shape.feedforward, bias=False)
        packed = PackedLinear(linear, dtype=dtype)
        products.append(lambda: packed(a))
    best = float("inf")
    for product in products * 5:
        begin = time.perf_counter()
        for _ in range(10):
            product()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 10 * 2.0 * 500 * shape.dim * shape.feedforward / best


def whole(options: argparse.Namespace, work: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Sides as processes: from the start of Python to vectors in a file."""
    audio = sum(probe(str(path)).duration for path in paths)
    (work / "clips").mkdir()
    for number, path in enumerate(paths):  # a folder, for that is what people have
        (work / "clips" / f"{number:05}{path.suffix}").symlink_to(path.resolve())
    seconds: dict[str, list[float]] = {name: [] for name in contenders(options)}
    memory: dict[str, float] = {}
    for number in range(options.rounds):
        for name in contenders(options) if number % 2 else contenders(options)[::-1]:
            run = spawn(command_of(name, work, options), threads=options.threads)
            seconds[name].append(run.seconds)
            memory[name] = max(memory.get(name, 0.0), run.gib)
            print(f"{name}: {run.seconds:.1f} s, {run.gib:.2f} GiB", file=sys.stderr)
    start = start_up(work, options, paths)
    mine = statistics.median(seconds[OURS])
    rows = {
        name: {
            "times_real_time": audio / statistics.median(values),
            "ours_is_faster": statistics.median(values) / mine,
            "gib": memory[name],
        }
        for name, values in seconds.items()
    }
    show("whole process", rows, options)
    return {"hours": audio / 3600, "clips": len(paths), "start_up_seconds": start, "sides": rows}


def start_up(work: Path, options: argparse.Namespace, paths: Sequence[Path]) -> float:
    """Seconds from the start of `speechssl extract` to its end for one clip, the shortest; the best of three."""
    shortest = min(paths, key=lambda path: probe(str(path)).duration)
    (work / "start").mkdir()
    (work / "start" / f"clip{shortest.suffix}").symlink_to(shortest.resolve())
    best = float("inf")
    for _ in range(3):
        best = min(best, spawn(command_of(OURS, work, options, clips="start"), threads=options.threads).seconds)
    return best


def command_of(name: str, work: Path, options: argparse.Namespace, *, clips: str = "clips") -> list[str]:
    """The command line of a side."""
    if name in (OURS, INT8):
        dtype = our_dtype(name, options.precision)
        out = work / "ours.npz"
        out.unlink(missing_ok=True)
        words = ["extract", str(work / "model"), str(work / clips), "--out", str(out), "--dtype", dtype]
        return [sys.executable, "-m", "speechssl", *words, "--device", options.device]
    words = ["--alone", name, str(work), options.precision, "--device", options.device]
    return [sys.executable, __file__, str(work), *words]


def alone(name: str, work: Path, precision: str, *, device: torch.device) -> int:
    """The loop that people write: read, embed, next; save at the end."""
    embed = side_of(name, work, precision, device=device)
    paths = json.loads((work / "clips.json").read_text())
    groups = BATCH if name == EIGHT else 1
    vectors = [
        embed([decode(path) for path in paths[first : first + groups]]) for first in range(0, len(paths), groups)
    ]
    np.save(work / "theirs.npy", np.concatenate(vectors))
    return 0


@dataclass(frozen=True)
class Run:
    """A process that ended: wall time in s, peak memory in GiB."""

    seconds: float
    gib: float


def spawn(words: Sequence[str], *, threads: int | None) -> Run:
    """Run a command and measure it."""
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # nobody compiles all modules at each start
    begin = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    peak = [0.0]
    watch = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watch.start()
    with process.stderr:
        said = process.stderr.read()
    if process.wait():
        raise SystemExit(f"{' '.join(words)} failed:\n{said}")
    return Run(time.perf_counter() - begin, peak[0])


def _watch(process: int, peak: list[float]) -> None:
    """Its peak memory in GiB, asked for until it ends: what is told of an ended child counts its parent too."""
    while True:
        try:
            lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        told = [line for line in lines if line.startswith("VmHWM:")]  # kB
        if not told:  # it has ended
            return
        peak[0] = max(peak[0], int(told[0].split()[1]) / 2**20)
        time.sleep(0.05)


def show(title: str, rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """A table for people."""
    print(f"{title}, {options.preset}, {options.precision}, {torch.get_num_threads()} threads")
    for name, row in rows.items():
        print(f"{name:>34}: " + ", ".join(f"{key} {_plain(value)}" for key, value in row.items()))


def _plain(value: float | list[float]) -> str:
    return "–".join(f"{each:.2f}" for each in value) if isinstance(value, list) else f"{value:.4g}"


if __name__ == "__main__":
    raise SystemExit(main())

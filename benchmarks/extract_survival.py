"""Does an extraction survive being killed, with broken files strewn in, and is its memory flat? One JSON verdict.

    python benchmarks/extract_survival.py PACKS --files 10000 --broken 50 --kills 5 --work /tmp/survival

Files below PACKS are linked into a folder, some of them replaced by broken ones. One run goes through; another, on the
same folder, is killed with SIGKILL at random moments and started again until it ends. Both outputs must be equal: same
rows, same order, same vectors to the last bit, same rejects. Then peak memory: of 1,000 files, of all, and of one file
of three hours. The encoder is random and small unless --model names one: what is tested is not the encoder.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
BROKEN = ("empty", "noise", "cut", "header", "dangling", "silent", "short", "text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packs", type=Path, help="folder with real recordings below it")
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--broken", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the one long file; 0 leaves it out")
    parser.add_argument("--model", default=None)
    parser.add_argument("--format", default="parquet", choices=("parquet", "npz", "h5", "zarr"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--work", type=Path, required=True, help="a folder for links and outputs, emptied before")
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "SOURCE", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child, dtype=args.dtype)
        return
    rng = random.Random(args.seed)
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    model = args.model or toy_model(args.work / "model")
    broken = corpus(args.packs, args.work / "audio", files=args.files, broken=args.broken, rng=rng)
    first_thousand(args.work / "audio", args.work / "thousand")

    def command(source: str, out: str) -> list[str]:
        start = [sys.executable, __file__, str(args.packs), "--work", str(args.work), "--dtype", args.dtype]
        return [*start, "--child", str(model), str(args.work / source), str(args.work / out)]

    whole = run(command("audio", f"whole.{args.format}"))
    kills = survive(command("audio", f"killed.{args.format}"), whole["wall_seconds"], kills=args.kills, rng=rng)
    thousand = run(command("thousand", "thousand.parquet"))
    verdict: dict[str, object] = {"files": args.files, "broken": args.broken, "whole": whole, "killed": kills}
    verdict["thousand_peak_mib"] = thousand["peak_memory"] >> 20
    verdict["all_peak_mib"] = whole["peak_memory"] >> 20
    if args.hours:
        long_file(args.work / "long", hours=args.hours)
        verdict["long_peak_mib"] = run(command("long", "long.parquet"))["peak_memory"] >> 20
    paths = [args.work / f"{name}.{args.format}" for name in ("whole", "killed")]
    errors = [Path(f"{path}.errors.jsonl").read_text().splitlines() for path in paths]
    rejected = {json.loads(line)["path"] for line in errors[0]}
    checks = {
        "rows": whole["written"] == args.files - len(errors[0]) == kills["report"]["written"],
        "every_broken_one_is_rejected": broken <= rejected,
        "same_rejects": errors[0] == errors[1],
        "equal_to_the_last_bit": equal(*paths),
        "killed_as_often": kills["kills"] == args.kills,
        "nothing_left_behind": not list(args.work.glob("*.parts")),
    }
    verdict |= {"rejected": len(rejected), "rejected_but_not_broken_by_us": sorted(rejected - broken)[:20]}
    verdict |= {"checks": checks, "passed": all(checks.values())}
    print(json.dumps(verdict))
    sys.exit(0 if all(checks.values()) else 1)


def child(model: str, source: str, out: str, *, dtype: str) -> None:
    """One extraction in a process of its own; the report on stdout."""
    from dataclasses import asdict

    from speechssl.extract.run import extract

    report = extract(model, source, Path(out), dtype=dtype)  # pyright: ignore[reportArgumentType]
    print(json.dumps(asdict(report), default=str))


def run(command: list[str]) -> dict:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def survive(command: list[str], wall: float, *, kills: int, rng: random.Random) -> dict:
    """Kill so often at random moments, then let it end; what the last run said, and the parts each kill left."""
    left: list[int] = []
    folder = Path(f"{command[-1]}.parts")
    while len(left) < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, max(1.0, 1.5 * wall / (kills + 1))))
        if process.poll() is not None:
            break  # it was through before it could be killed
        process.send_signal(signal.SIGKILL)
        process.wait()
        left.append(len(list(folder.glob("part-*.parquet"))))
    report = run(command)
    return {"kills": len(left), "parts_at_kills": left, "report": report}


def equal(one: Path, other: Path) -> bool:
    if one.suffix == ".parquet":
        return pq.ParquetFile(one).read().equals(pq.ParquetFile(other).read())
    if one.suffix == ".npz":
        with np.load(one) as a, np.load(other) as b:
            names = set(a.files) - {"speechssl"}
            return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in names)
    if one.suffix == ".h5":
        import h5py as reader

        a, b = reader.File(one), reader.File(other)
    else:
        import zarr as reader

        a, b = reader.open_group(str(one), mode="r"), reader.open_group(str(other), mode="r")
    return set(a) == set(b) and all(np.array_equal(a[name][:], b[name][:]) for name in a)


def corpus(packs: Path, folder: Path, *, files: int, broken: int, rng: random.Random) -> set[str]:
    """Links to so many recordings, in sub-folders of a thousand; the names of those that are broken."""
    found = sorted(
        Path(at, name)
        for at, _, names in os.walk(packs, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES
    )
    if len(found) < files:
        sys.exit(f"{packs}: {len(found)} recordings, {files} were asked for")
    chosen = rng.sample(found, files)
    bad = set(rng.sample(range(files), broken))
    names: set[str] = set()
    for number, path in enumerate(chosen):
        target = folder / f"{number // 1000:03d}" / f"{number:06d}{path.suffix.lower()}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if number in bad:
            target = target.with_suffix(".wav")
            break_one(target, path, BROKEN[len(names) % len(BROKEN)])
            names.add(target.relative_to(folder).as_posix())
        else:
            target.symlink_to(path.resolve())
    return names


def break_one(target: Path, source: Path, how: str) -> None:
    noise = np.random.default_rng(0).normal(size=16000) * 0.1
    if how == "dangling":
        target.symlink_to(source.parent / "there-is-no-such-file.wav")
    elif how == "silent":
        soundfile.write(target, np.zeros(16000), 16000)
    elif how == "short":
        soundfile.write(target, noise[:200], 16000)
    elif how in ("cut", "header"):
        soundfile.write(target, noise, 16000)
        content = target.read_bytes()
        target.write_bytes(content[: len(content) // 2 if how == "cut" else 30])
    else:
        content = {"empty": b"", "noise": np.random.default_rng(1).bytes(20000), "text": b"no audio at all\n" * 99}
        target.write_bytes(content[how])


def first_thousand(folder: Path, other: Path) -> None:
    other.mkdir()
    (other / "000").symlink_to((folder / "000").resolve())


def long_file(folder: Path, *, hours: float) -> None:
    """One file of so many hours at 44.1 kHz, written a minute at a time."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    with soundfile.SoundFile(folder / "long.flac", "w", 44100, 1, subtype="PCM_16") as file:
        for _ in range(round(hours * 60)):
            wave = np.sin(np.arange(44100 * 60) * rng.uniform(0.01, 0.1)) * 0.2
            file.write(wave + rng.normal(size=len(wave)) * 0.01)


def toy_model(folder: Path) -> str:
    """A random encoder that costs next to nothing."""
    import torch

    from speechssl.models.encoder import PRESETS, SpeechEncoder
    from speechssl.models.storage import save_model

    torch.manual_seed(0)
    config = PRESETS["tiny"]
    blocks = config.transformer.model_copy(update={"layers": 1, "dim": 64, "heads": 2, "feedforward": 64})
    save_model(folder, SpeechEncoder(config.model_copy(update={"transformer": blocks})))
    return str(folder)


if __name__ == "__main__":
    main()

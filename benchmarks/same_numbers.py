"""Are the numbers of this tree those of an older commit? Both run here, and what they give is compared to the last bit.

    python benchmarks/same_numbers.py OLD_COMMIT --work /tmp/same
    python benchmarks/same_numbers.py OLD_COMMIT --work /tmp/same --only vectors predict --tolerance 1e-6

The old commit is unpacked beside this tree. Each tree then runs the same commands on the CPU in fp32 with one thread,
on synthetic speech that it makes itself:

- `pretrain`: 20 updates of `tiny` wav2vec 2.0, accumulation 1 and 2; the log of every update, and the weights after it.
- `vectors`: a dozen clips, each pooling and layer, and one clip of two and a half minutes, through `speechssl.load`.
- `extract`: rows of a folder's extraction, and of one that was killed with SIGKILL after its first part and resumed.
- `finetune`: 10 updates of each head, classifier and CTC, from the pretrained encoder.
- `predict`: classes of that classifier, and transcripts with word times of a recogniser that was trained longer.

Everything goes through the command line and the public API, so that the inside may change. What the old commit gave
is kept in the work folder for the next call. The exit code is 0 where all is equal, or within `--tolerance`, relative
to the largest value of an array; else 1. It takes six minutes on two cores, three where the old numbers are known.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

TREE = Path(__file__).resolve().parent.parent
SEED_OF_MODEL = "pretrain-1"  # the encoder that everything else starts from
HIDDEN = ("seconds", "_per_second", "memory", "elapsed", "time", "processor", "wait")  # in a log: never twice the same
TEXT = "text:"  # names of what is compared as text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit", help="the older commit")
    parser.add_argument("--work", type=Path, required=True, help="a folder for both trees' results")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="these parts")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="largest difference, relative to the largest value"
    )
    parser.add_argument(
        "--renamed", nargs="*", default=[], metavar="OLD=NEW", help="keys of logs with another name now"
    )
    parser.add_argument("--updates", type=int, default=20, help="of pretraining")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        for name in args.only:
            measure(name, args.work, updates=args.updates)
        return 0
    commit = git("rev-parse", f"{args.commit}^{{commit}}").decode().strip()
    old = args.work / "old"
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    unpack(commit, old, measured_by=f"{script} with {args.updates} updates")
    shutil.rmtree(args.work / "new", ignore_errors=True)
    parts = with_needs(args.only)
    for tree, results in ((old / "tree", old), (TREE, args.work / "new")):
        run_in(
            tree,
            [
                sys.executable,
                __file__,
                "HEAD",
                "--measure",
                "--work",
                str(results),
                "--only",
                *parts,
                "--updates",
                str(args.updates),
            ],
        )
    renamed = dict(each.split("=", 1) for each in args.renamed)
    verdicts = [
        compare(name, args.work, renamed=renamed, tolerance=args.tolerance) for name in parts if name in args.only
    ]
    return 0 if all(verdicts) else 1


def git(*command: str) -> bytes:
    return subprocess.run(["git", "-C", str(TREE), *command], check=True, stdout=subprocess.PIPE).stdout


def unpack(commit: str, folder: Path, *, measured_by: str) -> None:
    """The files of a commit, in `folder/tree`; what another commit, or another script, left there is removed."""
    known, content = folder / "commit", f"{commit} by {measured_by}"
    if known.exists() and known.read_text() == content:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as tar:
        tar.extractall(folder / "tree", filter="data")
    known.write_text(content)


def run_in(tree: Path, command: list[str]) -> None:
    """Run with the package of a tree, wherever this was started; one thread, no accelerator."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    places = {"PYTHONPATH": str(tree), "CUDA_VISIBLE_DEVICES": "", "SPEECHSSL_DATA": "", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, **threads, **places, "PYTHONSAFEPATH": "1"}  # else `-m` takes the current folder's
    where = [sys.executable, "-c", "import speechssl; print(speechssl.__file__)"]
    found = subprocess.run(where, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout.strip()
    if not Path(found).is_relative_to(tree):
        sys.exit(f"{tree}: the package that would run is {found}")
    subprocess.run(command, check=True, env=environment)


def with_needs(names: list[str]) -> list[str]:
    """The parts and what they start from, in order."""
    needed = {"vectors": {"pretrain"}, "extract": {"pretrain"}, "finetune": {"pretrain"}}
    needed["predict"] = {"pretrain", "finetune"}
    wanted = set(names).union(*(needed.get(name, set()) for name in names))
    return [name for name in PARTS if name in wanted]


# What each tree does.


def measure(name: str, work: Path, *, updates: int) -> None:
    """Write the numbers of one part to `NAME.npz`, unless they are there."""
    if (work / f"{name}.npz").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "corpus" / "manifest.jsonl").exists():
        shutil.rmtree(work / "corpus", ignore_errors=True)
        sets = ("--set", "hours=0.3", "--set", "voices=6", "--set", "workers=1")
        speechssl("prepare", "espeak", "--root", work / "audio", "--out", work / "corpus", *sets)
    started = time.monotonic()
    found = dict(pretrain(work, updates=updates) if name == "pretrain" else PARTS[name](work))
    np.savez(work / "unfinished.npz", **found)  # pyright: ignore[reportArgumentType] -- no name is allow_pickle
    (work / "unfinished.npz").rename(work / f"{name}.npz")
    print(f"{work.name}: {name}: {len(found)} arrays in {time.monotonic() - started:.0f} s", file=sys.stderr)


Found = Iterator[tuple[str, np.ndarray]]


def speechssl(*command: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "speechssl", *map(str, command)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"speechssl {' '.join(map(str, command))}: code {done.returncode}\n{done.stderr}")
    return done.stdout


def pretrain(work: Path, *, updates: int = 20) -> Found:
    for accumulation in (1, 2):
        run = work / f"pretrain-{accumulation}"
        shutil.rmtree(run, ignore_errors=True)
        loop = (
            f"steps={updates}",
            f"accumulation={accumulation}",
            "precision=fp32",
            "log_every=1",
            f"validate_every={updates}",
        )
        settings = (*(f"loop.{each}" for each in loop), "device=cpu")
        speechssl("pretrain", work / "corpus", "--out", run, "--preset", "tiny", *sets(settings))
        yield from of_run(run, f"accumulation {accumulation}")


def finetune(work: Path) -> Found:
    heads = {"label": ("label", 10, ()), "text": ("text", 10, ()), "recogniser": ("text", 150, ("frozen=0.05",))}
    for name, (learn, steps, more) in heads.items():
        run = work / f"finetune-{name}"
        shutil.rmtree(run, ignore_errors=True)
        loop = (f"steps={steps}", "precision=fp32", "log_every=1", f"validate_every={min(steps, 50)}")
        settings = (*(f"loop.{each}" for each in loop), "batches.batch_seconds=12", "device=cpu", *more)
        few = ("--shots", 4) if learn == "label" else ("--minutes", 0.5) if name == "recogniser" else ("--minutes", 2)
        start = ("--from", work / SEED_OF_MODEL, "--learn", learn, *few)
        speechssl("finetune", work / "corpus", "--out", run, *start, *sets(settings))
        yield from of_run(run, name)


def sets(settings: tuple[str, ...]) -> list[str]:
    return [part for each in settings for part in ("--set", each)]


def of_run(run: Path, name: str) -> Found:
    """Curves of a log, and the weights of the model."""
    from safetensors.numpy import load_file

    curves: dict[str, list[float]] = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key, value in record.items():
            if isinstance(value, int | float) and not any(part in key for part in HIDDEN):
                curves.setdefault(f"{key}", []).append(float(value))
    yield from ((f"{name}: log: {key}", np.array(values)) for key, values in sorted(curves.items()))
    weights = load_file(run / "model.safetensors")
    yield from ((f"{name}: weights: {key}", weights[key]) for key in sorted(weights))


def recordings(work: Path, count: int) -> list[Path]:
    """So many clips of different durations."""
    manifest = [json.loads(line) for line in (work / "corpus" / "manifest.jsonl").read_text().splitlines()]
    return [Path(each["audio"]) for each in manifest[:: max(1, len(manifest) // count)]][:count]


def vectors(work: Path) -> Found:
    import soundfile

    import speechssl

    clips = recordings(work, 12)
    waveforms = [soundfile.read(path, dtype="float32")[0] for path in clips]
    long = np.concatenate((waveforms * 4)[:40])
    model = speechssl.load(work / SEED_OF_MODEL, device="cpu")
    for layer in (-1, 0, 2, "mean"):
        for pooling in ("mean", "mean+std"):
            yield f"{pooling}, layer {layer}", model.embed(clips, layer=layer, pooling=pooling)
            yield f"{pooling}, layer {layer}, long", model.embed(long, layer=layer, pooling=pooling)
        yield f"frames, layer {layer}", np.concatenate([model.frames(clip, layer=layer) for clip in clips])
        yield f"frames, layer {layer}, long", model.frames(long, layer=layer)
    yield "hidden states", np.stack(model.hidden_states(clips[0]))
    yield "frame times", model.frame_times(clips[0])


def extract(work: Path) -> Found:
    import pyarrow.parquet as pq

    source = work / "some"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for number, path in enumerate(recordings(work, 10_000)):
        (source / f"{number:04}{path.suffix}").symlink_to(path)
    (source / "broken.wav").write_bytes(b"no audio at all")
    for name in ("whole", "killed"):
        out = work / f"{name}.parquet"
        for left in work.glob(f"{name}.parquet*"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        command = ("extract", work / SEED_OF_MODEL, source, "-o", out, "--pooling", "mean+std", "--device", "cpu")
        if name == "killed":
            kill_after_first_part(command, out)
        speechssl(*command)
        table = pq.read_table(out)
        columns = {column: table[column].to_pylist() for column in sorted(table.column_names)}
        yield f"{name}: vectors", np.array(columns.pop("embedding", columns.pop("vector", None)))
        yield from ((f"{TEXT}{name}: {key}", as_text(values)) for key, values in columns.items() if key != "key")
        errors = Path(f"{out}.errors.jsonl").read_text().replace(str(work), "")
        yield f"{TEXT}{name}: errors", as_text(errors.splitlines())


def kill_after_first_part(command: tuple[object, ...], out: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "speechssl", *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not list(Path(f"{out}.parts").glob("part-*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if out.exists():
        sys.exit(f"{out}: the extraction ended before it could be killed")


def predict(work: Path) -> Found:
    clips = recordings(work, 12)
    for name in ("label", "recogniser"):
        rows = speechssl("predict", work / f"finetune-{name}", *clips, "--format", "jsonl").splitlines()
        records = [json.loads(row) for row in rows]
        yield f"{name}: numbers", np.array([number for record in records for number in numbers_of(record)])
        yield f"{TEXT}{name}: words", as_text([str(word) for record in records for word in words_of(record)])


def numbers_of(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers_of(each)
    elif isinstance(value, int | float):
        yield float(value)


def words_of(value: object) -> Iterator[str]:
    """Texts, without folders, which differ between the trees."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from words_of(each)
    elif isinstance(value, str):
        yield Path(value).name


def as_text(values: list[object]) -> np.ndarray:
    return np.array([json.dumps(each, sort_keys=True, default=str) for each in values] or [""])


PARTS: dict[str, Callable[[Path], Found]] = {
    "pretrain": pretrain,
    "vectors": vectors,
    "extract": extract,
    "finetune": finetune,
    "predict": predict,
}


# What is compared.


def compare(name: str, work: Path, *, renamed: Mapping[str, str], tolerance: float) -> bool:
    """Whether both trees gave the same; each difference is a line on standard output."""
    with np.load(work / "old" / f"{name}.npz") as file:
        old = {with_name(key, renamed): file[key] for key in file.files}
    with np.load(work / "new" / f"{name}.npz") as file:
        new = {key: file[key] for key in file.files}
    differences = [f"only in the old tree: {key}" for key in sorted(old.keys() - new.keys())]
    differences += [f"only in this tree: {key}" for key in sorted(new.keys() - old.keys())]
    largest = 0.0
    for key in sorted(old.keys() & new.keys()):
        text, difference = differs(key, old[key], new[key])
        largest = max(largest, difference)
        if text is not None and difference > tolerance:
            differences.append(f"{key}: {text}")
    for line in differences:
        print(f"{name}: {line}")
    same = "equal to the last bit" if largest == 0 else f"largest relative difference {largest:.2g}"
    print(f"{name}: {len(new)} arrays, {len(differences)} differ; {same}")
    return not differences


def with_name(key: str, renamed: Mapping[str, str]) -> str:
    front, mark, last = key.rpartition(": log: ")
    return f"{front}{mark}{renamed.get(last, last)}" if mark else key


def differs(key: str, old: np.ndarray, new: np.ndarray) -> tuple[str | None, float]:
    """What differs, and how much relative to the largest value; shape and text differ without limit."""
    if old.shape != new.shape:
        return f"shape {old.shape}, now {new.shape}", np.inf
    if key.startswith(TEXT):
        rows = np.flatnonzero(old != new)
        return (f"row {rows[0]}: {old[rows[0]]}, now {new[rows[0]]}", np.inf) if len(rows) else (None, 0.0)
    if np.array_equal(old, new, equal_nan=True):
        return None, 0.0
    if (np.isnan(old) != np.isnan(new)).any():
        return "other values are missing", np.inf
    difference = float(np.nanmax(np.abs(old - new)) / max(float(np.nanmax(np.abs(old))), 1e-30))
    return f"largest difference {difference:.2g} of the largest value", difference


if __name__ == "__main__":
    sys.exit(main())

"""What holds for the whole suite: shapes and types are checked, and torch uses few threads."""

import csv
import functools
import gc
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

# Two threads are the machine that CI promises. Processes that run tests side by side share its cores: with two threads
# each on two cores, small models take half as much processor time again. Before torch is imported anywhere: OpenMP
# reads this once. Not where it is unset alone: xdist's own process has been here before its workers.
os.environ["OMP_NUM_THREADS"] = str(
    max(
        1,
        min(
            int(os.environ.get("OMP_NUM_THREADS", "2")),
            (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
        ),
    )
)
# Threads that wait give up their core: beside other processes, small models are five times as fast so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest
import soundfile
import torch
import typer.main

from tests import checked

gc.disable()  # until all tests are collected: what is imported stays, and each look through it takes longer
checked.install()  # before the first import of the package, hence here

torch.set_num_threads(min(2, torch.get_num_threads()))

# The same examples on every machine, and no clock: a slow machine is no failure.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("suite")


# A process builds its command line once; here hundreds of commands run in one process.
typer.main.get_command = functools.cache(typer.main.get_command)

# No test cuts the power: nothing has to wait for the disk. A descriptor that is not open is an error as before. Tests
# that count the calls put their own function in its place, and processes that tests start wait for the disk.
os.fsync = lambda fd: (os.fstat(fd), None)[1]


def pytest_collection_finish() -> None:
    """What was imported until here is for good: the garbage collector need not look through it in every test."""
    gc.collect()
    gc.freeze()
    gc.enable()


# Without an accelerator `torch.manual_seed` notes for each kind of it from where it was called, which takes longer than
# most tests do.
SEED = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in the whole suite."""
    SEED(0)


FOLDERS = itertools.count()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, which first reads the names of all folders that were made before, and makes a link to each."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    return tmp_path_factory.mktemp(f"{name}{next(FOLDERS)}", numbered=False)


@pytest.fixture(scope="session")
def toy_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `make demo` leaves it after pretraining, at toy size."""
    from speechssl import cli
    from tests.shown import at_toy_size

    folder = tmp_path_factory.mktemp("demo")
    corpus = ["--root", f"{folder}/voices", "--set", "voices=6", "--set", "hours=0.025", "--out", f"{folder}/corpus"]
    assert cli.main(["prepare", "espeak", *corpus]) == 0
    assert cli.main(at_toy_size(["pretrain", f"{folder}/corpus", "--out", f"{folder}/pretrain"])) == 0
    return folder


@pytest.fixture(scope="session")
def toy_recordings(toy_demo: Path) -> Path:
    """The first two seconds of each utterance of the toy demo, with their metadata.csv."""
    from speechssl.data.manifest import read_manifest

    folder = toy_demo / "recordings"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "speaker", "text"])
        for utterance in read_manifest(toy_demo / "corpus" / "manifest.jsonl"):
            name = Path(utterance.audio).name
            samples, rate = soundfile.read(utterance.audio, frames=2 * 16000, dtype="int16")
            soundfile.write(folder / name, samples, rate)
            text = (utterance.text or "").translate(str.maketrans("jqxzJQXZ", "gkssGKSS"))  # any few have all letters
            table.writerow([name, utterance.label, utterance.speaker, text])
    return folder


@pytest.fixture(scope="session")
def demo_bundle(toy_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the toy demo as a bundled one."""
    from tests.bundles import toy_bundle

    return toy_bundle(tmp_path_factory.mktemp("bundle"), model=toy_demo / "pretrain")


@pytest.fixture
def home(
    toy_demo: Path, demo_bundle: Path, toy_recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home with ~/recordings and ~/alignments, and a working folder with runs/demo of the toy demo.

    The recordings have a metadata.csv, the alignments made-up phones. The model of the demo is the bundled one, too.
    """
    from speechssl.models.bundled import VARIABLE

    (tmp_path / "recordings").mkdir()
    for path in toy_recordings.iterdir():
        (tmp_path / "recordings" / path.name).symlink_to(path)
    (tmp_path / "alignments").mkdir()
    for number, path in enumerate(sorted(set(toy_recordings.iterdir()) - {toy_recordings / "metadata.csv"})):
        phones = f"#\n0.2 26 b\n0.4 26 {'ei'[number // 2 % 2]}\n0.6 26 t\n"
        (tmp_path / "alignments" / f"{path.stem}.lab").write_text(phones)
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "here" / "runs" / "demo").symlink_to(toy_demo)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, str(demo_bundle))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def _two_threads() -> Iterator[None]:
    """For what must be exact however many threads share the work, whatever runs beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


two_threads = pytest.fixture(_two_threads, name="two_threads")
# With the models that the tests of a module share: a model arranges its weights for a number of threads.
two_threads_throughout = pytest.fixture(_two_threads, scope="module", name="two_threads_throughout")

"""What holds for the whole suite: shapes and types are checked, and torch uses few threads."""

import csv
import gc
import os
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
import torch

from tests import checked

checked.install()  # before the first import of the package, hence here

torch.set_num_threads(min(2, torch.get_num_threads()))

# The same examples on every machine, and no clock: a slow machine is no failure.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What was imported until here is for good: the garbage collector need not look through it in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in the whole suite."""
    torch.manual_seed(0)


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


@pytest.fixture
def home(toy_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with ~/recordings and their metadata.csv, and a working folder with runs/demo of the toy demo."""
    from speechssl.data.manifest import read_manifest

    (tmp_path / "recordings").mkdir()
    with (tmp_path / "recordings" / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "speaker", "text"])
        for utterance in read_manifest(toy_demo / "corpus" / "manifest.jsonl"):
            path = Path(utterance.audio)
            (tmp_path / "recordings" / path.name).symlink_to(path)
            table.writerow([path.name, utterance.label, utterance.speaker, utterance.text])
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "here" / "runs" / "demo").symlink_to(toy_demo)
    monkeypatch.setenv("HOME", str(tmp_path))
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

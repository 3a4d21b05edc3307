"""A packed toy corpus, and real processes that train on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.config import dump_config
from speechssl.data.waveforms import WaveformStore
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.train.pretrain_config import PretrainConfig
from tests.toys import toy_corpus
from tests.train.labelled import CTC, labelled_corpus

HERE = Path(__file__).parent
TIMING = {"seconds_per_second", "wait_share"}  # the only keys of the log that tell about the clock


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_corpus(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> WaveformStore:
    """Sixteen labelled utterances by four speakers."""
    return labelled_corpus(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as pretraining leaves it; its encoder has learnt nothing."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(7)
    extra = {"objective.mask_embedding": torch.arange(32.0) / 32, "objective.other": torch.zeros(2)}
    save_model(folder, SpeechEncoder(CTC.encoder), tensors=extra)
    return folder


class Processes:
    """Starts `speechssl` commands as processes, through :mod:`tests.train.forks`."""

    def __init__(self) -> None:
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one, "PYTHONPATH": str(HERE.parent.parent)},
        )

    def ask(self, job: dict[str, Any]) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(
        self,
        *argv: object,
        said: Path,
        env: dict[str, str] | None = None,
        die_before: int | None = None,
        signal: tuple[int, int] | None = None,
    ) -> "Run":
        """Begin a command; both of its outputs are appended to ``said``. The rest is explained in `forks.py`."""
        words = [str(word) for word in argv]
        job = {"argv": words, "env": env or {}, "said": str(said), "die_before": die_before, "signal": signal}
        return Run(self, self.ask(job), said)

    def pretrain(self, corpus: Path, out: Path, config: PretrainConfig, **options: Any) -> "Run":
        """Begin `speechssl pretrain`."""
        out.parent.mkdir(parents=True, exist_ok=True)
        recipe = out.with_name(f"{out.name}.toml")
        recipe.write_text(dump_config(config))
        return self.start(
            "pretrain", corpus, "--out", out, "--config", recipe, said=out.with_name(f"{out.name}.said"), **options
        )

    def close(self) -> None:
        self.server.kill()  # nothing runs any more, and an orderly end takes seconds
        self.server.communicate()


@dataclass
class Run:
    """A command that runs."""

    processes: Processes
    pid: int
    said: Path

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        return self.processes.ask({"wait": self.pid})

    def kill(self) -> int:
        """Send SIGKILL and wait; a process that has ended already has just ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def finish(self) -> None:
        """Wait for a good end."""
        assert self.wait() == 0, self.said.read_text()

    def wait_for_row(self, out: Path, step: int) -> None:
        """Until the log has a row of this step."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if any(row["step"] >= step for row in rows(out)):
                return
            time.sleep(0.005)
        raise AssertionError(self.said.read_text())


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.close()


def rows(out: Path) -> list[dict[str, Any]]:
    """Whole lines of a run's log, without what tells about the clock."""
    path = out / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if key not in TIMING} for row in whole]


def tensors(out: Path, name: str = "last.pt") -> dict[str, Tensor]:
    """Every tensor of a checkpoint, by its path in it."""
    found: dict[str, Tensor] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for key, each in value.items():
                walk(each, f"{path}/{key}")

    walk(torch.load(out / name, weights_only=True), "")
    return found

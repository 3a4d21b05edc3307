"""What holds for the whole suite: shapes and types are checked, and torch uses few threads."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

# Before torch is imported anywhere: OpenMP reads this once. Two threads are the machine that CI promises.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import hypothesis
import jaxtyping
import pytest
import torch

# Every annotation in the package is checked at run time, jaxtyping's shapes included. The hook must be in place before
# the first import of the package, hence here.
jaxtyping.install_import_hook("speechssl", "beartype.beartype")

torch.set_num_threads(min(2, torch.get_num_threads()))

# The same examples on every machine, and no clock: a slow machine is no failure.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def toy_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real `make demo` at toy size; `words` holds make's words and `said` what it said."""
    folder = tmp_path_factory.mktemp("demo")
    toy = "crops.batch_seconds=4 loop.validate_every=2 loop.checkpoint_every=2"
    words = [f"OUT={folder}", f"ROOT={folder}/voices", "HOURS=0.05", "CORPUS_SET=voices=6", "STEPS=4"]
    words += [f"SET={toy}", "SHOTS=1,2", "SEEDS=2"]
    words = ["READY=", f"BIN={Path(sys.executable).parent}", *words, "demo"]
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(
        ["make", *words],
        cwd=Path(__file__).parent.parent,
        env=clean,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "words").write_text(shlex.join(words))
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in the whole suite."""
    torch.manual_seed(0)

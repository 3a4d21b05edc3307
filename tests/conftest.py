"""What holds for the whole suite: shapes and types are checked, and torch uses few threads."""

import gc
import os

# Before torch is imported anywhere: OpenMP reads this once. Two threads are the machine that CI promises.
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Threads that wait give up their core: beside other processes, small models are five times as fast so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

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


def pytest_collection_finish() -> None:
    """What was imported until here is for good: the garbage collector need not look through it in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same numbers, alone or in the whole suite."""
    torch.manual_seed(0)

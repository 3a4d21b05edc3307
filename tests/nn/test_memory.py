"""Freed memory goes back to the kernel when it is asked for."""

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest

from speechssl.nn.memory import give_back_freed_memory

STATM = Path("/proc/self/statm")


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not STATM.exists(),
    reason="only glibc has malloc_trim, and only Linux's /proc tells what is resident; elsewhere nothing happens",
)
def test_holes_between_blocks_are_given_back():
    def resident() -> int:
        return int(STATM.read_text().split()[1]) * 4096

    blocks = [np.ones(12_500) for _ in range(2000)]  # of 100 kB each, below what is mapped on its own
    del blocks[::2]
    before = resident()
    assert give_back_freed_memory()
    assert before - resident() > 50e6
    assert len(blocks) == 1000


def test_nothing_happens_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not give_back_freed_memory()

"""Suppresses what C libraries print to stderr.

libmpg123, inside libsndfile, prints its warnings to the C library's `stderr` with any setting. While it runs, that
variable is a stream to `/dev/null`; file descriptor 2 does not change, so everything that Python writes, in this thread
and in others, is printed. Lines that other C libraries print at the same time are lost too.
"""

import ctypes
import functools
import os
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

_lock = threading.Lock()
_inside = 0  # threads inside the block


@dataclass
class _Stderr:
    """The C library's variable, its usual value, and a stream to `/dev/null`."""

    variable: ctypes.c_void_p
    true: int | None
    nowhere: int


@contextmanager
def quiet_c_stderr() -> Generator[None]:
    """C libraries print nothing while the block runs; without effect where the C library is not glibc."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _point(away=True)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _point(away=False)


def _point(*, away: bool) -> None:
    stderr = _stderr()
    if stderr is not None and away:
        stderr.true, stderr.variable.value = stderr.variable.value, stderr.nowhere
    elif stderr is not None:
        stderr.variable.value = stderr.true


@functools.cache
def _stderr() -> _Stderr | None:
    if platform.libc_ver()[0] != "glibc":  # elsewhere the variable cannot be written
        return None
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    nowhere = library.fopen(b"/dev/null", b"we")  # e: not kept by programs that are started
    if nowhere is None:
        return None
    variable = ctypes.c_void_p.in_dll(library, "stderr")
    os.register_at_fork(after_in_child=_after_fork)
    return _Stderr(variable, variable.value, nowhere)


def _after_fork() -> None:
    """Resets the count: threads inside the block are not in the new process."""
    global _inside, _lock
    if _inside:
        _point(away=False)
    _inside, _lock = 0, threading.Lock()

"""Keeps what C libraries print off stderr.

libmpg123, inside libsndfile, prints its warnings to the C library's `stderr` whatever it is told. While it works, that
variable points to a stream to nowhere; file descriptor 2 is left alone, and with it everything that Python writes, in
this thread and in others. Lines of other C libraries that are printed in just these moments are lost too.
"""

import ctypes
import os
import platform
import threading
from collections.abc import Generator
from contextlib import contextmanager

_lock = threading.Lock()
_inside = 0  # threads that want it quiet at this moment
_stderr: ctypes.c_void_p | None = None  # the C library's variable
_true: int | None = None  # what it is when nobody wants it quiet
_nowhere: int | None = None


@contextmanager
def quiet_c_stderr() -> Generator[None]:
    """C libraries print nothing while the block runs; nothing is changed where the C library is not glibc."""
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
    global _stderr, _true, _nowhere
    if _nowhere is None:
        if platform.libc_ver()[0] != "glibc":  # elsewhere the variable cannot be written
            return
        library = ctypes.CDLL(None)
        library.fopen.restype = ctypes.c_void_p
        _nowhere = library.fopen(b"/dev/null", b"we")  # e: not kept by programs that are started
        _stderr = ctypes.c_void_p.in_dll(library, "stderr")
        os.register_at_fork(after_in_child=_after_fork)
        if _nowhere is None:
            return
    assert _stderr is not None
    if away:
        _true, _stderr.value = _stderr.value, _nowhere
    else:
        _stderr.value = _true


def _after_fork() -> None:
    """Threads that wanted it quiet are not in the new process."""
    global _inside, _lock
    if _inside:
        _point(away=False)
    _inside, _lock = 0, threading.Lock()

"""Memory of CPU tensors: keep what was freed, or give it back to the kernel.

glibc maps every large block anew and unmaps it when freed. A training step frees and asks for the same blocks again and
again, and pays a page fault for each 4 KiB of them: on virtual machines more than half of an element-wise operation's
time.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_PAD = 64 * 2**20  # bytes asked of the kernel at a time


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next step, for the whole process and for good.

    The process then holds its peak until it ends. Where the C library has no ``mallopt`` (musl, macOS) nothing happens.

    Returns:
        Whether it was done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(
        mallopt(option, value)
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _PAD))
    )


def give_back_freed_memory() -> bool:
    """Tell the C library to give the kernel what is free, also between blocks that are in use.

    Threads that decode recordings of all lengths leave holes that no other fits: without this an extraction grew by
    half over 10,000 files. Takes milliseconds. Nothing happens where the C library has no ``malloc_trim``.

    Returns:
        Whether there was anything to give.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False

"""Memory of CPU tensors: keep freed memory, or return it to the kernel.

glibc maps every large block again and unmaps it when freed. A training step frees and allocates the same blocks
repeatedly, with a page fault per 4 KiB: on virtual machines these take more than half of the time of an element-wise
operation.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_PAD = 64 * 2**20  # bytes requested from the kernel at a time


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory, for the whole process until it ends.

    The process then keeps its peak memory. Where the C library has no ``mallopt`` (musl, macOS) nothing happens.

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
    """Make the C library return free memory to the kernel, also between blocks that are in use.

    Threads that decode recordings of all lengths fragment the memory: without this an extraction grew by half over
    10,000 files. Takes milliseconds. Nothing happens where the C library has no ``malloc_trim``.

    Returns:
        Whether memory was returned.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError):
        return False

"""Keep the memory of arrays that are freed for those that come next.

A fit of a formula makes and drops thousands of arrays a second. By default the C library gives such memory back to the
system at once and asks for it anew, which takes a third of the time of a fit.
"""

import contextlib
import ctypes
import functools

TRIM_THRESHOLD = -1  # options of glibc's mallopt (malloc.h)
MMAP_THRESHOLD = -3
KEPT_BYTES = 1 << 28
LARGEST_KEPT = 1 << 25  # bytes of one array; the most that glibc takes


@functools.cache
def keep_freed_memory() -> None:
    """Ask the C library to keep what is freed. Does nothing where there is no glibc."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)

"""Keep the memory that XLA's programs free on a CPU, so that the next step need not fault it in page by page.

A program allocates its temporaries at its start as one block, and frees it at its end. glibc hands a block of such a size
back to the system at once, which fills every page with zeros again, step after step: a third of a small model's step.
What is kept is about the most that was in use at a time. Where there is no glibc, nothing changes.
"""

import ctypes
import functools
import sys

from experiments.run.schema import Run
from experiments.store.record import ledger

# Parameters of mallopt(3), as glibc's malloc.h numbers them.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8

_LARGE_STEP = 1e10  # FLOPs, between the two that were measured: 8e8 loses, 3e10 (width 128, 16 x 256) gains
_NEVER = -1
_NURSERY = 1 << 28  # bytes of address space; a page of it is memory only once something lies there


def gains(run: Run) -> bool:
    """Say whether steps of a run gain from memory that is kept.

    Small ones do not: one arena for all threads makes them wait for each other (2 times slower at width 48, 8 x 128).
    """
    flops_per_step = ledger(run)["flops_per_token"] * run.batch_tokens
    return flops_per_step > _LARGE_STEP


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, once; return whether it is glibc, which can be told.

    It is better told before there are threads: one that has an arena of its own maps large blocks all the same.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        return False
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    _make_nursery(library)
    return True


def _make_nursery(library: ctypes.CDLL) -> None:
    """Leave free space for small blocks, so that none of them splits the large one that the next step asks for."""
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.free.restype = None
    nursery = library.malloc(_NURSERY)
    library.malloc(_NURSERY)  # is never used nor freed: it keeps the nursery apart from what lies behind
    library.free(nursery)

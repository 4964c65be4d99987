"""What the C library does with memory that a program frees."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE, _LARGE_BEFORE = 2**30, 2**25
"""What counts as large from now on, and the most that older glibc takes."""


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for its next step; says whether the C library does so.

    As it comes, glibc hands large blocks back at once, and the system clears new ones: some percent of a training step
    on a processor, which frees hundreds of MiB. The process then stays as large as it ever was. Choices of the
    user (``MALLOC_...``, ``GLIBC_TUNABLES``) stand.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if chosen or mallopt is None:
        return False
    moved = mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_THRESHOLD, _LARGE_BEFORE)
    return bool(moved) and bool(mallopt(_TRIM_THRESHOLD, _LARGE))

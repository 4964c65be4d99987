"""Work on the lines of an image by plain threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise


def thread_count() -> int:
    """Give how many threads this process may use: its CPUs, or fewer where the usual variables say so."""
    asked = [os.environ.get(name, "") for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")]
    return max(1, min([len(os.sched_getaffinity(0)), *(int(number) for number in asked if number.isdigit())]))


def over_lines(work: Callable[[int, int], None], lines: int, least: int, threads: int | None = None) -> None:
    """Call ``work(first, last)`` for runs of lines that together are all of them, each in a thread of its own.

    ``least`` is how many lines are worth a thread, ``threads`` defaults to :func:`thread_count`. Plain threads, not
    numba's: they may be used from many threads at once and survive a fork. ``work`` should let go of the interpreter.
    """
    count = max(1, min(threads or thread_count(), lines // max(least, 1)))
    if count == 1:
        work(0, lines)
        return
    edges = [lines * n // count for n in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, *part) for part in pairwise(edges)]:
            done.result()

"""The memory of batches, used again as soon as nobody refers to it."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Empty = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
"""Gives an array of undefined content, such as one of page-locked memory that a GPU can read by itself."""


class Buffers:
    """Arrays for the batches of a feed: fresh pages of the system cost half as much as decoding.

    Every view of an array, however derived, refers to the array that owns the memory; so a buffer is free when the
    list here and the test itself are all that refers to it. At most ``most`` arrays of a kind are kept; beyond them
    they are made and dropped.
    """

    def __init__(self, most: int, empty: Empty = np.empty) -> None:
        self._most, self._empty = most, empty
        self._owners: dict[tuple[Any, ...], list[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give an array of undefined content that nobody else has."""
        with self._lock:
            owners = self._owners.setdefault((name, shape, dtype.str), [])
            for owner in owners:
                if sys.getrefcount(owner) == _FREE_REFERENCES:
                    return owner[...]
            fresh = self._empty(shape, dtype)
            if len(owners) < self._most:
                owners.append(fresh)
            return fresh[...]


def _references_when_free() -> int:
    """Count the references to an array that only a list and a loop know: the number differs between Pythons."""
    owners = [np.empty(1)]
    for owner in owners:
        count = sys.getrefcount(owner)
    return count


_FREE_REFERENCES = _references_when_free()

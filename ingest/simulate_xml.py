"""Nested Python values written as XML in the number formats of Sentinel-1 annotations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Listing:
    """Elements of one name in a list that states its count."""

    name: str
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """Numbers in one element that states their count; ``digits`` after the point, or integers.

    ``values`` is (count,), or (count, 2) for complex numbers.
    """

    values: NDArray[Any]
    digits: int = 6

    def text(self) -> str:
        """Write the numbers with a blank between them."""
        if np.issubdtype(self.values.dtype, np.integer):
            return " ".join(map(str, self.values.ravel().tolist()))
        return " ".join(f"{value:.{self.digits}e}" for value in self.values.ravel().tolist())


def as_written(values: NDArray[np.float64], digits: int = 6) -> NDArray[np.float64]:
    """Round numbers as their text will, so that what is simulated with is what is published."""
    rounded = [float(f"{value:.{digits}e}") for value in values.ravel().tolist()]
    return np.array(rounded, np.float64).reshape(values.shape)


def document(name: str, content: Mapping[str, Any]) -> bytes:
    """Write a whole XML file."""
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + "\n".join(_lines(name, content, 0)) + "\n").encode()


def _lines(name: str, value: Any, depth: int) -> Iterable[str]:
    """Write one element: a mapping holds children, a list repeats the element, anything else is text."""
    indent = "  " * depth
    match value:
        case list():
            for item in value:
                yield from _lines(name, item, depth)
        case Listing():
            yield f'{indent}<{name} count="{len(value.items)}">'
            yield from _lines(value.name, list(value.items), depth + 1)
            yield f"{indent}</{name}>"
        case Series():
            yield f'{indent}<{name} count="{len(value.values)}">{value.text()}</{name}>'
        case Mapping():
            yield f"{indent}<{name}>"
            for child, content in value.items():
                yield from _lines(child, content, depth + 1)
            yield f"{indent}</{name}>"
        case _:
            yield f"{indent}<{name}>{_text(value)}</{name}>"


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return stamp(value)
        case float():
            return f"{value:.15e}"
        case _:
            return str(value)


def stamp(time: datetime) -> str:
    """Write a UTC time with microseconds and without a zone, as Sentinel-1 does."""
    return time.replace(tzinfo=None).isoformat(timespec="microseconds")

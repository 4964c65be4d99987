"""XML from a product: the one function that parses it, and the few ways its values are read."""

from datetime import datetime
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser
from numpy.typing import NDArray

from ingest.scene import SceneRejected

MAX_BYTES = 32 * 2**20
"""A larger file is refused unread; the largest real annotation is about 3 MB."""
MAX_DEPTH = 1000
"""Deeper nesting is refused."""


class _TooDeepError(Exception):
    pass


class _ShallowBuilder(TreeBuilder):
    """A tree builder that counts how deep it is."""

    depth = 0

    def start(self, tag: Any, attrs: Any, /) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeepError
        return super().start(tag, attrs)

    def end(self, tag: Any, /) -> Element:
        self.depth -= 1
        return super().end(tag)


def parse(data: bytes, name: str) -> Element:
    """Parse XML and give its root. A document type, an entity, great size or depth raises SceneRejected.

    ``name`` is the file's name for messages.
    """
    if len(data) > MAX_BYTES:
        raise SceneRejected(f"{name} is {len(data)} bytes of XML; at most {MAX_BYTES} are parsed")
    parser = DefusedXMLParser(target=_ShallowBuilder(), forbid_dtd=True)
    try:
        parser.feed(data)
        root: Element = parser.close()
    except DefusedXmlException as error:
        raise SceneRejected(
            f"{name} carries a document type or entity ({type(error).__name__}); products have none, so it is refused"
        ) from error
    except _TooDeepError:
        raise SceneRejected(f"{name} nests deeper than {MAX_DEPTH} elements and is refused") from None
    except (ParseError, ValueError, LookupError) as error:
        raise SceneRejected(f"{name} is not well-formed XML: {error}; fetch the product again") from error
    return root


def expect(root: Element, tag: str, name: str) -> None:
    """Raise SceneRejected where a file's root element is not the one of its kind."""
    if root.tag != tag:
        raise SceneRejected(f"{name} is a <{root.tag}>, expected a Sentinel-1 <{tag}> annotation")


def text(element: Element, path: str, name: str) -> str:
    """Give the text at a path below an element; raises SceneRejected where there is none."""
    found = element.findtext(path)
    if found is None or not found.strip():
        _refuse(name, path, "is missing or empty")
    return found.strip()


def number(element: Element, path: str, name: str) -> float:
    """Give the finite number at a path."""
    return float(numbers(element, path, name, count=1)[0])


def integer(element: Element, path: str, name: str) -> int:
    """Give the integer at a path."""
    found = text(element, path, name)
    try:
        return int(found)
    except ValueError:
        _refuse(name, path, f"is {found[:40]!r}, expected an integer")


def moment(element: Element, path: str, name: str) -> np.datetime64:
    """Give the UTC time at a path, written as 2020-05-11T13:51:19.418774, in microseconds."""
    found = text(element, path, name)
    try:
        return np.datetime64(datetime.fromisoformat(found.removesuffix("Z")).replace(tzinfo=None), "us")
    except ValueError:
        _refuse(name, path, f"is {found[:40]!r}, expected a time such as 2020-05-11T13:51:19.418774")


def numbers(element: Element, path: str, name: str, count: int | None = None) -> NDArray[np.float64]:
    """Give the finite numbers, divided by blanks, at a path; of a given count, or at least one."""
    found = text(element, path, name)
    try:
        values = np.array(found.split(), dtype=np.float64)
    except ValueError:
        _refuse(name, path, f"is not numeric: {found[:40]!r}")
    if not np.isfinite(values).all():
        _refuse(name, path, "holds NaN or infinite values")
    if count is not None and len(values) != count:
        _refuse(name, path, f"has {len(values)} values, expected {count}")
    return values


def _refuse(name: str, path: str, fault: str) -> NoReturn:
    raise SceneRejected(f"{name}: {path} {fault}; the file is damaged or not of this product kind")

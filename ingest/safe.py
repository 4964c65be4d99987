"""A SAFE product as a set of named members, whether it lies in a folder, in a zip, or in a store."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from infra.store import Corrupt, NotFound
from ingest.members import DAMAGED, SMALL, Members, open_members
from ingest.ranged import Source
from ingest.scene import SceneRejected
from ingest.sentinel1_names import is_product_name, product_name, short_name
from ingest.xml import MAX_BYTES

MANIFEST = "manifest.safe"
_BUCKET_INFO = "productInfo.json"
_LARGE = 2**16


@dataclass(frozen=True, slots=True)
class Layout:
    """An open SAFE product. ``sizes`` maps names relative to the manifest's folder to sizes in bytes.

    ``path`` is where it was opened, ``name`` the product's name without suffix: the same for every way of packing it.
    """

    path: str
    name: str
    sizes: Mapping[str, int]
    members: Members

    def under(self, folder: str, suffix: str) -> list[str]:
        """Give the sorted names of the members directly inside a folder with one of the suffixes ("a|b")."""
        suffixes = tuple(suffix.split("|"))
        names = (n for n in self.sizes if str(PurePosixPath(n).parent) == folder)
        return sorted(n for n in names if n.lower().endswith(suffixes))

    def read(self, name: str) -> bytes:
        """Read a whole small member (metadata); raises SceneRejected where it is missing, large or damaged."""
        if name not in self.sizes:
            raise SceneRejected(f"{self.path} has no {name}: the product is incomplete, fetch it again")
        if self.sizes[name] > MAX_BYTES:
            raise SceneRejected(f"{self.where(name)} is {self.sizes[name]} bytes; at most {MAX_BYTES} are read")
        return self._start(name, self.sizes[name])

    def raster(self, name: str) -> str | Source:
        """Give a member as :func:`ingest.raster.open_raster` opens it."""
        return self.members.raster(name)

    def where(self, name: str) -> str:
        """Name a member for a message."""
        return f"{self.path}/{name}"

    def fingerprint(self) -> str:
        """Give the SHA-256 that names the product's content; the same for a folder, its zip, and short names.

        It covers names and sizes of the manifest, annotations and measurements, the whole of each small member
        and the first 64 KiB of each large one: the manifest holds the processor's checksums of the rest, and the end
        of a compressed member would cost unpacking all of it.
        """
        whole = hashlib.sha256()
        for short, name in sorted((short_name(n), n) for n in self.sizes if _is_content(n)):
            size = self.sizes[name]
            start = self._start(name, size if size < SMALL else _LARGE)
            part = hashlib.sha256(start).hexdigest()
            whole.update(f"{short}\0{size}\0{part}\n".encode())
        return whole.hexdigest()

    def _start(self, name: str, length: int) -> bytes:
        """Read the first bytes of a member."""
        try:
            return self.members.read(name, length)
        except (*DAMAGED, Corrupt, NotFound) as error:
            raise SceneRejected(f"{self.where(name)} cannot be read: {error}; fetch the product again") from error


def open_layout(path: str) -> Layout:
    """Open a SAFE folder (with or without the suffix) or a zip of one, on disk or in a store (``s3://...``).

    Raises SceneRejected where it is neither, and StoreError where the store fails.
    """
    members, inner = open_members(path, MANIFEST)
    layout = Layout(path.rstrip("/"), "", members.sizes, members)
    outer = layout.path.rpartition("/")[2]
    name = inner if is_product_name(inner) else _bucket_name(layout) or outer or inner
    return Layout(layout.path, product_name(name), layout.sizes, members)


def _bucket_name(layout: Layout) -> str | None:
    """Give the product's own name from the description that cloud buckets add, where it is there and is a name."""
    try:
        found = json.loads(layout.read(_BUCKET_INFO)) if _BUCKET_INFO in layout.sizes else {}
    except (ValueError, RecursionError) as error:
        raise SceneRejected(f"{layout.where(_BUCKET_INFO)} is not JSON: {error}; fetch it again") from error
    name = found.get("id") if isinstance(found, dict) else None
    return name if isinstance(name, str) and is_product_name(name) else None


def _is_content(name: str) -> bool:
    return name == MANIFEST or name.startswith(("annotation/", "measurement/"))

"""The files of a product wherever they lie: in a folder, in a zip, or in a store that is read in pieces.

A zip is never unpacked: names are checked, members are read where they are.
"""

import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from infra.store import Corrupt, NotFound, Store, open_store, split_object
from ingest.ranged import Inflated, Part, RangedFile, Source, SourceFile
from ingest.raster import zip_raster_path
from ingest.scene import SceneRejected

MAX_MEMBERS = 2000  # a wave product has four files for each of up to 200 images
MAX_TOTAL_BYTES = 20 * 2**30
MAX_RATIO = 200
SMALL = 2**20
"""Below this size in bytes a member may compress as well as it likes."""
DAMAGED = (OSError, EOFError, ValueError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error, struct.error)
"""What reading a damaged member of a folder or zip can raise."""


class Members(Protocol):
    """The files below the folder that holds a certain file; ``sizes`` maps their relative names to bytes."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Names and sizes."""
        ...

    def read(self, name: str, length: int) -> bytes:
        """Read exactly the first bytes of a member; raises one of DAMAGED, Corrupt or another StoreError."""
        ...

    def raster(self, name: str) -> str | Source:
        """Give what :func:`ingest.raster.open_raster` opens."""
        ...


@dataclass(frozen=True, slots=True)
class FolderMembers:
    """Files of a local folder."""

    root: Path
    sizes: Mapping[str, int]

    def read(self, name: str, length: int) -> bytes:
        """Read the start of a file."""
        with open(self.root / name, "rb") as file:
            return _exactly(file, length)

    def raster(self, name: str) -> str:
        """Give the path of a file."""
        return str(self.root / name)


@dataclass(frozen=True, slots=True)
class ZipMembers:
    """Members of a zip, on disk or in a store (``packed``), below ``prefix``."""

    path: Path
    prefix: str
    sizes: Mapping[str, int]
    packed: Source | None = None

    def read(self, name: str, length: int) -> bytes:
        """Read the start of a member; its checksum is compared where it is read to the end."""
        with self._archive() as archive, archive.open(self.prefix + name) as member:
            return _exactly(member, length)

    def raster(self, name: str) -> str | Source:
        """Give the path of a member in GDAL's words, or its bytes in the store."""
        if self.packed is None:
            return zip_raster_path(self.path, self.prefix + name)
        with self._archive() as archive:
            info = archive.getinfo(self.prefix + name)
        # The data follow a header of 30 bytes, a name and an extra field (APPNOTE.TXT, section 4.3.7).
        lengths = self.packed.read_at(info.header_offset + 26, 4) if info.header_offset >= 0 else b""
        if len(lengths) < 4:
            raise SceneRejected(f"{self.path} says that {name} begins where it does not: it is damaged, fetch it again")
        name_bytes, extra_bytes = struct.unpack("<HH", lengths)
        data = Part(self.packed, info.header_offset + 30 + name_bytes + extra_bytes, info.compress_size)
        return data if info.compress_type == zipfile.ZIP_STORED else Inflated(data, info.file_size)

    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path if self.packed is None else SourceFile(self.packed))


@dataclass(frozen=True, slots=True)
class StoreMembers:
    """Objects of a store."""

    store: Store
    sizes: Mapping[str, int]

    def read(self, name: str, length: int) -> bytes:
        """Read the start of an object."""
        return self.store.get_range(name, 0, length)

    def raster(self, name: str) -> RangedFile:
        """Give the object as a file that is read in pieces."""
        return RangedFile(self.store, name, self.sizes[name])


def open_members(path: str, holds: str) -> tuple[Members, str]:
    """Open the files beside the one named ``holds``, and give the name of the folder or zip they lie in.

    ``path`` is a folder, a zip, or either in a store (``s3://bucket/prefix/product``). Raises SceneRejected where it
    is neither, where a name or a link leads out of it, and where it is larger than a product can be.
    """
    if "://" in path:
        return _open_remote(path.rstrip("/"), holds)
    place = Path(path)
    if place.is_dir():
        return _open_folder(place, holds), place.resolve().name
    if place.is_file() and zipfile.is_zipfile(place):
        return _open_zip(path, place, None, holds)
    if place.is_file():
        raise SceneRejected(f"{path} is neither a SAFE folder nor a zip of one (a truncated zip also looks like this)")
    raise SceneRejected(f"{path} does not exist")


def _open_folder(folder: Path, holds: str) -> FolderMembers:
    if not (folder / holds).is_file():
        raise SceneRejected(f"{folder} has no {holds}: a Sentinel-1 product is the folder that holds it")
    root = folder.resolve()
    sizes: dict[str, int] = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        if not file.resolve().is_relative_to(root):
            raise SceneRejected(f"{file} is a link that leaves the product; links are not followed")
        sizes[file.relative_to(folder).as_posix()] = file.stat().st_size
        if len(sizes) > MAX_MEMBERS:
            raise SceneRejected(f"{folder} has more than {MAX_MEMBERS} files, which no product of this kind has")
    return FolderMembers(folder, sizes)


def _open_remote(url: str, holds: str) -> tuple[Members, str]:
    name = url.rpartition("/")[2]
    if not url.lower().endswith(".zip"):
        return _open_objects(open_store(url), holds), name
    store, key = split_object(url)
    opened = open_store(store)
    try:
        packed = RangedFile(opened, key, opened.info(key).size)
        if not zipfile.is_zipfile(SourceFile(packed)):
            raise SceneRejected(f"{url} is not a zip (a truncated zip also looks like this)")
    except NotFound as error:
        raise SceneRejected(f"{url} does not exist: {error}") from error
    return _open_zip(url, Path(key), packed, holds)


def _open_objects(store: Store, holds: str) -> StoreMembers:
    sizes: dict[str, int] = {}
    for info in store.list():
        sizes[info.key] = info.size
        if len(sizes) > MAX_MEMBERS:
            raise SceneRejected(f"{store.url} has more than {MAX_MEMBERS} objects, which no product of this kind has")
    if holds not in sizes:
        raise SceneRejected(f"{store.url} has no {holds}: a Sentinel-1 product is the prefix that holds it")
    return StoreMembers(store, sizes)


def _open_zip(path: str, place: Path, packed: Source | None, holds: str) -> tuple[ZipMembers, str]:
    try:
        with zipfile.ZipFile(place if packed is None else SourceFile(packed)) as archive:
            members = archive.infolist()
    except (*DAMAGED, Corrupt) as error:
        raise SceneRejected(f"{path} is not a readable zip: {error}; fetch it again") from error
    _check_members(path, members)
    files = {m.filename: m.file_size for m in members if not m.is_dir()}
    manifests = [n for n in files if PurePosixPath(n).name == holds]
    if len(manifests) != 1:
        raise SceneRejected(f"{path} holds {len(manifests)} {holds}, expected one product per zip")
    prefix = manifests[0].removesuffix(holds)
    sizes = {n.removeprefix(prefix): size for n, size in sorted(files.items()) if n.startswith(prefix)}
    return ZipMembers(place, prefix, sizes, packed), PurePosixPath(prefix).name


def _check_members(path: str, members: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip whose names reach outside it or that unpacks to more than a product can be."""
    if len(members) > MAX_MEMBERS:
        raise SceneRejected(f"{path} has {len(members)} members; at most {MAX_MEMBERS} are expected")
    total = sum(m.file_size for m in members)
    if total > MAX_TOTAL_BYTES:
        raise SceneRejected(f"{path} unpacks to {total} bytes; at most {MAX_TOTAL_BYTES} are accepted")
    seen: set[str] = set()
    for member in members:
        if fault := _member_fault(member, seen):
            raise SceneRejected(f"{path} holds {member.orig_filename!r}, {fault}; the archive is refused")
        seen.add(member.filename)


def _member_fault(member: zipfile.ZipInfo, seen: set[str]) -> str | None:
    """Say what is wrong with a member, or None."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or "\\" in name or "\0" in name or ":" in name or "{" in name or "}" in name:
        return "a name that is not a relative path"
    if any(part in ("", ".", "..") for part in parts):
        return "a name that leaves the archive"
    if name in seen:
        return "a name that occurs twice"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    if member.flag_bits & 0x1:
        return "which is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "which is compressed in an unknown way"
    if member.file_size > SMALL and member.file_size > MAX_RATIO * member.compress_size:
        return f"which unpacks to more than {MAX_RATIO} times its size"
    return None


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise EOFError(f"ends after {len(data)} bytes, expected {length}")
    return data

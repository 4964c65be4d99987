"""A SAFE product as a set of named members, whether it lies in a folder or in a zip.

A zip is never unpacked: names are checked, members are read where they are.
"""

import hashlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ingest.raster import zip_raster_path
from ingest.scene import SceneRejected
from ingest.xml import MAX_BYTES

MANIFEST = "manifest.safe"
MAX_MEMBERS = 200
MAX_TOTAL_BYTES = 20 * 2**30
MAX_RATIO = 200
_SMALL = 2**20  # below this size a member may compress as well as it likes, and is hashed whole
_ENDS = 2**16
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, OverflowError, zipfile.BadZipFile, zlib.error, struct.error)
_NAME = re.compile(r"S1[A-D]_(IW|EW|WV|S[1-6])_[A-Z0-9_]{4}_[0-9][A-Z0-9]{3}_\w+")


@dataclass(frozen=True, slots=True)
class Layout:
    """An open SAFE product. ``sizes`` maps names relative to the manifest's folder to sizes in bytes.

    ``name`` is the product's name without suffix. ``prefix`` leads from the zip's root to the manifest's folder.
    """

    path: Path
    name: str
    sizes: Mapping[str, int]
    zipped: bool = False
    prefix: str = ""

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
        return self._pieces(name, [(0, self.sizes[name])])

    def raster_path(self, name: str) -> str:
        """Give the path of a member for :func:`ingest.raster.open_raster`."""
        return zip_raster_path(self.path, self.prefix + name) if self.zipped else str(self.path / name)

    def where(self, name: str) -> str:
        """Name a member for a message."""
        return f"{self.path}/{self.prefix}{name}"

    def fingerprint(self) -> str:
        """Give the SHA-256 that names the product's content; the same for the folder and its zip.

        It covers names and sizes of the manifest, annotations and measurements, the whole of each small member
        and the first and last 64 KiB of each large one (the manifest holds the processor's checksums of the rest).
        """
        whole = hashlib.sha256()
        for name in sorted(n for n in self.sizes if _is_content(n)):
            size = self.sizes[name]
            spans = [(0, size)] if size < _SMALL else [(0, _ENDS), (size - _ENDS, _ENDS)]
            part = hashlib.sha256(self._pieces(name, spans)).hexdigest()
            whole.update(f"{name}\0{size}\0{part}\n".encode())
        return whole.hexdigest()

    def _pieces(self, name: str, spans: list[tuple[int, int]]) -> bytes:
        """Read some (start, length) spans of a member."""
        try:
            if not self.zipped:
                with open(self.path / name, "rb") as file:
                    return _read_spans(file, spans)
            with zipfile.ZipFile(self.path) as archive, archive.open(self.prefix + name) as member:
                return _read_spans(member, spans)
        except _DAMAGED as error:
            raise SceneRejected(f"{self.where(name)} cannot be read: {error}; fetch the product again") from error


def open_layout(path: str) -> Layout:
    """Open a SAFE folder (with or without the suffix) or a zip of one. Raises SceneRejected where it is neither."""
    place = Path(path)
    if place.is_dir():
        return _open_folder(place)
    if place.is_file() and zipfile.is_zipfile(place):
        return _open_zip(place)
    if place.is_file():
        raise SceneRejected(f"{path} is neither a SAFE folder nor a zip of one (a truncated zip also looks like this)")
    raise SceneRejected(f"{path} does not exist")


def _open_folder(folder: Path) -> Layout:
    if not (folder / MANIFEST).is_file():
        raise SceneRejected(f"{folder} has no {MANIFEST}: a Sentinel-1 product is the folder that holds it")
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
    return Layout(folder, _product_name(root.name), sizes)


def _open_zip(path: Path) -> Layout:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGED as error:
        raise SceneRejected(f"{path} is not a readable zip: {error}; fetch it again") from error
    _check_members(path, members)
    files = {m.filename: m.file_size for m in members if not m.is_dir()}
    manifests = [n for n in files if PurePosixPath(n).name == MANIFEST]
    if len(manifests) != 1:
        raise SceneRejected(f"{path} holds {len(manifests)} {MANIFEST}, expected one product per zip")
    prefix = manifests[0].removesuffix(MANIFEST)
    inner = PurePosixPath(prefix).name
    sizes = {n.removeprefix(prefix): size for n, size in sorted(files.items()) if n.startswith(prefix)}
    name = inner if _NAME.match(inner) else path.name
    return Layout(path, _product_name(name), sizes, zipped=True, prefix=prefix)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
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
    if member.file_size > _SMALL and member.file_size > MAX_RATIO * member.compress_size:
        return f"which unpacks to more than {MAX_RATIO} times its size"
    return None


def _product_name(name: str) -> str:
    """Give a product's name without the suffixes of its packing."""
    return name.removesuffix(".zip").removesuffix(".SAFE")


def _is_content(name: str) -> bool:
    return name == MANIFEST or name.startswith(("annotation/", "measurement/"))


def _read_spans(file: IO[bytes], spans: list[tuple[int, int]]) -> bytes:
    parts = []
    for start, length in spans:
        file.seek(start)
        part = file.read(length)
        if len(part) != length:
            raise EOFError(f"ends after {start + len(part)} bytes, expected {start + length}")
        parts.append(part)
    return b"".join(parts)

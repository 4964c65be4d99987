"""Which ALOS-2 products lie in a folder or archive, told from file names alone.

Names: JAXA, ALOS-2/PALSAR-2 CEOS and GeoTIFF Product Format Descriptions, section 2.3; global mosaic and ScanSAR
level 2.2 as distributed.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

from ingest.scene import SceneRejected
from ingest.xml import MAX_BYTES, parse

Kind = Literal["ceos", "geotiff", "scansar", "mosaic"]
ORDER = ("HH", "HV", "VH", "VV")

# Scene, mode, look side, level, geocoded or georeferenced, projection, direction of flight, scan of a ScanSAR image.
_STANDARD = (
    r"(?P<product>(?P<scene>ALOS2\d{9}-\d{6})-(?P<mode>[A-Z]{3})(?P<side>[LR])(?P<level>\d\.\d)[GR_][A-Z_](?P<flight>[AD]))"
    r"(?:-(?P<scan>[FB]\d))?"
)
_FILE = r"(?:(?P<file>VOL|LED|TRL|LUT|LUT-[HV]{2})|IMG-(?P<pol>[HV]{2}))-"
_CEOS = re.compile(_FILE + _STANDARD)
_GEOTIFF = re.compile(_FILE + _STANDARD + r"\.(?:tif|txt)")
_SCANSAR = re.compile(
    r"(?P<product>(?P<scene>ALOS2\d{9}-\d{6})_(?P<mode>[A-Z]{3})(?P<side>[LR])(?P<level>2\.2)[GR_][A-Z_](?P<flight>[AD]))_"
    r"(?:(?P<pol>[HV]{2})_SLP\.tif|(?P<file>LIN|MSK)\.tif|(?P<xml>summary)\.xml)"
)
_MOSAIC = re.compile(
    r"(?P<tile>[NS]\d{2}[EW]\d{3})_(?P<year>\d{2})_(?:(?:sl_(?P<pol>[HV]{2})|(?P<file>date|linci|mask))_)?"
    r"(?P<beam>[A-Z]\d{2}[A-Z])(?P<flight>[AD])(?P<side>[LR])\.(?P<suffix>tif|xml)"
)
_ARCHIVE = re.compile(r"[NS]\d{2}[EW]\d{3}_\d{2}_MOS_\w+\.tar\.gz")
_LOOKS_LIKE_CEOS = re.compile(r"(VOL|LED|IMG)-\S+")
_WHOLE_FILE = 1 << 20
_FILE_ENDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Product:
    """The files of one scene: ``files`` maps a polarisation or a role (LED, VOL, mask, ...) to a file name.

    ``name`` has the scan for level 1.1 ScanSAR images, of which each scan is a scene; they share one leader.
    """

    kind: Kind
    name: str
    scene: str
    mode: str
    level: str
    side: str
    flight: str
    scan: str | None
    files: Mapping[str, str]

    @property
    def polarisations(self) -> tuple[str, ...]:
        """The bands there are, in the order HH, HV, VH, VV."""
        return tuple(pol for pol in ORDER if pol in self.files)

    @property
    def base(self) -> str:
        """The name without the scan, which the leader and the volume directory have."""
        return self.name.removesuffix(f"-{self.scan}")

    @property
    def orbit(self) -> str:
        """Direction of flight in words."""
        return {"A": "ascending", "D": "descending"}[self.flight]


def is_archive(path: Path) -> bool:
    """Tell whether a file is named like a mosaic archive (``N23W161_20_MOS_F02DAR.tar.gz``)."""
    return _ARCHIVE.fullmatch(path.name) is not None and path.is_file()


def products(names: Iterable[str]) -> list[Product]:
    """Find the products among file names. Other files do not matter."""
    found: dict[tuple[Kind, str, str | None], list[re.Match[str]]] = {}
    shared: dict[tuple[Kind, str], dict[str, str]] = {}
    for name in sorted(names):
        kind, match = _match(name)
        if match is None:
            continue
        product = _product_name(match)
        scan = match.groupdict().get("scan")
        if _role(match) in ORDER:
            found.setdefault((kind, product, scan), []).append(match)
        else:
            shared.setdefault((kind, product), {})[_role(match)] = name
            found.setdefault((kind, product, None), [])
    with_images = {product for (_, product, _), images in found.items() if images}
    return [
        _product(kind, product, scan, images, shared.get((kind, product), {}))
        for (kind, product, scan), images in sorted(found.items(), key=lambda item: (item[0][:2], item[0][2] or ""))
        if images or product not in with_images
    ]


def _match(name: str) -> tuple[Kind, re.Match[str] | None]:
    patterns: tuple[tuple[Kind, re.Pattern[str]], ...] = (
        ("ceos", _CEOS),
        ("geotiff", _GEOTIFF),
        ("scansar", _SCANSAR),
        ("mosaic", _MOSAIC),
    )
    for kind, pattern in patterns:
        if match := pattern.fullmatch(name):
            return kind, match
    return "ceos", None


def _role(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return groups.get("pol") or groups.get("file") or "xml"


def _product_name(match: re.Match[str]) -> str:
    groups = match.groupdict()
    return groups.get("product") or "{tile}_{year}_{beam}{flight}{side}".format(**groups)


def _product(
    kind: Kind, name: str, scan: str | None, images: list[re.Match[str]], shared: Mapping[str, str]
) -> Product:
    groups = (images[0] if images else _match(next(iter(shared.values())))[1] or images[0]).groupdict()
    return Product(
        kind=kind,
        name=f"{name}-{scan}" if scan else name,
        scene=groups.get("scene") or f"{groups['tile']}_{groups['year']}",
        mode=groups.get("mode") or groups["beam"],
        level=groups.get("level") or "mosaic",
        side=groups["side"],
        flight=groups["flight"],
        scan=scan,
        files={**shared, **{_role(image): image[0] for image in images}},
    )


def is_volume(path: Path) -> bool:
    """Tell whether a file is the volume directory of a CEOS product, which stands for the product."""
    return path.name.startswith("VOL-ALOS2") and path.is_file()


def products_at(path: Path, names: Iterable[str]) -> list[Product]:
    """Find the products that a folder, an archive or a VOL file stands for among the names beside it."""
    if path.is_dir() or is_archive(path):
        return products(names)
    wanted = _CEOS.fullmatch(path.name)
    if wanted is None or wanted["file"] != "VOL":
        return []
    return [found for found in products(names) if found.kind == "ceos" and found.base == wanted["product"]]


def choose(path: Path, part: str | None, names: Iterable[str]) -> Product:
    """Give the one product that a path with its part names; raises SceneRejected where there is none or a choice."""
    names = sorted(names)
    found = products_at(path, names)
    if part is not None:
        found = [product for product in found if part in (product.name, product.scan)]
    if len(found) != 1:
        raise SceneRejected(_not_one(path, part, names, found))
    return found[0]


def _not_one(path: Path, part: str | None, names: list[str], found: list[Product]) -> str:
    """Say why a path does not lead to one product."""
    if found:
        listed = ", ".join(product.name for product in found)
        one = found[0].scan if found[0].scan and len({p.scene for p in found}) == 1 else found[0].name
        return f"{path} holds {len(found)} products ({listed}): name the VOL file of one, or '{path}#{one}'"
    if part is not None:
        known = ", ".join(product.name for product in products(names)) or "no ALOS-2 product"
        return f"{path} has no part {part!r}: it holds {known}"
    if is_archive(path):
        return (
            f"{path} holds no tile of GeoTIFFs (N23W161_20_sl_HH_F02DAR.tif): mosaics of raw files with .hdr, as they "
            "were before 2020, are not read; fetch the tile's current version"
        )
    strange = [name for name in names if _LOOKS_LIKE_CEOS.fullmatch(name)]
    if path.is_dir() and strange:
        return f"{path} holds {strange[0]}, which is not named like a file of an ALOS-2 product (VOL-ALOS2...)"
    return f"{path} is not an ALOS-2 CEOS product: expected a folder with VOL-, LED- and IMG-ALOS2... files, or its VOL"


def list_folder(folder: Path) -> list[str]:
    """Give the sorted names in a folder; raises SceneRejected where it cannot be listed."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise SceneRejected(f"{folder} cannot be listed: {error.strerror}") from error


def read_xml(path: Path) -> Element:
    """Read an XML file and give its root; raises SceneRejected where it is missing, too large or not safe."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise SceneRejected(f"{path} cannot be read: {error.strerror}") from error


def fingerprint(paths: Iterable[Path]) -> str:
    """Name files by their names, sizes and content; of large ones by their ends, for they may be half a gigabyte."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            total.update(f"{path.name}\0{size}\0".encode())
            file.seek(0)
            if size < _WHOLE_FILE:
                total.update(file.read(size))
            else:
                total.update(file.read(_FILE_ENDS))
                file.seek(size - _FILE_ENDS)
                total.update(file.read(_FILE_ENDS))
    return total.hexdigest()

"""Names of Sentinel-1 products and of the files in them (S1-RS-MDA-52-7441, section 3).

A product is `S1A_IW_GRDH_1SDV_<start>_<stop>_<orbit>_<data take>_<CRC>` with the suffix of its packing: `.SAFE`,
`.zip`, `_COG.SAFE` or none. Its images are `s1a-iw-grd-vv-<start>-...-001`, or `iw-vv` for short in cloud buckets.
"""

import re
from pathlib import PurePosixPath

PRODUCT = re.compile(r"S1[A-D]_(IW|EW|WV|S[1-6])_[A-Z0-9_]{4}_[0-9][A-Z0-9]{3}_\w+")
_IMAGE = re.compile(
    r"(?:s1[a-d]-)?(?P<swath>iw[1-3]?|ew[1-5]?|wv[12]?|s[1-6])-(?:(?:grd|slc)-)?(?P<polarisation>[vh]{2})"
    r"(?:-\d{8}t\d{6}-\d{8}t\d{6}-\d+-[0-9a-f]+)?(?:-(?P<number>\d{3}))?"
)
_PACKING = (".zip", ".SAFE", "_COG")


def product_name(name: str) -> str:
    """Give a product's name without the suffixes of its packing."""
    for suffix in _PACKING:
        name = name.removesuffix(suffix)
    return name


def is_product_name(name: str) -> bool:
    """Tell whether a file, folder or prefix is named as Sentinel-1 products are."""
    return PRODUCT.fullmatch(product_name(name)) is not None


def stem(name: str) -> str:
    """Give the part of a name that an image's files share; cloud-optimised copies add -cog."""
    return PurePosixPath(name).stem.lower().removesuffix("-cog")


def short_name(name: str) -> str:
    """Give a member's name as cloud buckets shorten it: the same in every layout of one product."""
    path = PurePosixPath(name)
    kind, image = _side(stem(name))
    found = _IMAGE.fullmatch(image)
    if found is None:
        return name
    number = f"-{found['number']}" if found["number"] and found["swath"].startswith("wv") else ""
    suffix = ".tiff" if path.suffix.lower() in (".tif", ".tiff") else path.suffix
    return f"{path.parent}/{kind}{found['swath']}-{found['polarisation']}{number}{suffix}"


def part_of(name: str) -> str | None:
    """Give the scene that a file belongs to where a product holds several: a sub-swath (IW1) or imagette (WV1-001)."""
    found = _IMAGE.fullmatch(_side(stem(name))[1])
    if found is None or len(found["swath"]) < 3:
        return None
    number = f"-{found['number']}" if found["number"] and found["swath"].startswith("wv") else ""
    return f"{found['swath'].upper()}{number}"


def _side(name: str) -> tuple[str, str]:
    """Split the kind of a file beside the annotation off its name: calibration-, noise- or rfi-."""
    kind, dash, image = name.partition("-")
    return (kind + dash, image) if kind in ("calibration", "noise", "rfi") else ("", name)

"""JAXA's global PALSAR-2 mosaics of 25 m and 10 m: tiles of terrain-flattened gamma0, in a folder or as distributed.

Codes, units and no-data were read from N23W161_20_MOS_F02DAR.tar.gz and its CARD4L XML. A tile is named by its upper
left corner and reaches one degree south and east of it.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_archive import unpack
from ingest.alos2_files import Product, fingerprint, read_xml
from ingest.alos2_leader import iso, stated_time
from ingest.alos2_rasters import CALIBRATION_DB, RasterAngles, Rasters, open_rasters
from ingest.alos2_scene import Alos2Scene, ground_points, relative
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected, Window

_MASK, _DATE, _ANGLE, _XML = "mask", "date", "linci", "xml"
_OCEAN, _LAND = 50, 255
"""Of the mask codes 0 no data, 50 ocean or water, 100 layover, 150 shadow, 255 land, only these two are signal."""
_LOWEST = 2
"""Numbers, dates and angles of no data are 1 in today's mosaics and 0 in older ones; neither is ever signal."""
_LAUNCH = datetime(2014, 5, 24, tzinfo=UTC)
"""Dates are days since ALOS-2 was launched."""
_LOOKS_25_M = 9.0
"""Measured: the calmest tenth of 10,510 windows of 9 x 9 pixels of open sea in N23W161 has 9.5 looks or more."""
_TILE = re.compile(r"([NS])(\d{2})([EW])(\d{3})_.*")
_STRIP_PIXELS = 1 << 22


@dataclass(frozen=True, slots=True)
class _Pixels:
    rasters: Rasters

    def read(self, window: Window) -> NDArray[np.float32]:
        """Read gamma0 in linear power, DN^2 10^-8.3, NaN where number or mask say that it is no signal."""
        power = self.rasters.power(window, CALIBRATION_DB, lowest=_LOWEST)
        if _MASK in self.rasters.datasets:
            codes = self.rasters.read(_MASK, window)
            power[:, (codes != _OCEAN) & (codes != _LAND)] = np.nan
        return power


def open_mosaic(place: Path, product: Product, pixels: Pixels) -> Alos2Scene:
    """Open a tile from a folder of GeoTIFFs or from its tar.gz; power is gamma0 with the terrain flattened.

    It is never flattened again: another quantity is refused. Layover, shadow and pixels without data are NaN, water is
    not. A tile is put together of several passes: its time is the earliest date that a pixel has, of which the XML
    gives the second if that is its only pass. The angle is the local one (whole degrees) of ``linci``. Raises
    SceneRejected where the tile does not lie where its name says.
    """
    relative(pixels.quantity, "gamma0-terrain", None, product.name)
    if not product.polarisations:
        raise SceneRejected(f"{place} holds no {product.name} band (*_sl_<polarisation>_*.tif): the tile has no pixels")
    with ExitStack() as stack:
        paths = _paths(place, product, stack)
        rasters = open_rasters({role: str(path) for role, path in paths.items() if role != _XML}, stack)
        _check_place(product, rasters)
        root = read_xml(paths[_XML]) if _XML in paths else None
        angles = RasterAngles(rasters, _ANGLE, 1.0, lowest=_LOWEST) if _ANGLE in paths else None
        originals = [place] if place.is_file() else list(paths.values())
        info = _scene_info(product, rasters, root, fingerprint(originals))
        return Alos2Scene(info, _Pixels(rasters).read, rasters.place.locate, angles, stack.pop_all())


def _paths(place: Path, product: Product, stack: ExitStack) -> dict[str, Path]:
    if place.is_file():
        return unpack(place, product.files, stack)
    return {role: place / name for role, name in product.files.items()}


def _check_place(product: Product, rasters: Rasters) -> None:
    """Refuse a tile whose upper left corner or extent is not that of its name."""
    if (found := _TILE.fullmatch(product.name)) is None:
        raise SceneRejected(f"{product.name} is not the name of a tile (N23W161_20_F02DAR)")
    north = int(found[2]) * (1 if found[1] == "N" else -1)
    west = int(found[4]) * (1 if found[3] == "E" else -1)
    a, b, c, d, e, f = rasters.transform
    rows, cols = rasters.shape
    error = max(abs(c - west), abs(f - north), abs(a * cols - 1.0), abs(-e * rows - 1.0))
    grid = rasters.place.grid
    if grid is None or grid.epsg != 4326 or (b, d) != (0.0, 0.0) or not error < max(a, -e) / 2:
        raise SceneRejected(
            f"{product.name} has its upper left corner at {c:.5f}, {f:.5f} and {rows} x {cols} pixels of {a:.8f} x "
            f"{-e:.8f}; by its name it reaches one degree south and east of {west}, {north}"
        )


def _scene_info(product: Product, rasters: Rasters, root: Element | None, digest: str) -> SceneInfo:
    degrees = -rasters.transform[4]
    spacing_m = degrees * 111_320.0
    time, warnings = _time(rasters, root)
    if _MASK not in rasters.datasets:
        warnings.append("layover and shadow are not known: the mask is missing")
    if _ANGLE not in rasters.datasets:
        warnings.append("incidence angles are not known: linci is missing")
    software = _text(root, "DataAccess/SoftwareVersion")
    return SceneInfo(
        id=product.name,
        sensor="alos-2",
        product=f"mosaic-{'25m' if spacing_m > 15.0 else '10m'}",
        mode=_text(root, "SourceAttributes/AcquisitionParameters/ObservationMode") or product.mode,
        polarisations=rasters.polarisations,
        shape=rasters.shape,
        spacing_m=rasters.place.spacing_m,
        looks=max(1.0, _LOOKS_25_M * (spacing_m / 25.0) ** 2),
        time=time,
        orbit=product.orbit,
        fingerprint=digest,
        footprint=rasters.place.footprint,
        grid=rasters.place.grid,
        ground=ground_points(rasters.place, rasters.shape),
        warnings=tuple(warnings),
        quantity="gamma0-terrain",
        platform="ALOS2",
        processing=software,
        acquisition=product.scene,
    )


def _time(rasters: Rasters, root: Element | None) -> tuple[str | None, list[str]]:
    """Give the earliest date among pixels with data; its second from the XML where all are of that one day."""
    days = _days(rasters)
    if days is None:
        return None, ["the time of sensing is not known: no pixel has a date"]
    first, last = (_LAUNCH + timedelta(days=day) for day in days)
    stated = stated_time(_text(root, "SourceAttributes/SourceDataAcquisitionTime/UTCStartTime")) or ""
    if first == last:
        return (stated if stated.startswith(f"{first:%Y-%m-%d}T") else iso(first)), []
    return iso(first), [f"the tile has passes from {first:%Y-%m-%d} to {last:%Y-%m-%d}; its time is the earliest"]


def _days(rasters: Rasters) -> tuple[int, int] | None:
    """Give the first and last date of pixels, in days since launch."""
    if _DATE not in rasters.datasets:
        return None
    rows, cols = rasters.shape
    step = max(1, _STRIP_PIXELS // cols)
    found: list[int] = []
    for row in range(0, rows, step):
        days = rasters.read(_DATE, Window(row, 0, min(step, rows - row), cols))
        days = days[days >= _LOWEST]
        if days.size:
            found += [int(days.min()), int(days.max())]
    return (min(found), max(found)) if found else None


def _text(root: Element | None, path: str) -> str | None:
    if root is None:
        return None
    return (root.findtext(f"GeneralMetadata/{path}") or "").strip() or None

"""ALOS-2 PALSAR-2 standard products as GeoTIFF: levels 1.5, 2.1 and 3.1, one file per polarisation.

Source: JAXA, ALOS-2/PALSAR-2 Level 1.1/1.5/2.1/3.1 GeoTIFF Product Format Description. The product has no leader, so
the calibration factor is the documented constant, and there is no orbit to work out incidence angles from.
"""

import re
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_files import Product, fingerprint
from ingest.alos2_leader import SLANT_RANGE, Leader, read_leader, read_summary, start_of
from ingest.alos2_rasters import CALIBRATION_DB, Rasters, open_rasters
from ingest.alos2_scene import Alos2Scene, ground_points, relative
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected, Window

_LEVELS = ("1.5", "2.1", "3.1")
_PROCESSED = re.compile(r"PROCESS:(\S+)")
# Nominal looks in azimuth by mode (JAXA, ALOS-2 product specification); range has one.
_LOOKS = {"SBS": 1.0, "WBS": 3.0, "WBD": 3.0, "WWS": 3.0, "WWD": 3.0, "VBS": 1.0, "VBD": 1.0}
_ONE_LOOK = ("UBS", "UBD")
_OTHER_LOOKS = 2.0


def open_geotiff(folder: Path, product: Product, pixels: Pixels) -> Alos2Scene:
    """Open a GeoTIFF product of amplitude on a map; power is sigma0.

    Raises SceneRejected for level 1.1, whose pixel encoding is not known, and for any other quantity.
    """
    if product.level == SLANT_RANGE:
        raise SceneRejected(
            f"{folder} holds {product.name} as GeoTIFF, and how complex pixels stand in it is not known; fetch level "
            "1.1 in CEOS format"
        )
    if product.level not in _LEVELS:
        raise SceneRejected(f"{folder} holds {product.name} of level {product.level}, expected {', '.join(_LEVELS)}")
    if not product.polarisations:
        raise SceneRejected(f"{folder} holds no IMG-<polarisation>-{product.name}.tif: the product has no pixels")
    relative(pixels.quantity, "sigma0", None, product.name)
    leader, warnings = _leader(folder, product)
    factor_db = CALIBRATION_DB if leader is None else leader.calibration_db
    with ExitStack() as stack:
        paths = {pol: str(folder / product.files[pol]) for pol in product.polarisations}
        rasters = open_rasters(paths, stack)

        def read(window: Window) -> NDArray[np.float32]:
            return rasters.power(window, factor_db, lowest=1)

        info = _scene_info(folder, product, rasters, leader, warnings)
        return Alos2Scene(info, read, rasters.place.locate, None, stack.pop_all())


def _leader(folder: Path, product: Product) -> tuple[Leader | None, list[str]]:
    """Read a leader where someone put the CEOS one beside the images."""
    path = folder / f"LED-{product.base}"
    if path.is_file():
        return read_leader(path, product.level), []
    return None, [f"the calibration factor is JAXA's constant {CALIBRATION_DB} dB: a GeoTIFF product does not state it"]


def _scene_info(
    folder: Path, product: Product, rasters: Rasters, leader: Leader | None, warnings: list[str]
) -> SceneInfo:
    summary = read_summary(folder / "summary.txt", product.base)
    if (time := start_of(summary)) is None:
        warnings = [*warnings, "the time of sensing is not known: summary.txt with its start is missing"]
    processed = _PROCESSED.search(summary.get("Odi_SiteDateTime", ""))
    names = [name for name in product.files.values() if (folder / name).is_file()]
    extra = [folder / "summary.txt"] if (folder / "summary.txt").is_file() else []
    return SceneInfo(
        id=product.name,
        sensor="alos-2",
        product=f"L{product.level}",
        mode=product.mode,
        polarisations=product.polarisations,
        shape=rasters.shape,
        spacing_m=rasters.place.spacing_m,
        looks=_looks(product.mode) if leader is None else leader.looks,
        time=time,
        orbit=product.orbit,
        fingerprint=fingerprint([*(folder / name for name in names), *extra]),
        footprint=rasters.place.footprint,
        grid=rasters.place.grid,
        ground=ground_points(rasters.place, rasters.shape),
        warnings=tuple(warnings),
        quantity="sigma0",
        platform="ALOS2",
        processing=processed[1] if processed else None,
        acquisition=f"{product.scene}-{product.mode}",
    )


def _looks(mode: str) -> float:
    return 1.0 if mode in _ONE_LOOK else _LOOKS.get(mode, _OTHER_LOOKS)

"""ALOS-2 PALSAR-2 ScanSAR level 2.2: terrain-flattened gamma0 as cloud-optimised GeoTIFF with mask and angle.

Codes and units were read from the sample ALOS2437590500-220630_WWDR2.2GUA and its summary.xml (CEOS-ARD NRB 5.5).
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_files import Product, fingerprint, read_xml
from ingest.alos2_leader import stated_time
from ingest.alos2_rasters import CALIBRATION_DB, RasterAngles, Rasters, open_rasters
from ingest.alos2_scene import Alos2Scene, ground_points, relative
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected, Window

_MASK, _ANGLE, _XML = "MSK", "LIN", "xml"
_VALID, _OCEAN = 1, 4
"""Of the mask codes 0 no data, 1 valid, 2 layover, 3 shadow, 4 ocean, 5 invalid, only these two are signal."""
_ANGLE_UNIT_DEG = 0.01


@dataclass(frozen=True, slots=True)
class _Pixels:
    rasters: Rasters

    def read(self, window: Window) -> NDArray[np.float32]:
        """Read gamma0 in linear power, DN^2 10^-8.3, NaN where the mask says that it is no signal."""
        power = self.rasters.power(window, CALIBRATION_DB, lowest=1)
        if _MASK in self.rasters.datasets:
            codes = self.rasters.read(_MASK, window)
            power[:, (codes != _VALID) & (codes != _OCEAN)] = np.nan
        return power


def open_scansar(folder: Path, product: Product, pixels: Pixels) -> Alos2Scene:
    """Open a level 2.2 product; power is gamma0 with the terrain flattened, and is never flattened again.

    ``*_SLP.tif`` are the bands; layover, shadow and invalid pixels of ``*_MSK.tif`` have no data, the ocean has. The
    angle is the local one of ``*_LIN.tif``. Raises SceneRejected where the recipe wants another quantity.
    """
    relative(pixels.quantity, "gamma0-terrain", None, product.name)
    if not product.polarisations:
        raise SceneRejected(f"{folder} holds no {product.name}_<polarisation>_SLP.tif: the product has no pixels")
    root = read_xml(folder / product.files[_XML]) if _XML in product.files else None
    with ExitStack() as stack:
        roles = [*product.polarisations, *(role for role in (_MASK, _ANGLE) if role in product.files)]
        rasters = open_rasters({role: str(folder / product.files[role]) for role in roles}, stack)
        angles = RasterAngles(rasters, _ANGLE, _ANGLE_UNIT_DEG, lowest=1) if _ANGLE in roles else None
        info = _scene_info(folder, product, rasters, root)
        return Alos2Scene(info, _Pixels(rasters).read, rasters.place.locate, angles, stack.pop_all())


def _scene_info(folder: Path, product: Product, rasters: Rasters, root: Element | None) -> SceneInfo:
    time = stated_time(_text(root, "SourceAttributes/SourceDataAcquisitionTime/StartTime"))
    facts = [
        _text(root, f"CARD4LProductAttributes/DataAccess/{name}") for name in ("ProcessingFacility", "SoftwareVersion")
    ]
    return SceneInfo(
        id=product.name,
        sensor="alos-2",
        product="L2.2",
        mode=product.mode,
        polarisations=product.polarisations,
        shape=rasters.shape,
        spacing_m=rasters.place.spacing_m,
        looks=_looks(root, rasters.place.spacing_m),
        time=time,
        orbit=product.orbit,
        fingerprint=fingerprint(folder / name for name in product.files.values()),
        footprint=rasters.place.footprint,
        grid=rasters.place.grid,
        ground=ground_points(rasters.place, rasters.shape),
        warnings=tuple(_warnings(product, time, root)),
        quantity="gamma0-terrain",
        platform="ALOS2",
        processing=" ".join(filter(None, facts)) or None,
        acquisition=f"{product.scene}-{product.mode}",
    )


def _warnings(product: Product, time: str | None, root: Element | None) -> list[str]:
    found = []
    if _MASK not in product.files:
        found.append("layover, shadow and invalid pixels are not known: *_MSK.tif is missing; only DN 0 has no data")
    if _ANGLE not in product.files:
        found.append("incidence angles are not known: *_LIN.tif is missing")
    if time is None:
        found.append("the time of sensing is not known: *_summary.xml is missing or does not state it")
    promised = (_text(root, "SourceAttributes/SourceDataAcquisitionParameters/Polarizations") or "").split()
    if missing := [pol for pol in promised if pol not in product.polarisations]:
        found.append(f"summary.xml lists {', '.join(missing)}, which the product has no *_SLP.tif of")
    return found


def _looks(root: Element | None, spacing_m: tuple[float, float]) -> float:
    """Estimate looks: how many cells of the single-look resolution fit into a pixel, at least one."""
    where = "SourceAttributes/SourceDataImageAttributes/"
    names = ("AzimuthResolution", "RangeResolution", "IncAngleNearRange", "IncAngleFarRange")
    azimuth_m, slant_m, near_deg, far_deg = (_number(root, where + name) for name in names)
    if azimuth_m is None or slant_m is None or near_deg is None or far_deg is None:
        return 1.0
    ground_m = slant_m / math.sin(math.radians(min(max((near_deg + far_deg) / 2, 5.0), 85.0)))
    return max(1.0, spacing_m[0] * spacing_m[1] / max(azimuth_m * ground_m, 1.0))


def _text(root: Element | None, path: str) -> str | None:
    return (root.findtext(path) or "").strip() or None if root is not None else None


def _number(root: Element | None, path: str) -> float | None:
    try:
        value = float(_text(root, path) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None

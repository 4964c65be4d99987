"""Labels that are polygons: a GeoJSON beside a chip becomes class ids on the chip's pixels."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio.features import rasterize
from rasterio.transform import Affine
from shapely import GEOSException, transform
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from ingest.scene import SceneRejected, Window

MAX_BYTES = 64 * 2**20
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ProjError, GEOSException)


def is_shapes(name: str) -> bool:
    """Tell from its name whether a label file is polygons."""
    return Path(name).suffix.lower() in (".geojson", ".json")


class LabelShapes:
    """The polygons of a GeoJSON file on the grid of an open image; a pixel is inside where its centre is.

    Coordinates are in the file's ``crs`` member where it has one (as SpaceNet's files do), else WGS 84 degrees
    (RFC 7946). Raises SceneRejected for a file that is no feature collection, or an image without a map.
    """

    def __init__(self, path: str, inside: int, image: Any) -> None:
        if image.crs is None:
            raise SceneRejected(f"{image.name} lies on no map: polygons of {path} cannot be placed on its pixels")
        self._inside = inside
        self._transform = image.transform
        self._shapes = _read(path, CRS.from_user_input(image.crs.to_wkt()))

    def label(self, window: Window) -> NDArray[np.uint8]:
        """Give class ids of a window, (rows, cols) uint8: ``inside`` within polygons, 0 elsewhere."""
        out = np.zeros((window.rows, window.cols), np.uint8)
        if self._shapes:
            place = self._transform @ Affine.translation(window.col, window.row)
            rasterize(self._shapes, out=out, transform=place, default_value=self._inside)
        return out


def _read(path: str, target: CRS) -> list[BaseGeometry]:
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise SceneRejected(f"{path} is {file.stat().st_size} bytes; at most {MAX_BYTES} are read as labels")
        data = json.loads(file.read_bytes())
        named = ((data.get("crs") or {}).get("properties") or {}).get("name", "OGC:CRS84")
        to_map = Transformer.from_crs(CRS.from_user_input(named), target, always_xy=True)
        shapes = [shape(feature["geometry"]) for feature in data["features"] if feature.get("geometry")]
        return [transform(s, lambda xy: np.column_stack(to_map.transform(*xy.T))) for s in shapes if not s.is_empty]
    except _FAULTS as error:
        raise SceneRejected(f"{path}: expected a GeoJSON feature collection of polygons: {error}") from error
